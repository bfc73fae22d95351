"""--profiler against vLLM's own: its traces are of the window, and a server without one is told of."""

import gzip
import json
import time
from datetime import datetime
from pathlib import Path

from tests.locust_command import assert_nothing_is_lost, run_locust
from tests.real.conftest import SmallVllm

LOAD = ("--headless", "-u", "2", "-r", "2", "--scenario", "ss", "--max-tokens", "8", "--profiler")
CLOCKS_S = 0.5
"""A run reads its two clocks one after the other, on a busy machine not at once. The warm-up has 2 s."""


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


def test_a_trace_of_vllm_is_of_the_window(small_vllm: SmallVllm, tmp_path: Path) -> None:
    """It has all that was asked and answered while the profiler ran, and nothing of the warm-up."""
    outcome = run_locust(
        *LOAD, "--host", small_vllm.url, "-t", "4s", "--warmup", "2s", folder=tmp_path / "results"
    )
    ended_s = time.time()
    assert_nothing_is_lost(outcome)
    (session,) = outcome.summary["profiler"]
    assert session["problem"] is None, outcome.text

    began_s = datetime.fromisoformat(outcome.summary["date"]).timestamp()
    (traced,) = filter(None, map(seconds_of, small_vllm.traces.glob("*.trace.json.gz")))
    first_s, last_s = (at_s - began_s for at_s in traced)
    assert outcome.summary["start_s"] - CLOCKS_S <= first_s <= last_s <= ended_s - began_s
    for request in outcome.requests:
        asked_s, answered_s = request["sent_s"], request["ended_s"]
        if session["started_s"] <= asked_s and answered_s <= session["stopped_s"]:
            assert first_s <= answered_s + CLOCKS_S
            assert last_s >= asked_s - CLOCKS_S
    assert "these numbers are not those of a run without it" in outcome.stdout


def test_a_server_without_one_costs_a_sentence(vllm_url: str, tmp_path: Path) -> None:
    outcome = run_locust(*LOAD, "--host", vllm_url, "--num-prompts", "6", folder=tmp_path / "results")
    assert_nothing_is_lost(outcome)
    (session,) = outcome.summary["profiler"]
    assert session["started_s"] is None
    assert session["problem"] == "there is none (/start_profile answers 404; vLLM needs --profiler-config)"
    assert outcome.stdout.count("vLLM needs --profiler-config") == 1
    assert outcome.code in (0, 4), outcome.text
