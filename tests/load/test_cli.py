"""Whole runs through the command line, against the simulator: what comes out is what was."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.locust_command import (
    HEADLESS,
    Outcome,
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    column,
    counters,
    growth,
    run_locust,
    simulator,
    started,
    wait_until,
)
from tests.scripted_server import plain, scripted_server

KEYS = {
    *("id", "profile", "ttft_s", "total_s", "concurrency", "scenario", "index", "intended_s", "sent_s"),
    *("connect_s", "first_token_s", "last_token_s", "tpot_s", "prompt_tokens", "output_tokens"),
    *("cached_tokens", "finish_reason", "outcome", "error", "worker", "phase"),
}
OUTPUT_TOKENS = {"short_short": 8, "short_long": 512, "long_short": 8, "long_long": 512}


@dataclass(frozen=True)
class Measured:
    """A run, and what its server says about it."""

    run: Outcome
    growth: dict[str, float]
    """Of the server's counters."""
    server_ttft_ms: np.ndarray
    """By the server's own log, from the arrival of each request to its first token's departure."""
    server_e2el_ms: np.ndarray
    """The same to its last token's."""

    def client_ms(self, key: str) -> np.ndarray:
        """A latency of each request; like the server's, in order of `index`."""
        by_index = sorted(self.run.requests, key=lambda request: request["index"])
        return np.array(column(by_index, key)) * 1000


@pytest.fixture(scope="module")
def tiny(server: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Six requests of each of the four profiles, one profile after the other, by four users."""
    before = counters(server.url)
    run = run_locust(
        *HEADLESS, "--host", server.url, "--scenario", "tiny", "--num-prompts", "6",
        folder=tmp_path_factory.mktemp("tiny") / "results",
    )  # fmt: skip
    assert_ended_well(run)
    grown = growth(before, counters(server.url))
    sent = server.sent(run.summary["run"])
    entries = [sent[index] for index in range(24)]
    return Measured(
        run,
        grown,
        np.array([entry["sent_ns"][0] - entry["received_ns"] for entry in entries]) / 1e6,
        np.array([entry["sent_ns"][-1] - entry["received_ns"] for entry in entries]) / 1e6,
    )


def test_every_planned_request_has_one_whole_line(tiny: Measured) -> None:
    assert len(tiny.run.requests) == 24
    assert_nothing_is_lost(tiny.run)
    assert all(request.keys() >= KEYS for request in tiny.run.requests)
    assert tiny.run.summary["requests"] == {
        "planned": 24,
        "ok": 24,
        "failed": 0,
        "dropped": 0,
        "outside_window": 0,
    }


def test_phases_follow_one_another_and_never_overlap(tiny: Measured) -> None:
    requests = pd.DataFrame(tiny.run.requests)
    phases = requests.groupby("phase").agg(
        profile=("profile", "unique"), sent=("sent_s", "min"), ended=("ended_s", "max"), n=("id", "count")
    )
    assert [list(names) for names in phases["profile"]] == [[name] for name in OUTPUT_TOKENS]
    assert list(phases["n"]) == [6] * 4
    assert all(phases["sent"].iloc[1:].to_numpy() >= phases["ended"].iloc[:-1].to_numpy())


def test_users_are_never_more_than_asked_for(tiny: Measured) -> None:
    assert max(column(tiny.run.requests, "concurrency")) == 4
    assert tiny.run.summary["max_concurrent_requests"] == 4


def test_answers_are_exactly_as_long_as_planned(tiny: Measured) -> None:
    for request in tiny.run.requests:
        assert request["output_tokens"] == OUTPUT_TOKENS[request["profile"]]
        assert not request["tokens_counted"]


def test_tokens_are_those_the_server_counted(tiny: Measured) -> None:
    summary = tiny.run.summary
    assert summary["total_input_tokens"] == tiny.growth["vllm:prompt_tokens_total"]
    assert summary["total_output_tokens"] == tiny.growth["vllm:generation_tokens_total"]
    assert summary["completed"] == tiny.growth["vllm:request_success_total"] == 24


@pytest.mark.parametrize(("key", "truth"), [("ttft_s", "server_ttft_ms"), ("total_s", "server_e2el_ms")])
def test_latencies_are_those_the_server_saw(tiny: Measured, key: str, truth: str) -> None:
    # The client's clock runs a little longer: it starts before the request is on its way.
    # How much is a matter of the machine, and for `scripts/client-benchmark`.
    late_ms = tiny.client_ms(key) - getattr(tiny, truth)
    assert late_ms.min() > -0.2


@pytest.mark.parametrize(("family", "key"), [("ttft", "ttft_s"), ("tpot", "tpot_s"), ("e2el", "total_s")])
def test_the_summary_is_what_others_compute_from_the_lines(tiny: Measured, family: str, key: str) -> None:
    values_ms = pd.DataFrame(tiny.run.requests)[key] * 1000
    expected = {
        f"mean_{family}_ms": values_ms.mean(),
        f"median_{family}_ms": values_ms.median(),
        f"std_{family}_ms": values_ms.std(ddof=0),
        f"p50_{family}_ms": values_ms.quantile(0.5),
        f"p99_{family}_ms": np.percentile(values_ms, 99),
    }
    rounding_ms = 0.001
    assert {name: tiny.run.summary[name] for name in expected} == pytest.approx(expected, abs=rounding_ms)


def test_stdout_ends_with_the_block_that_vllm_users_know(tiny: Measured) -> None:
    assert "============ Serving Benchmark Result ============" in tiny.run.stdout
    assert re.search(r"^Successful requests: +24 *$", tiny.run.stdout, re.MULTILINE)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and waits for its parent to look does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_a_host_the_simulator_serves_and_is_gone_afterwards(tmp_path: Path) -> None:
    options = (*HEADLESS, "--scenario", "ss", "--num-prompts", "40")
    with started(*options, folder=tmp_path / "results") as run:
        parent = psutil.Process(run.process.pid)
        wait_until(lambda: bool(parent.children()), "the simulator's start")
        children = parent.children(recursive=True)
        outcome = run.wait()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    said = [line for line in outcome.stderr.splitlines() if "No --host given" in line]
    assert len(said) == 1
    assert outcome.summary["host"] in said[0]
    assert not any(is_alive(child) for child in children)


def test_a_run_that_is_killed_takes_its_simulator_with_it(tmp_path: Path) -> None:
    with started(*HEADLESS, "--scenario", "ss", folder=tmp_path / "results") as run:
        parent = psutil.Process(run.process.pid)
        wait_until((tmp_path / "results" / "requests.jsonl").exists, "the start of the load")
        children = parent.children(recursive=True)
        run.process.kill()
    assert children
    wait_until(lambda: not any(is_alive(child) for child in children), "the simulator's end")


@pytest.mark.parametrize("endpoint_type", ["chat", "completions"])
def test_prompts_are_exactly_as_long_as_asked_for(
    server: Simulator, tmp_path: Path, endpoint_type: str
) -> None:
    outcome = run_locust(
        *HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "12",
        "--endpoint-type", endpoint_type, "--input-len", "100", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert column(outcome.requests, "prompt_tokens") == [100] * 12
    # The plan's own number could stand there too; the server's cannot be wrong.
    sent = server.sent(outcome.summary["run"])
    assert [entry["prompt_tokens"] for entry in sent.values()] == [100] * 12
    assert {entry["id"].partition("-")[0] for entry in sent.values()} == {
        "chatcmpl" if endpoint_type == "chat" else "cmpl"
    }


def test_a_warm_up_is_left_out_of_the_numbers_but_not_of_the_lines(server: Simulator, tmp_path: Path) -> None:
    # The server needs 40 ms or more for an answer, and so more than 1 s for what four users ask.
    outcome = run_locust(
        *HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "160", "--warmup", "1s",
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    summary, requests = outcome.summary, pd.DataFrame(outcome.requests)
    first_s = requests["intended_s"].min()
    assert 1 <= summary["start_s"] <= 1 + first_s, "the warm-up begins with the first user"
    assert summary["duration"] == pytest.approx(summary["end_s"] - summary["start_s"])
    inside = requests[requests["ended_s"].between(summary["start_s"], summary["end_s"])]
    assert 0 < len(inside) < len(requests)
    assert summary["completed"] == len(inside)
    assert summary["requests"]["outside_window"] == len(requests) - len(inside)
    assert summary["total_output_tokens"] == inside["output_tokens"].sum()
    assert summary["mean_ttft_ms"] == pytest.approx(inside["ttft_s"].mean() * 1000, abs=0.001)


def test_a_user_of_ones_own_is_measured_alike(server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(
        *HEADLESS, "--host", server.url, "-t", "1s",
        folder=tmp_path / "results", locustfile="custom_user.py",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert len(outcome.requests) >= 8, "each user asks twice at once"
    assert set(column(outcome.requests, "output_tokens")) == {32, 48}


def test_secrets_are_never_written_nor_printed(tmp_path: Path) -> None:
    secrets = ("SECRET-1", "SECRET-2")
    with simulator(tmp_path, "--api-key", secrets[0]) as server:
        outcome = run_locust(
            *HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "8",
            "--api-key", secrets[0], "--header", f"X-Token={secrets[1]}", folder=tmp_path / "results",
        )  # fmt: skip
        refused = run_locust(
            *HEADLESS, "--host", server.url, "--header", f"Authorization={secrets[1]}",
            folder=tmp_path / "refused",
        )  # fmt: skip
    assert_ended_well(outcome)
    assert (refused.code, len(refused.problems)) == (2, 1)
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert {"run.json", "requests.jsonl", "summary.json"} <= {path.name for path in files}
    for text in (outcome.text, refused.text, *(path.read_text(encoding="utf-8") for path in files)):
        assert not any(secret in text for secret in secrets)


# Exit codes

MODELS = plain("200 OK", b'{"data": [{"id": "broken"}]}', "content-type: application/json")
ERROR = plain(
    "500 Internal Server Error", b'{"error": {"message": "no more"}}', "content-type: application/json"
)


@pytest.mark.parametrize(
    ("slo", "code", "said"),
    [
        ("mean_ttft_ms<0.001", 3, "is missed"),
        ("p99_ttft_ms<60000", 4, "is undetermined"),
        ("median_ttft_ms<60000", 0, "is met"),
    ],
)
def test_a_gate_decides_the_exit_code(
    server: Simulator, tmp_path: Path, slo: str, code: int, said: str
) -> None:
    outcome = run_locust(
        *HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "8", "--slo", slo,
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_with(code, outcome)
    (judgement,) = outcome.summary["slo"]
    assert judgement["slo"] == slo
    assert said in judgement["sentence"]
    assert f"SLO {judgement['sentence']}" in outcome.stdout


@pytest.mark.parametrize(("gate", "code"), [((), 1), (("--slo", "error_rate<=1"), 4)])
def test_failed_requests_fail_the_run_and_no_gate_is_green_over_them_alone(
    tmp_path: Path, gate: tuple[str, ...], code: int
) -> None:
    # Not at once: failing as fast as it can would keep the client so busy that nothing it measures is valid.
    with scripted_server([0.2, ERROR], questions={"GET /v1/models": MODELS, "GET ": ERROR}) as server:
        outcome = run_locust(
            *HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "5", *gate,
            folder=tmp_path / "results",
        )  # fmt: skip
    assert_ended_with(code, outcome)
    assert len(server.requests) == 5
    assert_nothing_is_lost(outcome)
    assert outcome.summary["failures"] == {"http_500": 5}
    assert outcome.summary["error_rate"] == 1
    assert outcome.summary["mean_ttft_ms"] is None
    assert [(request["error"], request["total_s"]) for request in outcome.requests] == [("no more", None)] * 5
