"""Steps: each level has its own numbers, no request is cut off at a border, and a search finds the edge."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.locust_command import (
    Simulator,
    assert_ended_well,
    assert_nothing_is_lost,
    column,
    in_processes,
    most_at_once,
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


def in_window(requests: Sequence[Mapping[str, Any]], phase: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that a phase's numbers are about."""
    return [request for request in requests if phase["start_s"] <= request["ended_s"] <= phase["end_s"]]


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
    noted = four_at_a_time.served(outcome)
    gone_ns = 0
    for phase in phases:
        asked = [request for request in outcome.requests if request["phase"] == phase["phase"]]
        if processes == 1:  # each has a clock of its own
            measured = in_window(asked, phase)
            assert phase["completed"] == len(measured)
            mean_s = np.mean(column(measured, "total_s"))
            assert phase["mean_e2el_ms"] == pytest.approx(mean_s * 1000, abs=0.001)
        assert most_at_once(asked) <= phase["users"]
        assert phase["duration"] >= 0.799
        assert phase["mean_e2el_ms"] >= 199, "ten tokens take ten steps or more"
        entries = [noted[request["index"]] for request in asked]
        assert min(entry["received_ns"] for entry in entries) > gone_ns, "the step before has drained"
        gone_ns = max(entry["sent_ns"][-1] for entry in entries)
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


def test_a_search_answers_what_its_requests_say(four_at_a_time: Simulator, tmp_path: Path) -> None:
    """An answer takes 200 ms and what is left of a step; of five users one must wait as long again."""
    objective = "p85_e2el_ms<300"
    outcome = run_locust(
        *STEPS, "--host", four_at_a_time.url, "--slo", objective, "--step-time", "2s",
        "--step-warmup", "250ms", "--max-tokens", "10", "-u", "8",
        folder=tmp_path / "results", locustfile="capacity.py",
    )  # fmt: skip
    assert_nothing_is_lost(outcome)
    found, phases = outcome.summary["capacity"], outcome.summary["phases"]
    assert len(phases) == len(found["probes"])
    met, missed = set(), set()
    for phase, probe in zip(phases, found["probes"], strict=True):
        assert phase["users"] == probe["level"]
        asked = [request for request in outcome.requests if request["phase"] == phase["phase"]]
        inside = [request["total_s"] < 0.3 for request in in_window(asked, phase)]
        if probe["outcome"] in ("met", "missed") and not probe["close"]:
            assert (np.mean(inside) >= 0.85) == (probe["outcome"] == "met")
        {"met": met, "missed": missed}.get(probe["outcome"], set()).add(probe["level"])
    assert 8 not in met, "half of so many wait as long again"
    if outcome.code == 0:
        assert found["level"] in met
        assert found["missed_at"] in missed
        assert found["broke_first"][0]["slo"] == objective
        assert f"Largest load that met all objectives: {found['level']} users" in outcome.stdout
    assert outcome.summary["slo"] == []


def test_one_user_is_the_most_that_a_search_tries_when_one_was_given(
    server: Simulator, tmp_path: Path
) -> None:
    outcome = run_locust(
        *STEPS, "--host", server.url, "--slo", "max_e2el_ms<60000", "--step-time", "1s", "-u", "1",
        folder=tmp_path / "results", locustfile="capacity.py",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert {probe["level"] for probe in outcome.summary["capacity"]["probes"]} == {1}
    assert "Largest load that met all objectives: 1 user, the limit of the search" in outcome.stdout


def test_a_search_stops_at_a_server_that_breaks_down(tmp_path: Path) -> None:
    """It refuses more than it has room for, as a gateway does."""
    with simulator(tmp_path, "--preset", "metronome", "--max-num-queued-reqs", "6") as server:
        outcome = run_locust(
            *STEPS, "--host", server.url, "--slo", "p50_e2el_ms<5000", "--step-time", "1s",
            "--max-tokens", "3", folder=tmp_path / "results", locustfile="capacity.py",
        )  # fmt: skip
    found = outcome.summary["capacity"]
    # Of 7 one is refused now and then, of 12 most are: how often depends on how soon they ask again.
    assert 4 <= found["level"] < 12
    assert outcome.code == (4 if found["undecided"] else 0), "what failed above is what was looked for"
    assert any(probe["outcome"] == "collapsed" for probe in found["probes"])


def test_a_search_needs_an_objective(server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(*STEPS, "--host", server.url, folder=tmp_path / "r", locustfile="capacity.py")
    assert outcome.code == 2
    assert outcome.problems == [
        'A capacity search needs at least one --slo to hold, such as --slo "p99_ttft_ms<500".'
    ]
