"""Which numbers count, which differ, and what a trend is."""

import pytest

from tests.report.findings.made_rows import a_row
from vllm_locust.report.evidence import (
    Mean,
    complete,
    configuration,
    determined,
    every,
    exceeds,
    mean,
    numeric_factor,
    steady,
    trend,
    trusted,
)


def one(value: float) -> Mean:
    return Mean(value, value, value, 1)


def test_a_percentile_is_determined_by_both_ends_of_its_interval() -> None:
    row = a_row(
        p99_ttft_ms=9.0, p50_ttft_ms=5.0, intervals={"p99_ttft_ms": [8.0, None], "p50_ttft_ms": [4, 6]}
    )
    assert not determined(row, "p99_ttft_ms")
    assert determined(row, "p50_ttft_ms")


def test_a_mean_is_determined_when_the_median_is() -> None:
    assert determined(a_row(intervals={"p50_ttft_ms": [1, 2]}), "mean_ttft_ms")
    assert not determined(a_row(intervals={"p50_ttft_ms": [None, None]}), "mean_ttft_ms")
    assert determined(a_row(), "mean_ttft_ms")


def test_a_window_in_which_not_every_user_was_answered_determines_nothing() -> None:
    place = {"level": 16.0, "unit": "users"}
    short = a_row(place=place, completed=15, request_throughput=1.0, mean_ttft_ms=1.0)
    assert not complete(short)
    assert not determined(short, "request_throughput")
    assert mean([short], "mean_ttft_ms") is None
    assert complete(a_row(place=place, completed=16))
    assert complete(a_row(place={"level": 16.0, "unit": "requests/s"}, completed=15))


def test_means_are_taken_over_the_rows_that_know_the_number() -> None:
    rows = [a_row(x=1.0), a_row(x=4.0), a_row(x=None), a_row()]
    assert mean(rows, "x") == Mean(2.5, 1.0, 4.0, 2)
    assert mean([a_row(server={"x": 3})], "server.x") == one(3)
    assert mean([a_row()], "x") is None


def test_all_rows_of_a_run_whose_client_was_at_its_limit_are_left_out() -> None:
    bad = a_row("bad", client={"verdict": "invalid"})
    phase = a_row("bad", place={"phase": 0})
    good = a_row("good", client={"verdict": "degraded"})
    assert trusted([bad, phase, good]) == [good]


def test_the_whole_of_a_ladder_is_of_no_load() -> None:
    ladder = a_row(phases=[{"users": 1}, {"users": 2}])
    ordered = a_row(phases=[{"users": 2}, {"users": 2}])
    assert steady([ladder, ordered, a_row(place={"phase": 0})]) == [ordered]


def test_a_configuration_is_called_without_the_number_of_its_repeat() -> None:
    assert configuration(a_row("on-64#2", factors={"repeat": 2})) == "on-64"
    assert configuration(a_row("c#2", factors={"repeat": 1})) == "c#2"


@pytest.mark.parametrize(
    ("value", "number"), [(64, 64.0), ("64", 64.0), (0.5, 0.5), (True, None), (None, None), ("all", None)]
)
def test_factors_that_are_numbers(value: str | int | float | bool | None, number: float | None) -> None:
    assert numeric_factor(a_row(factors={"max_num_seqs": value}), "max-num-seqs") == number


def test_one_exceeds_the_other_by_all_of_its_repeats_or_one_cannot_tell() -> None:
    assert exceeds(one(106), one(100)) is True
    assert exceeds(one(104), one(100)) is False
    assert exceeds(one(90), one(100)) is False
    assert exceeds(Mean(110, 105, 115, 2), Mean(100, 98, 102, 2)) is True
    assert exceeds(Mean(110, 101, 119, 2), Mean(100, 98, 102, 2)) is None
    assert exceeds(Mean(100, 60, 140, 2), Mean(100, 60, 140, 2)) is None


def test_what_hangs_on_something_unknown_is_unknown_unless_it_fails_anyway() -> None:
    assert every([True, True]) is True
    assert every([True, None]) is None
    assert every([True, None, False]) is False


def test_a_trend_counts_pairs() -> None:
    # 10 and 10.2 are the same; of the other five pairs four go up, 20 to 15 goes down.
    along = trend([one(10), one(10.2), one(20), one(15)])
    assert (along.up, along.down, along.same, along.unclear) == (4, 1, 1, 0)
    assert along.goes(up=True) is True
    assert along.goes(up=False) is False
    assert along.told(up=True) == (
        "4 of 6 pairs agree, 1 disagrees and 1 differs by less than 5%; rank correlation 0.50"
    )


def test_a_trend_hangs_on_pairs_whose_repeats_overlap() -> None:
    wide = Mean(20, 5, 35, 2)
    assert trend([one(10), wide]).goes(up=True) is None
    assert trend([one(10), wide]).goes(up=False) is None
    assert trend([one(10), one(1)]).goes(up=True) is False
    assert trend([one(10), one(10)]).goes(up=True) is False
