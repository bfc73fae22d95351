"""Percentiles and how sure one may be of them.

Rule: a percentile is numpy's linear one, and its interval supposes nothing about the distribution: both ends
are values that were measured. Where the sample is too small to have such a value the end is None, and the
percentile counts as not determined.

For n independent values the number B of those below the true quantile x_p is binomial(n, p), so the ordered
values X(1) <= ... <= X(n) satisfy

    P(X(l) <= x_p) = P(B >= l),        P(x_p <= X(u)) >= P(B <= u - 1)

and [X(l), X(u)] covers x_p with the confidence 1 - a at least when l is the largest rank with
P(B <= l - 1) <= a/2 and u the smallest with P(B <= u - 1) >= 1 - a/2. (H. A. David, H. N. Nagaraja, Order
Statistics, 3rd ed., section 7.1.) With 95 % an upper end needs n >= ln(0.025)/ln(p): 6 values for the median,
36 for p90, 72 for p95, 368 for p99.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr  # type: ignore[import-untyped]

from vllm_locust.core.histogram import Histogram

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true percentile lies; an end is None where the sample is too small to tell."""

    low: float | None
    high: float | None

    @property
    def determined(self) -> bool:
        """True when both ends are known."""
        return self.low is not None and self.high is not None


UNDETERMINED = Interval(None, None)


def percentile(values: Sequence[float] | NDArray[np.float64], q: float) -> float | None:
    """The `q`-th percentile (0..100), linear between the two nearest values; None when empty."""
    return float(np.percentile(values, q)) if len(values) else None


def percentile_of_sorted(ordered: NDArray[np.float64], q: float) -> float | None:
    """The same of values in ascending order, to the last digit and many times as quick."""
    if not len(ordered):
        return None
    position = (len(ordered) - 1) * (q / 100)
    rank = math.floor(position)
    low, high = float(ordered[rank]), float(ordered[min(rank + 1, len(ordered) - 1)])
    part = position - rank
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def ranks(count: int, q: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """The ranks l and u (from 1) of the ordered values that bound the `q`-th percentile of `count` values."""

    def at_most(k: int) -> float:
        return float(bdtr(k, count, q / 100))

    tail = (1 - confidence) / 2
    low = bisect_right(range(count + 1), tail, key=at_most)
    high = bisect_left(range(count + 1), 1 - tail, key=at_most) + 1
    return low or None, high if high <= count else None


def interval(
    sorted_values: Sequence[float] | NDArray[np.float64], q: float, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of the `q`-th percentile (0..100) from independent values in ascending order."""
    low, high = ranks(len(sorted_values), q, confidence)
    return Interval(
        None if low is None else float(sorted_values[low - 1]),
        None if high is None else float(sorted_values[high - 1]),
    )


def interval_of_histogram(
    histogram: Histogram, q: float, effective_count: int, confidence: float = CONFIDENCE
) -> Interval:
    """The interval of the `q`-th percentile (0..100) of values that are not independent of each other.

    `effective_count` is how many independent ones they are worth: the gaps between the tokens of one request
    share its fate, so for them it is the number of requests. Its ranks are stretched, outwards, over the
    whole histogram.
    """
    count = min(effective_count, histogram.count)
    low, high = ranks(count, q, confidence)
    return Interval(
        None if low is None else histogram.value_at_rank((low - 1) * histogram.count // count),
        None if high is None else histogram.value_at_rank(-(-high * histogram.count // count) - 1),
    )
