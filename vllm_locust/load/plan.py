"""Hands the requests of a scenario to whoever is free, phase by phase.

A phase ends when its share of requests or of time is used up. The next one begins when the last request of
the one before is finished, so that no two phases ever share the server. Knows no Locust: waiting and the
clock are gevent's and the caller's.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gevent.event import Event

from vllm_locust.workloads.scenario import PlannedRequest, Scenario

logger = logging.getLogger(__name__)


class PlanEnded(Exception):
    """Nothing more is to be sent."""


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a run each phase gets; a phase with neither bound goes on until the run is stopped."""

    requests: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that was handed out, with the phase it belongs to and when that phase began."""

    request: PlannedRequest
    phase: int
    phase_began_s: float


class Plan:
    """The requests 0, 1, 2, ... of a scenario, each handed out once."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        share: Share,
        clock: Callable[[], float],
        on_end: Callable[[], None],
    ) -> None:
        """`on_end` is called once, when the last phase is used up and its last request finished."""
        self._phases: Sequence[Scenario] = scenario.phases
        self._seed = seed
        self._share = share
        self._clock = clock
        self._on_end = on_end
        self._index = 0
        self._phase = 0
        self._phase_began_s: float | None = None
        self._phase_ends_s = math.inf
        self._plan_ends_s = math.inf
        self._handed_out = 0
        self._unfinished = 0
        self._next_phase = Event()
        self._ended = False

    @property
    def handed_out(self) -> int:
        """Requests handed out so far, over all phases."""
        return self._index

    @property
    def never_begun(self) -> Sequence[str]:
        """The names of phases that have not had their turn."""
        return [phase.name for phase in self._phases[self._phase + (self._phase_began_s is not None) :]]

    def take(self) -> Taken:
        """The next request; waits while a phase drains. Raises PlanEnded."""
        if self._phase_began_s is None:
            self._begin_phase()
        while not self._ended and self._used_up():
            if self._unfinished == 0:
                self._advance()
            else:
                self._next_phase.wait()
        if self._ended:
            raise PlanEnded
        # Counted before it is made: a scenario that fails on one request goes on with the next.
        index = self._index
        self._index += 1
        self._handed_out += 1
        request = self._phases[self._phase].request(self._seed, index)
        self._unfinished += 1
        assert self._phase_began_s is not None
        return Taken(request, self._phase, self._phase_began_s)

    def finished(self) -> None:
        """A request that was taken is finished, one way or the other."""
        self._unfinished -= 1
        if self._unfinished == 0 and not self._ended and self._used_up():
            self._advance()

    def stop(self) -> None:
        """Hand out nothing more; who waits gets PlanEnded."""
        self._ended = True
        self._next_phase.set()

    def _used_up(self) -> bool:
        if self._share.requests is not None and self._handed_out >= self._share.requests:
            return True
        return self._clock() >= self._phase_ends_s

    def _begin_phase(self) -> None:
        """Time begins with the first request. Each phase gets its share of what time is left by then."""
        now = self._clock()
        if self._share.seconds is not None:
            if self._phase == 0:
                self._plan_ends_s = now + self._share.seconds * len(self._phases)
            self._phase_ends_s = now + (self._plan_ends_s - now) / (len(self._phases) - self._phase)
        self._phase_began_s = now
        self._handed_out = 0
        if len(self._phases) > 1:
            name = self._phases[self._phase].name
            logger.info("Phase %d of %d: %s", self._phase + 1, len(self._phases), name)

    def _advance(self) -> None:
        if self._phase + 1 == len(self._phases):
            self.stop()
            self._on_end()
            return
        self._phase += 1
        self._begin_phase()
        waiting, self._next_phase = self._next_phase, Event()
        waiting.set()
