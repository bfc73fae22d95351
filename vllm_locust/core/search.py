"""Which load to probe next, to find the largest one that meets all objectives; and what was found.

Rule: everything follows from the probes so far, in their order; nothing else is remembered.

    grow      double from the start until a level misses, or the limit has met
    shrink    a start that misses: halve, down to 1 user, or a 64th of the start for rates
    narrow    halve the gap between the largest level that met and the smallest that missed (by the geometric
              mean while they are more than a factor of 2 apart), until it is 1 user or the resolution

The way there goes by the likelier outcome of each probe. Only the two levels that the answer then rests on
are worth more time: one that the intervals left open is probed again, three times in all at most, and a miss
that caps the search all alone, with no miss above it, once: a passing hiccup must not halve the answer. If
that turns the level round, the search goes on from there.

All probes of a level count together (`evidence.pool`: their counts, not their groups, so that a probe is
small enough to be written down). Probes that contradict each other though each was sure are no longer samples
of one thing: most of them decide, in doubt the miss, and the level is `close`. Should a level miss below one
that met, both are probed once more, the lower first; if they stand by it the lower is believed.

A probe whose client was `invalid` says nothing about the server. It is repeated once; if that is invalid too
the search ends, with what it knows, at the client's limit. A server that collapses has missed, is not asked
that much again, and is approached by quarters of the gap from below; two collapses in a row, or one at the
start, end the search.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_locust.core.evidence import Evidence, Finding, pool
from vllm_locust.core.validity import INVALID, VALID, Verdict
from vllm_locust.errors import UsageError

Ended = Literal["running", "narrowed", "limit", "none", "client", "collapsed", "probes"]
"""Why a search is over: the edge is found; the limit met; nothing met; then what stopped it before that."""

MAX_PROBES = 40
"""No search goes on beyond these, whatever happens."""

_ASKED_AT_MOST = 3
_SMALLEST_SHARE_OF_START = 1 / 64


@dataclass(frozen=True, slots=True)
class Probe:
    """One stretch of load at one level, and what it said."""

    level: float
    evidence: Evidence
    """Concluded: nothing in it is open."""
    client: Verdict = VALID
    client_reasons: tuple[str, ...] = ()
    collapsed: str | None = None
    """The sentence of `evidence.collapsed`, when the server broke down."""
    requests: int = 0
    seconds: float = 0.0
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """Of the summary, to be shown beside the objectives: `request_throughput`, `output_throughput`, ..."""

    @property
    def outcome(self) -> str:
        """`invalid`, `collapsed`, `met` or `missed`."""
        if self.client == INVALID:
            return INVALID
        return "collapsed" if self.collapsed else self.evidence.outcome

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "level": self.level,
            "outcome": self.outcome,
            "close": self.evidence.close,
            "requests": self.requests,
            "seconds": self.seconds,
            "client": self.client,
            "client_reasons": list(self.client_reasons),
            "collapsed": self.collapsed,
            "findings": [finding.to_dict() for finding in self.evidence.findings],
            "numbers": dict(self.numbers),
        }


@dataclass(frozen=True, slots=True)
class Level:
    """What all probes of one level say together; `outcome` is None while no client could tell."""

    level: float
    asked: int
    """How often it was probed."""
    outcome: Literal["met", "missed"] | None = None
    close: bool = False
    collapsed: str | None = None
    final: bool = False
    """Nothing that another probe sees can turn this miss round."""
    findings: tuple[Finding, ...] = ()
    missed: tuple[Finding, ...] = ()
    """Those of the findings that missed, worst first."""

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "level": self.level,
            "outcome": self.outcome,
            "close": self.close,
            "probes": self.asked,
            "collapsed": self.collapsed,
            "findings": [finding.to_dict() for finding in self.findings],
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """The largest load that met all objectives, as far as is known, and how that came to be known."""

    level: float | None
    """The largest level that met, below every level that missed; None when none did."""
    missed_at: float | None
    """The smallest level that missed; None when none did."""
    close: bool
    """One of these two hangs on what the sample could not tell."""
    ended: Ended
    reason: str
    """Why the search ended, in words."""
    client_limit: float | None
    """The level at which the client could not measure any more."""
    collapsed: str | None
    """What the server broke down with at `missed_at`."""
    broke_first: tuple[Finding, ...]
    """The objectives that `missed_at` missed, worst first."""
    levels: tuple[Level, ...]
    """Every level probed, in ascending order."""
    probes: tuple[Probe, ...]
    """In order of time."""

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON: the block `capacity` of a summary."""
        return {
            "level": self.level,
            "missed_at": self.missed_at,
            "close": self.close,
            "ended": self.ended,
            "reason": self.reason,
            "client_limit": self.client_limit,
            "collapsed": self.collapsed,
            "broke_first": [finding.to_dict() for finding in self.broke_first],
            "levels": [level.to_dict() for level in self.levels],
            "probes": [probe.to_dict() for probe in self.probes],
        }


@dataclass(frozen=True, slots=True)
class _Step:
    """The level to probe next, or None and why there is none."""

    level: float | None
    ended: Ended = "running"
    reason: str = "the search has not ended"


class CapacitySearch:
    """Ask for `next_level`, probe it, `take` the probe; until there is no next level. Then read `answer`."""

    def __init__(
        self, start: float = 1, limit: float = math.inf, whole: bool = True, resolution: float = 0.05
    ) -> None:
        """`whole` levels are users, others are rates. UsageError names what is impossible."""
        _check(start, limit, whole, resolution)
        self._start = int(start) if whole else start
        self._limit = int(limit) if whole and limit < math.inf else limit
        self._whole = whole
        self._resolution = resolution
        self._probes: list[Probe] = []
        self._levels: dict[float, Level] = {}

    def next_level(self) -> float | None:
        """The level to probe next, None when the search is over; asking changes nothing."""
        return self._next().level

    def take(self, probe: Probe) -> None:
        """Learn from a probe, also of a level not asked for; ValueError while its evidence is open."""
        if probe.evidence.outcome == "open":
            raise ValueError("a probe must be concluded before the search can learn from it")
        self._probes.append(probe)
        same = [known for known in self._probes if known.level == probe.level]
        self._levels[probe.level] = _together(probe.level, same)

    @property
    def answer(self) -> Answer:
        """What is known by now; at any time, also when the search was broken off."""
        step = self._next()
        low, high = _bracket(self._levels)
        return Answer(
            level=low.level if low else None,
            missed_at=high.level if high else None,
            close=bool((low and low.close) or (high and high.close)),
            ended=step.ended,
            reason=step.reason,
            client_limit=self._probes[-1].level if step.ended == "client" else None,
            collapsed=high.collapsed if high else None,
            broke_first=high.missed if high else (),
            levels=tuple(self._levels[level] for level in sorted(self._levels)),
            probes=tuple(self._probes),
        )

    def _next(self) -> _Step:
        if not self._probes:
            return _Step(self._start)
        step = self._collapse() or self._invalid() or _conflict(self._levels) or self._walk()
        if step.level is not None and len(self._probes) >= MAX_PROBES:
            return _Step(None, "probes", f"stopped after {MAX_PROBES} probes")
        return step

    def _collapse(self) -> _Step | None:
        """The end of the search when the server breaks down again and again."""
        last = self._probes[-1]
        if last.outcome != "collapsed":
            return None
        told = [probe for probe in self._probes if probe.outcome != INVALID]
        if last.level == self._start and len(told) == 1:
            return _Step(None, "collapsed", f"the server broke down at once, at {_number(last.level)}")
        if len(told) > 1 and told[-2].outcome == "collapsed":
            return _Step(None, "collapsed", "the server broke down twice in a row")
        return None

    def _invalid(self) -> _Step | None:
        """Once more, or the end of the search, after a probe whose client could not measure."""
        last = self._probes[-1]
        level = self._levels[last.level]
        if last.outcome != INVALID or level.outcome is not None:
            return None
        if level.asked < 2:
            return _Step(last.level)
        why = f": {last.client_reasons[0]}" if last.client_reasons else ""
        return _Step(
            None,
            "client",
            f"at {_number(last.level)} the client could not measure any more, which says nothing about the "
            f"server{why}",
        )

    def _walk(self) -> _Step:
        """Grow, shrink or narrow; at the end of that, look once more at what the answer rests on."""
        low, high = _bracket(self._levels)
        level = self._way(low, high)
        if level is not None:
            return _Step(level)
        for end in (low, high):
            if end is not None and _worth_repeating(end, self._levels):
                return _Step(end.level)
        return self._over(low, high)

    def _way(self, low: Level | None, high: Level | None) -> float | None:
        """The next level by the levels known, None when they suffice."""
        if low is None:
            return self._start if high is None else self._below(high.level)
        if high is None:
            return min(2 * low.level, self._limit) if low.level < self._limit else None
        if high.level - low.level <= max(1 if self._whole else 0, self._resolution * low.level):
            return None
        return self._between(low.level, high)

    def _below(self, level: float) -> float | None:
        if self._whole:
            return int(level) // 2 or None
        return level / 2 if level / 2 >= self._start * _SMALLEST_SHARE_OF_START else None

    def _between(self, low: float, high: Level) -> float:
        if high.collapsed:
            middle = low + (high.level - low) / 4
        elif high.level > 2 * low:
            middle = math.sqrt(low * high.level)
        else:
            middle = (low + high.level) / 2
        return min(max(round(middle), int(low) + 1), math.ceil(high.level) - 1) if self._whole else middle

    def _over(self, low: Level | None, high: Level | None) -> _Step:
        if low is None:
            return _Step(None, "none", f"even {_number(high.level) if high else 'nothing'} missed")
        if high is None:
            return _Step(None, "limit", f"the limit of {_number(low.level)} met all objectives")
        return _Step(None, "narrowed", f"{_number(low.level)} met and {_number(high.level)} missed")


def _check(start: float, limit: float, whole: bool, resolution: float) -> None:
    problems = []
    if whole and not (start >= 1 and float(start).is_integer()):
        problems.append(f"The search must start from a whole number of users, 1 at least, not {start:g}")
    elif not 0 < start < math.inf:
        problems.append(f"The search must start from a rate above 0, not {start:g}")
    if not limit >= start:
        problems.append(f"The search cannot end at {limit:g} when it starts from {start:g}")
    if not 0 < resolution < 1:
        problems.append(f"The resolution of the search must lie between 0 and 1, not {resolution:g}")
    if problems:
        raise UsageError(*problems)


def _together(level: float, probes: list[Probe]) -> Level:
    """One verdict on a level from all of its probes, which are one at least."""
    told = [probe for probe in probes if probe.outcome != INVALID]
    if not told:
        return Level(level, len(probes))
    pooled = pool([probe.evidence for probe in told])
    collapse = next((probe.collapsed for probe in told if probe.collapsed), None)
    outcome, close = pooled.outcome, pooled.close
    sure = [probe.evidence.outcome for probe in told if not probe.evidence.close]
    if collapse:
        outcome, close = "missed", False
    elif len(set(sure)) == 2 and not pooled.final:
        outcome, close = "met" if sure.count("met") > sure.count("missed") else "missed", True
        pooled = pool([probe.evidence for probe in told if probe.evidence.outcome == outcome])
    return Level(
        level,
        len(probes),
        "met" if outcome == "met" else "missed",
        close,
        collapse,
        pooled.final,
        pooled.findings,
        pooled.missed,
    )


def _bracket(levels: Mapping[float, Level]) -> tuple[Level | None, Level | None]:
    """The smallest level that missed, and the largest below it that met."""
    missed = [level for level, known in levels.items() if known.outcome == "missed"]
    high = min(missed, default=math.inf)
    met = [level for level, known in levels.items() if known.outcome == "met" and level < high]
    return levels[max(met)] if met else None, levels[high] if missed else None


def _conflict(levels: Mapping[float, Level]) -> _Step | None:
    """Two levels in the wrong order, each known from one probe: once more, the lower first."""
    _, lower = _bracket(levels)
    higher = max((level for level, known in levels.items() if known.outcome == "met"), default=-math.inf)
    if lower is None or lower.collapsed or higher < lower.level:
        return None
    for known in (lower, levels[higher]):
        if known.asked == 1 and not known.final:
            return _Step(known.level)
    return None


def _worth_repeating(end: Level, levels: Mapping[float, Level]) -> bool:
    """Whether one more probe of an end of the bracket may change the answer."""
    if end.collapsed or end.final:
        return False
    if end.close:
        return end.asked < _ASKED_AT_MOST
    others = [known for level, known in levels.items() if level > end.level]
    alone = all(known.outcome != "missed" for known in others)
    return end.outcome == "missed" and alone and end.asked == 1


def _number(level: float) -> str:
    return f"{level:.6g}"
