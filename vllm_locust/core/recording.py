"""The recording of a run: request records folded as they finish, mergeable, from which every report is made.

Rule: a request belongs to the window in which it ENDS. Without a warm-up the window is the whole recording,
from the first request sent to the last one ended (a cancelled one ends when we lose patience, so it does not
count for that), which is what `vllm bench serve` computes over. With a
warm-up it goes from the end of the warm-up to the end of the load, so that neither filling the server nor
draining it counts. Requests, tokens and the duration follow this one rule: trimming a steady run changes no
throughput. Requests outside the window still count in the totals (planned = ok + failed + dropped).

Stamps are kept as seconds since `origin_s`, so that recordings of several processes, each with the origin
where its own clock stood when the run began, merge into one.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from vllm_locust.core.group import Group
from vllm_locust.core.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured over, in seconds since the recording's origin."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return self.end_s - self.start_s


class Recording:
    """Records folded by phase and profile.

    `warmup_until_s` and `origin_s` are on the clock of the records; with the default origin 0 all times stay
    as the records have them.
    """

    def __init__(self, warmup_until_s: float | None = None, origin_s: float = 0.0) -> None:
        self.groups: dict[tuple[int, str], Group] = {}
        """By (phase, profile)."""
        self._origin_s = origin_s
        self._warmup_until_s = None if warmup_until_s is None else warmup_until_s - origin_s
        self._load_ended_s: float | None = None

    def add(self, record: RequestRecord) -> None:
        """Fold a finished request; call in the order in which requests end, the end of the load included."""
        key = (record.phase, record.profile)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group()
        group.add(record, self._origin_s, self._inside(record.ended_s - self._origin_s))

    def close_window(self, now_s: float) -> None:
        """The load ended now: with a warm-up, requests that end later are outside the window."""
        self._load_ended_s = now_s - self._origin_s

    def _inside(self, ended_s: float) -> bool:
        if self._warmup_until_s is None:
            return True
        return self._warmup_until_s <= ended_s and (
            self._load_ended_s is None or ended_s <= self._load_ended_s
        )

    def successor(self) -> "Recording":
        """An empty recording with the same window: for what ends after this one was shipped to be merged."""
        empty = Recording(origin_s=self._origin_s)
        empty._warmup_until_s, empty._load_ended_s = self._warmup_until_s, self._load_ended_s
        return empty

    def window(self) -> Window | None:
        """The window of the whole recording; None when nothing was sent or the warm-up never ended."""
        first, last = _extent(self.groups.values())
        if self._warmup_until_s is not None:
            first = self._warmup_until_s
            last = max(last, -math.inf if self._load_ended_s is None else self._load_ended_s)
        return _window(first, last)

    def phase_window(self, phase: int) -> Window | None:
        """The part of the window that belongs to a phase, shared by its profiles so that their rates add up.

        From the first request sent to the last one ended of this phase; but the first phase begins and the
        last one ends with the window of the recording. None when nothing of the phase ended in the window.
        """
        whole = self.window()
        first, last = _extent(group for (p, _), group in self.groups.items() if p == phase)
        if whole is None or _window(first, last) is None:
            return None
        phases = {p for p, _ in self.groups}
        return _window(
            whole.start_s if phase == min(phases) else max(first, whole.start_s),
            whole.end_s if phase == max(phases) else last,
        )

    def total(self) -> Group:
        """Everything in one group (a copy)."""
        return _union(self.groups.values())

    def phase(self, phase: int) -> Group:
        """All profiles of a phase in one group (a copy)."""
        return _union(group for (p, _), group in self.groups.items() if p == phase)

    def merge(self, other: "Recording") -> None:
        """Add all that `other` recorded; ValueError when only one of the two has a warm-up.

        Their windows become one, from the earlier end of the warm-up to the later end of the load.
        """
        if not self.groups:
            self._warmup_until_s = other._warmup_until_s
        elif other.groups and (self._warmup_until_s is None) != (other._warmup_until_s is None):
            raise ValueError("a recording with a warm-up cannot be merged with one without")
        self._warmup_until_s = _either(min, self._warmup_until_s, other._warmup_until_s)
        self._load_ended_s = _either(max, self._load_ended_s, other._load_ended_s)
        for key, group in other.groups.items():
            self.groups.setdefault(key, Group()).merge(group)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON and exact; `from_dict` gives the same recording back, on the axis of `origin_s`."""
        return {
            "warmup_until_s": self._warmup_until_s,
            "load_ended_s": self._load_ended_s,
            "groups": [[phase, profile, group.to_dict()] for (phase, profile), group in self.groups.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The recording that `to_dict` described, with origin 0: its stamps already are seconds since it."""
        recording = cls(data["warmup_until_s"])
        recording._load_ended_s = data["load_ended_s"]
        recording.groups = {(phase, profile): Group.from_dict(g) for phase, profile, g in data["groups"]}
        return recording


def _extent(groups: Iterable[Group]) -> tuple[float, float]:
    """First sent and last ended in the window; (inf, -inf) when nothing was."""
    first, last = math.inf, -math.inf
    for group in groups:
        first, last = min(first, group.first_sent_s), max(last, group.last_ended_in_window_s)
    return first, last


def _window(first_s: float, last_s: float) -> Window | None:
    return Window(first_s, last_s) if -math.inf < first_s <= last_s < math.inf else None


def _union(groups: Iterable[Group]) -> Group:
    union = Group()
    for group in groups:
        union.merge(group)
    return union


def _either(choose: Callable[[float, float], float], a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
