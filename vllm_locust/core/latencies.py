"""The latencies of some requests, and the ends between which they truly lie.

Rule: event i came at `arrival_i` at the latest and `bound_i` earlier at the earliest, and nothing else is
supposed of it (`RequestRecord.bounds_s`). So each latency has a low and a high end, neither below 0:

    TTFT    [ttft - first_bound, ttft]
    E2EL    [e2el - last_bound, e2el]
    TPOT    [tpot - last_bound / (tokens - 1), tpot + first_bound / (tokens - 1)]
    a gap   [gap - bound_i, gap + bound_(i-1)]

A mean, a percentile and a maximum can only grow with the values that they are made of. In truth each of them
lies between that of all low ends and that of all high ends, whatever the distribution. A standard deviation
moves by the root mean square of the errors at most. The mean of all gaps is known better than any of them:
an event that came earlier leaves the gap behind it what it takes from the one before, so that only the first
and the last event of each answer count.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.percentile import percentile_of_sorted


class Sample(Protocol):
    """Durations in seconds; None where there are none. Exact `Values` or a `Histogram`."""

    @property
    def mean_s(self) -> float | None: ...
    @property
    def std_s(self) -> float | None: ...
    @property
    def max_s(self) -> float | None: ...
    def percentile(self, q: float) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Values:
    """Durations one by one."""

    ordered_s: NDArray[np.float64]

    @classmethod
    def of(cls, values_s: NDArray[np.float64]) -> Self:
        """In any order; undefined ones (NaN) are left out."""
        return cls(np.sort(values_s[~np.isnan(values_s)]))

    @property
    def mean_s(self) -> float | None:
        return float(self.ordered_s.mean()) if len(self.ordered_s) else None

    @property
    def std_s(self) -> float | None:
        return float(self.ordered_s.std()) if len(self.ordered_s) else None

    @property
    def max_s(self) -> float | None:
        return float(self.ordered_s[-1]) if len(self.ordered_s) else None

    def percentile(self, q: float) -> float | None:
        return percentile_of_sorted(self.ordered_s, q)


@dataclass(frozen=True, slots=True)
class Shifted:
    """Durations that are all larger, or smaller, by so much, and none below 0."""

    sample: Sample
    by_s: float

    @property
    def mean_s(self) -> float | None:
        return self._shift(self.sample.mean_s)

    @property
    def std_s(self) -> float | None:
        return self.sample.std_s

    @property
    def max_s(self) -> float | None:
        return self._shift(self.sample.max_s)

    def percentile(self, q: float) -> float | None:
        return self._shift(self.sample.percentile(q))

    def _shift(self, value_s: float | None) -> float | None:
        return None if value_s is None else max(value_s + self.by_s, 0.0)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number as measured, and the ends between which it truly lies."""

    value_s: float
    low_s: float
    high_s: float

    @property
    def error_s(self) -> float:
        """How far the number may be off, either way."""
        return max(self.value_s - self.low_s, self.high_s - self.value_s, 0.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of latency: as measured, and the low and the high ends. All numbers None without a value."""

    measured: Sample
    low: Sample
    high: Sample
    mean_error_s: tuple[float, float] | None = None
    """By how much the mean may be too large and too small, where that is known better than from the ends."""
    rms_error_s: float | None = None
    """The root mean square of the largest errors; None where it is not known."""

    @property
    def mean(self) -> Bounded | None:
        mean = _bounded(self.measured.mean_s, self.low.mean_s, self.high.mean_s)
        if mean is None or self.mean_error_s is None:
            return mean
        too_large_s, too_small_s = self.mean_error_s
        return Bounded(
            mean.value_s,
            max(mean.low_s, mean.value_s - too_large_s),
            min(mean.high_s, mean.value_s + too_small_s),
        )

    @property
    def max(self) -> Bounded | None:
        return _bounded(self.measured.max_s, self.low.max_s, self.high.max_s)

    @property
    def std(self) -> Bounded | None:
        std_s = self.measured.std_s
        if std_s is None or self.rms_error_s is None:
            return None
        return Bounded(std_s, max(std_s - self.rms_error_s, 0.0), std_s + self.rms_error_s)

    def percentile(self, q: float) -> Bounded | None:
        return _bounded(self.measured.percentile(q), self.low.percentile(q), self.high.percentile(q))


def _bounded(value_s: float | None, low_s: float | None, high_s: float | None) -> Bounded | None:
    return None if value_s is None or low_s is None or high_s is None else Bounded(value_s, low_s, high_s)


@dataclass(frozen=True, slots=True)
class Ends:
    """One latency per request, in the group's order: as measured, and between which ends it truly lies."""

    measured_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]

    def family(self) -> Family:
        measured, low = Values.of(self.measured_s), Values.of(self.low_s)
        high = measured if self.high_s is self.measured_s else Values.of(self.high_s)
        errors_s = Values.of(np.maximum(self.measured_s - self.low_s, self.high_s - self.measured_s))
        return Family(measured, low, high, rms_error_s=_rms(errors_s))


def ends_of(group: Group) -> dict[str, Ends]:
    """Of the latencies that each request has one of; an undefined TPOT is NaN."""
    ttft, e2el = np.asarray(group.ttft_s), np.asarray(group.e2el_s)
    first, last = np.asarray(group.first_bound_s), np.asarray(group.last_bound_s)
    tpot, later_tokens = group.tpot_s(), np.maximum(np.asarray(group.output_tokens) - 1, 1)
    unsent = np.zeros(len(group.unsent_wait_s))  # their wait is no stamp
    return {
        "ttft": _too_late(ttft, first),
        "tpot": Ends(tpot, np.maximum(tpot - last / later_tokens, 0.0), tpot + first / later_tokens),
        "e2el": _too_late(e2el, last),
        "ttft_from_plan": _too_late(group.ttft_from_plan_s(), np.append(first, unsent)),
        "e2el_from_plan": _too_late(group.e2el_from_plan_s(), np.append(last, unsent)),
    }


def _too_late(measured_s: NDArray[np.float64], by_s: NDArray[np.float64]) -> Ends:
    """A stamp may be late and never early."""
    return Ends(measured_s, measured_s - by_s, measured_s)


def families_of(group: Group) -> dict[str, Family]:
    """All latencies of which the error is known, by the names of `core.summary.FAMILIES`."""
    return {name: ends.family() for name, ends in ends_of(group).items()} | {
        "itl": itl_family(
            group.itl,
            group.itl_low,
            group.itl_high,
            group.itl_bound,
            first_bounds_s=math.fsum(group.first_bound_s),
            last_bounds_s=math.fsum(group.last_bound_s),
        ),
        "itl_per_token": _per_token(group.itl_per_token, group.itl_bound.max_s or 0.0),
    }


def _per_token(gaps: Histogram, most_s: float) -> Family:
    """A part of a gap is off by no more than the gap, and no gap by more than the one that is off most."""
    return Family(gaps, Shifted(gaps, -most_s), Shifted(gaps, most_s), rms_error_s=most_s)


def itl_family(
    itl: Histogram,
    low: Histogram,
    high: Histogram,
    bound: Histogram,
    *,
    first_bounds_s: float,
    last_bounds_s: float,
) -> Family:
    """Gaps, with the sums of the bounds of the first and of the last events of their answers."""
    count = itl.count
    mean_error_s = (last_bounds_s / count, first_bounds_s / count) if count else None
    return Family(itl, low, high, mean_error_s, _rms(bound))


def _rms(errors: Sample) -> float | None:
    mean_s, std_s = errors.mean_s, errors.std_s
    return None if mean_s is None or std_s is None else float(np.hypot(mean_s, std_s))
