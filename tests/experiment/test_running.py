"""An experiment from start to end with a fake Locust, on servers that start, do not, die, and will not go."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.experiment.made_experiments import FAKES, TIMING, a_configuration, an_experiment, journal
from tests.locust_command import wait_until
from tests.scripted_server import plain, scripted_server
from vllm_locust.experiment import running
from vllm_locust.experiment.definition import Experiment, Timing, Workload
from vllm_locust.experiment.plan import plan, runs_of
from vllm_locust.experiment.progress import Progress
from vllm_locust.experiment.running import Conduct
from vllm_locust.experiment.store import Store
from vllm_locust.results.experiment import read_experiment


@pytest.fixture(autouse=True)
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fakes are started in place of Locust, and note here that they were."""
    log = tmp_path / "starts"
    monkeypatch.setenv("FAKES_LOG", str(log))
    monkeypatch.setattr(running, "locust_command", fake_locust)
    return log


def fake_locust(_: Path, options: Sequence[str], folder: Path | None) -> list[str]:
    words = [sys.executable, "-S", str(FAKES), "locust"]
    return [*words, "--results-dir", str(folder or FAKES.parent), *options]


def started(log: Path) -> list[str]:
    """What was started: `server good`, `locust code-3`, ..."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [f"{words[0]} {words[1] if words[0] == 'server' else words[4]}" for words in lines]


def conduct(folder: Path, experiment: Experiment, timing: Timing = TIMING) -> str:
    """Run it; what was printed."""
    sessions = plan(experiment)
    store = Store(folder, experiment, sessions)
    out = io.StringIO()
    try:
        Conduct(sessions, timing, store, Progress(out)).run()
    finally:
        store.close()
    return out.getvalue()


def workloads(*scenarios: str) -> list[Workload]:
    return [Workload(scenario, {"scenario": scenario}) for scenario in scenarios]


def outcomes(folder: Path) -> dict[str, str]:
    return {entry["key"]: entry["outcome"] for entry in journal(folder)}


def test_every_exit_code_of_locust_is_an_outcome(tmp_path: Path, starts: Path) -> None:
    what = ("code-0", "code-1", "code-2", "code-3", "code-4", "code-9")
    printed = conduct(tmp_path / "out", an_experiment(workloads=workloads(*what)))
    assert outcomes(tmp_path / "out") == {
        "a/code-0-l/1": "ok",
        "a/code-1-l/1": "failed_requests",
        "a/code-2-l/1": "refused",
        "a/code-3-l/1": "slo_missed",
        "a/code-4-l/1": "invalid",
        "a/code-9-l/1": "crashed",
    }
    assert [entry["why"] for entry in journal(tmp_path / "out")] == [
        None,
        "1 of 10 requests failed, 1 http_400 (too long)",
        "That is wrong. And that.",
        "p99 too large",
        "p99 too large; it was late",
        "exit code 9: it said nothing",
    ]
    assert started(starts) == ["server good", *(f"locust {one}" for one in what)]
    assert "[2/6] a code-1 l #1 ... " in printed
    assert "10.00 req/s, p99 TTFT 5 ms, FAILED REQUESTS: 1 of 10 requests failed" in printed
    rows = read_experiment(tmp_path / "out").rows()
    assert [row.workload for row in rows] == ["code-0", "code-1", "code-3", "code-4"]


def test_a_server_that_does_not_start_is_a_result(tmp_path: Path, starts: Path) -> None:
    experiment = an_experiment(
        a_configuration("a", "broken"), a_configuration("b"), workloads=workloads("code-0", "code-3")
    )
    printed = conduct(tmp_path / "out", experiment)
    assert outcomes(tmp_path / "out") == {
        "a/code-0-l/1": "server_failed",
        "a/code-3-l/1": "server_failed",
        "b/code-0-l/1": "ok",
        "b/code-3-l/1": "slo_missed",
    }
    why = "the server ended with exit code 1: ValueError: too few tokens for that"
    assert journal(tmp_path / "out")[1]["why"] == why
    assert f"s: {why}\n" in printed
    assert started(starts) == ["server broken", "server good", "locust code-0", "locust code-3"]
    assert len(read_experiment(tmp_path / "out").rows()) == 2


def test_a_server_that_never_gets_healthy_is_given_up(tmp_path: Path, starts: Path) -> None:
    timing = replace(TIMING, ready_timeout_s=0.8)
    conduct(tmp_path / "out", an_experiment(a_configuration(kind="mute")), timing)
    (entry,) = journal(tmp_path / "out")
    assert entry["outcome"] == "server_failed"
    assert entry["why"].startswith("it was not ready within 0.8 s (http://127.0.0.1:")
    assert not any(command.startswith("locust") for command in started(starts))


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    conduct(tmp_path / "out", an_experiment(a_configuration(start=["no-such-command"])))
    why = "the server ended with exit code 127: no-such-command: No such file or directory"
    assert journal(tmp_path / "out")[0]["why"] == why


def test_a_server_that_dies_in_a_run_is_started_again_for_the_rest(tmp_path: Path, starts: Path) -> None:
    experiment = an_experiment(
        a_configuration(kind="mortal"), workloads=workloads("code-0", "kill", "code-3", "code-4")
    )
    conduct(tmp_path / "out", experiment)
    assert list(outcomes(tmp_path / "out").values()) == ["ok", "server_failed", "slo_missed", "invalid"]
    why = journal(tmp_path / "out")[1]["why"]
    assert why == "in the middle of the run the server ended with exit code 7: it said nothing"
    assert started(starts) == [
        *("server mortal", "locust code-0", "locust kill", "server mortal", "locust code-3", "locust code-4"),
    ]
    assert sorted(path.name for path in (tmp_path / "out/servers").iterdir()) == ["a-1-2.log", "a-1.log"]


def test_a_server_that_dies_of_its_warm_up_is_of_no_use(tmp_path: Path, starts: Path) -> None:
    experiment = an_experiment(
        a_configuration(kind="mortal"), workloads=workloads("code-0", "code-3"), warmup={"scenario": "kill"}
    )
    conduct(tmp_path / "out", experiment)
    assert set(outcomes(tmp_path / "out").values()) == {"server_failed"}
    assert journal(tmp_path / "out")[0]["why"].startswith("it died while it was warmed up: the server ended")
    assert started(starts) == ["server mortal", "locust kill"]


def test_a_server_that_will_not_go_is_killed(tmp_path: Path) -> None:
    timing = replace(TIMING, stop_timeout_s=0.4)
    experiment = an_experiment(a_configuration("a", "stubborn"), a_configuration("b"))
    conduct(tmp_path / "out", experiment, timing)
    assert set(outcomes(tmp_path / "out").values()) == {"ok"}
    assert not running_commands(str(tmp_path))


def running_commands(word: str) -> list[str]:
    """The processes of a test: their environment has the path of its folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if word.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.append(entry.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_servers_that_are_there_already_are_asked_and_left_alone(tmp_path: Path, starts: Path) -> None:
    with scripted_server([plain("200 OK", b"")]) as here, scripted_server([plain("200 OK", b"")]) as there:
        experiment = an_experiment(
            a_configuration("a", start=[], url=here.url),
            a_configuration("b", start=[], url=there.url),
            repeats=2,
            order="interleaved",
        )
        conduct(tmp_path / "out", experiment)
        assert here.requests[0].startswith(b"GET /health ")
        assert len(here.requests) == len(there.requests) == 2
    assert list(outcomes(tmp_path / "out")) == ["a/w-l/1", "b/w-l/1", "b/w-l/2", "a/w-l/2"]
    assert started(starts) == ["locust ss"] * 4


def test_the_secrets_of_a_url_are_sent_and_left_nowhere(tmp_path: Path, starts: Path) -> None:
    """Nor on a command line, which others on the machine can see."""
    with scripted_server([plain("200 OK", b"")]) as here:
        url = f"http://me:p%40w@127.0.0.1:{here.port}/base/?key=7"
        conduct(tmp_path / "out", an_experiment(a_configuration(start=[], url=url)))
        assert here.requests[0].startswith(b"GET /base/health?key=7 ")
        assert b"\r\nAuthorization: Basic bWU6cEB3\r\n" in here.requests[0]  # me:p@w
    conduct(
        tmp_path / "none",
        an_experiment(a_configuration(start=[], url="http://me:p%40w@127.0.0.1:9?key=7")),
        replace(TIMING, ready_timeout_s=0.3),
    )
    why = "it was not ready within 0.3 s (http://***@127.0.0.1:9/health?***)"
    assert journal(tmp_path / "none")[0]["why"] == why
    left = [path.read_text() for out in ("out", "none") for path in (tmp_path / out).rglob("*.*")]
    left.append(starts.read_text())
    assert len(left) > 1
    assert not [text for text in left if "p%40w" in text or "key=7" in text]


def test_a_url_where_nobody_is(tmp_path: Path) -> None:
    experiment = an_experiment(a_configuration(start=[], url="http://127.0.0.1:9"))
    conduct(tmp_path / "out", experiment, replace(TIMING, ready_timeout_s=0.3))
    assert journal(tmp_path / "out")[0]["why"] == "it was not ready within 0.3 s (http://127.0.0.1:9/health)"


def test_the_environment_of_a_configuration_reaches_its_server(tmp_path: Path) -> None:
    log = tmp_path / "other"
    experiment = an_experiment(a_configuration(environment={"FAKES_LOG": str(log)}, arguments={"x": 1}))
    conduct(tmp_path / "out", experiment)
    assert log.read_text().split()[:2] == ["server", "good"]
    assert log.read_text().split()[3:] == ["--x", "1"]


def test_a_second_time_only_what_is_missing_is_made(tmp_path: Path, starts: Path) -> None:
    before = an_experiment(workloads=workloads("code-0"))
    conduct(tmp_path / "out", before)
    starts.unlink()
    more = an_experiment(workloads=workloads("code-0", "code-3"), repeats=2)
    conduct(tmp_path / "out", more)
    assert started(starts) == [
        *("server good", "locust code-3", "server good", "locust code-0", "locust code-3"),
    ]
    starts.unlink()
    conduct(tmp_path / "out", more)
    assert not starts.exists()


@pytest.mark.parametrize(
    ("begun", "own_seed", "goes_on", "others"),
    [
        (False, True, True, False),
        (True, True, True, True),
        (True, False, True, False),  # a seed that the user has chosen
        (True, True, False, False),  # a server that is started anew, and knows nothing
    ],
)
def test_a_server_that_goes_on_is_asked_other_prompts_when_a_run_is_made_anew(
    tmp_path: Path, starts: Path, begun: bool, own_seed: bool, goes_on: bool, others: bool
) -> None:
    with scripted_server([plain("200 OK", b"")]) as here:
        known = {"start": [], "url": here.url} if goes_on else {}
        experiment = an_experiment(a_configuration(**known), seed_is_drawn=own_seed)
        Store(tmp_path / "out", experiment, plan(experiment)).close()
        if begun:
            (tmp_path / "out/runs/a/w-l/1").mkdir(parents=True)
        conduct(tmp_path / "out", experiment)
    (run,) = runs_of(plan(experiment))
    asked = next(line for line in starts.read_text().splitlines() if line.startswith("locust")).split()
    assert asked[-2] == run.options[-2] == "--seed"
    assert (asked[-1] != run.options[-1]) == others


def test_ctrl_c_ends_the_run_and_the_server_and_records_neither(tmp_path: Path, starts: Path) -> None:
    experiment = an_experiment(workloads=workloads("code-0", "hang"))

    def interrupt() -> None:
        wait_until(lambda: starts.exists() and "hang" in starts.read_text(), "the second run")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        conduct(tmp_path / "out", experiment)
    thread.join()
    assert outcomes(tmp_path / "out") == {"a/code-0-l/1": "ok"}
    assert not running_commands(str(tmp_path))


KILLED = """
import sys
from pathlib import Path
from tests.experiment import test_running as t
t.running.locust_command = t.fake_locust
t.conduct(Path(sys.argv[1]), t.an_experiment(workloads=t.workloads("code-0", "hang")))
"""


def test_after_kill_9_nothing_is_left_and_the_next_one_goes_on(tmp_path: Path, starts: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(out)]) as process:
        wait_until(lambda: starts.exists() and "hang" in starts.read_text(), "the second run")
        process.kill()
    wait_until(lambda: not running_commands(str(tmp_path)), "everything to end")
    with (out / "journal.jsonl").open("ab") as torn:
        torn.write(b'{"key":"a/ha')
    starts.unlink()
    experiment = an_experiment(workloads=workloads("code-0", "hang"))
    sessions = plan(experiment)
    store = Store(out, experiment, sessions)
    assert [run.key for run in Conduct(sessions, TIMING, store, Progress(io.StringIO()))._to_do] == [
        "a/hang-l/1"
    ]
    store.close()
    assert (out / "runs/a/hang-l/1").is_dir()
