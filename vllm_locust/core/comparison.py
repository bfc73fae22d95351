"""Whether two sets of measurements differ, in several metrics at once.

Rule: the rows of a matrix are independent units (runs, or pairs of runs) and its columns are metrics of the
same unit; nothing is assumed of how metrics depend on each other, and a false alarm in any of them is one.
Random numbers come from the generator that is passed in.

Two questions, two methods:

- Is there any difference? Units are exchanged between the sides (runs) or change their sign (pairs), in all
  ways where these are few, and the smallest p of all metrics is held against its distribution, then the next
  one against that of the metrics that are left, and so on (P. H. Westfall, S. S. Young, Resampling-Based
  Multiple Testing, 1993: step-down). The statistic is Welch's t, or that of pairs. It supposes only that
  sides which do not differ are exchangeable.
- How large is it? Intervals of Student's t with Welch's degrees of freedom, each at the level at which all of
  them together cover 95 %: that level is the 5 % quantile of the smallest p of normal units whose metrics are
  correlated as the units are (T. Hothorn, F. Bretz, P. Westfall, Biometrical Journal 50, 2008), the estimate
  of the correlation shrunk towards none, for few units make any two metrics look related.

Where units may have drifted with time, the change is that of a regression on the side and the time (analysis
of covariance). What the time leaves unexplained is exchanged then (D. Freedman, D. Lane, Journal of Business
and Economic Statistics 1, 1983), and Student's t has a degree of freedom less.

Several independent families (the cells of a matrix of runs) make one: chances of no false alarm multiply.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

from vllm_locust.core.percentile import CONFIDENCE

Array = NDArray[np.float64]

POWER = 0.8
ALPHA = 1 - CONFIDENCE

_MOST_EXACT = 20_000
_SAMPLED = 9_999
_DRAWS = 4_000
_ROUNDING = 1e-9
_FEWEST_UNITS = {1: 6, 2: 4}
_MOST_UNITS = 1_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the units of one family say; arrays have one entry for each metric, unless said otherwise."""

    change: Array
    """New minus base."""
    error: Array
    """The standard error of the change."""
    df: Array
    """Degrees of freedom of the error."""
    p: Array
    """Of each metric alone, comparable with `null` and nothing else."""
    null: Array
    """The p of each metric where there is no difference, once for each draw: (draws, metrics)."""
    smallest: Array
    """The smallest p with which one of the intervals misses, once for each draw."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A standard error, and what it was estimated from."""

    error: float
    df: float
    units: float
    """On each side."""


def of_runs(base: Array, new: Array, rng: np.random.Generator) -> Evidence:
    """Evidence of independent runs: `base` is (runs, metrics), `new` too, with at least 2 runs each."""
    values = np.vstack([base, new])
    values = values - values.mean(axis=0)
    count, size = len(base), len(values)
    change, error, df = _welch(values, _first(count, size))
    common = size - 2
    null = _p(*_welch(values, _exchanges(count, size, rng))[:2], common)
    residuals = np.vstack([base - base.mean(axis=0), new - new.mean(axis=0)])

    def draw(units: Array) -> Array:
        sides = units[:, :count], units[:, count:]
        means = [side.mean(axis=1) for side in sides]
        variances = [side.var(axis=1, ddof=1) / side.shape[1] for side in sides]
        return _smallest_p(means[1] - means[0], np.sqrt(variances[0] + variances[1]), common)

    smallest = draw(_alike(residuals, common, rng))
    return Evidence(change[0], error[0], df[0], _p(change, error, common)[0], null, smallest)


def of_pairs(base: Array, new: Array, rng: np.random.Generator) -> Evidence:
    """Evidence of pairs of runs, row by row: both (pairs, metrics), with at least 2 pairs."""
    differences = new - base
    size = len(differences)
    df = size - 1
    change, error = _paired(differences, np.ones((1, size)))
    null = _p(*_paired(differences, _flips(size, rng)), df)
    units = _alike(differences - differences.mean(axis=0), df, rng)
    smallest = _smallest_p(units.mean(axis=1), units.std(axis=1, ddof=1) / math.sqrt(size), df)
    every_df = np.full(change.shape[1], float(df))
    return Evidence(change[0], error[0], every_df, _p(change, error, df)[0], null, smallest)


def of_effect(values: Array, effect: Array, given: Array, rng: np.random.Generator) -> Evidence:
    """Evidence of what `effect` (units) does to `values` (units, metrics), allowing for `given` (units)."""
    size = len(values)
    known, _ = np.linalg.qr(np.column_stack([np.ones(size), given]))
    own = effect - known @ (known.T @ effect)
    df = size - known.shape[1] - 1

    length = math.sqrt(own @ own)
    directions = np.column_stack([known, own / length])

    def fitted(units: Array) -> tuple[Array, Array]:
        """The change and its error of (ways, units, metrics)."""
        along = np.tensordot(units, directions, (1, 0))
        squares = (units**2).sum(axis=1)
        spread = squares - (along**2).sum(axis=2)
        spread = np.where(spread <= _ROUNDING * squares + 1e-24, 0.0, spread)
        change = along[:, :, -1] / length
        return np.where(np.abs(change) < 1e-12, 0.0, change), np.sqrt(spread / df) / length

    unexplained = values - known @ (known.T @ values)
    change, error = fitted(unexplained[np.newaxis])
    ways = np.vstack([np.arange(size), rng.permuted(np.tile(np.arange(size), (_DRAWS, 1)), axis=1)])
    null = _p(*fitted(unexplained[ways]), df)
    residuals = unexplained - np.outer(own, change[0])
    smallest = _smallest_p(*fitted(_alike(residuals, df, rng)), df)
    every_df = np.full(change.shape[1], float(df))
    return Evidence(change[0], error[0], every_df, _p(change, error, df)[0], null, smallest)


def adjusted(families: Sequence[Evidence]) -> list[Array]:
    """The p of each metric of each family, corrected for all metrics of all of them.

    From the smallest on, each is held against the metrics that are left: what differs for sure must not hide
    what differs as well.
    """
    found = [np.ones_like(family.p) for family in families]
    nulls = [np.sort(family.null.min(axis=1)) for family in families]
    left = [np.ones(len(family.p), bool) for family in families]
    so_far = 0.0
    places = ((k, i) for k, family in enumerate(families) for i in range(len(family.p)))
    for k, i in sorted(places, key=lambda place: float(families[place[0]].p[place[1]])):
        so_far = max(so_far, float(_chance(nulls, families[k].p[i : i + 1])[0]))
        found[k][i] = so_far
        left[k][i] = False
        nulls[k] = np.sort(families[k].null[:, left[k]].min(axis=1, initial=np.inf))
    return found


def critical(evidence: Evidence, p: Array, each: float) -> float:
    """The p, as in `Evidence.p`, that a metric without a difference so far must have to be seen.

    `p` are the corrected ones: metrics that differ for sure do not stand in its way. `each` is the level of
    the intervals, which must leave out 0 as well.
    """
    quiet = p > ALPHA
    if not quiet.any():
        return each
    null = np.sort(evidence.null[:, quiet].min(axis=1))
    # Without any variance p is 0, which says nothing of the metrics that vary.
    reached = np.unique(null[null > _ROUNDING])
    enough = reached[_chance([null], reached) <= ALPHA]
    return min(each, float(enough[-1])) if len(enough) else each


def level(families: Sequence[Evidence]) -> float:
    """How often each interval alone may miss, so that all of all families cover with 95 % together."""
    smallest = [np.sort(family.smallest) for family in families]
    reached = np.unique(np.concatenate(smallest))
    enough = reached[_chance(smallest, reached) <= ALPHA]
    return float(enough[-1] if len(enough) else reached[0])


def half_widths(evidence: Evidence, each: float) -> Array:
    """Half the length of the interval of each metric, which may miss with the chance `each`."""
    half: Array = stdtrit(evidence.df, 1 - each / 2) * evidence.error
    return half


def detectable(evidence: Evidence, p: float, rng: np.random.Generator) -> Array:
    """The change of each metric that comparisons like this one see with a chance of 80 %.

    `p` is the critical one.
    """
    pairs = zip(evidence.error.tolist(), evidence.df.tolist(), strict=True)
    return np.array([error * _seen_factor(p, df, df, rng) for error, df in pairs])


def units_needed(
    now: Estimate, sides: int, change: float, each: float, rng: np.random.Generator
) -> int | None:
    """How many units on each side show `change` with a chance of 80 %; None where more than 1000 would.

    `sides` is 2 for runs and 1 for pairs, of which exchanging fewer than 4 and 6 shows nothing.
    """
    fewest = _FEWEST_UNITS[sides]

    def shows(count: int) -> bool:
        factor = _seen_factor(each, sides * (count - 1), now.df, rng)
        return factor * now.error * math.sqrt(now.units / count) <= change

    found = bisect_left(range(fewest, _MOST_UNITS + 1), True, key=shows) + fewest
    return found if found <= _MOST_UNITS else None


def _seen_factor(each: float, df: float, known_df: float, rng: np.random.Generator) -> float:
    """How many of the errors that were estimated a change must have to be seen with a chance of 80 %.

    The next error is an estimate too, and so is this one (with `known_df`): the change is k times this one,
    seen if k * S + Z > c * S', with S and S' the roots of chi-square over its degrees of freedom.
    """
    now = np.sqrt(rng.chisquare(known_df, _DRAWS) / known_df)
    then = np.sqrt(rng.chisquare(df, _DRAWS) / df)
    needed = (float(stdtrit(df, 1 - each / 2)) * then - rng.standard_normal(_DRAWS)) / now
    return float(np.quantile(needed, POWER))


def _chance(nulls: Sequence[Array], p: Array) -> Array:
    """How often one of several independent numbers, each drawn from a sorted array, is `p` or less."""
    quiet = np.ones_like(p)
    for null in nulls:
        quiet *= 1 - np.searchsorted(null, p * (1 + _ROUNDING), side="right") / len(null)
    return 1 - quiet


def _p(change: Array, error: Array, df: float) -> Array:
    """Two-sided; without any error 0 where there is a change and 1 where there is none."""
    p: Array = 2 * stdtr(df, -_t(change, error))
    return p


def _smallest_p(change: Array, error: Array, df: float) -> Array:
    """That of the metrics' largest t, once for each draw."""
    p: Array = 2 * stdtr(df, -_t(change, error).max(axis=1))
    return p


def _t(change: Array, error: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(change / error)
    return np.where(np.isnan(t), 0.0, t)


def _first(count: int, size: int) -> Array:
    return (np.arange(size) < count).astype(float)[np.newaxis]


def _exchanges(count: int, size: int, rng: np.random.Generator) -> Array:
    """Which of `size` units are the base, a row of ones and zeros for each way, the true one first."""
    if math.comb(size, count) <= _MOST_EXACT:
        chosen = np.array(list(combinations(range(size), count)))
        ways = np.zeros((len(chosen), size))
        np.put_along_axis(ways, chosen, 1.0, axis=1)
        return ways
    true = _first(count, size)
    return np.vstack([true, rng.permuted(np.repeat(true, _SAMPLED, axis=0), axis=1)])


def _flips(size: int, rng: np.random.Generator) -> Array:
    """The signs of `size` pairs, a row for each way, the true one first."""
    if 2**size <= _MOST_EXACT:
        return np.array(list(product((1.0, -1.0), repeat=size)))
    return np.vstack([np.ones((1, size)), rng.choice((1.0, -1.0), (_SAMPLED, size))])


def _welch(values: Array, is_base: Array) -> tuple[Array, Array, Array]:
    """The change, its error and Welch's degrees of freedom, (ways, metrics) each."""
    squares = values**2
    floor = _ROUNDING**2 * squares.sum(axis=0)
    means, variances, counts = [], [], []
    for chosen in (is_base, 1 - is_base):
        count = float(chosen[0].sum())
        mean = chosen @ values / count
        spread = np.maximum(chosen @ squares - count * mean**2, 0.0)
        means.append(mean)
        variances.append(np.where(spread <= floor + 1e-24, 0.0, spread) / (count - 1) / count)
        counts.append(count)
    total = variances[0] + variances[1]
    fourth = variances[0] ** 2 / (counts[0] - 1) + variances[1] ** 2 / (counts[1] - 1)
    df = np.full_like(total, sum(counts) - 2)
    np.divide(total**2, fourth, out=df, where=fourth > 0)
    change = means[1] - means[0]
    return np.where(np.abs(change) < 1e-12, 0.0, change), np.sqrt(total), df


def _paired(differences: Array, signs: Array) -> tuple[Array, Array]:
    """The change and its error, (ways, metrics) each."""
    size = len(differences)
    mean = signs @ differences / size
    squares = (differences**2).sum(axis=0)
    spread = np.maximum(squares - size * mean**2, 0.0)
    spread = np.where(spread <= _ROUNDING * squares + 1e-24, 0.0, spread)
    return np.where(np.abs(mean) < 1e-12, 0.0, mean), np.sqrt(spread / (size - 1) / size)


def _alike(residuals: Array, df: int, rng: np.random.Generator) -> Array:
    """Normal units whose metrics are correlated as `residuals`, (draws, units, metrics)."""
    size, metrics = residuals.shape
    scale = np.sqrt((residuals**2).sum(axis=0))
    unit = residuals / np.where(scale > 1e-12, scale, 1.0)
    correlation = unit.T @ unit
    shrunk = correlation * df / (df + 1)
    np.fill_diagonal(shrunk, 1.0)
    return rng.standard_normal((_DRAWS, size, metrics)) @ np.linalg.cholesky(shrunk).T
