"""Intervals hold the truth as often as they say, also when requests share a server's state."""

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from tests.core.made_records import an_ok
from vllm_locust.core.batch_means import intervals_in_order, mean_interval, percentile_interval
from vllm_locust.core.percentile import UNDETERMINED, interval
from vllm_locust.core.recording import Recording


def test_by_hand():
    """16 stretches of 20 values, each all the same: 1 and 3 in turn. Mean 2, std of the means sqrt(16/15)."""
    values = np.repeat([1.0, 3.0] * 8, 20)
    half = stats.t.ppf(0.975, 15) * np.sqrt(16 / 15) / 4
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half))


def test_what_is_left_over_by_the_stretches_is_the_oldest():
    values = np.repeat([1.0, 3.0] * 8, 20)
    first = mean_interval(np.concatenate([np.full(15, 50.0), values]))
    plain = mean_interval(values)
    assert first.high - first.low == pytest.approx(plain.high - plain.low)
    assert (first.high + first.low) / 2 == pytest.approx((15 * 50 + 320 * 2) / 335), "around the mean of all"


def correlated(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    """Skewed values of mean 0; each resembles the one before."""
    return lfilter([1], [1, -phi], rng.exponential(1.0, n + 300) - 1.0)[300:]


@pytest.mark.parametrize(("n", "at_once"), [(320, 1), (320, 4), (960, 20)])
def test_95_percent_of_the_intervals_hold_the_true_mean(n, at_once):
    """Of values that forget within about `at_once`; those of independent values hold far fewer."""
    rng = np.random.default_rng(7)
    phi = 1 - 1 / at_once
    made = [correlated(rng, n, phi) for _ in range(600)]
    known = [interval for values in made if (interval := mean_interval(values, at_once)).low is not None]
    assert len(known) > 300
    covered = sum(interval.low <= 0 <= interval.high for interval in known) / len(known)
    assert covered > 0.88
    naive = [abs(values.mean()) < 1.96 * values.std() / np.sqrt(n) for values in made]
    assert phi == 0 or sum(naive) / len(naive) < covered - 0.1


@pytest.mark.parametrize("q", [50, 90, 95])
@pytest.mark.parametrize(("n", "at_once"), [(1000, 1), (4000, 20)])
def test_intervals_of_percentiles_hold_the_true_one_too(n, at_once, q):
    """The true one is that of a sample which is much longer."""
    rng = np.random.default_rng(11)
    phi = 1 - 1 / at_once
    true = np.percentile(correlated(rng, 400_000, phi), q)
    made = [correlated(rng, n, phi) for _ in range(250)]
    known = [found for values in made if (found := percentile_interval(values, q, at_once)).determined]
    assert len(known) > 200
    assert sum(found.low <= true <= found.high for found in known) / len(known) > 0.88
    if at_once > 1:
        naive = [interval(np.sort(values), q) for values in made]
        assert sum(found.low <= true <= found.high for found in naive) / len(naive) < 0.5


def test_an_interval_of_a_percentile_is_never_narrower_than_that_of_independent_values():
    values = np.random.default_rng(2).permutation(np.arange(3200.0))
    for q in (1.0, 50.0, 99.0):
        found, least = percentile_interval(values, q), interval(np.sort(values), q)
        assert found.low <= least.low
        assert found.high >= least.high


def test_an_end_that_lies_beyond_the_sample_is_open():
    """One stretch in 16 is slow: the share of the fast ones is 94 % +- 13 %."""
    values = np.repeat([1.0] * 15 + [9.0], 40) + np.linspace(0, 0.1, 640)
    found = percentile_interval(np.roll(values, 200), 94.0)
    assert found.low is not None
    assert found.high is None


@pytest.mark.parametrize(
    ("values", "at_once"),
    [
        (np.arange(319.0) % 7, 1),  # too few
        (np.arange(960.0) % 7, 21),  # too few for so many at once
        (np.arange(3200.0), 1),  # a drift
    ],
)
def test_no_interval_rather_than_a_wrong_one(values, at_once):
    assert mean_interval(values, at_once) == UNDETERMINED
    assert percentile_interval(values, 50, at_once) == UNDETERMINED


def test_the_same_value_always_is_sure():
    interval = mean_interval(np.full(400, 5.0))
    assert (interval.low, interval.high) == (5.0, 5.0)


def test_of_a_recording_in_ms_in_the_order_in_which_requests_ended():
    """TTFT 100 and 300 ms in turn of 20 requests each; workers report theirs one after the other."""
    rng = np.random.default_rng(1)
    parts = [Recording(), Recording()]
    for i in range(320):
        ttft_s = 0.1 if i // 20 % 2 == 0 else 0.3
        record = an_ok(sent_s=float(i), arrivals_s=[i + ttft_s, i + 0.5], intended_s=i - 1.0, ended_s=i + 0.5)
        parts[rng.integers(2)].add(record)
    parts[0].merge(parts[1])
    intervals = intervals_in_order(parts[0].total(), at_once=1, percentiles=[50.0])
    half = stats.t.ppf(0.975, 15) * 100 * np.sqrt(16 / 15) / 4
    assert intervals["mean_ttft_ms"].low == pytest.approx(200 - half)
    assert intervals["mean_ttft_from_plan_ms"].high == pytest.approx(1200 + half)
    assert intervals["mean_tpot_ms"].low == pytest.approx(300 - half)
    assert intervals["mean_e2el_ms"].low == pytest.approx(500)
    assert intervals["p50_ttft_ms"].low == pytest.approx(100)
    assert intervals["p50_e2el_ms"].low == intervals["p50_e2el_ms"].high == pytest.approx(500)
    assert not any("itl" in key for key in intervals)
