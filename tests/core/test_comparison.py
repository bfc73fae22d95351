"""Statistics of runs and pairs, against scipy, brute force and simulated truth."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from vllm_locust.core import comparison
from vllm_locust.core.comparison import Array, Evidence


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def made(
    count: int, metrics: int, generator: np.random.Generator, shared: float = 0.6
) -> tuple[Array, Array]:
    common = generator.standard_normal((2, count, 1)) * np.sqrt(shared)
    own = generator.standard_normal((2, count, metrics)) * np.sqrt(1 - shared)
    sides = 0.04 * (common + own)
    return sides[0], sides[1]


def test_runs_have_welchs_t() -> None:
    generator = rng()
    base, new = generator.normal(0, 1, (5, 3)), generator.normal(0.5, 2, (7, 3))
    evidence = comparison.of_runs(base, new, generator)
    expected = stats.ttest_ind(new, base, equal_var=False)
    np.testing.assert_allclose(evidence.change / evidence.error, expected.statistic)
    np.testing.assert_allclose(evidence.df, expected.df)
    half = comparison.half_widths(evidence, 0.05)
    np.testing.assert_allclose(evidence.change - half, expected.confidence_interval(0.95).low)


def test_pairs_have_the_t_of_pairs() -> None:
    generator = rng()
    base, new = generator.normal(0, 1, (2, 6, 3))
    evidence = comparison.of_pairs(base, new, generator)
    expected = stats.ttest_rel(new, base)
    np.testing.assert_allclose(evidence.change / evidence.error, expected.statistic)
    np.testing.assert_allclose(evidence.p, expected.pvalue)


def test_p_of_one_metric_is_that_of_a_permutation_test() -> None:
    generator = rng(3)
    base, new = generator.normal(0, 1, (5, 1)), generator.normal(1, 1, (4, 1))

    def welch(x: Array, y: Array, axis: int) -> Array:
        difference = y.mean(axis=axis) - x.mean(axis=axis)
        error = np.sqrt(x.var(axis=axis, ddof=1) / x.shape[axis] + y.var(axis=axis, ddof=1) / y.shape[axis])
        result: Array = np.abs(difference / error)
        return result

    expected = stats.permutation_test(
        (base[:, 0], new[:, 0]), welch, vectorized=True, n_resamples=np.inf, alternative="greater"
    )
    (p,) = comparison.adjusted([comparison.of_runs(base, new, generator)])[0]
    assert p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("order", ["aaaabbbb", "abababab", "abbaabba"])
def test_an_effect_beside_a_drift_is_that_of_least_squares(order: str) -> None:
    generator, time = rng(11), np.linspace(0, 1, 8)
    side = np.array([float(one == "b") for one in order])
    values = generator.normal(0, 1, (8, 3)) + np.outer(time, [0, 5, 50]) + np.outer(side, [0, 1, 2])
    evidence = comparison.of_effect(values, side, time, generator)
    columns = np.column_stack([np.ones(8), time, side])
    found, squares, _, _ = np.linalg.lstsq(columns, values, rcond=None)
    errors = np.sqrt(squares / 5 * np.linalg.inv(columns.T @ columns)[2, 2])
    np.testing.assert_allclose(evidence.change, found[2])
    np.testing.assert_allclose(evidence.error, errors)
    np.testing.assert_allclose(evidence.p, 2 * stats.t.sf(np.abs(found[2] / errors), 5))
    drifted = comparison.of_effect(values + np.outer(time, [9, 9, 9]), side, time, rng(11))
    np.testing.assert_allclose(drifted.change, evidence.change, atol=1e-9)


def test_false_alarms_under_a_drift_are_as_promised() -> None:
    """Of 30 comparisons of the same, base first; a bound that the promise breaks once in 1000 times."""
    generator, times, time, side = rng(12), 30, np.linspace(0, 1, 8), np.repeat([0.0, 1.0], 4)
    alarms = missed = 0
    for _ in range(times):
        values = np.vstack(made(4, 6, generator)) + 0.3 * time[:, np.newaxis]
        evidence = comparison.of_effect(values, side, time, generator)
        half = comparison.half_widths(evidence, comparison.level([evidence]))
        missed += bool((np.abs(evidence.change) > half).any())
        alarms += bool((comparison.adjusted([evidence])[0] <= comparison.ALPHA).any())
    assert max(alarms, missed) <= stats.binom.ppf(0.999, times, 0.05)


def stepped_down(own: Array, others: Array) -> Array:
    """The share of `others` (ways, metrics) whose largest value of the metrics left reaches each of `own`."""
    found, so_far, left = np.empty(len(own)), 0.0, list(range(len(own)))
    for i in np.argsort(-own):
        so_far = max(so_far, float((others[:, left].max(axis=1) >= own[i] - 1e-9).mean()))
        found[i] = so_far
        left.remove(i)
    return found


def test_p_of_several_metrics_is_that_of_the_largest_t_by_brute_force() -> None:
    generator = rng(4)
    base, new = generator.normal(0, 1, (2, 4, 3))
    new = new + np.array([0.0, 1.0, 3.0])
    values = np.vstack([base, new])
    others = []
    for chosen in combinations(range(8), 4):
        rest = [i for i in range(8) if i not in chosen]
        others.append(np.abs(stats.ttest_ind(values[rest], values[list(chosen)], equal_var=False).statistic))
    own = np.abs(stats.ttest_ind(new, base, equal_var=False).statistic)
    found = comparison.adjusted([comparison.of_runs(base, new, generator)])[0]
    np.testing.assert_allclose(found, stepped_down(own, np.array(others)))


def test_p_of_pairs_is_that_of_the_largest_t_by_brute_force() -> None:
    generator = rng(5)
    base, new = generator.normal(0, 1, (2, 6, 2))
    new = new + np.array([0.5, 2.0])
    others = []
    for signs in product((1, -1), repeat=6):
        flipped = (new - base) * np.array(signs)[:, np.newaxis]
        others.append(np.abs(stats.ttest_1samp(flipped, 0).statistic))
    own = np.abs(stats.ttest_rel(new, base).statistic)
    found = comparison.adjusted([comparison.of_pairs(base, new, generator)])[0]
    np.testing.assert_allclose(found, stepped_down(own, np.array(others)))


def test_sampled_permutations_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    base, new = rng(6).normal(0, 1, (2, 6, 2))
    exact = comparison.adjusted([comparison.of_runs(base, new + 1, rng())])[0]
    monkeypatch.setattr(comparison, "_MOST_EXACT", 10)
    sampled = comparison.adjusted([comparison.of_runs(base, new + 1, rng())])[0]
    np.testing.assert_allclose(sampled, exact, atol=0.015)


def a_family(p: float, draws: int = 100) -> Evidence:
    null = np.linspace(0.02, 1, 50)[:, np.newaxis]
    return Evidence(*[np.zeros(1)] * 3, np.array([p]), null, np.linspace(1 / draws, 1, draws))


def test_two_families_multiply_their_chances_of_no_alarm() -> None:
    first, second = comparison.adjusted([a_family(0.02), a_family(0.5)])
    assert first[0] == pytest.approx(1 - (1 - 1 / 50) ** 2)
    assert second[0] == pytest.approx(0.5), "the first one is none of those that are left"


def test_intervals_of_two_families_of_different_units_cover_together() -> None:
    each = comparison.level([a_family(1.0, draws=4_000), a_family(1.0, draws=1_000)])
    assert each == pytest.approx(1 - np.sqrt(0.95), abs=0.001)


def test_a_sure_difference_hides_no_other_one() -> None:
    """Four runs a side have 70 ways of exchange: corrected for two of the surest at a time none would do."""
    generator = rng(9)
    families = []
    for _ in range(4):
        base, new = generator.normal(0, 0.02, (2, 4, 3))
        families.append(comparison.of_runs(base, new + np.array([0.0, 0.3, 0.4]), generator))
    found = np.array(comparison.adjusted(families))
    assert (found[:, 1:] <= comparison.ALPHA).all()
    assert (found[:, 0] > comparison.ALPHA).all()


def test_false_alarms_beside_sure_differences_are_as_promised() -> None:
    generator, times, alarms = rng(10), 60, 0
    for _ in range(times):
        families = []
        for change in (0.0, 0.3):
            base, new = made(4, 4, generator)
            families.append(comparison.of_runs(base, new + np.array([change, 0, 0, 0]), generator))
        quiet, loud = comparison.adjusted(families)
        alarms += bool((quiet <= comparison.ALPHA).any() or (loud[1:] <= comparison.ALPHA).any())
    assert alarms <= stats.binom.ppf(0.999, times, 0.05)


def test_without_variance_all_is_plain() -> None:
    base, new = np.zeros((4, 2)), np.tile([0.0, 0.3], (4, 1))
    for of in (comparison.of_runs, comparison.of_pairs):
        evidence = of(base, new, rng())
        np.testing.assert_allclose(evidence.change, [0.0, 0.3])
        assert evidence.error.tolist() == [0.0, 0.0]
        assert evidence.p.tolist() == [1.0, 0.0]
        assert comparison.half_widths(evidence, 0.01).tolist() == [0.0, 0.0]


def test_false_alarms_and_coverage_are_as_promised() -> None:
    """Of 50 comparisons of the same with six metrics; bounds that the promise breaks once in 1000 times."""
    generator, times = rng(7), 50
    most = stats.binom.ppf(0.999, times, 0.05)
    for count in (4, 6):
        alarms = missed = 0
        for _ in range(times):
            evidence = comparison.of_runs(*made(count, 6, generator), generator)
            outside = np.abs(evidence.change) > comparison.half_widths(evidence, comparison.level([evidence]))
            missed += bool(outside.any())
            alarms += bool((comparison.adjusted([evidence])[0] <= comparison.ALPHA).any())
        assert alarms <= most
        assert missed <= most


def test_the_detectable_change_is_detected_in_four_of_five() -> None:
    generator, times, seen = rng(8), 50, 0
    for _ in range(times):
        evidence = comparison.of_runs(*made(6, 6, generator), generator)
        each, (p,) = comparison.level([evidence]), comparison.adjusted([evidence])
        change = comparison.detectable(evidence, comparison.critical(evidence, p, each), generator)[0]
        base, new = made(6, 6, generator)
        new[:, 0] += change
        again = comparison.of_runs(base, new, generator)
        away = again.change[0] > comparison.half_widths(again, comparison.level([again]))[0]
        seen += bool(away and comparison.adjusted([again])[0][0] <= comparison.ALPHA)
    assert stats.binom.ppf(0.001, times, 0.8) <= seen <= stats.binom.ppf(0.999, times, 0.8)


def test_units_needed_follow_the_error() -> None:
    now = comparison.Estimate(error=0.02, df=18, units=10)
    few = comparison.units_needed(now, 2, 0.10, 0.01, rng())
    many = comparison.units_needed(now, 2, 0.05, 0.01, rng())
    assert few is not None
    assert many is not None
    assert 2.5 * few < many < 4.5 * few
    assert comparison.units_needed(now, 2, 0.001, 0.01, rng()) is None


@pytest.mark.parametrize(("sides", "fewest"), [(1, 6), (2, 4)])
def test_no_fewer_units_than_exchanging_can_tell_of(sides: int, fewest: int) -> None:
    now = comparison.Estimate(error=0.0001, df=5, units=6)
    assert comparison.units_needed(now, sides, 0.05, 0.05, rng()) == fewest
