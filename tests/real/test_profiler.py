"""--profiler against vLLM's own: its traces are of the window, and a server without one is told of."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.locust_command import assert_nothing_is_lost, run_locust
from tests.real.conftest import ROOT, START_LIMIT_S, free_port, stop, wait_until_healthy

pytestmark = pytest.mark.timeout(START_LIMIT_S + 120)

LOAD = ("--headless", "-u", "2", "-r", "2", "--scenario", "ss", "--max-tokens", "8", "--profiler")


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Where the server writes them."""
    return tmp_path / "traces"


@pytest.fixture
def profiled_url(tmp_path: Path, traces: Path) -> Iterator[str]:
    """A vLLM of its own, whose profiler can be started."""
    port, log = free_port(), tmp_path / "server.log"
    config = {"profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False}
    command = [str(ROOT / "scripts" / "serve-tiny-vllm"), "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, "--profiler-config", json.dumps(config)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        ) as server,
    ):  # fmt: skip
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(server)


def seconds_of(trace: Path) -> tuple[float, float] | None:
    """When its first computation began and its last one ended, since the epoch; None of one without any."""
    with gzip.open(trace) as file:
        document = json.load(file)
    base_s = document["baseTimeNanoseconds"] / 1e9
    done = [event for event in document["traceEvents"] if event.get("cat") == "cpu_op"]
    if not done:  # the one of the process that serves HTTP
        return None
    return (
        base_s + min(event["ts"] for event in done) / 1e6,
        base_s + max(event["ts"] + event["dur"] for event in done) / 1e6,
    )


def test_a_trace_of_vllm_is_of_the_window(profiled_url: str, traces: Path, tmp_path: Path) -> None:
    outcome = run_locust(
        *LOAD, "--host", profiled_url, "-t", "4s", "--warmup", "2s", folder=tmp_path / "results"
    )
    assert_nothing_is_lost(outcome)
    (session,) = outcome.summary["profiler"]
    assert session["problem"] is None, outcome.text

    began = datetime.fromisoformat(outcome.summary["date"]).timestamp()
    opened_s, closed_s = began + outcome.summary["start_s"], began + outcome.summary["end_s"]
    (traced,) = filter(None, map(seconds_of, traces.glob("*.trace.json.gz")))
    # A step of the engine is some 10 ms, and with a profiler more; the warm-up would be 2 s.
    assert opened_s - 0.05 <= traced[0] <= opened_s + 1
    assert closed_s - 1 <= traced[1] <= closed_s + 1
    assert "these numbers are not those of a run without it" in outcome.stdout


def test_a_server_without_one_costs_a_sentence(vllm_url: str, tmp_path: Path) -> None:
    outcome = run_locust(*LOAD, "--host", vllm_url, "--num-prompts", "6", folder=tmp_path / "results")
    assert_nothing_is_lost(outcome)
    (session,) = outcome.summary["profiler"]
    assert session["started_s"] is None
    assert session["problem"] == "there is none (/start_profile answers 404; vLLM needs --profiler-config)"
    assert outcome.stdout.count("vLLM needs --profiler-config") == 1
    assert outcome.code in (0, 4), outcome.text
