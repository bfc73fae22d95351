"""However a run ends: what was asked is accounted for, what was finished is kept."""

import signal
import time
from pathlib import Path

import pytest

from tests.locust_command import (
    HEADLESS,
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    read_json,
    read_lines,
    started,
    wait_until,
)

ABOUT_A_SECOND = ("--scenario", "ss", "--max-tokens", "250")
ENDLESS = ("--scenario", "ss", "--max-tokens", "10000")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_flight_are_finished_when_the_run_is_interrupted(
    server: Simulator, tmp_path: Path, ending: signal.Signals
) -> None:
    with started(*HEADLESS, "--host", server.url, *ABOUT_A_SECOND, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(ending)
        outcome = run.wait()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["requests"]["ok"] == 4, "those in flight, and no new ones"
    assert {request["output_tokens"] for request in outcome.requests} == {250}
    assert "Serving Benchmark Result" in outcome.stdout


def test_what_outlasts_the_stop_timeout_is_cancelled_and_counted(server: Simulator, tmp_path: Path) -> None:
    options = (*HEADLESS, "--host", server.url, *ENDLESS, "--stop-timeout", "1")
    with started(*options, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(signal.SIGINT)
        interrupted_s = time.monotonic()
        outcome = run.wait()
    assert time.monotonic() - interrupted_s >= 1
    assert_ended_with(1, outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["failures"] == {"cancelled": 4}
    assert all(request["total_s"] is None for request in outcome.requests)
    wait_until(lambda: server.in_flight() == 0, "the server's relief")


def test_the_end_of_the_run_time_cancels_alike(server: Simulator, tmp_path: Path) -> None:
    scenario = ("--scenario", "ss:8,ll:1", "--seed", "1", "--stop-timeout", "1", "-t", "1s")
    with started(*HEADLESS, "--host", server.url, *scenario, folder=tmp_path / "results") as run:
        outcome = run.wait()
    assert_nothing_is_lost(outcome)
    assert outcome.summary["requests"]["ok"] > 0
    assert set(outcome.summary["failures"]) == {"cancelled"}


def test_a_second_interrupt_cancels_what_the_first_let_finish(server: Simulator, tmp_path: Path) -> None:
    with started(*HEADLESS, "--host", server.url, *ENDLESS, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert run.process.poll() is None, "the first one lets requests finish"
        run.process.send_signal(signal.SIGINT)
        outcome = run.wait()
    assert_ended_with(1, outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["failures"] == {"cancelled": 4}


def test_a_killed_run_keeps_what_was_finished(server: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with started(*HEADLESS, "--host", server.url, "--scenario", "ss", folder=folder) as run:
        wait_until((folder / "requests.jsonl").exists, "the start of the load")
        time.sleep(3)
        killed_ns = time.time_ns()
        run.process.kill()
        run.process.wait()
    wait_until(lambda: server.in_flight() == 0, "the server's relief")
    written = (folder / "requests.jsonl").read_bytes()
    assert written.endswith(b"\n")
    kept = {request["index"] for request in read_lines(folder / "requests.jsonl")}
    time.sleep(0.1)  # the server writes its log when it has nothing better to do
    sent = server.sent(read_json(folder / "run.json")["run"])
    whole = {index: entry["sent_ns"][-1] for index, entry in sent.items() if len(entry["sent_ns"]) == 8}
    finished = {index for index, ended_ns in whole.items() if ended_ns < killed_ns - 1.5e9}
    assert len(finished) > 5
    assert finished <= kept
    assert not (folder / "summary.json").exists()
