"""Many processes are one load: same numbers, nothing lost, whoever dies, comes late or is told to stop."""

import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.locust_command import (
    ROOT,
    LocustProcess,
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    column,
    counters,
    free_port,
    growth,
    in_processes,
    most_at_once,
    run_locust,
    simulator,
    started,
    wait_until,
)
from tests.whole.test_open_loop import scheduled
from tests.zygote import Fork
from vllm_locust.core.arrival import Schedule
from vllm_locust.core.rate import parse_rate

RATE = 60
EVENLY = ("--request-rate", str(RATE), "--burstiness", "inf")
CHAT = str(ROOT / "locustfiles" / "chat.py")


def many(processes: int, users: int) -> Sequence[str]:
    return ("--headless", "-u", str(users), "-r", str(users), *in_processes(processes), "--only-summary")


@contextmanager
def master(
    folder: Path, *options: str, workers: int, port: int | None = None
) -> Iterator[tuple[LocustProcess, str]]:
    """A master that waits for `workers`, and the port where."""
    bound = str(port or free_port())
    where = ("--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", bound)
    with started(*where, "--expect-workers", str(workers), *options, folder=folder) as run:
        yield run, bound


@contextmanager
def worker(port: str, where: Path) -> Iterator[Fork]:
    options = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
    process = Fork("locust", "-f", CHAT, *options, cwd=where)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(run: LocustProcess) -> list[psutil.Process]:
    return psutil.Process(run.process.pid).children()


def sent_by(worker: int, requests: Sequence[Mapping[str, Any]]) -> list[float]:
    """When the requests of a worker were to be sent, in their order."""
    return sorted(request["intended_s"] for request in requests if request["worker"] == worker)


def every(times_s: Sequence[float]) -> float:
    """A worker that sends every third request as `EVENLY` says has gaps of so many requests: the last one."""
    return round((times_s[-1] - times_s[-2]) * RATE, 3) if len(times_s) > 1 else 0.0


def test_four_processes_measure_what_one_does(tmp_path: Path) -> None:
    plan = ("--scenario", "ss:1,ls:1", "--num-prompts", "80", "--seed", "7", "--max-tokens", "12")
    with simulator(tmp_path, "--preset", "metronome") as server:
        alone = run_locust(
            "--headless", "-u", "8", "-r", "8", "--host", server.url, *plan, folder=tmp_path / "1"
        )
        before = counters(server.url)
        four = run_locust(*many(4, 8), "--host", server.url, *plan, folder=tmp_path / "4")
        after = growth(before, counters(server.url))
    for outcome in (alone, four):
        assert_ended_well(outcome)
        assert_nothing_is_lost(outcome)
    for key in ("completed", "failed", "total_input_tokens", "total_output_tokens"):
        assert four.summary[key] == alone.summary[key], key
    assert four.summary["max_concurrent_requests"] == most_at_once(four.requests)
    # A step takes 20 ms or more, whoever asks; one process against four is `scripts/load-benchmark`'s affair.
    assert min(alone.summary["mean_tpot_ms"], four.summary["mean_tpot_ms"]) >= 19.9
    asked = [
        sorted((r["index"], r["profile"], r["prompt_tokens"]) for r in o.requests) for o in (alone, four)
    ]
    assert asked[0] == asked[1], "the same requests, each once"
    assert {request["worker"] for request in four.requests} == {0, 1, 2, 3}
    assert [w["requests"] for w in four.summary["workers"]] == [
        sum(request["worker"] == i for request in four.requests) for i in range(4)
    ]
    assert after["vllm:generation_tokens_total"] == four.summary["total_output_tokens"]
    assert four.summary["mean_ttft_ms"] == pytest.approx(
        np.mean(column(four.requests, "ttft_s")) * 1000, abs=0.001
    )
    assert four.summary["p99_e2el_ms"] == pytest.approx(
        np.percentile(column(four.requests, "total_s"), 99) * 1000, abs=0.001
    )


@pytest.mark.parametrize(
    ("stop_timeout", "tokens", "in_flight"),
    [("60", "100", 256), ("1", "10000", 512)],
    ids=["finish", "cancel"],
)
def test_512_streams_when_the_load_ends(
    tmp_path: Path, stop_timeout: str, tokens: str, in_flight: int
) -> None:
    options = ("--scenario", "ss", "--max-tokens", tokens, "--stop-timeout", stop_timeout)
    with (
        simulator(tmp_path, "--max-num-seqs", "512") as server,
        started(*many(4, 512), "--host", server.url, *options, folder=tmp_path / "results") as run,
    ):
        wait_until(lambda: server.in_flight() >= in_flight, f"{in_flight} streams")
        outcome = run.stop()
        wait_until(lambda: server.in_flight() == 0, "the server's relief")
        sent = server.served(outcome)
    assert_nothing_is_lost(outcome)
    counts, failures = outcome.summary["requests"], outcome.summary["failures"]
    assert counts["planned"] == counts["ok"] + failures.get("cancelled", 0) == len(sent)
    assert {request["index"] for request in outcome.requests} == set(sent)
    assert not any("accounted" in reason for reason in outcome.summary["client"]["reasons"])
    if stop_timeout == "60":
        assert counts["ok"] >= in_flight
        assert failures == {}
    else:
        assert failures == {"cancelled": 512}
        assert_ended_with(1, outcome)


def test_all_workers_together_keep_one_schedule(server: Simulator, tmp_path: Path) -> None:
    """Each by a clock of its own: it learns of the run's start with a message."""
    outcome = run_locust(
        *many(3, 1), "--host", server.url, "--scenario", "ss", "--request-rate", "90:2s", "--seed", "5",
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_nothing_is_lost(outcome)
    plan = scheduled(Schedule(parse_rate("90:2s"), 1.0, 5, 0))
    assert len(outcome.requests) == len(plan)
    assert {request["worker"] for request in outcome.requests} == {0, 1, 2}
    for worker in range(3):
        own = [request for request in outcome.requests if request["worker"] == worker]
        began_s = np.array(column(own, "intended_s")) - [plan[request["index"]] for request in own]
        assert began_s == pytest.approx(np.full(len(own), began_s[0]), abs=5e-6)


def test_a_worker_that_dies_is_named_and_the_others_take_over(server: Simulator, tmp_path: Path) -> None:
    with started(
        *many(3, 3), "--host", server.url, "--scenario", "ss", *EVENLY, folder=tmp_path / "results"
    ) as run:

        def shares() -> list[float]:
            return sorted(every(sent_by(index, run.requests)) for index in range(3))

        wait_until(lambda: shares() == [3, 3, 3], "all three")
        children(run)[0].kill()
        wait_until(lambda: shares() == [2, 2, 3], "the others' new share")
        outcome = run.stop()
    assert_nothing_is_lost(outcome)
    (lost,) = [worker for worker in outcome.summary["workers"] if worker["lost_after_s"] is not None]
    kept = sent_by(lost["worker"], outcome.requests)
    assert len(kept) == lost["requests"]
    assert every(kept) == 3
    assert lost["lost_after_s"] > 0
    assert outcome.summary["client"]["verdict"] != "valid"
    assert any("was lost after" in reason for reason in outcome.summary["client"]["reasons"])
    assert f"Worker {lost['worker']} " in outcome.stdout


def test_a_worker_that_is_stopped_for_some_seconds_is_not_given_up(server: Simulator, tmp_path: Path) -> None:
    options = ("--host", server.url, "--scenario", "ss", *EVENLY, "--num-prompts", "300")
    with started(*many(2, 1), *options, folder=tmp_path / "results") as run:
        wait_until(lambda: all(sent_by(index, run.requests) for index in range(2)), "both")
        stopped = children(run)[0]
        stopped.suspend()
        time.sleep(6)
        stopped.resume()
        outcome = run.wait()
    assert_nothing_is_lost(outcome)
    assert [worker["was_missing"] for worker in outcome.summary["workers"]] == [False, False]
    assert outcome.summary["requests"]["ok"] == 300, "each was sent, and once"


def test_a_worker_that_comes_late_takes_its_share(server: Simulator, tmp_path: Path) -> None:
    options = ("--headless", "--host", server.url, "--scenario", "ss", *EVENLY)
    with (
        master(tmp_path / "results", *options, workers=1) as (run, port),
        worker(port, tmp_path),
    ):
        wait_until(lambda: server.in_flight() > 0, "load")
        with worker(port, tmp_path):
            wait_until(lambda: len(sent_by(1, run.requests)) > 20, "requests of the second worker")
            outcome = run.stop()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert [worker["lost_after_s"] for worker in outcome.summary["workers"]] == [None, None]
    first, second = (sent_by(index, outcome.requests) for index in (0, 1))
    assert [every(first[:2]), every(first), every(second)] == [1, 2, 2]


def test_a_worker_that_cannot_take_part_ends_the_run_with_its_reason(
    server: Simulator, tmp_path: Path
) -> None:
    data = ROOT / "vllm_locust" / "workloads" / "data" / "sharegpt_small.json"
    options = ("--headless", "-u", "2", "-r", "2", "--host", server.url)
    with (
        master(tmp_path / "results", *options, "--dataset-path", os.path.relpath(data), workers=1) as (
            run,
            port,
        ),
        worker(port, tmp_path),  # where the relative path leads nowhere
    ):
        outcome = run.wait()
    assert outcome.code == 2, outcome.text
    (problem,) = outcome.problems
    assert "a worker says" in problem
    assert "the data set cannot be read" in problem


def test_more_workers_expected_than_came(server: Simulator, tmp_path: Path) -> None:
    options = ("--headless", "--host", server.url, "--expect-workers-max-wait", "2")
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as door, worker(str(port), tmp_path) as there:
        door.accept()[0].close()  # now it has started, and goes on knocking
        door.close()
        with master(tmp_path / "results", *options, workers=2, port=port) as (run, _):
            outcome = run.wait()
        there.wait(timeout=60)
    assert outcome.code == 2, outcome.text
    assert outcome.problems == ["--expect-workers 2: only 1 came within 2 s."]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_master_that_is_told_to_end_while_it_waits_for_workers_says_so(
    server: Simulator, tmp_path: Path, ending: signal.Signals
) -> None:
    junit = tmp_path / "gates.xml"
    options = (*many(1, 1), "--host", server.url, "--junit-xml", str(junit))
    with master(tmp_path / "results", *options, workers=1) as (run, _):
        wait_until(lambda: handles(run, signal.SIGTERM), "the master")
        run.process.send_signal(ending)
        outcome = run.wait()
    assert outcome.code == 4, outcome.text
    why = "nothing was measured, since the run ended before it could begin"
    assert outcome.stdout.splitlines()[-1] == f"Exit code 4: {why}"
    assert why in junit.read_text()


def handles(run: LocustProcess, signal_number: signal.Signals) -> bool:
    """Whether the process has a handler for a signal yet."""
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal_number - 1) & 1)


ENDLESS = ("--scenario", "ss", "--max-tokens", "10000")


def test_ctrl_c_lets_all_workers_finish_and_a_second_one_cancels(server: Simulator, tmp_path: Path) -> None:
    options = (*many(2, 4), "--host", server.url, *ENDLESS, "--loglevel", "DEBUG")
    with started(*options, folder=tmp_path / "results") as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        workers = children(run)
        run.press_ctrl_c()
        run.wait_for_its_word("Stopping...")
        assert server.in_flight() == 4, "the first one lets requests finish"
        run.press_ctrl_c()
        outcome = run.wait()
    assert_ended_with(1, outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["failures"] == {"cancelled": 4}
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "run time"])
def test_requests_of_all_workers_are_finished_when_the_load_ends(
    server: Simulator, tmp_path: Path, ending: str
) -> None:
    some_seconds = ("--scenario", "ss", "--max-tokens", "800")
    limit = ("-t", "5s") if ending == "run time" else ()
    with started(
        *many(2, 4), "--host", server.url, *some_seconds, *limit, folder=tmp_path / "results"
    ) as run:
        if ending != "run time":
            wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        if ending == "SIGINT":
            run.press_ctrl_c()
        elif ending == "SIGTERM":
            run.process.terminate()
        outcome = run.wait()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    if ending != "run time":
        assert outcome.summary["requests"]["ok"] == 4
    assert all((request["outcome"], request["output_tokens"]) == ("ok", 800) for request in outcome.requests)


def test_a_worker_that_is_told_to_leave_finishes_and_reports_first(server: Simulator, tmp_path: Path) -> None:
    options = ("--headless", "-u", "4", "-r", "4", "--host", server.url, "--scenario", "ss")
    rate = ("--request-rate", "40", "--burstiness", "inf", "--num-prompts", "160")
    with (
        master(tmp_path / "results", *options, *rate, "--max-tokens", "200", workers=2) as (run, port),
        worker(port, tmp_path),
        worker(port, tmp_path) as leaving,
    ):
        wait_until(lambda: all(sent_by(index, run.requests) for index in range(2)), "both")
        leaving.send_signal(signal.SIGTERM)
        leaving.wait(timeout=60)
        outcome = run.wait()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert [worker["lost_after_s"] for worker in outcome.summary["workers"]] == [None, None]
    assert outcome.summary["requests"]["failed"] == 0
    assert sorted(request["index"] for request in outcome.requests) == list(range(160))


def test_phases_never_share_the_server_and_users_may_be_fewer_than_workers(
    server: Simulator, tmp_path: Path
) -> None:
    outcome = run_locust(
        *many(3, 2), "--host", server.url, "--scenario", "tiny", "--num-prompts", "5", "--max-tokens", "30",
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert [phase["completed"] for phase in outcome.summary["phases"]] == [5, 5, 5, 5]
    sent = server.served(outcome)
    for phase in range(3):
        before, behind = (
            [sent[request["index"]] for request in outcome.requests if request["phase"] == number]
            for number in (phase, phase + 1)
        )
        assert max(entry["sent_ns"][-1] for entry in before) < min(entry["received_ns"] for entry in behind)
