"""The latencies of some requests, and the ends between which they truly lie.

Rule: event i came at `arrival_i` at the latest and `bound_i` earlier at the earliest, and nothing else is
supposed of it (`RequestRecord.bounds_s`). A request was on its way `send_bound` later than it says, at the
latest. So each latency has a low and a high end, neither below 0:

    TTFT    [ttft - first_bound - send_bound, ttft]
    E2EL    [e2el - last_bound - send_bound, e2el]
    from the intended start, which was `intended_bound` earlier than it says at the earliest:
    TTFT    [ttft - first_bound, ttft + intended_bound]
    E2EL    [e2el - last_bound, e2el + intended_bound]
    TPOT    [tpot - last_bound / (tokens - 1), tpot + first_bound / (tokens - 1)]
    a gap   [gap - bound_i, gap + bound_(i-1)]

A mean, a percentile and a maximum can only grow with the values that they are made of. In truth each of them
lies between that of all low ends and that of all high ends, whatever the distribution. A standard deviation
moves by the root mean square of the errors at most, and is half of the largest value at most (T. Popoviciu,
Mathematica 9, 1935). The mean of all gaps is known better than any of them:
an event that came earlier leaves the gap behind it what it takes from the one before, so that only the first
and the last event of each answer count.

An answer in one piece has no TPOT and no gaps. Where that may be so because it was read late
(`RequestRecord.perhaps_read_late`) it may have had some: they are not among what was measured, but the low
ends take them as 0, and the high ends as large as they may be, or as not there if that is higher.

Requests that by their bounds may have ended on the other side of a border of the window are there or not.
Whichever of them are, with `n` others, order statistic `i` from below is not lower than that of all together,
and `i` from above not higher.

A histogram's percentiles have an error of their own, which the ends of those of gaps allow for.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import Group
from vllm_locust.core.histogram import LOWEST_S, RELATIVE_ERROR, Histogram
from vllm_locust.core.percentile import percentile_of_sorted


class Sample(Protocol):
    """Durations in seconds; None where there are none. Exact `Values` or a `Histogram`."""

    @property
    def count(self) -> int: ...
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
    def count(self) -> int:
        return len(self.ordered_s)

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
    def count(self) -> int:
        return self.sample.count

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
class Rounded:
    """A histogram, its values as far as they may truly lie in the direction of `sign`; 0 is as they are."""

    gaps: Histogram
    sign: int

    @property
    def count(self) -> int:
        return self.gaps.count

    @property
    def mean_s(self) -> float | None:
        return self.gaps.mean_s

    @property
    def std_s(self) -> float | None:
        return self.gaps.std_s

    @property
    def max_s(self) -> float | None:
        return self.gaps.max_s

    def percentile(self, q: float) -> float | None:
        value_s = self.gaps.percentile(q)
        return None if value_s is None else self._further(value_s)

    def value_at_rank(self, rank: int) -> float:
        return self._further(self.gaps.value_at_rank(rank))

    def _further(self, value_s: float) -> float:
        least_s, most_s = self.gaps.min_s, self.gaps.max_s
        assert least_s is not None
        assert most_s is not None
        further_s = value_s + self.sign * (value_s * RELATIVE_ERROR + LOWEST_S)
        return min(max(further_s, least_s), most_s)


@dataclass(frozen=True, slots=True)
class Higher:
    """Of two samples the higher number: with durations that perhaps belong there, and without."""

    without: Sample
    among: Sample

    @property
    def count(self) -> int:
        return self.among.count

    @property
    def mean_s(self) -> float | None:
        return _higher(self.without.mean_s, self.among.mean_s)

    @property
    def std_s(self) -> float | None:
        return _higher(self.without.std_s, self.among.std_s)

    @property
    def max_s(self) -> float | None:
        return _higher(self.without.max_s, self.among.max_s)

    def percentile(self, q: float) -> float | None:
        return _higher(self.without.percentile(q), self.among.percentile(q))


@dataclass(frozen=True, slots=True)
class PerhapsThere:
    """Durations of which some are perhaps not there: the least that a number may be, or (`high`) the most."""

    all: Sample
    perhaps: Sample
    """Those of them."""
    high: bool

    @property
    def count(self) -> int:
        return self.all.count

    @property
    def mean_s(self) -> float | None:
        mean_s, surely = self.all.mean_s, self.count - self.perhaps.count
        least_s, most_s = self.all.percentile(0), self.all.max_s
        if mean_s is None or least_s is None or most_s is None or not surely:
            return most_s if self.high else least_s
        if self.high:
            return min(mean_s * self.count / surely, most_s)
        return max(mean_s - (self.perhaps.mean_s or 0.0) * self.perhaps.count / self.count, least_s)

    @property
    def std_s(self) -> float | None:
        return self.all.std_s

    @property
    def max_s(self) -> float | None:
        return self.all.max_s if self.high else self.percentile(100)

    def percentile(self, q: float) -> float | None:
        if self.count < 2:
            return self.all.percentile(q)
        of_all = max(self.count - self.perhaps.count - 1, 0) / (self.count - 1)
        return self.all.percentile(100 - (100 - q) * of_all if self.high else q * of_all)


def _higher(*values_s: float | None) -> float | None:
    return max((value_s for value_s in values_s if value_s is not None), default=None)


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
        if self.rms_error_s is None:
            half_s = None if self.high.max_s is None else self.high.max_s / 2
            return _bounded(std_s, 0.0, half_s)
        if std_s is None:
            return None
        return Bounded(std_s, max(std_s - self.rms_error_s, 0.0), std_s + self.rms_error_s)

    def percentile(self, q: float) -> Bounded | None:
        return _bounded(self.measured.percentile(q), self.low.percentile(q), self.high.percentile(q))


def _bounded(value_s: float | None, low_s: float | None, high_s: float | None) -> Bounded | None:
    return None if value_s is None or low_s is None or high_s is None else Bounded(value_s, low_s, high_s)


@dataclass(frozen=True, slots=True)
class Ends:
    """One latency per request, in the group's order: as measured, and between which ends it truly lies.

    One that is not measured (NaN) and has ends is that of an answer that was perhaps read late.
    """

    measured_s: NDArray[np.float64]
    low_s: NDArray[np.float64]
    high_s: NDArray[np.float64]

    def family(self) -> Family:
        measured, low = Values.of(self.measured_s), Values.of(self.low_s)
        unknown = np.isnan(self.measured_s) & ~np.isnan(self.high_s)
        if unknown.any():
            return Family(measured, low, Higher(Values.of(self.high_s[~unknown]), Values.of(self.high_s)))
        high = measured if self.high_s is self.measured_s else Values.of(self.high_s)
        errors_s = Values.of(np.maximum(self.measured_s - self.low_s, self.high_s - self.measured_s))
        return Family(measured, low, high, rms_error_s=_rms(errors_s))


def ends_of(group: Group) -> dict[str, Ends]:
    """Of the latencies that each request has one of; an undefined TPOT is NaN."""
    ttft, e2el = np.asarray(group.ttft_s), np.asarray(group.e2el_s)
    first, last = np.asarray(group.first_bound_s), np.asarray(group.last_bound_s)
    tpot, later_tokens = np.asarray(group.tpot_s), np.maximum(np.asarray(group.later_tokens), 1)
    unknown = group.unknown_tpot_s()
    unsent = np.zeros(len(group.unsent_wait_s))  # their wait is no stamp
    intended = np.append(group.intended_bound_s, unsent)
    return {
        "ttft": _too_late(ttft, group.ttft_bound_s()),
        "tpot": Ends(
            tpot,
            np.where(np.isnan(unknown), np.maximum(tpot - last / later_tokens, 0.0), 0.0),
            np.where(np.isnan(unknown), tpot + first / later_tokens, unknown),
        ),
        "e2el": _too_late(e2el, group.e2el_bound_s()),
        "ttft_from_plan": _either_way(group.ttft_from_plan_s(), np.append(first, unsent), intended),
        "e2el_from_plan": _either_way(group.e2el_from_plan_s(), np.append(last, unsent), intended),
    }


def _too_late(measured_s: NDArray[np.float64], by_s: NDArray[np.float64]) -> Ends:
    """A stamp may be late and never early."""
    return Ends(measured_s, measured_s - by_s, measured_s)


def _either_way(
    measured_s: NDArray[np.float64], too_large_s: NDArray[np.float64], too_small_s: NDArray[np.float64]
) -> Ends:
    """Both what it ends with and what it begins with may be late."""
    return Ends(measured_s, measured_s - too_large_s, measured_s + too_small_s)


def families_of(group: Group) -> dict[str, Family]:
    """All latencies of which the error is known, by the names of `core.summary.FAMILIES`."""
    families = _as_if_certain(group)
    if group.perhaps_inside is None and group.perhaps_outside is None:
        return families
    everything, perhaps = _as_if_certain(group.widest()), _as_if_certain(group.at_borders())
    return {name: _with_borders(family, everything[name], perhaps[name]) for name, family in families.items()}


def lateness_of(group: Group) -> Family:
    """How late requests were sent, failed ones too."""
    certain = lateness_family(group.lateness, group.lateness_high)
    if group.perhaps_inside is None and group.perhaps_outside is None:
        return certain
    everything, perhaps = (
        lateness_family(some.lateness, some.lateness_high) for some in (group.widest(), group.at_borders())
    )
    return _with_borders(certain, everything, perhaps)


def lateness_family(lateness: Histogram, high: Histogram) -> Family:
    """Sent - intended: the one was not before it says, the other not behind it."""
    return Family(lateness, Rounded(lateness, -1), Rounded(high, 1))


def _with_borders(family: Family, everything: Family, perhaps: Family) -> Family:
    """A family of which those that are `perhaps` there, of `everything` together, may be there or not."""
    return Family(
        family.measured,
        PerhapsThere(everything.low, perhaps.low, high=False),
        _most(everything.high, perhaps.high),
        _mean_error_s(family, everything, perhaps),
    )


def _most(everything: Sample, perhaps: Sample) -> Sample:
    if not isinstance(everything, Higher):
        return PerhapsThere(everything, perhaps, high=True)
    both = perhaps if isinstance(perhaps, Higher) else Higher(perhaps, perhaps)
    return Higher(_most(everything.without, both.without), _most(everything.among, both.among))


def _mean_error_s(family: Family, everything: Family, perhaps: Family) -> tuple[float, float] | None:
    """From means that are known better than from the ends, where there are any."""
    mean, most = family.mean, everything.mean
    count, doubtful = everything.measured.count, perhaps.measured.count
    if everything.mean_error_s is None or mean is None or most is None or count == doubtful:
        return None
    removed_s = (perhaps.mean.high_s if perhaps.mean else 0.0) * doubtful / count
    return mean.value_s - (most.low_s - removed_s), most.high_s * count / (count - doubtful) - mean.value_s


def _as_if_certain(group: Group) -> dict[str, Family]:
    """The same, as if it were certain which requests are in the window."""
    return {name: ends.family() for name, ends in ends_of(group).items()} | {
        "itl": itl_family(
            group.itl,
            group.itl_low,
            group.itl_high,
            group.itl_bound,
            group.itl_unknown,
            first_bounds_s=math.fsum(group.first_bound_s),
            last_bounds_s=math.fsum(group.last_bound_s),
        ),
        "connect": _too_late(np.asarray(group.connect_s), np.asarray(group.connect_bound_s)).family(),
        "itl_per_token": _per_token(
            group.itl_per_token, group.itl_per_token_unknown, group.itl_bound.max_s or 0.0
        ),
    }


def _per_token(gaps: Histogram, unknown: Histogram, most_s: float) -> Family:
    """A part of a gap is off by no more than the gap, and no gap by more than the one that is off most."""
    low: Sample = Shifted(Rounded(_with_zeros(gaps, unknown.count), -1), -most_s)
    high: Sample = Shifted(Rounded(gaps, 1), most_s)
    if not unknown.count:
        return Family(gaps, low, high, rms_error_s=most_s)
    return Family(gaps, low, Higher(high, Shifted(Rounded(_joined(gaps, unknown), 1), most_s)))


def itl_family(
    itl: Histogram,
    low: Histogram,
    high: Histogram,
    bound: Histogram,
    unknown: Histogram,
    *,
    first_bounds_s: float,
    last_bounds_s: float,
) -> Family:
    """Gaps, with the sums of the bounds of the first and of the last events of their answers.

    `unknown` are the most that the gaps may be of answers that were perhaps read late.
    """
    count, mean_s = itl.count, itl.mean_s
    if mean_s is None:
        return Family(itl, low, high)
    least_s = (mean_s * count - last_bounds_s) / (count + unknown.count)
    mean_error_s = (mean_s - least_s, first_bounds_s / count)
    lowest, highest = Rounded(_with_zeros(low, unknown.count), -1), Rounded(high, 1)
    if not unknown.count:
        return Family(itl, lowest, highest, mean_error_s, _rms(bound))
    return Family(itl, lowest, Higher(highest, Rounded(_joined(high, unknown), 1)), mean_error_s)


def _with_zeros(gaps: Histogram, count: int) -> Histogram:
    if not count:
        return gaps
    zeros = Histogram()
    zeros.record_many(np.zeros(count))
    return _joined(gaps, zeros)


def _joined(one: Histogram, other: Histogram) -> Histogram:
    both = Histogram()
    both.merge(one)
    both.merge(other)
    return both


def _rms(errors: Sample) -> float | None:
    mean_s, std_s = errors.mean_s, errors.std_s
    return None if mean_s is None or std_s is None else float(np.hypot(mean_s, std_s))
