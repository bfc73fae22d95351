"""Whether two runs differ, from blocks of time within them.

Rule: requests that a server works on at the same time share its state, so a request is no unit. A block of
time is one where it is long against a request (two p90 of the latency), holds enough of them (10), and tells
little of the next block: among 24, 16, 12 and 10 blocks in a run the most with which the blocks' means
have an autocorrelation of at most 0.3 in each metric. What is left of it, and the (1 + 3 r) / k by which an
estimate from k blocks is too small on average (M. G. Kendall, Biometrika 41, 1954), enlarges the errors by
sqrt((1 + r) / (1 - r)). Where even 10 blocks are not independent, there is no answer.

Percentiles and means are those of all requests of blocks drawn with replacement (the block bootstrap: H. R.
Künsch, Annals of Statistics 17, 1989), the same blocks for all metrics. Student's t of the number of blocks
stands in for the normal distribution, since the errors are estimated from few. A percentile that only a few
requests are beyond (less than 20) is none to resample: they may all be of one bad moment.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr  # type: ignore[import-untyped]

from vllm_locust.core.comparison import Evidence

Array = NDArray[np.float64]

COUNTS = (24, 16, 12, 10)
FEWEST = COUNTS[-1]

_LATENCIES = 2
_REQUESTS = 10
_BEYOND = 20
_MOST_ALIKE = 0.3
_RESAMPLES = 1_000
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests that ended in one window of one run, in any order; arrays with one entry for each."""

    ended_s: Array
    """Since the start of the window."""
    duration_s: float
    columns: Mapping[str, Array]
    """By name; NaN where a request has no such value."""
    latency_s: Array
    """How long each took, NaN if it failed."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number made of a column."""

    column: str
    how: float | str
    """A percentile (0..100), `mean`, or `rate`: the sum per second."""
    log: bool
    """Whether the change is that of the logarithm."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A side: runs cut into blocks, those of one run after those of another."""

    runs: Sequence[Requests]
    per_run: int

    @property
    def count(self) -> int:
        """Of all runs together."""
        return self.per_run * len(self.runs)

    def numbers(self) -> NDArray[np.int64]:
        """The block of each request, those of all runs one after the other."""
        parts = []
        for number, run in enumerate(self.runs):
            place = (run.ended_s / run.duration_s * self.per_run).astype(int)
            parts.append(np.clip(place, 0, self.per_run - 1) + number * self.per_run)
        return np.concatenate(parts)

    def column(self, name: str) -> Array:
        """Of all runs, one after the other."""
        return np.concatenate([run.columns[name] for run in self.runs])

    def block_s(self) -> float:
        """How long a block is; the mean over the runs."""
        return float(np.mean([run.duration_s for run in self.runs])) / self.per_run


def has_tail(runs: Sequence[Requests], metric: Metric) -> bool:
    """Whether 20 requests at least are beyond a percentile; always true of what is none."""
    if not isinstance(metric.how, float):
        return True
    count = sum(int((~np.isnan(run.columns[metric.column])).sum()) for run in runs)
    return count * min(metric.how, 100 - metric.how) / 100 >= _BEYOND


def cut(runs: Sequence[Requests], metrics: Sequence[Metric]) -> Blocks | str:
    """The blocks of a side, or why there are none, in words that follow "because"."""
    why = ""
    for per_run in COUNTS:
        why = _obstacle(blocks := Blocks(runs, per_run), metrics)
        if not why:
            return blocks
    return why


def of_blocks(base: Blocks, new: Blocks, metrics: Sequence[Metric], rng: np.random.Generator) -> Evidence:
    """Evidence of the blocks of two sides."""
    sides = [_resample(blocks, metrics, rng) for blocks in (base, new)]
    change = sides[1][0] - sides[0][0]
    draws = sides[1][1] - sides[0][1]
    plain = draws.std(axis=0, ddof=1)
    inflated = []
    for blocks, (_, resampled) in zip((base, new), sides, strict=True):
        found = np.array([_alike(blocks, metric) for metric in metrics])
        alike = np.clip(found + (1 + 3 * found) / blocks.per_run, 0.0, 0.9)
        few = blocks.count / (blocks.count - 1)
        inflated.append(resampled.var(axis=0, ddof=1) * few * (1 + alike) / (1 - alike))
    error = np.sqrt(inflated[0] + inflated[1])
    df = _degrees(inflated, (base.count - 1, new.count - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = np.nan_to_num(np.abs(draws - draws.mean(axis=0)) / plain, nan=0.0)
        seen = np.nan_to_num(np.abs(change) / error, nan=0.0)
    null = 2 * ndtr(-chance)
    return Evidence(change, error, df, 2 * stdtr(df, -seen), null, null.min(axis=1))


def values(blocks: Blocks, metrics: Sequence[Metric]) -> Array:
    """Each metric of all requests of a side; NaN where none has a value."""
    ones = np.ones((1, blocks.count))
    numbers = blocks.numbers()
    return np.array([_weighted(blocks, numbers, metric, ones)[0] for metric in metrics])


def _obstacle(blocks: Blocks, metrics: Sequence[Metric]) -> str:
    latencies = np.concatenate([run.latency_s for run in blocks.runs])
    latencies = latencies[~np.isnan(latencies)]
    block_s = blocks.block_s()
    if len(latencies) and (need_s := _LATENCIES * float(np.percentile(latencies, 90))) > block_s:
        return (
            f"{FEWEST} blocks of time would be {block_s:.3g} s long, and requests take so long that a block "
            f"must have {need_s:.3g} s"
        )
    if (fewest := int(np.bincount(blocks.numbers(), minlength=blocks.count).min())) < _REQUESTS:
        return f"of {FEWEST} blocks of time one would hold {fewest} requests, and {_REQUESTS} are needed"
    if max((_alike(blocks, metric) for metric in metrics), default=0.0) > _MOST_ALIKE:
        return f"even {FEWEST} blocks of time resemble the ones before: the run drifts, or is too short"
    return ""


def _alike(blocks: Blocks, metric: Metric) -> float:
    """The autocorrelation of the blocks' means of the metric's column, each with the one before it."""
    column, numbers = blocks.column(metric.column), blocks.numbers()
    known = ~np.isnan(column)
    sums = np.bincount(numbers[known], column[known], blocks.count)
    counts = np.bincount(numbers[known], minlength=blocks.count)
    means = sums if metric.how == "rate" else sums / np.maximum(counts, 1)
    per_run = means.reshape(len(blocks.runs), blocks.per_run)
    centred = per_run - per_run.mean(axis=1, keepdims=True)
    spread = float((centred**2).sum())
    return float((centred[:, 1:] * centred[:, :-1]).sum()) / spread if spread > 1e-24 else 0.0


def _resample(blocks: Blocks, metrics: Sequence[Metric], rng: np.random.Generator) -> tuple[Array, Array]:
    """The metrics, and those of blocks drawn with replacement (draws, metrics); logarithms where asked."""
    count = blocks.count
    weights = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(float)
    weights = np.vstack([np.ones((1, count)), weights])
    numbers = blocks.numbers()
    columns = []
    for metric in metrics:
        column = _weighted(blocks, numbers, metric, weights)
        columns.append(np.log(np.maximum(column, 1e-300)) if metric.log else column)
    table = np.stack(columns, axis=1)
    # A draw may have no request with a value, where most of them failed.
    drawn = np.where(np.isnan(table[1:]), table[0], table[1:])
    return table[0], drawn


def _weighted(blocks: Blocks, numbers: NDArray[np.int64], metric: Metric, weights: Array) -> Array:
    """The metric, once for each row of `weights` (draws, blocks)."""
    column = blocks.column(metric.column)
    known = ~np.isnan(column)
    column, numbers = column[known], numbers[known]
    if isinstance(metric.how, float):
        return _percentiles(column, numbers, metric.how, weights)
    sums = weights @ np.bincount(numbers, column, blocks.count)
    if metric.how == "rate":
        rate: Array = sums / (blocks.block_s() * blocks.count)
        return rate
    counts = weights @ np.bincount(numbers, minlength=blocks.count)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Array = sums / counts
    return mean


def _percentiles(column: Array, numbers: NDArray[np.int64], q: float, weights: Array) -> Array:
    """Numpy's linear percentile of values that count as often as their block was drawn."""
    if not len(column):
        return np.full(len(weights), math.nan)
    order = np.argsort(column, kind="stable")
    column, numbers = column[order], numbers[order]
    parts = []
    for start in range(0, len(weights), _CHUNK):
        below = np.cumsum(weights[start : start + _CHUNK, numbers], axis=1)
        rank = (below[:, -1] - 1) * q / 100
        low = np.floor(rank)
        places = [
            np.array([np.searchsorted(row, one, side="right") for row, one in zip(below, ranks, strict=True)])
            for ranks in (low, np.ceil(rank))
        ]
        ends = [column[np.minimum(place, len(column) - 1)] for place in places]
        parts.append(ends[0] + (ends[1] - ends[0]) * (rank - low))
    return np.concatenate(parts)


def _degrees(variances: Sequence[Array], df: tuple[int, int]) -> Array:
    """Welch's degrees of freedom."""
    total = variances[0] + variances[1]
    fourth = variances[0] ** 2 / df[0] + variances[1] ** 2 / df[1]
    found = np.full_like(total, float(sum(df)))
    np.divide(total**2, fourth, out=found, where=fourth > 0)
    return found
