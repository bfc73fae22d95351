"""The histogram against numpy on the raw values, and merging against recording everything in one place."""

import math

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.histogram import HIGHEST_S, LOWEST_S, RELATIVE_ERROR, Histogram

durations = st.lists(st.floats(LOWEST_S, HIGHEST_S), min_size=1, max_size=60)
any_durations = st.lists(st.floats(-1e-3, 1e6), max_size=60)


def of(values) -> Histogram:
    histogram = Histogram()
    histogram.record_many(values)
    return histogram


@given(durations, st.floats(0, 100))
def test_a_percentile_is_within_a_thousandth_of_numpys(values, q):
    assert of(values).percentile(q) == pytest.approx(np.percentile(values, q), rel=RELATIVE_ERROR)


@given(durations)
def test_mean_and_spread_are_those_of_the_values_to_a_nanosecond(values):
    histogram = of(values)
    assert histogram.mean_s == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert histogram.std_s == pytest.approx(np.std(values), rel=1e-6, abs=1e-9)
    assert (histogram.min_s, histogram.max_s) == (min(values), max(values))
    assert histogram.sum_s == pytest.approx(math.fsum(values), abs=1e-9 * len(values))


@given(any_durations, any_durations)
def test_merging_is_recording_all_values_in_any_order(some, others):
    together, reverse = of(some), of(others)
    reverse.merge(of(some))
    together.merge(of(others))
    assert together.to_dict() == reverse.to_dict() == of(some + others).to_dict()


@given(any_durations, any_durations, any_durations)
def test_merging_is_associative(first, second, third):
    left, right, tail = of(first), of(first), of(second)
    left.merge(of(second))
    left.merge(of(third))
    tail.merge(of(third))
    right.merge(tail)
    assert left.to_dict() == right.to_dict()


@given(any_durations)
def test_a_round_trip_through_message_pack_loses_nothing(values):
    histogram = Histogram.from_dict(msgpack.loads(msgpack.dumps(of(values).to_dict())))
    assert histogram.to_dict() == of(values).to_dict()
    assert (histogram.count, histogram.mean_s, histogram.std_s) == (
        of(values).count,
        of(values).mean_s,
        of(values).std_s,
    )


def test_how_values_are_handed_over_makes_no_difference():
    values = np.random.default_rng(1).gamma(2, 0.01, 5000)
    one_by_one = Histogram()
    for value in values:
        one_by_one.record(float(value))
    in_slices = Histogram()
    for start in range(0, 5000, 37):
        in_slices.record_many(values[start : start + 37].tolist())
    assert one_by_one.to_dict() == in_slices.to_dict() == of(values).to_dict()


def test_sums_of_many_long_durations_stay_exact():
    values = np.full(600_000, 9999.0)
    assert of(values).mean_s == 9999.0
    assert of(values).std_s == 0.0


def test_a_sum_beyond_64_bits_travels():
    """Two million times 10 000 s are 2 * 10^19 ns, and 2^64 is 1.8 * 10^19."""
    histogram, many = Histogram(), of(np.full(200_000, HIGHEST_S))
    for _ in range(10):
        histogram.merge(many)
    again = Histogram.from_dict(msgpack.loads(msgpack.dumps(histogram.to_dict())))
    assert (again.count, again.mean_s) == (2_000_000, HIGHEST_S)


def test_what_is_outside_the_range_is_clamped_but_its_maximum_is_kept():
    histogram = of([5e-7, -1e-6, 2e6])
    assert histogram.count == 3
    assert histogram.value_at_rank(0) == histogram.value_at_rank(1) == 0.0
    assert histogram.value_at_rank(2) == pytest.approx(HIGHEST_S, rel=RELATIVE_ERROR)
    assert (histogram.min_s, histogram.max_s) == (0.0, 2e6)


def test_percentiles_stay_between_the_smallest_and_the_largest_value():
    histogram = of([0.0123456])
    assert histogram.percentile(0) == histogram.percentile(99.9) == 0.0123456


def test_an_empty_histogram_knows_nothing():
    histogram = Histogram()
    assert histogram.count == 0
    assert [histogram.mean_s, histogram.std_s, histogram.min_s, histogram.max_s] == [None] * 4
    assert histogram.percentile(50) is None
    with pytest.raises(IndexError):
        histogram.value_at_rank(0)


def test_buckets_are_in_order_and_hold_what_lies_below_their_edge():
    values = np.random.default_rng(2).lognormal(-4, 2, 1000)
    buckets = of(values).buckets()
    edges = [edge for edge, _ in buckets]
    assert edges == sorted(edges)
    assert np.cumsum([count for _, count in buckets]).tolist() == [
        int((values < edge).sum()) for edge in edges
    ]
