"""Steps: each level has its own numbers, no request is cut off at a border, and a search finds the edge."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.locust_command import (
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    in_processes,
    run_locust,
    simulator,
)

STEPS = ("--headless", "--scenario", "ss", "--only-summary")


@pytest.fixture(scope="module")
def four_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A step takes 20 ms and holds four requests: a fifth waits for one of them to be done."""
    with simulator(
        tmp_path_factory.mktemp("four"), "--preset", "metronome", "--max-num-seqs", "4"
    ) as running:
        yield running


@pytest.mark.parametrize("processes", [1, 2])
def test_a_ladder_of_users(four_at_a_time: Simulator, tmp_path: Path, processes: int) -> None:
    outcome = run_locust(
        *STEPS, *in_processes(processes), "--host", four_at_a_time.url,
        "--ladder", "2,6,1", "--step-time", "1200ms",
        "--step-warmup", "400ms", "--max-tokens", "10", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    phases = outcome.summary["phases"]
    assert [(phase["phase"], phase["users"]) for phase in phases] == [(0, 2), (1, 6), (2, 1)]
    for phase in phases:
        assert phase["max_concurrent_requests"] == phase["users"]
        assert phase["duration"] == pytest.approx(0.8, abs=0.4)
    # Ten tokens take ten steps or more; six users share four places, so each waits half as long again.
    assert min(phase["mean_e2el_ms"] for phase in phases) >= 199
    assert phases[1]["mean_e2el_ms"] > 1.2 * min(phases[0]["mean_e2el_ms"], phases[2]["mean_e2el_ms"])
    for step in (0, 1):
        ends = [request["ended_s"] for request in outcome.requests if request["phase"] == step]
        begins = [request["sent_s"] for request in outcome.requests if request["phase"] == step + 1]
        assert max(ends) < min(begins) + 0.3, "by clocks that differ by a message's delay"
    assert "users  profile" in outcome.stdout


def test_with_overlap_a_step_drains_while_the_next_one_warms_up(
    four_at_a_time: Simulator, tmp_path: Path
) -> None:
    outcome = run_locust(
        *STEPS, "--host", four_at_a_time.url, "--ladder", "1,3", "--step-time", "2s",
        "--step-warmup", "1200ms", "--step-overlap", "--max-tokens", "30", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    first, second = ([r for r in outcome.requests if r["phase"] == step] for step in (0, 1))
    assert max(r["ended_s"] for r in first) > min(r["sent_s"] for r in second)
    assert all(phase["requests"]["outside_window"] > 0 for phase in outcome.summary["phases"])


def test_every_profile_at_every_level(server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(
        "--headless", "--scenario", "tiny", "--host", server.url, "--ladder", "1,3", "--num-prompts", "3",
        "--max-tokens", "5", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    steps = [(phase["users"], phase["name"], phase["completed"]) for phase in outcome.summary["phases"]]
    assert steps == [(users, f"tiny.{member}", 3) for users in (1, 3) for member in ("ss", "sl", "ls", "ll")]


def test_a_search_finds_what_the_server_can_hold(four_at_a_time: Simulator, tmp_path: Path) -> None:
    """An answer takes 200 ms and what is left of a step; of five users one must wait as long again."""
    objective = "p85_e2el_ms<300"
    outcome = run_locust(
        *STEPS, "--host", four_at_a_time.url, "--slo", objective, "--step-time", "2s",
        "--step-warmup", "250ms", "--max-tokens", "10", "-u", "8",
        folder=tmp_path / "results", locustfile="capacity.py",
    )  # fmt: skip
    assert_ended_with(0, outcome)
    assert_nothing_is_lost(outcome)
    found = outcome.summary["capacity"]
    assert (found["level"], found["missed_at"]) == (4, 5)
    assert found["broke_first"][0]["slo"] == objective
    assert [probe["level"] for probe in found["probes"]][:4] == [1, 2, 4, 8]
    assert len(outcome.summary["phases"]) == len(found["probes"])
    assert "Largest load that met all objectives: 4 users" in outcome.stdout
    assert outcome.summary["slo"] == []


def test_a_search_stops_at_a_server_that_breaks_down(tmp_path: Path) -> None:
    """It refuses more than it has room for, as a gateway does."""
    with simulator(tmp_path, "--preset", "metronome", "--max-num-queued-reqs", "6") as server:
        outcome = run_locust(
            *STEPS, "--host", server.url, "--slo", "p50_e2el_ms<5000", "--step-time", "1s",
            "--max-tokens", "3", folder=tmp_path / "results", locustfile="capacity.py",
        )  # fmt: skip
    found = outcome.summary["capacity"]
    assert found["level"] in (4, 5, 6)
    assert outcome.code == 0, "what failed above the answer is what was looked for"
    assert any(probe["outcome"] == "collapsed" for probe in found["probes"])


def test_a_search_needs_an_objective(server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(*STEPS, "--host", server.url, folder=tmp_path / "r", locustfile="capacity.py")
    assert outcome.code == 2
    assert outcome.problems == [
        'A capacity search needs at least one --slo to hold, such as --slo "p99_ttft_ms<500".'
    ]
