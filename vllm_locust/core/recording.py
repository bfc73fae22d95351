"""The recording of a run: request records folded as they finish, mergeable, from which every report is made.

A run is a sequence of phases: profiles one after another, steps of a ladder, probes of a search. A request
belongs to the phase in which it was handed out, also when it ends while the next one has begun.

Rule: a request counts when it ENDS in the window of its phase. Without a warm-up that window is all of the
phase, from its first request sent to its last one ended (a cancelled one ends when we lose patience, so it
does not count for that), which is what `vllm bench serve` computes over. With a warm-up it goes from the end
of the warm-up to the end of the phase's load, so that neither filling the server nor draining it counts.

The window of the whole run follows: without any warm-up it too goes from the first request sent to the last
one ended. Else it consists of the windows of the phases, and the warm-ups between them are no part of it.
Requests, tokens and the duration follow this one rule: however a steady run is trimmed or cut into phases,
its throughput stays. Requests outside the window still count in the totals (planned = ok + failed + dropped).
A dropped request ends when it is given up, at the end of the load at the latest.

Stamps are kept as seconds since `origin_s`, so that recordings of several processes, each with the origin
where its own clock stood when the run began, merge into one. How far each may be from that moment is their
`clock_bound_s`: what compares the times of several processes may be off by as much at either end.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from vllm_locust.core.group import Group
from vllm_locust.core.long_gaps import Limit
from vllm_locust.core.record import DROPPED, RequestRecord


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured over, in seconds since the recording's origin."""

    start_s: float
    end_s: float
    parts: tuple["Window", ...] = ()
    """In order and apart from each other, where they are not all the time from start to end."""
    slack_s: float = 0.0
    """How much shorter it may truly be, at most: the first request went out later, the last ended earlier.

    Where there are parts, it is theirs.
    """
    clock_bound_s: float = 0.0
    """How far the clocks of the processes may be off, either way: so may start and end."""

    @property
    def duration_s(self) -> float:
        """Seconds measured: from start to end, less what lies between the parts."""
        return sum(part.end_s - part.start_s for part in self.stretches)

    @property
    def shortest_s(self) -> float:
        """Of what `duration_s` may truly be."""
        return self.surely.duration_s

    @property
    def longest_s(self) -> float:
        """Of what `duration_s` may truly be."""
        return self.widest.duration_s

    @property
    def stretches(self) -> Sequence["Window"]:
        """The parts, or the window itself when it has none."""
        return self.parts or (self,)

    @property
    def surely(self) -> "Window":
        """The same without what was perhaps not measured at the ends of its stretches."""
        return replace(self, parts=tuple(part._narrow(self.clock_bound_s) for part in self.stretches))

    @property
    def widest(self) -> "Window":
        """The same with all that was perhaps measured."""
        off_s = self.clock_bound_s
        parts = (replace(one, start_s=one.start_s - off_s, end_s=one.end_s + off_s) for one in self.stretches)
        return replace(self, parts=tuple(parts))

    def _narrow(self, off_s: float) -> "Window":
        start_s, end_s = self.start_s + off_s, self.end_s - self.slack_s - off_s
        middle_s = (start_s + end_s) / 2
        return replace(self, start_s=min(start_s, middle_s), end_s=max(end_s, middle_s))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """When the warm-up of a phase ended, None without one, and when its load ended, None while it goes on."""

    warm_s: float | None = None
    closed_s: float | None = None

    def hold(self, ended_s: float) -> bool:
        """Whether a request that ended at `ended_s` is in the window."""
        if self.warm_s is None:
            return True
        return self.warm_s <= ended_s and (self.closed_s is None or ended_s <= self.closed_s)

    def may_part(self, since_s: float, until_s: float) -> bool:
        """Whether a border of the window may lie between the times at which a request may have ended."""
        if self.warm_s is None:
            return False
        return since_s < self.warm_s <= until_s or (
            self.closed_s is not None and since_s <= self.closed_s < until_s
        )

    def hold_unsent(self, ended_s: float) -> bool:
        """The same of a request given up at `ended_s`, which is often a moment after the end of the load."""
        return self.warm_s is None or self.warm_s <= ended_s

    def joined(self, other: "_Bounds") -> "_Bounds":
        return _Bounds(_either(min, self.warm_s, other.warm_s), _either(max, self.closed_s, other.closed_s))


_UNBOUND = _Bounds()


class Recording:
    """Records folded by phase and profile.

    `origin_s` is on the clock of the records; with the default origin 0 all times stay as the records have
    them. Gaps that are as long as one of `limits` are counted for each stream, too.
    """

    def __init__(
        self, origin_s: float = 0.0, limits: Sequence[Limit] = (), clock_bound_s: float = 0.0
    ) -> None:
        self.groups: dict[tuple[int, str], Group] = {}
        """By (phase, profile)."""
        self.clock_bound_s = clock_bound_s
        """How far `origin_s` may be from where the run began, either way; of several processes the most."""
        self._origin_s = origin_s
        self._limits = limits
        self._bounds: dict[int, _Bounds] = {}

    @property
    def phases(self) -> list[int]:
        """The phases that were begun or have records, in order."""
        return sorted({*self._bounds, *(phase for phase, _ in self.groups)})

    def begin_phase(self, phase: int, now_s: float, warmup_s: float = 0.0) -> None:
        """The load of a phase begins now, on the clock of the records; a second call changes nothing.

        To be called before the first request of the phase ends. A phase that never was begun has no warm-up.
        """
        warm_s = now_s + warmup_s - self._origin_s if warmup_s > 0 else None
        self._bounds.setdefault(phase, _Bounds(warm_s))

    def close_phase(self, phase: int, now_s: float) -> None:
        """The load of a phase ended now: after a warm-up, its requests that end later are outside the window.

        A second call changes nothing, nor does one for a phase that was never begun.
        """
        bounds = self._bounds.get(phase)
        if bounds is not None and bounds.closed_s is None:
            self._bounds[phase] = replace(bounds, closed_s=now_s - self._origin_s)

    def add(self, record: RequestRecord) -> None:
        """Fold a finished request; call in the order in which requests end, the ends of loads included."""
        key = (record.phase, record.profile)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(self._limits)
        bounds = self._bounds.get(record.phase, _UNBOUND)
        hold = bounds.hold_unsent if record.outcome == DROPPED else bounds.hold
        ended_s = record.ended_s - self._origin_s
        since_s, off_s = ended_s - record.ended_bound_s, self.clock_bound_s
        at_border = record.outcome != DROPPED and bounds.may_part(since_s - off_s, ended_s + off_s)
        group.add(record, self._origin_s, hold(ended_s), at_border, off_s)

    def successor(self) -> "Recording":
        """An empty recording with the same windows: for what ends after this one was shipped to be merged."""
        empty = Recording(self._origin_s, self._limits, self.clock_bound_s)
        empty._bounds = dict(self._bounds)
        return empty

    def split(self) -> "Iterator[Recording]":
        """As one recording per phase and profile, at least one: merged again they are the same."""
        for key, group in self.groups.items():
            part = self.successor()
            part.groups[key] = group
            yield part
        if not self.groups:
            yield self

    def window(self) -> Window | None:
        """The window of the whole recording; None when nothing was sent or no warm-up ever ended."""
        if all(bounds.warm_s is None for bounds in self._bounds.values()):
            return self._window_of(_extent(self.groups.values()))
        return _joined(window for phase in self.phases if (window := self.phase_window(phase)))

    def phase_window(self, phase: int) -> Window | None:
        """The window of a phase, shared by its profiles so that their rates add up.

        None when nothing of the phase was sent and ended, or its warm-up did not end before its load.
        """
        extent = _extent(group for (p, _), group in self.groups.items() if p == phase)
        bounds = self._bounds.get(phase, _UNBOUND)
        if bounds.warm_s is None:
            return self._window_of(extent)
        last_s = extent.last_ended_in_window_s
        if bounds.closed_s is None:
            return self._window(bounds.warm_s, last_s, last_s - extent.last_ended_since_s)
        return self._window(bounds.warm_s, max(last_s, bounds.closed_s))

    def _window_of(self, extent: Group) -> Window | None:
        """From the first one sent to the last one ended in the window; None when nothing was."""
        first_s, last_s = extent.first_sent_s, extent.last_ended_in_window_s
        slack_s = (extent.first_sent_by_s - first_s) + (last_s - extent.last_ended_since_s)
        return self._window(first_s, last_s, slack_s)

    def _window(self, first_s: float, last_s: float, slack_s: float = 0.0) -> Window | None:
        """None without a beginning or an end."""
        if not -math.inf < first_s <= last_s < math.inf:
            return None
        slack_s = min(slack_s, last_s - first_s)
        return Window(first_s, last_s, slack_s=slack_s, clock_bound_s=self.clock_bound_s)

    def total(self) -> Group:
        """Everything in one group (a copy)."""
        return _union(self.groups.values())

    def phase(self, phase: int) -> Group:
        """All profiles of a phase in one group (a copy)."""
        return _union(group for (p, _), group in self.groups.items() if p == phase)

    def merge(self, other: "Recording") -> None:
        """Add all that `other` recorded.

        The windows of a phase become one, from the earlier end of its warm-up to the later end of its load.
        ValueError when both have records of a phase, but only one of them a warm-up.
        """
        for phase in {p for p, _ in self.groups} & {p for p, _ in other.groups}:
            if self._has_warmup(phase) != other._has_warmup(phase):
                raise ValueError(f"phase {phase} with a warm-up cannot be merged with one without")
        self.clock_bound_s = max(self.clock_bound_s, other.clock_bound_s)
        for phase, bounds in other._bounds.items():
            self._bounds[phase] = self._bounds.get(phase, _UNBOUND).joined(bounds)
        for key, group in other.groups.items():
            self.groups.setdefault(key, Group()).merge(group)

    def _has_warmup(self, phase: int) -> bool:
        return self._bounds.get(phase, _UNBOUND).warm_s is not None

    def to_dict(self) -> dict[str, Any]:
        """Exact and fit for MessagePack; `from_dict` makes the same of it, on the axis of `origin_s`."""
        return {
            "clock_bound_s": self.clock_bound_s,
            "bounds": [[phase, b.warm_s, b.closed_s] for phase, b in self._bounds.items()],
            "groups": [[phase, profile, group.to_dict()] for (phase, profile), group in self.groups.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The recording that `to_dict` described, with origin 0: its stamps already are seconds since it."""
        recording = cls(clock_bound_s=data["clock_bound_s"])
        recording._bounds = {phase: _Bounds(*bounds) for phase, *bounds in data["bounds"]}
        recording.groups = {(phase, profile): Group.from_dict(g) for phase, profile, g in data["groups"]}
        return recording


def _extent(groups: Iterable[Group]) -> Group:
    """All groups, of which only the extent is merged."""
    whole = Group()
    for group in groups:
        whole.merge_extent(group)
    return whole


def _joined(windows: Iterable[Window]) -> Window | None:
    """All time that is in any of these windows, so that what two of them share counts once."""
    parts: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start_s):
        if parts and window.start_s <= parts[-1].end_s:
            last = parts[-1]
            slack_s = last.slack_s + window.slack_s
            parts[-1] = replace(last, end_s=max(last.end_s, window.end_s), slack_s=slack_s)
        else:
            parts.append(window)
    if not parts:
        return None
    first, last = parts[0], parts[-1]
    return first if first is last else replace(first, end_s=last.end_s, parts=tuple(parts), slack_s=0.0)


def _union(groups: Iterable[Group]) -> Group:
    union = Group()
    for group in groups:
        union.merge(group)
    return union


def _either(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
