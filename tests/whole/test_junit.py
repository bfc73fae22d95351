"""The gates of a run as JUnit XML, whatever came of the run."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.locust_command import HEADLESS, Simulator, in_processes, run_locust, started, wait_until
from vllm_locust.core.slo import Judgement, parse_slo
from vllm_locust.load.junit import write_refusal, write_verdict
from vllm_locust.load.verdict import Verdict

TAGS = {"failure": "failed", "error": "error", "skipped": "skipped"}


def read(file: Path) -> dict[str, tuple[str, str]]:
    """Of each case its outcome and what it says."""
    return {
        case.attrib["name"]: next(
            ((TAGS[child.tag], child.attrib["message"]) for child in case if child.tag in TAGS),
            ("passed", "".join(case.itertext()).strip()),
        )
        for case in ElementTree.parse(file).iter("testcase")
    }


def verdict_of(
    outcomes: dict[str, Any], client: str = "valid", failures: dict[str, int] | None = None, **more: Any
) -> Verdict:
    judgements = [
        Judgement(parse_slo(slo), outcome, 1.0, f"it is {outcome}") for slo, outcome in outcomes.items()
    ]
    kinds = failures or {}
    summary = {
        "client": {"verdict": client, "reasons": ["the CPU was busy"] if client != "valid" else []},
        "completed": 10,
        "requests": {"failed": sum(kinds.values()), "dropped": 0},
        "workers": [],
        "failures": kinds,
        **more,
    }
    return Verdict(summary, judgements, "")


def cases_of(folder: Path, verdict: Verdict, problem: str | None = None) -> dict[str, tuple[str, str]]:
    write_verdict(folder / "junit.xml", verdict, problem)
    return read(folder / "junit.xml")


def test_a_case_for_each_objective_and_one_for_the_measurement(tmp_path: Path) -> None:
    outcomes = {
        "p99_ttft_ms<500": "met",
        "p99_itl_ms<5": "missed",
        "p99_e2el_ms<5": "undetermined",
        "failed==0": "met",
    }
    assert cases_of(tmp_path, verdict_of(outcomes)) == {
        "p99_ttft_ms<500": ("passed", "it is met"),
        "p99_itl_ms<5": ("failed", "it is missed"),
        "p99_e2el_ms<5": ("error", "it is undetermined"),
        "failed==0": ("passed", "it is met"),
        "the measurement is valid": ("passed", "valid"),
    }


@pytest.mark.parametrize(("client", "outcome"), [("degraded", "passed"), ("invalid", "error")])
def test_a_measurement_that_is_invalid_is_an_error(tmp_path: Path, client: str, outcome: str) -> None:
    words = f"{client}. the CPU was busy"
    assert cases_of(tmp_path, verdict_of({}, client=client))["the measurement is valid"] == (outcome, words)
    decided = cases_of(tmp_path, verdict_of({"failed==0": "met"}, client=client))
    assert decided["the measurement is valid"] == ("passed", words), "as the exit code is 0, too"


def test_failures_have_a_case_where_no_objective_is_about_them(tmp_path: Path) -> None:
    name = "no request failed"
    assert cases_of(tmp_path, verdict_of({}))[name] == ("passed", "")
    failed = {"timeout": 2, "http_500": 1}
    assert cases_of(tmp_path, verdict_of({}, failures=failed))[name] == ("failed", "2 timeout, 1 http_500")
    assert name not in cases_of(tmp_path, verdict_of({"error_rate<0.5": "met"}, failures=failed))


@pytest.mark.parametrize(
    ("level", "undecided", "outcome", "said"),
    [
        (8, None, "passed", "8 users"),
        (None, None, "failed", "None users"),
        (8, "that 8 met is close", "error", "8 users, but that 8 met is close"),
    ],
)
def test_a_capacity_search_has_one_case_for_what_it_found(
    tmp_path: Path, level: int | None, undecided: str | None, outcome: str, said: str
) -> None:
    found = {"level": level, "undecided": undecided, "unit": "users"}
    cases = cases_of(tmp_path, verdict_of({}, failures={"timeout": 9}, capacity=found))
    assert cases["a level meets the objectives"] == (outcome, said)
    assert "no request failed" not in cases


def test_what_keeps_a_run_from_its_end_or_its_begin_is_an_error(tmp_path: Path) -> None:
    cases = cases_of(tmp_path, verdict_of({"failed==0": "met"}), problem="a worker says no")
    assert cases["the run goes on to its end"] == ("error", "a worker says no")
    write_refusal(tmp_path / "junit.xml", ["one.", "two."])
    assert read(tmp_path / "junit.xml") == {"the run begins": ("error", "one. two.")}


# -- whole runs ---------------------------------------------------------------------------------------------


def run(folder: Path, *options: str) -> tuple[int, str, Path]:
    """Its exit code, its standard error, and its JUnit file, in a folder that is not there before."""
    file = folder / "new" / "junit.xml"
    outcome = run_locust(*HEADLESS, *options, "--junit-xml", str(file), folder=folder / "results")
    return outcome.code, outcome.stderr, file


def outcomes_of(file: Path) -> Sequence[str]:
    return [outcome for outcome, _ in read(file).values()]


def test_a_run_leaves_what_its_exit_code_says(server: Simulator, tmp_path: Path) -> None:
    slos = ("--slo", "p50_e2el_ms<1", "--slo", "failed==0")
    options = ("--host", server.url, "--scenario", "ss", "--num-prompts", "12", "--profiler")
    code, stderr, file = run(tmp_path, *options, *slos)
    cases = read(file)
    assert list(cases) == ["p50_e2el_ms<1", "failed==0", "the measurement is valid"]
    assert outcomes_of(file)[:2] == ["failed", "passed"]
    assert code == 3
    assert "is missed" in cases["p50_e2el_ms<1"][1]
    assert stderr.count("there is none (/start_profile answers 404") == 1


def test_a_server_that_is_not_there_is_an_error_in_the_file(tmp_path: Path) -> None:
    code, stderr, file = run(tmp_path, "--host", "http://127.0.0.1:1", "--slo", "failed==0")
    assert code == 2
    ((outcome, message),) = read(file).values()
    assert outcome == "error"
    assert "http://127.0.0.1:1 does not answer" in message
    assert message in stderr


def test_a_run_in_which_nothing_was_sent_has_nothing_to_tell(server: Simulator, tmp_path: Path) -> None:
    """The first request is due in some hundred seconds."""
    rate = ("--request-rate", "0.001", "-t", "10s")
    code, _, file = run(tmp_path, "--host", server.url, "--scenario", "ss", *rate, "--slo", "p50_ttft_ms<100")
    assert code == 4
    assert read(file)["p50_ttft_ms<100"] == (
        "error",
        "p50_ttft_ms<100 is undetermined: no request was answered in the measured window",
    )


SLOW = """
from pathlib import Path

import gevent
from locust import events, task

@events.test_start.add_listener
def dawdle(**_):
    Path(__file__).with_name("begins").touch()
    gevent.sleep(600)

from vllm_locust import VllmUser

class Asker(VllmUser):
    @task
    def ask(self):
        self.ask_next()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_ends_before_it_begins_is_not_green(
    server: Simulator, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    file = tmp_path / "junit.xml"
    gate = ("--slo", "p50_ttft_ms<100", "--junit-xml", str(file))
    outcome = run_locust(
        *HEADLESS, *in_processes(processes), "--host", server.url, "-t", "1s", *gate,
        folder=tmp_path / "results", locustfile=str(tmp_path / "slow.py"),
    )  # fmt: skip
    assert outcome.code == 4
    why = "nothing was measured, since the run ended before it could begin"
    assert outcome.stdout.splitlines()[-1] == f"Exit code 4: {why}"
    assert read(file) == {"the run begins": ("error", why)}


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_nor_is_one_that_is_told_to_end_as_it_begins(
    server: Simulator, tmp_path: Path, ending: signal.Signals
) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    options = (*HEADLESS, "--host", server.url)
    with started(*options, folder=tmp_path, locustfile=str(tmp_path / "slow.py")) as run:
        wait_until((tmp_path / "begins").exists, "the run begins")
        run.process.send_signal(ending)
        outcome = run.wait()
    assert outcome.code == 4
    assert outcome.stdout.splitlines()[-1].startswith("Exit code 4: nothing was measured")


def test_a_file_that_cannot_be_written_is_refused_before_the_run(server: Simulator, tmp_path: Path) -> None:
    options = ("--host", server.url, "--junit-xml", str(tmp_path))
    outcome = run_locust(*HEADLESS, *options, folder=tmp_path / "results")
    assert outcome.code == 2
    assert outcome.problems == [f"--junit-xml {tmp_path} cannot be written: Is a directory."]
    assert not (tmp_path / "results").exists()
