"""The requests that an objective on a percentile or a maximum is about: which were inside, and which may be.

Rule: each answered request is a trial, and each failed one is a trial outside. A request is inside when its
latency holds the bound; the client's own error (`core.latencies`) makes that sure or only possible, so there
is a least and a most of those inside, and what was measured lies between. So do requests that perhaps ended
on the other side of a border of the window (`perhaps_there`, `perhaps_gone`).

A hiccup is one short stretch of time, a twentieth of the window, through which three quarters of the
requests outside were under way, and without whose requests, half of all at most, the objective would be met.
Of gaps between tokens it is the same, each request with as much weight as it has gaps; it can be told where
the recording counted long ones for each stream (`limits_of`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.latencies import Rounded, ends_of
from vllm_locust.core.long_gaps import Limit
from vllm_locust.core.percentile import percentile
from vllm_locust.core.share import FEWEST, design_effect
from vllm_locust.core.slo import Slo
from vllm_locust.core.summary import FROM_PLAN

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

_GAPS = ("itl", "itl_per_token")
# Statistics that ask for a share of the requests without being called a percentile.
_AS_PERCENTILE = {"median": 50.0, "max": 100.0}
_STRETCH_SHARE = 0.05
_MOST_OF_THOSE_OUTSIDE = 0.75
_FEWEST_OF_A_HICCUP = 5


@dataclass(frozen=True, slots=True)
class Latencies:
    """One family in ms, by time of end: as measured, the ends of the truth; when requests were sent."""

    measured: Numbers
    low: Numbers
    high: Numbers
    sent_s: Numbers


@dataclass(frozen=True, slots=True)
class Hiccup:
    """Requests outside, or gaps of requests, that were under way in one stretch of time."""

    outside: int
    of: int
    seconds: float
    what: str = "requests"

    def __str__(self) -> str:
        those = f"{self.outside} of the {self.of} {self.what} outside"
        return f"{those} were under way in one stretch of {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Trials:
    """What is counted for one objective."""

    value_ms: float | None
    """Of the answered requests, as in the summary."""
    count: int
    worth: float
    """How many independent ones they are worth, see `core.share`."""
    inside: float
    least: float
    most: float
    needed: float
    failed: int
    worth_known: bool
    """Whether there were enough to tell."""
    hiccup: Hiccup | None = None


def limits_of(slos: Iterable[Slo]) -> tuple[Limit, ...]:
    """The gaps that a recording must count, so that it can be told when those outside were."""
    limits = (Limit(slo.family, slo.bound / 1000) for slo in slos if slo.family in _GAPS)
    return tuple(dict.fromkeys(limits))


def trials_of(slo: Slo, group: Group, latencies: Mapping[str, Latencies]) -> Trials | None:
    """Those of a percentile or a maximum; None for any other objective."""
    trials = _as_if_certain(slo, group, latencies)
    if trials is None:
        return None
    least, most = trials.least, trials.most
    if (border := group.perhaps_inside) and (those := _as_if_certain(slo, border, latencies_ms(border))):
        down, up = perhaps_there(those.least, those.most, those.count, trials.needed)
        least, most = least - down, most + up
    if (border := group.perhaps_outside) and (those := _as_if_certain(slo, border, latencies_ms(border))):
        down, up = perhaps_gone(those.least, those.most, those.count, trials.needed)
        least, most = least - down, most + up
    return replace(trials, least=least, most=most)


def perhaps_there(least: float, most: float, count: int, needed: float) -> tuple[float, float]:
    """How many fewer and how many more than without them are inside, if some of `count` requests are there.

    By the share that is `needed` of those that were counted before: so one that holds counts for
    `1 - needed`, and one that does not takes `needed` away.
    """
    return needed * (count - least), (1 - needed) * most


def perhaps_gone(least: float, most: float, count: int, needed: float) -> tuple[float, float]:
    """The same, if some of `count` requests that were counted are not there."""
    return (1 - needed) * least, needed * (count - most)


def _as_if_certain(slo: Slo, group: Group, latencies: Mapping[str, Latencies]) -> Trials | None:
    """As if it were certain which requests are in the window."""
    q = slo.percentile or _AS_PERCENTILE.get(slo.key.partition("_")[0])
    if slo.family is None or q is None or slo.op not in ("<", "<="):
        return None
    if slo.family in latencies:
        return _one_by_one(slo, q, latencies[slo.family], group)
    if slo.family in _GAPS:
        return _of_gaps(slo, q, group, latencies["tpot"])
    return None


def _one_by_one(slo: Slo, q: float, latencies: Latencies, group: Group) -> Trials:
    holds = _holds(slo, latencies.measured)
    count = len(holds) + group.failed_in_window
    least, most = _holds(slo, latencies.high).sum(), _holds(slo, latencies.low).sum()
    effect = _effect(latencies.measured, holds)
    return Trials(
        percentile(latencies.measured, q),
        count,
        count / effect,
        float(holds.sum()),
        float(least),
        float(most),
        q / 100,
        group.failed_in_window,
        len(holds) >= FEWEST,
        _hiccup(
            _with_failed(_Times(latencies.sent_s + latencies.measured / 1000, latencies.sent_s), group),
            np.append(~holds, np.ones(group.failed_in_window)),
            np.ones(count),
            q / 100,
        ),
    )


def _of_gaps(slo: Slo, q: float, group: Group, tpot: Latencies) -> Trials:
    """The gaps of one stream share its fate: a stream is one trial, by the share of all gaps inside."""
    if slo.family == "itl":
        gaps, low, high, error_s = group.itl, group.itl_low, group.itl_high, 0.0
    else:  # see `latencies.families_of`: a part of a gap is off by no more than the gap that is off most
        gaps = low = high = group.itl_per_token
        error_s = group.itl_bound.max_s or 0.0
    value_s = gaps.max_s if q == 100 else gaps.percentile(q)
    count = group.streams + group.failed_in_window
    # The histogram knows no order of time; the mean gaps of the streams do.
    effect = _effect(tpot.measured, np.ones(len(tpot.measured), np.bool_))
    return Trials(
        None if value_s is None else value_s * 1000,
        count,
        count / effect,
        group.streams * _share_inside(slo, gaps),
        group.streams * _share_inside(slo, high, 1, error_s),
        group.streams * _share_inside(slo, low, -1, error_s),
        q / 100,
        group.failed_in_window,
        len(tpot.measured) >= FEWEST,
        _hiccup_of_gaps(Limit(slo.family or "", slo.bound / 1000), group, q / 100),
    )


def _hiccup_of_gaps(limit: Limit, group: Group, needed: float) -> Hiccup | None:
    """Of a failed request no gap is known: all that a stream has on average count as outside."""
    streams = group.long_gaps.get(limit)
    if not streams or not streams.gaps:
        return None
    times = _with_failed(_Times(np.asarray(streams.ended_s), np.asarray(streams.sent_s)), group)
    failed = np.full(group.failed_in_window, np.mean(streams.gaps))
    outside, gaps = np.append(streams.long, failed), np.append(streams.gaps, failed)
    hiccup = _hiccup(times, outside, gaps, needed)
    return hiccup and replace(hiccup, what="gaps")


def hiccup_of_failures(group: Group, needed: float) -> Hiccup | None:
    """The one short stretch of time of the failures in the window, if there is one."""
    outside = np.append(np.zeros(len(group.ok_ended_s)), np.ones(group.failed_in_window))
    return _hiccup(_with_failed(_answered(group), group), outside, np.ones(len(outside)), needed)


def latencies_ms(group: Group) -> dict[str, Latencies]:
    """Of the requests that have them, by time of end; from the plan also of those that were never sent."""
    answered = _answered(group)
    unsent_s, waited_s = np.asarray(group.unsent_ended_s), np.asarray(group.unsent_wait_s)
    all_planned = _Times(
        np.append(answered.ended_s, unsent_s), np.append(answered.sent_s, unsent_s - waited_s)
    )
    known = {}
    for name, ends in ends_of(group).items():
        times = all_planned if name in FROM_PLAN else answered
        order = np.argsort(times.ended_s, kind="stable")
        order = order[~np.isnan(ends.measured_s[order])]
        high_s = ends.high_s.copy()
        high_s[len(answered.ended_s) :] = np.inf  # who knows how long it would have taken
        known[name] = Latencies(
            ends.measured_s[order] * 1000, ends.low_s[order] * 1000, high_s[order] * 1000, times.sent_s[order]
        )
    return known


@dataclass(frozen=True, slots=True)
class _Times:
    ended_s: Numbers
    sent_s: Numbers


def _holds(slo: Slo, values_ms: Numbers) -> Flags:
    return values_ms < slo.bound if slo.op == "<" else values_ms <= slo.bound


def _effect(values_ms: Numbers, inside: Flags) -> float:
    """The design effect, where values that differ by less than 1 us are equal, as floats never are."""
    return design_effect(np.round(values_ms, 3), inside)


def _share_inside(slo: Slo, gaps: Histogram, sign: int = 0, error_s: float = 0.0) -> float:
    """The share of the gaps that hold the bound, each as far off as it may be in the direction of `sign`."""
    if not gaps.count or gaps.max_s is None:
        return 0.0
    rounded = Rounded(gaps, sign)

    def gap_ms(rank: int) -> float:
        return (rounded.value_at_rank(rank) + sign * error_s) * 1000

    find = bisect_left if slo.op == "<" else bisect_right
    inside = find(range(gaps.count), slo.bound, key=gap_ms)
    # Of the largest gap alone the histogram knows exactly how long it was.
    all_hold = slo.holds((gaps.max_s + sign * error_s) * 1000)
    return 1.0 if all_hold else min(inside, gaps.count - 1) / gaps.count


def _answered(group: Group) -> _Times:
    ended_s = np.asarray(group.ok_ended_s)
    return _Times(ended_s, ended_s - np.asarray(group.e2el_s))


def _with_failed(those: _Times, group: Group) -> _Times:
    """When some requests were under way, and behind them the failed ones."""
    return _Times(
        np.append(those.ended_s, group.failed_ended_s), np.append(those.sent_s, group.failed_began_s)
    )


def _hiccup(under_way: _Times, outside: Numbers, weights: Numbers, needed: float) -> Hiccup | None:
    """The stretch of the module's docstring, if there is one; `outside` is a part of each one's weight."""
    those = outside > 0
    beyond, all_of_them = outside.sum(), weights.sum()
    if beyond < _FEWEST_OF_A_HICCUP or all_of_them - beyond >= needed * all_of_them:
        return None
    began_s, ended_s = under_way.sent_s, under_way.ended_s
    length_s = _STRETCH_SHARE * float(ended_s.max() - began_s.min())
    at_s = _busiest(began_s[those] - length_s, ended_s[those], outside[those])
    during = (began_s <= at_s + length_s) & (ended_s >= at_s)
    there, rest = outside[during].sum(), weights[~during].sum()
    passed = beyond - there <= (1 - needed) * rest
    if passed and there >= _MOST_OF_THOSE_OUTSIDE * beyond and 2 * rest >= all_of_them:
        return Hiccup(round(there), round(beyond), length_s)
    return None


def _busiest(starts_s: Numbers, ends_s: Numbers, weights: Numbers) -> float:
    """A moment at which most of some intervals are under way: it may be taken as one of their starts."""
    by_start, by_end = np.argsort(starts_s), np.argsort(ends_s)
    over = np.append(0.0, weights[by_end].cumsum())
    ended = over[np.searchsorted(ends_s[by_end], starts_s[by_start], side="left")]
    under_way = weights[by_start].cumsum() - ended
    return float(starts_s[by_start[under_way.argmax()]])
