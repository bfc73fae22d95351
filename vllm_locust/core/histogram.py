"""A log-linear histogram of durations: every reported value is within 0.1 % of a recorded one.

Rule: everything summed up is an integer (counts, nanoseconds), so that merging histograms in any order gives
exactly what recording all their values into one would have given.

An octave [2^k, 2^(k+1)) seconds is split into 512 equal buckets and a bucket speaks with its middle, which is
at most 1/1024 of the value away from anything in it. Buckets cover 1 us to 10 000 s; below is a bucket of
zeros, what lies above counts in the top bucket. The idea is that of HdrHistogram (hdrhistogram.org), with the
powers of two that IEEE 754 doubles already have in place of its own scale.
"""

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.columns import pack, unpack_ints

LOWEST_S = 1e-6
HIGHEST_S = 1e4
RELATIVE_ERROR = 0.001

# The exponent and the first 9 bits of the mantissa of a double are the number of its bucket.
_DROPPED_BITS = 52 - 9


def _double_bits(values_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return values_s.view(np.int64) >> _DROPPED_BITS


_BELOW = int(_double_bits(np.array([LOWEST_S]))[0]) - 1
_BUCKETS = int(_double_bits(np.array([HIGHEST_S]))[0]) - _BELOW + 1
_NS = 10**9
# So many values at most can be summed in 64 bits, see `_sum_of_squares`.
_SUMMABLE = 2**18

# Values wait here and are counted many at a time: one by one they would cost ten times as much.
_PENDING = 8192


def _sum_of_squares(ns: NDArray[np.int64]) -> int:
    """Exact although the square of a long duration does not fit into 64 bits."""
    if int(ns.max()) ** 2 * len(ns) < 2**63:
        return int(ns.dot(ns))
    high, low = ns >> 22, ns & (2**22 - 1)
    return (int(high.dot(high)) << 44) + (int(high.dot(low)) << 23) + int(low.dot(low))


class Histogram:
    """Counts of durations in seconds; `count`, `min_s` and `max_s` are exact, `mean_s` and `std_s` to 1 ns.

    Negative values (a clock that was stepped) count as 0. Values must not be NaN.
    """

    __slots__ = ("_count", "_counts", "_max_s", "_min_s", "_pending", "_sum_ns", "_sum_squares_ns2")

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BUCKETS, np.int64)
        self._pending = array("d")
        self._count = 0
        self._min_s = math.inf
        self._max_s = 0.0
        self._sum_ns = 0
        self._sum_squares_ns2 = 0

    def record(self, value_s: float) -> None:
        """Count one duration."""
        self._pending.append(value_s)
        if len(self._pending) >= _PENDING:
            self._fold()

    def record_many(self, values_s: Iterable[float] | NDArray[np.float64]) -> None:
        """Count many durations; an array of doubles is the quickest."""
        if isinstance(values_s, np.ndarray):
            self._pending.frombytes(values_s.tobytes())
        else:
            self._pending.extend(values_s if isinstance(values_s, array) else array("d", values_s))
        if len(self._pending) >= _PENDING:
            self._fold()

    def _fold(self) -> None:
        """Count what waits in `_pending`."""
        if not self._pending:
            return
        values = np.maximum(np.frombuffer(self._pending), 0.0)
        self._pending = array("d")
        self._count += len(values)
        self._min_s = min(self._min_s, float(values.min()))
        self._max_s = max(self._max_s, float(values.max()))
        np.minimum(values, HIGHEST_S, out=values)
        np.add.at(self._counts, np.maximum(_double_bits(values) - _BELOW, 0), 1)
        for start in range(0, len(values), _SUMMABLE):
            ns = np.rint(values[start : start + _SUMMABLE] * 1e9).astype(np.int64)
            self._sum_ns += int(ns.sum())
            self._sum_squares_ns2 += _sum_of_squares(ns)

    def merge(self, other: "Histogram") -> None:
        """Add all values of `other`, which stays as it is."""
        self._fold()
        other._fold()
        self._counts += other._counts
        self._count += other._count
        self._min_s = min(self._min_s, other._min_s)
        self._max_s = max(self._max_s, other._max_s)
        self._sum_ns += other._sum_ns
        self._sum_squares_ns2 += other._sum_squares_ns2

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return self._count + len(self._pending)

    @property
    def min_s(self) -> float | None:
        """The smallest duration, exact; None when empty."""
        self._fold()
        return self._min_s if self._count else None

    @property
    def max_s(self) -> float | None:
        """The largest duration, exact even above the top bucket; None when empty."""
        self._fold()
        return self._max_s if self._count else None

    @property
    def sum_s(self) -> float:
        """The sum of all durations, each rounded to 1 ns and taken as 10 000 s at most."""
        self._fold()
        return self._sum_ns / _NS

    @property
    def mean_s(self) -> float | None:
        """The mean; None when empty."""
        self._fold()
        return self._sum_ns / self._count / _NS if self._count else None

    @property
    def std_s(self) -> float | None:
        """The standard deviation of the population (numpy's `ddof=0`); None when empty."""
        self._fold()
        if not self._count:
            return None
        spread = self._count * self._sum_squares_ns2 - self._sum_ns**2
        return math.sqrt(spread) / self._count / _NS

    def value_at_rank(self, rank: int) -> float:
        """The value of the `rank`-th smallest duration (from 0), within 0.1 %, or 1 us below 1 us.

        IndexError when there is no such rank.
        """
        return self._values_at((rank,))[0]

    def percentile(self, q: float) -> float | None:
        """The `q`-th percentile (0..100) by numpy's linear rule over the buckets' values; None when empty."""
        if not self.count:
            return None
        position = (self.count - 1) * q / 100
        rank = math.floor(position)
        low, high = self._values_at((rank, min(rank + 1, self.count - 1)))
        return low + (high - low) * (position - rank)

    def _values_at(self, ranks: tuple[int, ...]) -> list[float]:
        self._fold()
        if not all(0 <= rank < self._count for rank in ranks):
            raise IndexError(f"ranks {ranks} of a histogram of {self._count} values")
        buckets = np.searchsorted(np.cumsum(self._counts), ranks, side="right")
        return [min(max(_value_s(int(bucket)), self._min_s), self._max_s) for bucket in buckets]

    def buckets(self) -> list[tuple[float, int]]:
        """Each bucket that holds something, in order: (its upper edge in seconds, how many it holds)."""
        self._fold()
        used = np.flatnonzero(self._counts)
        upper_edges_s = ((used + _BELOW + 1) << _DROPPED_BITS).view(np.float64)
        return list(zip(upper_edges_s.tolist(), self._counts[used].tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Small, exact and fit for MessagePack; `from_dict` gives the same histogram back."""
        self._fold()
        used = np.flatnonzero(self._counts)
        first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        return {
            "first": first,
            "counts": pack(self._counts[first:end]),
            "min_s": self.min_s,
            "max_s": self.max_s,
            # May be more than the 64 bits that MessagePack takes.
            "sum_ns": str(self._sum_ns),
            "sum_squares_ns2": str(self._sum_squares_ns2),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The histogram that `to_dict` described."""
        histogram = cls()
        counts = unpack_ints(data["counts"])
        histogram._counts[data["first"] : data["first"] + len(counts)] = counts
        histogram._count = int(counts.sum())
        if histogram._count:
            histogram._min_s, histogram._max_s = data["min_s"], data["max_s"]
        histogram._sum_ns = int(data["sum_ns"])
        histogram._sum_squares_ns2 = int(data["sum_squares_ns2"])
        return histogram


def _edge_s(bits: int) -> float:
    return float(np.array([bits << _DROPPED_BITS]).view(np.float64)[0])


def _value_s(bucket: int) -> float:
    """The middle of a bucket; 0 for the bucket of zeros."""
    return (_edge_s(bucket + _BELOW) + _edge_s(bucket + _BELOW + 1)) / 2 if bucket else 0.0
