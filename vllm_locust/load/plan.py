"""Hands the requests of a scenario to whoever is free, phase by phase.

A phase ends when its share of requests or of time is used up. The next one begins when the last request of
the one before is finished, so that no two phases ever share the server. Knows no Locust: waiting and the
clock are gevent's and the caller's.
"""

import logging
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
        self._started_s = clock()
        self._index = 0
        self._phase = 0
        self._handed_out = 0
        self._unfinished = 0
        self._next_phase = Event()
        self._ended = False
        self._announce()

    @property
    def handed_out(self) -> int:
        """Requests handed out so far, over all phases."""
        return self._index

    def take(self) -> tuple[PlannedRequest, int]:
        """The next request and the number of its phase; waits while a phase drains. Raises PlanEnded."""
        while not self._ended and self._used_up():
            if self._unfinished == 0:
                self._advance()
            else:
                self._next_phase.wait()
        if self._ended:
            raise PlanEnded
        request = self._phases[self._phase].request(self._seed, self._index)
        self._index += 1
        self._handed_out += 1
        self._unfinished += 1
        return request, self._phase

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
        share = self._share
        if share.requests is not None and self._handed_out >= share.requests:
            return True
        if share.seconds is None:
            return False
        return self._clock() - self._started_s >= share.seconds * (self._phase + 1)

    def _advance(self) -> None:
        if self._phase + 1 == len(self._phases):
            self.stop()
            self._on_end()
            return
        self._phase += 1
        self._handed_out = 0
        self._announce()
        waiting, self._next_phase = self._next_phase, Event()
        waiting.set()

    def _announce(self) -> None:
        if len(self._phases) > 1:
            phase = self._phases[self._phase]
            logger.info("Phase %d of %d: %s", self._phase + 1, len(self._phases), phase.name)
