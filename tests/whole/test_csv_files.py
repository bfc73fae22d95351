"""Locust's CSV files tell of the whole run, its last second too, however it ends and whoever sends."""

import csv
import signal
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.locust_command import (
    HEADLESS,
    LocustProcess,
    Outcome,
    Simulator,
    in_processes,
    started,
    wait_until,
)
from tests.whole.test_many_workers import master, worker

COUNTS = ("Request Count", "Failure Count")
PREFIX = "locust"


def csv_run(server: Simulator, folder: Path, *options: str) -> AbstractContextManager[LocustProcess]:
    prefix = ("--csv", str(folder / PREFIX))
    return started(*HEADLESS, "--host", server.url, *options, *prefix, folder=folder / "results")


def run_with_csv(server: Simulator, folder: Path, *options: str) -> Outcome:
    with csv_run(server, folder, *options) as run:
        return run.wait()


def rows(prefix: Path, file: str) -> list[dict[str, str]]:
    with Path(f"{prefix}_{file}.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def assert_all_is_told(outcome: Outcome, prefix: Path) -> None:
    """Against requests.jsonl, which is counted here."""
    sent = Counter(request["profile"] for request in outcome.requests)
    failed = Counter(request["profile"] for request in outcome.requests if request["outcome"] != "ok")
    stats = {(row["Type"], row["Name"]): row for row in rows(prefix, "stats")}
    for profile, count in sent.items():
        assert [int(stats["POST", profile][key]) for key in COUNTS] == [count, failed[profile]]
        if answered := count - failed[profile]:
            assert int(stats["TTFT", profile]["Request Count"]) == answered
    everything = [len(outcome.requests), sum(failed.values())]
    assert [int(stats["", "Aggregated"][key]) for key in COUNTS] == everything
    assert outcome.summary["requests"]["ok"] == everything[0] - everything[1]
    *_, last = rows(prefix, "stats_history")
    assert [int(last[f"Total {key}"]) for key in COUNTS] == everything
    told = Counter[str]()
    for row in rows(prefix, "failures"):
        told[row["Name"]] += int(row["Occurrences"])
    assert told == failed
    assert rows(prefix, "exceptions") == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_short_run_is_told(server: Simulator, tmp_path: Path, processes: int) -> None:
    outcome = run_with_csv(
        server, tmp_path, *in_processes(processes), "--scenario", "ss:3,sl:1", "--num-prompts", "20"
    )
    assert len(outcome.requests) == 20
    assert_all_is_told(outcome, tmp_path / PREFIX)


@pytest.mark.parametrize("processes", [1, 2])
def test_failures_are_told(server: Simulator, tmp_path: Path, processes: int) -> None:
    """About every second request asks for more tokens than the model takes."""
    vary = ("--vary", '50%:{"max_tokens": 99999}', "--no-ignore-eos")
    options = (*in_processes(processes), "--scenario", "ss", *vary, "--num-prompts", "60")
    outcome = run_with_csv(server, tmp_path, *options)
    assert len(outcome.requests) == 60
    assert 20 < outcome.summary["failures"]["http_400"] < 40
    assert_all_is_told(outcome, tmp_path / PREFIX)


def test_a_master_tells_of_workers_that_were_started_by_hand(server: Simulator, tmp_path: Path) -> None:
    files, answers = ("--csv", str(tmp_path / PREFIX)), ("--scenario", "ss:3,sl:1", "-t", "2s")
    options = (*HEADLESS, "--host", server.url, *answers, *files)
    with (
        master(tmp_path / "results", *options, workers=2) as (run, port),
        worker(port, tmp_path),
        worker(port, tmp_path),
    ):
        outcome = run.wait()
    assert_all_is_told(outcome, tmp_path / PREFIX)


def test_the_last_second_of_a_run_time_is_told(server: Simulator, tmp_path: Path) -> None:
    outcome = run_with_csv(server, tmp_path, "--scenario", "ss:3,sl:1", "-t", "3s")
    assert_all_is_told(outcome, tmp_path / PREFIX)


FINISHED, CANCELLED = "250", "10000"


@pytest.mark.parametrize(
    ("processes", "ending", "tokens"),
    [
        (1, signal.SIGINT, FINISHED),
        (1, signal.SIGTERM, CANCELLED),
        (2, signal.SIGTERM, FINISHED),
        (2, signal.SIGINT, CANCELLED),
    ],
)
def test_an_interrupted_run_tells_how_it_ended(
    server: Simulator, tmp_path: Path, processes: int, ending: signal.Signals, tokens: str
) -> None:
    answers = ("--scenario", "ss", "--max-tokens", tokens, "--stop-timeout", "3")
    options = (*in_processes(processes), *answers, "--csv-full-history")
    with csv_run(server, tmp_path, *options) as run:
        wait_until(lambda: server.in_flight() == 4, "four requests in flight")
        run.process.send_signal(ending)
        outcome = run.wait()
    assert len(outcome.requests) >= 4
    assert_all_is_told(outcome, tmp_path / PREFIX)
    if tokens == CANCELLED:
        assert outcome.summary["failures"] == {"cancelled": 4}
