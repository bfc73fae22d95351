"""Blocks of time, against numpy on data that were repeated in full, and simulated truth."""

import numpy as np
import pytest
from scipy import stats

from vllm_locust.core import comparison, comparison_blocks
from vllm_locust.core.comparison_blocks import Blocks, Metric, Requests

P50, P99 = Metric("e2el", 50.0, log=True), Metric("e2el", 99.0, log=True)
MEAN, RATE = Metric("e2el", "mean", log=True), Metric("ok", "rate", log=True)
FAILED = Metric("failed", "mean", log=False)


def window(count: int, generator: np.random.Generator, factor: float = 1.0, slow: float = 0.0) -> Requests:
    """60 s of independent latencies, which grow by the factor `1 + slow` over the run."""
    ended_s = np.sort(generator.uniform(0, 60, count))
    latency_s = 0.2 * generator.lognormal(0, 0.3, count) * factor * (1 + slow * ended_s / 60)
    columns = {"e2el": latency_s * 1000, "ok": np.ones(count), "failed": np.zeros(count)}
    return Requests(ended_s, 60.0, columns, latency_s)


def cut(run: Requests, *metrics: Metric) -> Blocks:
    blocks = comparison_blocks.cut([run], metrics or [P50, P99])
    assert isinstance(blocks, Blocks)
    return blocks


@pytest.mark.parametrize("metric", [P50, P99, MEAN, RATE])
def test_weights_count_as_repeating_the_requests(metric: Metric) -> None:
    run = window(500, np.random.default_rng(1))
    blocks = Blocks([run], 10)
    weights = np.random.default_rng(2).multinomial(10, np.full(10, 0.1), 5).astype(float)
    found = comparison_blocks._weighted(blocks, blocks.numbers(), metric, weights)
    for row, one in zip(weights, found, strict=True):
        repeated = np.repeat(run.columns[metric.column], row[blocks.numbers()].astype(int))
        expected = {
            "mean": lambda values: values.mean(),
            "rate": lambda values: values.sum() / 60,
        }.get(str(metric.how), lambda values: np.percentile(values, metric.how))(repeated)
        assert one == pytest.approx(expected)


def test_a_column_of_nothing_has_no_number() -> None:
    run = window(500, np.random.default_rng(1))
    run = Requests(run.ended_s, 60.0, {"e2el": np.full(500, np.nan)}, run.latency_s)
    assert np.isnan(comparison_blocks.values(Blocks([run], 10), [P50])).all()


def test_requests_as_long_as_the_run_are_refused() -> None:
    run = window(2000, np.random.default_rng(1), factor=30.0)
    why = comparison_blocks.cut([run], [P50])
    assert isinstance(why, str)
    assert "requests take so long" in why


def test_few_requests_are_refused() -> None:
    why = comparison_blocks.cut([window(60, np.random.default_rng(1))], [P50])
    assert isinstance(why, str)
    assert "10 are needed" in why


def test_a_drift_is_refused() -> None:
    why = comparison_blocks.cut([window(5000, np.random.default_rng(1), slow=2.0)], [P50])
    assert isinstance(why, str)
    assert "drifts" in why


def test_a_difference_is_found_and_measured() -> None:
    generator = np.random.default_rng(3)
    base, new = cut(window(2000, generator)), cut(window(2000, generator, 1.3))
    evidence = comparison_blocks.of_blocks(base, new, [P50, P99, RATE, FAILED], generator)
    half = comparison.half_widths(evidence, comparison.level([evidence]))
    assert np.log(1.3) == pytest.approx(evidence.change[0], abs=half[0])
    assert evidence.change[0] > half[0]
    assert abs(evidence.change[2]) < half[2] + 1e-9
    assert evidence.change[3] == evidence.error[3] == 0


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Bounds that a rate of 5 % breaks once in 1000 times."""
    generator, times, alarms = np.random.default_rng(4), 40, 0
    metrics = [P50, P99, MEAN]
    for _ in range(times):
        sides = [Blocks([window(800, generator)], 16) for _ in range(2)]
        evidence = comparison_blocks.of_blocks(sides[0], sides[1], metrics, generator)
        outside = np.abs(evidence.change) > comparison.half_widths(evidence, comparison.level([evidence]))
        alarms += bool(outside.any())
    assert alarms <= stats.binom.ppf(0.999, times, 0.05)
