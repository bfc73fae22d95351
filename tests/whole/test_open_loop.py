"""Requests are sent when they are due, whatever the server does, and the results tell both sides of it."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.locust_command import (
    Outcome,
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    column,
    in_processes,
    most_at_once,
    run_locust,
    simulator,
    started,
    wait_until,
)
from vllm_locust.core.arrival import Schedule
from vllm_locust.core.rate import parse_rate

ONE_SOURCE = ("--headless", "-u", "1", "-r", "1", "--scenario", "ss")


def intended(outcome: Outcome) -> np.ndarray:
    """When requests were intended, in seconds since the first, in order of the plan."""
    in_order = sorted(outcome.requests, key=lambda request: request["index"])
    times_s = np.array(column(in_order, "intended_s"))
    return times_s - times_s[0]


def scheduled(schedule: Schedule) -> np.ndarray:
    times_s = []
    while (arrival := schedule.peek()) is not None:
        schedule.pop()
        times_s.append(arrival.at_s)
    return np.array(times_s) - times_s[0]


def test_requests_come_as_the_arrival_process_says(server: Simulator, tmp_path: Path) -> None:
    rate = "40:1s,40-80:1s,0:0.5s,80:0.5s"
    outcome = run_locust(
        *ONE_SOURCE, "--host", server.url, "--request-rate", rate, "--burstiness", "0.5", "--seed", "3",
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    plan = scheduled(Schedule(parse_rate(rate), 0.5, 3, 0))
    assert intended(outcome) == pytest.approx(plan, abs=2e-6)
    assert outcome.summary["request_rate"] == rate
    sent = [request for request in outcome.requests if request["sent_s"] is not None]
    assert min(request["sent_s"] - request["intended_s"] for request in sent) >= 0
    assert "From the Intended Start" in outcome.stdout


def test_what_a_frozen_server_does_to_others_shows_from_the_plan_only(tmp_path: Path) -> None:
    """The example of wrk2: with room for few, a stop of 1.4 s keeps those due meanwhile from being sent.

    All 500 are sent, however late: a quarter or more of them were due in the stop.
    """
    with (
        simulator(tmp_path, "--preset", "metronome") as server,
        started(
            *ONE_SOURCE, "--host", server.url, "--request-rate", "100", "--burstiness", "inf",
            "--max-concurrency", "20", "--max-tokens", "2", "--num-prompts", "500",
            folder=tmp_path / "results",
        ) as run,
    ):  # fmt: skip
        wait_until(lambda: server.in_flight() > 0, "load")
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(1.4)
        server.process.send_signal(signal.SIGCONT)
        outcome = run.wait()
    assert_nothing_is_lost(outcome)
    summary = outcome.summary
    assert summary["p90_e2el_from_plan_ms"] > 400, "more than a tenth of all requests were due in the stop"
    unlike = summary["p90_e2el_from_plan_ms"] / 2
    assert summary["p90_e2el_ms"] < unlike, "of those that were sent in it there are twenty"
    assert summary["max_e2el_from_plan_ms"] > 1300


def test_a_cap_makes_requests_wait_and_drops_what_never_had_its_turn(tmp_path: Path) -> None:
    with simulator(tmp_path, "--preset", "metronome") as server:
        outcome = run_locust(
            *ONE_SOURCE, "--host", server.url, "--request-rate", "50", "--burstiness", "inf",
            "--max-concurrency", "5", "--max-tokens", "20", "-t", "3s", folder=tmp_path / "results",
        )  # fmt: skip
    assert_nothing_is_lost(outcome)
    assert max(column(outcome.requests, "concurrency")) == 5
    counts = outcome.summary["requests"]
    # An answer takes 0.4 s or more, so five at a time are 12.5 a second at most of the 50 that are due.
    assert 5 <= counts["ok"] <= 45
    assert counts["dropped"] > counts["ok"]
    dropped = [request for request in outcome.requests if request["outcome"] == "dropped"]
    assert all(request["sent_s"] is None for request in dropped)
    assert "--max-concurrency" in dropped[0]["error"]
    reasons = outcome.summary["client"]["reasons"]
    assert not any("could not be sent" in reason for reason in reasons), "the user asked for it"
    assert "Dropped requests (never sent)" in outcome.stdout


def test_all_at_once(server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(
        *ONE_SOURCE, "--host", server.url, "--request-rate", "inf", "--num-prompts", "60",
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_nothing_is_lost(outcome)
    assert set(intended(outcome)) == {0.0}
    assert outcome.summary["completed"] == 60
    assert outcome.summary["max_concurrent_requests"] == most_at_once(outcome.requests)


def test_a_trace_is_replayed(server: Simulator, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    times_s = [5.0, 5.0, 5.3, 6.0, 6.9]
    trace.write_text("".join(json.dumps({"timestamp": t}) + "\n" for t in times_s))
    outcome = run_locust(
        *ONE_SOURCE, "--host", server.url, "--arrivals", str(trace), folder=tmp_path / "results"
    )
    assert_ended_well(outcome)
    assert intended(outcome) == pytest.approx([0, 0, 0.3, 1.0, 1.9], abs=1e-5)
    stretched = run_locust(
        *ONE_SOURCE, "--host", server.url, "--arrivals", str(trace), "--request-rate", "4",
        folder=tmp_path / "stretched",
    )  # fmt: skip
    assert intended(stretched) == pytest.approx(np.array([0, 0, 0.3, 1.0, 1.9]) / 1.9, abs=1e-5)


def test_what_is_in_flight_at_the_end_is_finished_or_cancelled(tmp_path: Path) -> None:
    options = (
        *ONE_SOURCE,
        "--request-rate",
        "20",
        "--max-tokens",
        "10000",
        "-t",
        "1s",
        "--stop-timeout",
        "1",
    )
    with simulator(tmp_path) as server:
        outcome = run_locust(*options, "--host", server.url, folder=tmp_path / "results")
        wait_until(lambda: server.in_flight() == 0, "the server's relief")
    assert_ended_with(1, outcome)
    assert_nothing_is_lost(outcome)
    assert set(outcome.summary["failures"]) == {"cancelled"}
    assert outcome.summary["requests"]["planned"] >= 1


@pytest.mark.parametrize("processes", [1, 3])
def test_a_ladder_of_rates(server: Simulator, tmp_path: Path, processes: int) -> None:
    outcome = run_locust(
        "--headless", "--scenario", "ss", *in_processes(processes), "--host", server.url,
        "--ladder", "20,60", "--levels", "rate", "--step-time", "2s",
        "--step-warmup", "500ms", "--burstiness", "inf", "--step-overlap", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    phases = outcome.summary["phases"]
    assert [phase["request_rate"] for phase in phases] == [20, 60]
    for phase, rate in zip(phases, (20, 60), strict=True):
        assert phase["duration"] >= 1.499
        assert phase["request_throughput"] == pytest.approx(phase["completed"] / phase["duration"])
        planned = phase["requests"]["planned"]
        # A worker whose clock is behind is told of the end before its last request is due.
        assert planned == 2 * rate if processes == 1 else rate < planned <= 2 * rate
        for worker in range(processes):  # each has a clock of its own
            own = [r for r in outcome.requests if (r["phase"], r["worker"]) == (phase["phase"], worker)]
            assert np.diff(sorted(column(own, "intended_s"))) == pytest.approx(processes / rate, abs=5e-6)
    begins = [min(r["intended_s"] for r in outcome.requests if r["phase"] == phase) for phase in (0, 1)]
    assert begins[1] - begins[0] > 1.5
