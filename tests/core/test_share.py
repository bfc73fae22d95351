"""The interval against the martingale computed in another way, its errors, and what trials are worth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln
from scipy.stats import norm

from vllm_locust.core.share import FEWEST, design_effect, share_interval

ALPHA = 0.05


def mixture_for(needed):
    scale = 0.5 / min(needed, 1 - needed)
    return scale * needed, scale * (1 - needed)


def log_martingale_by_prediction(inside, outside, m, needed):
    """The same martingale as a product: what the mixture foretold of each trial, over what m foretells."""
    a, b = mixture_for(needed)
    log = 0.0
    for i in range(inside):
        log += math.log((a + i) / (a + b + i)) - math.log(m)
    for j in range(outside):
        log += math.log((b + j) / (a + b + inside + j)) - math.log1p(-m)
    return log


@given(st.integers(0, 80), st.integers(0, 80), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 0.999]))
def test_the_interval_is_where_the_martingale_is_small(inside, outside, needed):
    low, high = share_interval(inside, inside + outside, needed)
    assert 0 <= low <= high <= 1
    if inside + outside == 0:
        assert (low, high) == (0, 1)
        return
    share = inside / (inside + outside)
    assert low <= share <= high
    for end, beyond in ((low, -1), (high, 1)):
        if end in (0.0, 1.0):
            continue
        at_end = log_martingale_by_prediction(inside, outside, end, needed)
        assert at_end == pytest.approx(math.log(1 / ALPHA), abs=1e-6)
        further = end + beyond * min(end, 1 - end) / 100
        assert log_martingale_by_prediction(inside, outside, further, needed) > math.log(1 / ALPHA)
    assert (low > 0) == (inside > 0 and log_martingale_by_prediction(inside, outside, 1e-300, needed) > 3)
    assert log_martingale_by_prediction(inside, outside, (low + high) / 2, needed) < math.log(1 / ALPHA)


@pytest.mark.parametrize(("needed", "count"), [(0.5, 7), (0.9, 40), (0.95, 81), (0.99, 410), (0.999, 4105)])
def test_so_many_requests_inside_and_none_outside_prove_a_percentile(needed, count):
    assert share_interval(count, count, needed)[0] > needed
    assert share_interval(count - 1, count - 1, needed)[0] < needed


@pytest.mark.parametrize(("needed", "count"), [(0.5, 7), (0.9, 4), (0.95, 4), (0.99, 4)])
def test_a_few_requests_all_outside_disprove_it(needed, count):
    assert share_interval(0, count, needed)[1] < needed
    assert share_interval(0, count - 1, needed)[1] > needed


def test_one_of_nine_outside_does_not_disprove_a_p99():
    assert share_interval(8, 9, 0.99)[1] > 0.99


def wrong_at_any_time(trials, m, needed):
    """Which of the rows of `trials` ever exclude their true share m, looked at after each trial."""
    a, b = mixture_for(needed)
    inside = np.cumsum(trials, axis=1)
    outside = np.arange(1, trials.shape[1] + 1) - inside
    log = betaln(a + inside, b + outside) - betaln(a, b) - inside * np.log(m) - outside * np.log1p(-m)
    return (log >= np.log(1 / ALPHA)).any(axis=1)


@pytest.mark.parametrize("needed", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("off", [0, 0.02])
def test_looking_after_every_request_errs_as_rarely_as_promised(needed, off):
    m = needed - off
    trials = np.random.default_rng(1).random((4000, 1500), np.float32) < m
    wrong = wrong_at_any_time(trials, m, needed).mean()
    assert 0 < wrong <= ALPHA
    # The simulation looks at the formula; here the function itself says the same of some of the rows.
    for row in trials[:5]:
        ends = [share_interval(row[:n].sum(), n, needed) for n in range(1, 1501, 50)]
        assert all(low <= m <= high for low, high in ends) or wrong_at_any_time(row[None], m, needed)[0]


def test_a_fixed_sample_interval_would_err_far_more_often():
    """Why the effort: a 95 % interval that holds once is wrong at some time in a fifth of the probes."""
    trials = np.random.default_rng(2).random((2000, 1000)) < 0.9
    n = np.arange(1, 1001)
    share = np.cumsum(trials, axis=1) / n
    once = np.abs(share - 0.9) > 1.96 * np.sqrt(0.9 * 0.1 / n)
    assert once[:, 50::50].any(axis=1).mean() > 0.2


def test_trials_may_be_shares_themselves():
    """Streams are: each is inside by the share of its gaps; any distribution on [0, 1] will do."""
    rng = np.random.default_rng(3)
    for trials, m in (
        (rng.random((2000, 500)), 0.5),
        (rng.beta(9, 1, (2000, 500)), 0.9),
        (np.where(rng.random((2000, 500)) < 0.8, 1.0, 0.5), 0.9),
    ):
        assert wrong_at_any_time(trials, m, 0.9).mean() <= ALPHA


def test_independent_values_are_worth_nearly_all_of_them():
    rng = np.random.default_rng(4)
    effects = [design_effect(values, values < 2.3) for values in rng.exponential(size=(200, 400))]
    assert min(effects) == 1.0
    assert np.mean(effects) < 1.4


@pytest.mark.parametrize("copies", [5, 20])
def test_values_that_come_in_copies_are_worth_one_each(copies):
    rng = np.random.default_rng(5)
    effects = []
    for _ in range(50):
        values = np.repeat(rng.exponential(size=100), copies)
        effects.append(design_effect(values, values < 99))
    assert np.median(effects) == pytest.approx(copies, rel=0.3)


def test_a_series_with_memory_is_worth_what_its_memory_says():
    """AR(1): the variance of a mean is (1 + r) / (1 - r) times that of independent values."""
    rng = np.random.default_rng(6)
    noise = rng.normal(size=(50, 4000))
    values = np.zeros_like(noise)
    for i in range(1, noise.shape[1]):
        values[:, i] = 0.8 * values[:, i - 1] + noise[:, i]
    effects = [design_effect(row, row < 99) for row in values]
    assert np.median(effects) == pytest.approx(1.8 / 0.2, rel=0.25)


def test_a_burst_of_misses_is_worth_less_than_scattered_ones():
    values = np.random.default_rng(7).random(800)
    inside = np.ones(800, bool)
    inside[400:440] = False
    scattered = np.ones(800, bool)
    scattered[::20] = False
    assert design_effect(values, inside) > 10 > 2 > design_effect(values, scattered)


def test_too_few_values_are_worth_one():
    values = np.random.default_rng(8).random(FEWEST - 1)
    assert design_effect(values, values < 2) == FEWEST - 1
    assert design_effect(values[:0], values[:0] < 2) == 1


def test_equal_values_carry_no_trend():
    assert design_effect(np.full(500, 3.25), np.full(500, True)) == 1
    values = np.tile([1.0, 2.0], 400)
    assert design_effect(values, values < 3) == 1


def a_server_with_moods(rng, probes, requests):
    """Latencies of probes: half is the server's mood, which lasts for some ten requests, half their own."""
    noise = rng.normal(size=(probes, requests))
    mood = np.zeros_like(noise)
    mood[:, 0] = noise[:, 0]
    for i in range(1, requests):
        mood[:, i] = 0.9 * mood[:, i - 1] + math.sqrt(1 - 0.9**2) * noise[:, i]
    return mood + rng.normal(size=mood.shape)


@pytest.mark.parametrize("needed", [0.95, 0.99])
def test_requests_that_share_a_mood_do_not_make_a_probe_too_sure(needed):
    """At an edge that is exactly the objective, where every decision is an error."""
    values = a_server_with_moods(np.random.default_rng(9), 100, 1500)
    inside = values < norm.ppf(needed) * math.sqrt(2)
    wrong = {True: 0, False: 0}
    for corrected in wrong:
        for row, ok in zip(values, inside, strict=True):
            for n in range(100, 1500, 120):
                effect = design_effect(row[:n], ok[:n]) if corrected else 1.0
                low, high = share_interval(ok[:n].sum() / effect, n / effect, needed)
                if not low <= needed <= high:
                    wrong[corrected] += 1
                    break
    assert wrong[True] <= 5 < 12 < wrong[False]


def test_what_is_worth_little_still_decides_what_is_clear():
    values = a_server_with_moods(np.random.default_rng(10), 100, 1500)
    inside = values < norm.ppf(0.85) * math.sqrt(2)
    decided = 0
    for row, ok in zip(values, inside, strict=True):
        effect = design_effect(row, ok)
        decided += share_interval(ok.sum() / effect, len(row) / effect, 0.95)[1] < 0.95
    assert decided >= 95
