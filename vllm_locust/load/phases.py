"""The phases of a run: what is asked, at which level of load, for how long.

A ladder has a phase for each level (and each profile, when the scenario runs several in turn), a capacity
search one for each probe, and a plain run has one that goes on until it is stopped. Whoever says which phase
comes next is a course; this module holds the one that is known beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

from vllm_locust.load.settings import Settings
from vllm_locust.workloads.scenario import Scenario, arrivals_of, requests_of

# For each profile of a scenario that runs several, when neither --run-time nor --num-prompts says otherwise.
DEFAULT_PROFILE_S = 30.0
DEFAULT_STEP_S = 30.0
# Part of a step that is left out of its results, when --step-warmup does not say otherwise.
_WARMUP_SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a run, with a summary of its own."""

    number: int
    member: int
    """Which of the scenario's own phases is asked."""
    name: str
    users: int | None = None
    """The level of a closed loop; None leaves it to Locust."""
    rate: str | None = None
    """Open loop: the requests per second, as `core.rate` writes them, or `trace`."""
    follows_users: bool = False
    """Open loop: the rate is for all users, and scaled by the share of them that is there."""
    level: float | None = None
    """The level of a search, whichever of the two it is."""
    requests: int | None = None
    seconds: float | None = None
    """With neither bound a phase goes on until the run is stopped."""
    warmup_s: float = 0.0
    prefix_cache: str | None = None
    """How the server's prefix cache was made cold or warm before: see `load.prefix_cache`."""
    salt: str | None = None
    """Sent with every request of the phase (`cache_salt`): the server shares nothing with other phases."""
    first_index: int = 0
    """Of its requests in the run, ..."""
    first_number: int = 0
    """... and in its member of the scenario, which goes on where the member was left."""

    @property
    def open_loop(self) -> bool:
        return self.rate is not None

    def number_of(self, index: int) -> int:
        """Which request of its member of the scenario has this index of the run."""
        return index - self.first_index + self.first_number

    @property
    def description(self) -> Mapping[str, Any]:
        """What leads this phase's summary."""
        described: dict[str, Any] = {"name": self.name}
        if self.users is not None:
            described["users"] = self.users
        if self.rate is not None:
            described["request_rate"] = plain_rate(self.rate)
        if self.prefix_cache is not None:
            described["prefix_cache"] = self.prefix_cache
        return described

    @property
    def title(self) -> str:
        level = "" if self.users is None else "1 user" if self.users == 1 else f"{self.users} users"
        level = f"{self.rate} requests/s" if self.rate not in (None, TRACE) else level
        return ", ".join(part for part in (self.name, level) if part)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


def plain_rate(rate: str) -> float | str:
    """A number where it is one, as vLLM's results have it; `inf`, stages and traces are text."""
    return float(rate) if rate.replace(".", "", 1).isdecimal() else rate


TRACE = "trace"
"""In place of a rate: requests are sent when a recorded trace says so."""


class Course(Protocol):
    """Says which phase comes next."""

    @property
    def length(self) -> int | None:
        """How many phases there will be; None when that depends on what is found."""
        ...

    @property
    def patience_s(self) -> float | None:
        """How long the last requests of a phase may take before the course is given up; None: for ever."""
        ...

    def next_phase(self, now_s: float) -> Phase | None:
        """The phase that begins `now_s` seconds into the run; None: the run is over."""
        ...

    def decided(self, phase: Phase, elapsed_s: float) -> bool:
        """Whether enough is known already, `elapsed_s` seconds into a phase, to end it early."""
        ...

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        """The load of a phase ended after `elapsed_s` seconds, and its last request is finished."""
        ...


class FixedCourse:
    """Phases that are known beforehand; those that share a run's time share what is left of it."""

    patience_s = None

    def __init__(self, phases: Sequence[Phase], shared_s: float | None = None) -> None:
        self._phases = phases
        self._shared_s = shared_s
        self._next = 0

    @property
    def length(self) -> int:
        return len(self._phases)

    @property
    def to_come(self) -> Sequence[Phase]:
        """Phases that have not had their turn."""
        return self._phases[self._next :]

    def next_phase(self, now_s: float) -> Phase | None:
        if not (to_come := self.to_come):
            return None
        self._next += 1
        if self._shared_s is None:
            return to_come[0]
        return replace(to_come[0], seconds=max(self._shared_s - now_s, 0.0) / len(to_come))

    def decided(self, phase: Phase, elapsed_s: float) -> bool:
        return False

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        pass


def step_times(settings: Settings) -> tuple[float | None, float]:
    """Seconds of a step of a ladder or search, and of its warm-up; no limit when requests are counted."""
    step_s = settings.step_time_s
    if step_s is None and settings.num_prompts is None:
        step_s = DEFAULT_STEP_S
    warmup_s = settings.step_warmup_s
    if warmup_s is None:
        warmup_s = (step_s or 0.0) * _WARMUP_SHARE
    return step_s, warmup_s


def course_of(settings: Settings, scenario: Scenario, run_time_s: float | None) -> FixedCourse:
    """The phases that the options ask for: each level of the ladder with each profile, in this order."""
    names = [phase.name for phase in scenario.phases]
    if settings.ladder:
        step_s, warmup_s = step_times(settings)
        levels = [settings.level(value) for value in settings.ladder]
        steps = [(level, member) for level in levels for member in range(len(names))]
        return FixedCourse(
            [
                Phase(
                    number,
                    member,
                    names[member],
                    **level,
                    requests=_requests(settings, scenario.phases[member]),
                    seconds=step_s,
                    warmup_s=warmup_s,
                )
                for number, (level, member) in enumerate(steps)
            ]
        )
    several = len(names) > 1
    phases = [
        Phase(
            number,
            number,
            member.name,
            rate=(rate := _rate(settings, member)),
            follows_users=rate is not None,
            requests=_requests(settings, member),
            warmup_s=(settings.step_warmup_s or 0.0) if several else settings.warmup_s,
        )
        for number, member in enumerate(scenario.phases)
    ]
    if not several or all(phase.requests is not None for phase in phases):
        return FixedCourse(phases)
    return FixedCourse(phases, shared_s=run_time_s or DEFAULT_PROFILE_S * len(names))


def _rate(settings: Settings, scenario: Scenario) -> str | None:
    """The rate of an open loop; None for a closed one."""
    if settings.arrivals is not None or arrivals_of(scenario) is not None:
        return TRACE
    return None if settings.request_rate is None else str(settings.request_rate)


def _requests(settings: Settings, scenario: Scenario) -> int | None:
    """How many requests a phase has, where that is known: the user's number, or all that there are."""
    bounds = (settings.num_prompts, requests_of(scenario))
    return min((bound for bound in bounds if bound is not None), default=None)
