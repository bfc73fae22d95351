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
    in_processes,
    read_json,
    read_lines,
    run_locust,
    started,
    wait_until,
)

SOME_SECONDS = ("--scenario", "ss", "--max-tokens", "800")
ENDLESS = ("--scenario", "ss", "--max-tokens", "10000")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_requests_in_flight_are_finished_when_the_run_is_interrupted(
    server: Simulator, tmp_path: Path, ending: signal.Signals
) -> None:
    with started(*HEADLESS, "--host", server.url, *SOME_SECONDS, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(ending)
        outcome = run.wait()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["requests"]["ok"] == 4, "those in flight, and no new ones"
    assert {request["output_tokens"] for request in outcome.requests} == {800}
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
    """Sooner or later each of the four users is at an answer that takes too long."""
    some = ("--scenario", "ss", "--vary", '20%:{"max_tokens": 10000}', "--stop-timeout", "1", "-t", "4s")
    outcome = run_locust(*HEADLESS, "--host", server.url, *some, folder=tmp_path / "results")
    assert_nothing_is_lost(outcome)
    failures = outcome.summary["failures"]
    assert set(failures) == {"cancelled"}
    assert 1 <= failures["cancelled"] <= 4


def test_a_second_interrupt_cancels_what_the_first_let_finish(server: Simulator, tmp_path: Path) -> None:
    with started(*HEADLESS, "--host", server.url, *ENDLESS, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(signal.SIGINT)
        run.wait_for_its_word("Waiting for 4 requests in flight. Ctrl-C (again) cancels them.")
        run.process.send_signal(signal.SIGINT)
        outcome = run.wait()
    assert_ended_with(1, outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["failures"] == {"cancelled": 4}


QUITTER = """
from locust import events, task
from vllm_locust import VllmUser

@events.test_start.add_listener
def give_up(environment, **_):
    environment.runner.quit()

class Asker(VllmUser):
    @task
    def ask(self):
        self.ask_next()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_listener_of_the_begin_may_end_the_run(server: Simulator, tmp_path: Path, processes: int) -> None:
    locustfile = tmp_path / "quitter.py"
    locustfile.write_text(QUITTER)
    options = (*HEADLESS, *in_processes(processes), "--host", server.url, "--scenario", "ss")
    outcome = run_locust(*options, folder=tmp_path / "results", locustfile=str(locustfile))
    assert_ended_with(4, outcome)
    assert "Exit code 4: no request was answered in the measured window" in outcome.stdout
    assert outcome.summary["requests"]["planned"] == 0


TIRED = """
from locust import task
from vllm_locust import VllmUser

class Asker(VllmUser):
    @task
    def ask(self):
        self.ask_next()
        self.environment.runner.quit()
"""


def test_tasks_of_several_users_may_end_the_run(server: Simulator, tmp_path: Path) -> None:
    """They do not wait for each other."""
    locustfile = tmp_path / "tired.py"
    locustfile.write_text(TIRED)
    options = (*HEADLESS, "--host", server.url, "--scenario", "ss", "--stop-timeout", "600")
    outcome = run_locust(*options, folder=tmp_path / "results", locustfile=str(locustfile))
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert 1 <= outcome.summary["requests"]["ok"] <= 4


def test_a_killed_run_keeps_what_was_finished(server: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with started(*HEADLESS, "--host", server.url, "--scenario", "ss", folder=folder) as run:
        wait_until(lambda: len(run.requests) > 20, "requests that are kept while the run goes on")
        run.process.kill()
        run.process.wait()
    wait_until(lambda: server.in_flight() == 0, "the server's relief")
    written = (folder / "requests.jsonl").read_bytes()
    assert written.endswith(b"\n")
    kept = {request["index"] for request in read_lines(folder / "requests.jsonl")}
    run_id = read_json(folder / "run.json")["run"]
    wait_until(lambda: kept <= server.sent(run_id).keys(), "the server's log")
    whole = {
        index: entry["sent_ns"][-1]
        for index, entry in server.sent(run_id).items()
        if len(entry["sent_ns"]) == 8
    }
    last_ns = max(whole[index] for index in kept)
    assert {index for index, ended_ns in whole.items() if ended_ns < last_ns - 0.5e9} <= kept, "without a gap"
    assert not (folder / "summary.json").exists()
