"""Orders of runs, and comparisons in each under a drift whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from tests.compare.made_runs import write_in_order, write_run
from vllm_locust.compare.order import Order
from vllm_locust.compare.result import Comparison, compare_folders
from vllm_locust.compare.units import Part


def ordered(order: str, minutes: list[float] | None = None) -> Order:
    """The order of runs that began at these minutes, else one a minute."""
    sides: dict[str, list[Part]] = {"a": [], "b": []}
    for number, side in enumerate(order):
        minute = number if minutes is None else minutes[number]
        start = f"2026-01-01T{int(minute // 60):02}:{int(minute % 60):02}:00+00:00"
        sides[side].append(Part("x", start, {}, {}, {}))
    found = Order.of(sides["a"], sides["b"])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("order", "is_pairs", "last"),
    [
        ("abba" * 3, True, None),
        ("ab" * 6, False, None),  # always the same order: a drift does not cancel
        ("abba" * 2, False, None),  # 4 pairs are too few
        ("abba" * 3 + "ab", True, None),
        ("aaaabbbb", False, "b"),
        ("bbbbaaaa", False, "a"),
        ("aaabbbab", False, None),
    ],
)
def test_order(order: str, is_pairs: bool, last: str | None) -> None:
    found = ordered(order)
    assert (found.pairs() is not None) == is_pairs
    assert found.last == {"a": "base", "b": "new", None: None}[last]


def test_an_order_that_is_not_known_is_none() -> None:
    timed = [Part("x", f"2026-01-01T00:0{i}:00+00:00", {}, {}, {}) for i in range(2)]
    for start in (None, "yesterday"):
        assert Order.of(timed, [Part("x", start, {}, {}, {})]) is None
    assert Order.of(timed[:1] * 4, timed[1:] * 4) is None, "one time for all runs of a side"


def test_sessions_far_apart_have_no_gap() -> None:
    found = ordered("aabb", [0, 1, 600, 601])
    assert found.apart
    np.testing.assert_allclose(found.time, [0, 1 / 3, 2 / 3, 1])
    near = ordered("aabb", [0, 1, 3, 4])
    assert not near.apart
    np.testing.assert_allclose(near.time, [0, 0.25, 0.75, 1])


def verdict(found: Comparison, key: str = "p50_e2el_ms") -> str:
    return next(metric.verdict for metric in found.cells[0].metrics if metric.key == key)


@pytest.mark.parametrize("runs", [4, 6])
@pytest.mark.parametrize("turned", [False, True])
def test_base_then_new_under_a_drift_is_no_regression(tmp_path: Path, runs: int, turned: bool) -> None:
    """Both are the same, and the machine gets slower by 30 % over the session."""
    drift = -0.23 if turned else 0.3  # new first: what gets faster makes the later base look better
    sides = write_in_order(
        tmp_path, "b" * runs + "a" * runs if turned else "a" * runs + "b" * runs, drift=drift
    )
    found = compare_folders(*sides)
    assert found.exit_code == 4
    assert "cannot be told from a drift: make the runs in turns, A B, B A" in found.conclusion
    told = " ".join(found.cells[0].sentences)
    assert "The runs drifted, from the first to the last: " in told
    assert f"All runs of {'base' if turned else 'new'} were made after those of" in told


@pytest.mark.parametrize("order", ["abab" * 2, "abba" * 2, "abab" * 3, "abba" * 3])
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_in_turns_a_drift_neither_makes_a_regression_nor_hides_one(
    tmp_path: Path, order: str, factor: float
) -> None:
    found = compare_folders(*write_in_order(tmp_path, order, drift=0.3, factor=factor))
    assert verdict(found) in (["regression"] if factor > 1 else ["same", "unclear"])
    assert found.exit_code == (3 if factor > 1 else 0)
    assert "The runs drifted" in " ".join(found.cells[0].sentences)


def test_without_a_drift_base_then_new_shows_a_large_regression_and_says_its_condition(
    tmp_path: Path,
) -> None:
    found = compare_folders(*write_in_order(tmp_path, "aaaabbbb", factor=1.3))
    assert (verdict(found), found.exit_code) == ("regression", 3)
    told = " ".join(found.cells[0].sentences)
    assert "whatever else changed between them counts as a change" in told
    assert "drifted" not in told


def test_a_day_apart_a_drift_that_is_not_there_costs_nothing(tmp_path: Path) -> None:
    """A baseline's runs: the intervals are those of the runs alone."""
    write_in_order(tmp_path / "near", "aaaabbbb")
    for number, side in enumerate("aaaabbbb"):
        day = 1 if side == "a" else 2
        write_run(
            tmp_path / "far" / side / f"{number:02}",
            seed=number,
            start_time=f"2026-01-0{day}T00:{number:02}:00+00:00",
        )
    widths = {}
    for name in ("near", "far"):
        found = compare_folders(tmp_path / name / "a", tmp_path / name / "b", metrics=["p50_e2el_ms"])
        (one,) = found.cells[0].metrics
        assert one.low is not None
        assert one.high is not None
        widths[name] = one.high - one.low
    assert widths["near"] > 1.5 * widths["far"]


def test_times_that_are_not_known_are_said(tmp_path: Path) -> None:
    sides = [tmp_path / side for side in "ab"]
    for number in range(8):
        write_run(sides[number // 4] / str(number), seed=number)
    assert "When the runs were made is not known" in compare_folders(*sides).text()
