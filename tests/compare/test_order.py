"""Orders of runs, and comparisons in each under a drift whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from tests.compare.made_runs import write_in_order, write_run
from vllm_locust.compare.baseline import write_baseline
from vllm_locust.compare.order import Order
from vllm_locust.compare.result import Comparison, compare_folders
from vllm_locust.compare.units import Part, read_side


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
        (
            "ab" * 3 + "ba" * 3,
            False,
            None,
        ),  # both orders alike often, but a drift in one half does not cancel
        ("abbabaab" * 2, True, None),  # both orders in every four runs
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
    assert Order.of(timed[:1] * 4, timed[:1] * 4) is None, "one time for all runs"


def test_a_pause_is_as_long_as_it_was() -> None:
    """1 is as long as runs went on without a pause that nobody saw."""
    far = ordered("aabb", [0, 1, 600, 601])
    assert (far.apart, far.pause_s) == (True, 599 * 60)
    np.testing.assert_allclose(far.time, [0, 1, 600, 601])
    near = ordered("aabbb", [0, 1, 3, 4, 5])
    assert not near.apart
    np.testing.assert_allclose(near.time, [0, 0.5, 1.5, 2, 2.5])
    np.testing.assert_allclose(ordered("abab").time, [0, 2 / 3, 1 / 3, 1])  # base first


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
    assert "The runs drifted, from the first to the last of a side: " in told
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


@pytest.mark.parametrize("runs", [4, 10])
@pytest.mark.parametrize("times", [1, 3, 10])
def test_a_drift_that_goes_on_through_a_pause_is_no_regression(tmp_path: Path, runs: int, times: int) -> None:
    """Both are the same, and the machine gets slower by 30 %, mostly while nobody measured."""
    sides = write_in_order(tmp_path, "a" * runs + "b" * runs, drift=0.3, pause=times * runs)
    found = compare_folders(*sides, metrics=["p50_e2el_ms"])
    (one,) = found.cells[0].metrics
    assert (one.verdict, found.exit_code) == ("unclear", 4)
    assert "cannot be told from a drift: make the runs in turns" in found.conclusion
    assert one.low is not None
    assert one.high is not None
    assert one.low <= 0 <= one.high


def test_after_a_pause_what_no_drift_of_the_runs_explains_is_a_regression(tmp_path: Path) -> None:
    """Ten times as slow, where the slope within the sides allows for some ten per cent over the pause."""
    found = compare_folders(*write_in_order(tmp_path, "a" * 10 + "b" * 10, factor=10.0, pause=10))
    assert (verdict(found), found.exit_code) == ("regression", 3)


def test_a_drift_is_told_as_far_as_runs_saw_it(tmp_path: Path) -> None:
    """From minute 0 to 39 by 78 %, of which each side of 10 runs saw 9 minutes: 18 % of the first run's."""
    sides = write_in_order(tmp_path, "a" * 10 + "b" * 10, drift=0.78, pause=20)
    (told,) = (
        one for one in compare_folders(*sides, metrics=["p50_e2el_ms"]).cells[0].sentences if "drifted" in one
    )
    assert told.startswith("The runs drifted, from the first to the last of a side: p50_e2el_ms +")
    # The first side by 1.18 / 1, the second by 1.78 / 1.6.
    assert 11 < float(told.split("+")[1].split(" %")[0]) < 19


def test_of_a_baseline_file_it_is_said_what_is_assumed(tmp_path: Path) -> None:
    """Whoever keeps one takes the machine for as fast as it was: a drift that is not seen costs nothing."""
    base, new = write_in_order(tmp_path, "aaaabbbb", factor=1.3, pause=3 * 24 * 60)
    write_baseline(tmp_path / "baseline.json", read_side(base))
    of_runs, of_file = (
        compare_folders(one, new, metrics=["p50_e2el_ms"]) for one in (base, tmp_path / "baseline.json")
    )
    assert (of_runs.exit_code, of_file.exit_code) == (4, 3)
    assumed = "3 days lie between the baseline and the new runs. It is assumed that the machine is as fast"
    assert assumed in " ".join(of_file.cells[0].sentences)
    assert assumed not in " ".join(of_runs.cells[0].sentences)
    condition = "if the machine is as fast as it was 3 days before"
    assert of_file.conclusion == f"Regression beyond 5 %, {condition}: p50_e2el_ms."
    for told in (of_file.text(), of_file.markdown(), str(of_file.to_dict()), of_file.junit().decode()):
        assert condition in " ".join(told.split())
    assert f'<failure message="regression {condition}: ' in of_file.junit().decode()
    assert "as it was" not in of_runs.text() + of_runs.junit().decode()


def test_that_nothing_was_shown_has_the_condition_too(tmp_path: Path) -> None:
    """The machine may have got faster, and hide a regression."""
    base, new = write_in_order(tmp_path, "aaaabbbb", pause=3 * 24 * 60)
    write_baseline(tmp_path / "baseline.json", read_side(base))
    found = compare_folders(tmp_path / "baseline.json", new, metrics=["p50_e2el_ms"])
    told = "No regression beyond 5 % was shown if the machine is as fast as it was 3 days before"
    assert found.conclusion.startswith(told)


def test_a_baseline_of_minutes_ago_is_no_other_session(tmp_path: Path) -> None:
    base, new = write_in_order(tmp_path, "aaaabbbb", drift=0.3, pause=2)
    write_baseline(tmp_path / "baseline.json", read_side(base))
    found = compare_folders(tmp_path / "baseline.json", new)
    assert found.exit_code == 4
    assert "assumed" not in " ".join(found.cells[0].sentences)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_where_all_runs_of_a_side_began_at_one_time_a_change_may_be_a_drift(
    tmp_path: Path, factor: float
) -> None:
    for number, side in enumerate("aaaabbbb"):
        write_run(
            tmp_path / side / str(number),
            seed=number,
            factor=factor if side == "b" else 1.0,
            start_time=f"2026-01-01T00:0{number // 4}:00+00:00",
        )
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert (
        "The runs of each side all began at one time, so nothing is known of a drift."
        in found.cells[0].sentences
    )
    assert found.exit_code == (4 if factor > 1 else 0)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_where_times_are_not_known_a_change_may_be_a_drift(tmp_path: Path, factor: float) -> None:
    sides = [tmp_path / side for side in "ab"]
    for number in range(8):
        write_run(sides[number // 4] / str(number), seed=number, factor=factor if number > 3 else 1.0)
    found = compare_folders(*sides)
    assert "In which order the runs were made is not known" in found.text()
    assert found.exit_code == (4 if factor > 1 else 0)
    assert factor == 1 or "cannot be told from a drift: make the runs in turns" in found.conclusion


def test_what_a_pause_leaves_unclear_takes_turns_and_few_runs(tmp_path: Path) -> None:
    """By hand: runs differ by 0.5 %, so means of 4 by 0.35 %, and 5 % is more than ten times as much."""
    sides = write_in_order(tmp_path, "aaaabbbb", pause=40)
    (told,) = (
        one
        for one in compare_folders(*sides, metrics=["p50_e2el_ms"]).text().split("\n\n")
        if "4 of 5" in one
    )
    assert " 4 runs each in turns would show 5 %." in " ".join(told.split())
