"""Ranks against scipy's binomial distribution, intervals against how often they cover a known percentile."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, expon, lognorm, norm

from vllm_locust.core.histogram import Histogram
from vllm_locust.core.percentile import (
    Interval,
    interval,
    interval_of_histogram,
    percentile,
    percentile_of_sorted,
    ranks,
)


@given(st.lists(st.floats(0, 1e3), min_size=1), st.floats(0, 100))
def test_a_percentile_is_numpys(values, q):
    assert percentile(values, q) == np.percentile(values, q)


def test_nothing_has_no_percentile():
    assert percentile([], 50) is None
    assert interval([], 50) == Interval(None, None)
    assert interval_of_histogram(Histogram(), 50, 10) == Interval(None, None)


@given(st.integers(1, 3000), st.sampled_from([1.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9]))
def test_ranks_are_the_narrowest_that_keep_each_tail_below_2_5_percent(n, q):
    low, high = ranks(n, q)
    below = binom(n, q / 100)
    if low is None:
        assert below.cdf(0) > 0.025
    else:
        assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    if high is None:
        assert below.cdf(n - 1) < 0.975
    else:
        assert below.cdf(high - 1) >= 0.975
        assert high == 1 or below.cdf(high - 2) < 0.975


@pytest.mark.parametrize(("q", "least"), [(50, 6), (90, 36), (95, 72), (99, 368)])
def test_a_percentile_needs_so_many_values(q, least):
    assert not interval(range(least - 1), q).determined
    assert interval(range(least), q).determined


def test_more_confidence_needs_more_values():
    assert ranks(368, 99, confidence=0.99)[1] is None
    assert ranks(528, 99, confidence=0.99)[1] == 528


@pytest.mark.parametrize("n", [50, 500])
@pytest.mark.parametrize("q", [50, 90])
@pytest.mark.parametrize(
    "distribution", [norm(10, 1), expon(scale=0.2), lognorm(1.5)], ids=["n", "exp", "ln"]
)
def test_intervals_cover_the_true_percentile_as_often_as_promised(distribution, n, q):
    rng = np.random.default_rng(n + q)
    truth = distribution.ppf(q / 100)
    covered = 0
    for _ in range(400):
        found = interval(np.sort(distribution.rvs(n, random_state=rng)), q)
        covered += found.low <= truth <= found.high
    assert covered / 400 >= 0.93  # 0.95 less two standard errors of 400 trials


def test_of_independent_values_a_histogram_gives_the_same_interval():
    values = np.random.default_rng(3).gamma(2, 0.01, 1000)
    histogram = Histogram()
    histogram.record_many(values)
    exact = interval(np.sort(values), 99)
    assert interval_of_histogram(histogram, 99, 1000).low == pytest.approx(exact.low, rel=1e-3)
    assert interval_of_histogram(histogram, 99, 1000).high == pytest.approx(exact.high, rel=1e-3)
    assert interval_of_histogram(histogram, 99, 10**9) == interval_of_histogram(histogram, 99, 1000)


def test_gaps_that_share_the_fate_of_their_request_are_worth_one_value_per_request():
    """Each request repeats its own value 50 times: the interval must be that of the requests."""
    own = np.random.default_rng(4).gamma(2, 0.01, 400)
    histogram = Histogram()
    histogram.record_many(np.repeat(own, 50))
    exact = interval(np.sort(own), 95)
    found = interval_of_histogram(histogram, 95, 400)
    assert found.low == pytest.approx(exact.low, rel=1e-3)
    assert found.high == pytest.approx(exact.high, rel=1e-3)
    assert not interval_of_histogram(histogram, 99, 300).determined


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50), st.floats(0, 100))
def test_of_sorted_values_it_is_the_same(values, q):
    assert percentile_of_sorted(np.sort(values), q) == percentile(values, q)
