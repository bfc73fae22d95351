"""Which load to probe next, to find the largest one that meets all objectives; and what was found.

Rule: everything follows from the probes so far, in their order; nothing else is remembered.

    grow      double from the start until a level misses, or the limit has met
    shrink    a start that misses: halve, down to 1 user, or a 64th of the start for rates
    narrow    halve the gap between the largest level that met and the smallest that missed (by the geometric
              mean while they are more than a factor of 2 apart), until it is 1 user or the resolution

The way there goes by the likelier outcome of each probe. The two levels that the answer then rests on are
worth more time: one that the intervals left open is probed again, three times in all at most, and a miss is
not believed from one probe unless no further request could turn it round: what passes must not cost the
answer. If that turns the level round, the search goes on from there. Then one level in the widest gap below
the answer is probed, once: there may be a bad island. Where the largest level that met is close even so, the
one a step below is probed, to have something certain.

All probes of a level count together (`evidence.pool`: their counts, not their groups, so that a probe is
small enough to be written down), but for what passed: a probe that missed by requests of one short stretch
of time, a hiccup, is repeated at once, and set aside if that does not show it again. Probes that contradict
each other though each was sure are no longer samples of one thing: most of them decide, in doubt the miss,
and the level is `close`. Should a level miss below one that met, both are probed once more, the lower first;
if they stand by it the lower is believed.

A probe whose client could not tell says nothing about the server: the level was not the load, or the client's
own error leaves both outcomes open. It is repeated once; if that cannot tell either the search ends there. A
server that collapses has missed, and is approached by quarters of the gap from below. It is asked that much
again only at the very end, where the answer rests on it, or at once, where that level had met or is the
lowest: a collapse that does not come again passed. After two collapses in a row the largest level that met is
probed, to see whether the server is still there: if not, or if there is none, the search ends.

The answer is `undecided`, with the reason, unless it rests on a level that met for certain, at it or within
two steps below, or even the lowest level missed for certain; and also where only what the client did not see
leaves it open whether an end of the bracket met.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from vllm_locust.core.evidence import pool
from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.validity import VALID, Verdict
from vllm_locust.errors import UsageError

Ended = Literal["running", "narrowed", "limit", "none", "client", "collapsed", "probes"]
"""Why a search is over: the edge is found; the limit met; nothing met; then what stopped it before that."""

MAX_PROBES = 40
"""No search goes on beyond these, whatever happens."""

_ASKED_AT_MOST = 3
_SMALLEST_SHARE_OF_START = 1 / 64
_STEPS_TO_A_CERTAIN_ONE = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """One stretch of load at one level, and what it said."""

    level: float
    evidence: Evidence
    """Concluded: nothing in it is open."""
    client: Verdict = VALID
    client_reasons: tuple[str, ...] = ()
    """Remarks on the client: they decide nothing here."""
    not_the_load: str | None = None
    """Why the load was not that of the level, in words; None when it was."""
    collapsed: str | None = None
    """The sentence of `collapse.collapsed`, when the server broke down."""
    requests: int = 0
    dropped: int = 0
    """Those of the requests that were planned and never sent."""
    seconds: float = 0.0
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """Of the summary, to be shown beside the objectives: `request_throughput`, `output_throughput`, ..."""

    @property
    def cannot_tell(self) -> str | None:
        """Why the probe says nothing about the server, in words."""
        return self.not_the_load or self.evidence.blur

    @property
    def outcome(self) -> str:
        """`invalid` when it cannot tell, else `collapsed`, `met` or `missed`."""
        if self.cannot_tell:
            return "invalid"
        return "collapsed" if self.collapsed else self.evidence.outcome

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "level": self.level,
            "outcome": self.outcome,
            "close": self.evidence.close,
            "few": self.evidence.few,
            "hiccup": self.evidence.hiccup,
            "requests": self.requests,
            "dropped": self.dropped,
            "seconds": self.seconds,
            "client": self.client,
            "client_reasons": list(self.client_reasons),
            "cannot_tell": self.cannot_tell,
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
    few: bool = False
    """It is close for want of requests only: none of them was on the other side."""
    seconds: float = 0.0
    """Of the probes that count."""
    hiccups: tuple[str, ...] = ()
    """What was set aside, in words."""
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
            "few": self.few,
            "probes": self.asked,
            "seconds": self.seconds,
            "hiccups": list(self.hiccups),
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
    certain: float | None
    """The largest level up to that which met beyond doubt; None when none did."""
    close: bool
    """One of `level` and `missed_at` hangs on what the sample could not tell."""
    undecided: str | None
    """Why it cannot be told what the largest load is, in words; None when it can."""
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
            "certain": self.certain,
            "close": self.close,
            "undecided": self.undecided,
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
        certain = self._certain(low)
        return Answer(
            level=low.level if low else None,
            missed_at=high.level if high else None,
            certain=certain,
            undecided=self._undecided(step, low, high, certain),
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
        step = self._collapse() or self._once_more() or _conflict(self._levels) or self._walk()
        if step.level is not None and len(self._probes) >= MAX_PROBES:
            return _Step(None, "probes", f"stopped after {MAX_PROBES} probes")
        return step

    def _collapse(self) -> _Step | None:
        """Whether the server is still there after it broke down again and again; the end when it is not."""
        last = self._probes[-1]
        if last.outcome != "collapsed":
            return None
        told = [probe for probe in self._probes if probe.outcome != "invalid"]
        had_met = any(probe.level == last.level and probe.outcome == "met" for probe in told)
        if len(told) == 1 or told[-2].outcome != "collapsed":
            return _Step(last.level) if had_met or self._below(last.level) is None else None
        if had_met:
            return _Step(
                None, "collapsed", f"the server broke down at {_number(last.level)}, which had met before"
            )
        low, _ = _bracket(self._levels)
        if low is None:
            return _Step(None, "collapsed", f"the server broke down at once, at {_number(last.level)}")
        return _Step(low.level)

    def _once_more(self) -> _Step | None:
        """After a probe that may be no sample of its level: once more; or the end if no client can tell."""
        last = self._probes[-1]
        level = self._levels[last.level]
        if level.outcome is None and level.asked > 1:
            return _Step(None, "client", f"at {_number(last.level)} {last.cannot_tell}")
        doubtful = last.evidence.hiccup and not last.collapsed
        told = [probe for probe in self._probes if probe.level == last.level and probe.outcome != "invalid"]
        return _Step(last.level) if level.outcome is None or (doubtful and len(told) == 1) else None

    def _walk(self) -> _Step:
        """Grow, shrink or narrow; at the end of that, look once more at what the answer rests on."""
        low, high = _bracket(self._levels)
        level = self._way(low, high)
        if level is not None:
            return _Step(level)
        for end in (low, high):
            if end is not None and _worth_repeating(end):
                return _Step(end.level)
        level = self._island(low) or self._firm_ground(low)
        if level is None and high is not None and high.collapsed and high.asked == 1:
            level = high.level
        return self._over(low, high) if level is None else _Step(level)

    def _step_below(self, low: Level) -> float:
        """How far below a level one looks for a certain one."""
        return max(1.0 if self._whole else 0.0, _STEPS_TO_A_CERTAIN_ONE * self._resolution * low.level)

    def _certain(self, low: Level | None) -> float | None:
        met = [level for level, known in self._levels.items() if known.outcome == "met" and not known.close]
        return max((level for level in met if low is not None and level <= low.level), default=None)

    def _firm_ground(self, low: Level | None) -> float | None:
        """A level below one that met closely, to be certain of something; None where that would not help."""
        if low is None or not low.close or low.few:
            return None
        below = low.level - self._step_below(low)
        below = math.ceil(below) if self._whole else below
        certain = self._certain(low)
        if below <= 0 or (certain is not None and certain >= below):
            return None
        known = self._levels.get(below)
        return below if known is None or _worth_repeating(known) else None

    def _island(self, low: Level | None) -> float | None:
        """A level in the widest gap below the answer, if none was probed below one that had met."""
        if low is None or low.few or self._looked_below():
            return None
        known = [*([0] if self._whole else []), *sorted(self._levels)]
        gaps = [(b - a, a, b) for a, b in pairwise(known) if b <= low.level]
        width, a, b = max(gaps, default=(0, 0, 0))
        if width < max(2 if self._whole else 0, 2 * self._resolution * b) or not width:
            return None
        return int(a + b) // 2 if self._whole else (a + b) / 2

    def _looked_below(self) -> bool:
        met = -math.inf
        seen: set[float] = set()
        for probe in self._probes:
            if probe.level < met and probe.level not in seen:
                return True
            seen.add(probe.level)
            if probe.outcome == "met":
                met = max(met, probe.level)
        return False

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

    def _undecided(
        self, step: _Step, low: Level | None, high: Level | None, certain: float | None
    ) -> str | None:
        if step.ended == "running" or not self._levels:
            return "the search was broken off before its end"
        lowest = high is not None and low is None and self._below(high.level) is None
        if step.ended not in ("narrowed", "limit", "none") and not (step.ended == "collapsed" and lowest):
            return step.reason
        if low is None:
            return _doubt(high) if high and high.close else None
        for end in (low, high):
            if end is not None and not end.collapsed and (blur := Evidence(end.findings).blur):
                return f"at {_number(end.level)} {blur}"
        if certain is not None and certain >= low.level - self._step_below(low):
            return None
        return _doubt(low)


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
    told = [probe for probe in probes if probe.outcome != "invalid"]
    if not told:
        return Level(level, len(probes))
    counting, aside = _without_what_passed(told)
    pooled = pool([probe.evidence for probe in counting])
    collapse = next((probe.collapsed for probe in counting if probe.collapsed), None)
    outcome, close = pooled.outcome, pooled.close
    sure = [probe.evidence.outcome for probe in counting if not probe.evidence.close]
    if collapse:
        outcome, close = "missed", False
    elif len(set(sure)) == 2 and not pooled.final:
        outcome, close = "met" if sure.count("met") > sure.count("missed") else "missed", True
        pooled = pool([probe.evidence for probe in counting if probe.evidence.outcome == outcome])
    return Level(
        level,
        len(probes),
        "met" if outcome == "met" else "missed",
        close,
        close and pooled.few,
        sum(probe.seconds for probe in counting),
        aside,
        collapse,
        pooled.final,
        pooled.findings,
        pooled.missed,
    )


def _without_what_passed(told: list[Probe]) -> tuple[list[Probe], tuple[str, ...]]:
    """The probes that count, and in words the trouble of one that does not: twice is the level's own.

    The breakdowns of a server at a level that had met never count: it was gone by then, see `_collapse`.
    """
    troubled = [probe for probe in told if probe.collapsed or probe.evidence.hiccup]
    if len(troubled) == 1 < len(told) and not told[-1].collapsed:
        trouble = troubled[0].collapsed or troubled[0].evidence.hiccup
        return [probe for probe in told if probe is not troubled[0]], (str(trouble),)
    first_met = next((i for i, probe in enumerate(told) if probe.outcome == "met"), len(told))
    return [probe for i, probe in enumerate(told) if not (probe.collapsed and i > first_met)], ()


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


def _worth_repeating(end: Level) -> bool:
    """Whether one more probe of an end of the bracket may change the answer."""
    if end.collapsed or end.final:
        return False
    asked = end.asked - len(end.hiccups)
    return asked < _ASKED_AT_MOST if end.close else end.outcome == "missed" and asked == 1


def _doubt(end: Level) -> str:
    """That the sample could not tell what the answer rests on, and how many requests would."""
    for finding in end.findings:
        if finding.of_nothing:
            return f"at {_number(end.level)} there is nothing to go by, {finding.sentence}"
        if finding.blur:
            return f"at {_number(end.level)} {finding.blur}"
    told = (
        f"that {_number(end.level)} {end.outcome} {'comes from too few requests' if end.few else 'is close'}"
    )
    takes = max((finding for finding in end.findings if finding.takes), key=_takes, default=None)
    if takes is None:
        return told
    return f"{told}, it takes {'some' if takes.worth_known else 'at least'} {takes.takes} requests"


def _takes(finding: Finding) -> int:
    return finding.takes or 0


def _number(level: float) -> str:
    return f"{level:.6g}"
