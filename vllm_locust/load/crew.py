"""The process that generates load, when it is this one. `load.master` has those that are elsewhere.

Rule: a crew carries the conductor's orders to the generators and their answers back, and knows what became of
them: everything that a run concludes from comes through here.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import gevent
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, Runner

from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.validity import Stamps
from vllm_locust.load.backlog import UNTIL_NEXT_ROUND_S
from vllm_locust.load.conductor import Conductor, Ensemble, Part
from vllm_locust.load.generator import Assignment, LoadGenerator
from vllm_locust.load.outside import Outside
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared

AT_LEAST_PER_S = 100
"""Levels are reached at once: the users that Locust starts in one turn."""


class Crew(Ensemble, Protocol):
    """What a run needs of those who generate its load, beside what the conductor does."""

    conductor: Conductor
    """Whom to pass on what the generators say."""

    @property
    def recording(self) -> Recording:
        """What was measured so far."""
        ...

    @property
    def in_flight(self) -> int: ...

    @property
    def handed_out(self) -> int:
        """Requests begun by those who are not lost: each must have a record at the end."""
        ...

    @property
    def recorded(self) -> int:
        """Records of those who are not lost."""
        ...

    @property
    def cpu_shares(self) -> Mapping[str, float]:
        """The share of a core that each process used, by a name that a reader understands."""
        ...

    @property
    def stamps(self) -> Stamps: ...

    @property
    def workers(self) -> Sequence[Mapping[str, Any]]:
        """The summary's `workers`; empty when all is done in this process."""
        ...

    @property
    def outside(self) -> Outside:
        """What users asked on their own."""
        ...

    def tell(self) -> None:
        """Tell whoever follows the run what was measured since the last time."""
        ...

    def settle(self) -> None:
        """Let `recording` hold all that has been measured."""
        ...

    def stop_load(self) -> None:
        """Send nothing more; what is in flight may finish."""
        ...

    def drain(self, limit_s: float) -> None:
        """Wait for what is in flight; what is not answered after `limit_s` is cancelled."""
        ...

    def cancel(self) -> None:
        """End what is in flight now."""
        ...

    def close(self) -> None: ...


def set_users(runner: Runner, users: int) -> None:
    """Go to this level of users at once; Locust's shape, which is asked once a second, says the same."""
    change = (users, max(users, AT_LEAST_PER_S))

    def go() -> None:
        if runner.state in (STATE_SPAWNING, STATE_RUNNING):  # else it would begin another run
            runner.start(*change)

    if runner.shape_last_tick != change:
        runner.shape_last_tick = change
        gevent.spawn(go)


class LocalCrew:
    """A crew of one: this process."""

    lead_s = 0.0
    present = members = ("local",)

    conductor: Conductor

    def __init__(
        self,
        environment: Environment,
        prepared: Prepared,
        assignment: Assignment,
        keep: Callable[[RequestRecord], None],
        on_delta: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """`keep` gets every record, `on_delta` what was measured, in parts, as `Recording.to_dict`."""
        self._environment = environment
        self._on_delta = on_delta
        self._recording = Recording(assignment.began_s)
        self._untold: deque[Recording] = deque()
        self._generator = LoadGenerator(environment, prepared, leader=self, assignment=assignment, keep=keep)
        environment.vllm_generator = self._generator  # type: ignore[attr-defined]

    @property
    def users(self) -> int:
        assert self._environment.runner is not None
        return self._environment.runner.user_count

    @property
    def target_users(self) -> int:
        assert self._environment.runner is not None
        return self._environment.runner.target_user_count

    def set_users(self, users: int) -> None:
        assert self._environment.runner is not None
        set_users(self._environment.runner, users)

    # -- orders of the conductor --------------------------------------------------------------------------

    def begin(self, who: str, phase: Phase, at_s: float, part: Part) -> None:
        self._generator.begin(phase, at_s, asdict(part))

    def grant(self, who: str, phase: int, indices: Sequence[int], last: bool) -> None:
        self._generator.grant(phase, indices, last)

    def amend(self, who: str, phase: int, at_s: float, part: Part) -> None:
        self._generator.amend(phase, at_s, scale=part.scale, position=part.position, of=part.of)

    def end(self, phase: int) -> None:
        self._generator.end(phase)

    # -- answers of the generator -------------------------------------------------------------------------

    def ask(self, phase: int, count: int) -> None:
        self.conductor.ask("local", phase, count)

    def give_back(self, phase: int, indices: Sequence[int]) -> None:
        self.conductor.give_back("local", phase, indices)

    def ended(self, phase: int, next_i: int) -> None:
        self.conductor.ended("local", phase, next_i)

    def idle(self, phase: int) -> None:
        self.conductor.idle("local", phase)

    # -- for the run --------------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording:
        """All that has been folded so far."""
        self._gather()
        return self._recording

    def _gather(self) -> None:
        part = self._generator.take_recording()
        self._recording.merge(part)
        if self._on_delta is not None and part.groups:
            self._untold.extend(part.split())

    def tell(self) -> None:
        self._gather()
        while self._on_delta is not None and self._untold:
            self._on_delta(self._untold.popleft().to_dict())
            gevent.sleep(UNTIL_NEXT_ROUND_S)  # describing a part is a millisecond's work

    @property
    def in_flight(self) -> int:
        return self._generator.transport.in_flight

    @property
    def handed_out(self) -> int:
        return self._generator.handed_out

    @property
    def recorded(self) -> int:
        return sum(group.planned for group in self.recording.groups.values())

    @property
    def cpu_shares(self) -> Mapping[str, float]:
        return {"client": self._generator.cpu_share}

    @property
    def stamps(self) -> Stamps:
        return "read" if self._generator.unstamped else "kernel"

    @property
    def workers(self) -> Sequence[Mapping[str, Any]]:
        return ()

    @property
    def outside(self) -> Outside:
        return self._generator.outside

    def settle(self) -> None:
        self._generator.settle()

    def stop_load(self) -> None:
        self._generator.stop_load()

    def drain(self, limit_s: float) -> None:
        self._generator.drain(limit_s)

    def cancel(self) -> None:
        assert self._environment.runner is not None
        self._environment.runner.user_greenlets.kill(block=True)
        self._generator.cancel()

    def close(self) -> None:
        self._generator.close()
