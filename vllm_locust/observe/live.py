"""A run while it goes on: its recording, which comes as deltas, in memory that does not grow with it.

Rule: what is said of the run so far equals what `core.summary` and `core.validity` say of its recording,
percentiles within 0.1 %. Times are seconds since the run began.

A phase holds histograms as long as requests of it may come: until a later phase has been on for 120 s, or the
phases together have more than 32 profiles in work; then only its numbers stay. What comes later still counts
for the run and for its profile. Phases are shown while they are among the last 64.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vllm_locust.core.group import Group
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.validity import (
    Loop,
    Measured,
    Stamps,
    Validity,
    judge,
    named_parts,
    perhaps_shorter,
)
from vllm_locust.observe.series import Series
from vllm_locust.observe.tally import LATENCIES, Buckets, Tally

QUANTILES = (50.0, 90.0, 99.0)
OTHER_PROFILES = "other profiles"
"""Where there are too many, all that come later are one."""

_MOST_PHASES = 64
_MOST_PROFILES = 64
_MOST_OPEN_PARTS = 32
_LATEST_S = 120.0

# Of a phase's groups only the first and last times are kept: copies of this one share the empty rest.
_NOTHING = Group()


@dataclass(frozen=True, slots=True)
class Identity:
    """What is run, and when that began."""

    run: str
    scenario: str
    model: str
    host: str
    began_s: float
    """On this machine's clock."""
    goodput_ms: Mapping[str, float] | None = None
    loop: Loop = "open"
    profiles: Sequence[str] = ()
    """What is to come, as far as that is known: of a counter that begins with a value no growth is seen."""

    def since_begin_s(self, clock_s: float) -> float:
        """How long the run had been going on at a time of this machine's clock."""
        return clock_s - self.began_s


@dataclass(frozen=True, slots=True)
class LoadState:
    """How the load stands at a moment."""

    users: float = 0
    in_flight: float = 0
    request_rate_target: float | None = None
    """None in a closed loop."""
    cpu_shares: Mapping[str, float] = field(default_factory=dict)
    stamps: Stamps = "kernel"
    load_state: Literal["running", "ending", "done"] = "running"
    lost: int = 0
    lost_workers: Sequence[str] = ()
    """Sentences; see `core.validity.judge`."""


@dataclass(frozen=True, slots=True)
class PhaseNumbers:
    """What a phase comes to so far; None where there is nothing to say."""

    quantiles_s: Mapping[str, Mapping[float, float | None]]
    """Of each of `tally.LATENCIES`, by q of `QUANTILES`."""
    request_throughput: float | None
    output_throughput: float | None
    request_goodput: float | None
    error_ratio: float | None


@dataclass(slots=True)
class Phase:
    """A phase, by its number from 0."""

    number: int
    title: str = ""
    level: float | None = None
    unit: str = "users"
    began_s: float | None = None
    parts: dict[str, Tally] = field(default_factory=dict)
    """By profile, while requests may come."""
    closed: bool = False
    numbers: PhaseNumbers | None = None
    """As last computed; final when closed."""
    followed_s: float | None = None
    """When a later phase began."""


class Profile:
    """All requests of one profile, as Prometheus wants them."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.buckets = Buckets()


class LiveRun:
    """One run. Not for several threads at a time."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.load = LoadState()
        self.series = Series()
        self.profiles: dict[str, Profile] = {name: Profile() for name in identity.profiles[:_MOST_PROFILES]}
        self.phase: Phase | None = None
        """The one that is on, or was the last to be."""
        self.phases_planned: int | None = None
        self.ended_s: float | None = None
        self._phases: dict[int, Phase] = {}
        self._forgotten = -1
        """The highest number of a phase that was let go."""
        self._measured: dict[tuple[int, str], Measured] = {}
        """Of closed phases; the numbers that the verdict needs are few."""
        self._windows = Recording()
        self._total: Tally | None = None
        self._verdict: Validity | None = None

    # -- told by the run ----------------------------------------------------------------------------------

    def begin_phase(
        self,
        number: int,
        title: str,
        level: float | None = None,
        unit: str = "users",
        at_s: float = 0.0,
        of: int | None = None,
    ) -> None:
        """The load of a phase (from 0) begins; its level counts `users` or is a `rate`; there are `of`."""
        for other in self._phases.values():
            if other.number < number and other.followed_s is None:
                other.followed_s = at_s
        self.phases_planned = of
        phase = self._phase(number)
        if phase is not None:
            phase.title, phase.level, phase.unit, phase.began_s = title, level, unit, at_s
            self.phase = phase
        self._let_go(at_s)

    def add(self, delta: Mapping[str, Any]) -> None:
        """Fold what was measured since the delta before: `Recording.to_dict` with times since the begin."""
        recording = Recording.from_dict(delta)
        for (number, profile), group in recording.groups.items():
            self._add_group(number, self._known_profile(profile), group)
        recording.groups.clear()
        self._windows.merge(recording)
        self._total = self._verdict = None
        for phase in self._phases.values():
            if not phase.closed:  # its window may have changed, whatever came
                phase.numbers = None

    def state(self, at_s: float, load: LoadState) -> None:
        """How the load stands now; to be told once a second."""
        self.load = load
        self._verdict = None
        self.series.add_load(at_s, load.users, load.in_flight)
        self._let_go(at_s)

    def end(self, at_s: float) -> None:
        """The run is over, and its last delta has come."""
        self.ended_s = at_s
        self.load = replace(self.load, users=0, in_flight=0, request_rate_target=None, load_state="done")
        for phase in self._phases.values():
            self._close(phase)

    # -- asked by those who show it -----------------------------------------------------------------------

    def total(self) -> Tally:
        """Everything; not to be changed."""
        if self._total is None:
            self._total = _union(profile.tally for profile in self.profiles.values())
        return self._total

    def window(self) -> Window | None:
        """What was measured over so far; None while that is nothing."""
        return self._windows.window()

    @property
    def last_phases(self) -> list[Phase]:
        """In order."""
        return [self._phases[number] for number in sorted(self._phases)]

    def numbers_of(self, phase: Phase) -> PhaseNumbers:
        """What one of the last phases comes to so far."""
        if phase.numbers is None:
            tally = _union(phase.parts.values())
            window = self._windows.phase_window(phase.number)
            phase.numbers = PhaseNumbers(
                {family: {q: tally.latency(family).percentile(q) for q in QUANTILES} for family in LATENCIES},
                **rates(tally, window, self.identity.goodput_ms),
                error_ratio=_ratio(tally.failed_in_window, tally.completed + tally.failed_in_window),
            )
        return phase.numbers

    def verdict(self) -> Validity:
        """Whether what was measured so far can be trusted."""
        if self._verdict is None:
            parts = dict(self._measured)
            for phase in self._phases.values():
                parts |= {(phase.number, name): tally.measured() for name, tally in phase.parts.items()}
            self._verdict = judge(
                replace(self.total().measured(), clock_bound_s=self._windows.clock_bound_s),
                self.load.cpu_shares,
                self.load.stamps,
                loop=self.identity.loop,
                parts=named_parts(parts),
                lost=self.load.lost,
                lost_workers=self.load.lost_workers,
                remarks=list(perhaps_shorter(self.window())),
            )
        return self._verdict

    # ------------------------------------------------------------------------------------------------------

    def _add_group(self, number: int, profile: str, group: Group) -> None:
        limits_ms = self.identity.goodput_ms
        if profile not in self.profiles:  # something else is asked than was planned
            self.profiles = {name: known for name, known in self.profiles.items() if known.tally.planned}
        whole = self.profiles.setdefault(profile, Profile())
        whole.tally.add(group, limits_ms)
        whole.buckets.add(group)
        self.series.add(group)
        extent = self._windows.groups.setdefault((number, ""), copy(_NOTHING))
        extent.merge_extent(group)
        phase = self._phase(number)
        if phase is not None and not phase.closed:
            phase.parts.setdefault(profile, Tally()).add(group, limits_ms)

    def _known_profile(self, profile: str) -> str:
        return profile if profile in self.profiles or len(self.profiles) < _MOST_PROFILES else OTHER_PROFILES

    def _phase(self, number: int) -> Phase | None:
        """The phase of this number, from now on if need be; None when it was forgotten."""
        if number <= self._forgotten:
            return None
        if number not in self._phases:
            self._phases[number] = Phase(number)
            if len(self._phases) > _MOST_PHASES:
                self._forgotten = min(self._phases)
                self._close(self._phases.pop(self._forgotten))
        return self._phases.get(number)

    def _let_go(self, now_s: float) -> None:
        """Close what is late or too much, the earliest phases first."""
        for phase in self.last_phases:
            if phase.closed or phase.followed_s is None:
                continue
            in_work = sum(len(other.parts) for other in self._phases.values())
            if now_s - phase.followed_s > _LATEST_S or in_work > _MOST_OPEN_PARTS:
                self._close(phase)

    def _close(self, phase: Phase) -> None:
        if phase.closed:
            return
        phase.numbers = self.numbers_of(phase)
        self._measured |= {(phase.number, name): tally.measured() for name, tally in phase.parts.items()}
        phase.parts = {}
        phase.closed = True


def rates(
    tally: Tally, window: Window | None, goodput_ms: Mapping[str, float] | None
) -> dict[str, float | None]:
    """`request_throughput`, `output_throughput` and `request_goodput` by the formulas of `core.summary`."""
    duration_s = window.duration_s if window else None
    return {
        "request_throughput": _ratio(tally.completed, duration_s),
        "output_throughput": _ratio(tally.output_tokens, duration_s),
        "request_goodput": _ratio(tally.good, duration_s) if goodput_ms else None,
    }


def _union(tallies: Iterable[Tally]) -> Tally:
    union = Tally()
    for tally in tallies:
        union.merge(tally)
    return union


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None
