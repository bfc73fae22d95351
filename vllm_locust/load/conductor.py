"""Leads the processes that generate load through the phases of a run.

It decides when a phase begins and ends, deals out the requests of closed loops, and tells each process its
part of an open loop. It works the same for one process and for fifty: they are a `Crew`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import gevent
from gevent.event import Event

from vllm_locust.load.phases import Course, Phase

logger = logging.getLogger(__name__)

# How often the course, the users and the crew are looked at.
_LOOK_EVERY_S = 0.25
_SOON_S = 0.005
_USERS_LIMIT_S = 10.0
_GATHERING_S = 0.3


@dataclass(frozen=True, slots=True)
class Part:
    """A process's part of an open loop: `position` of `of`, from index `base` on, at `scale` of the rate."""

    base: int
    scale: float
    position: int | None
    of: int


class Crew(Protocol):
    """The processes that generate load."""

    @property
    def members(self) -> Sequence[str]:
        """The names of those that take part now, in an order that does not change."""
        ...

    @property
    def users(self) -> int:
        """How many of Locust's users there are now."""
        ...

    @property
    def target_users(self) -> int:
        """How many there are to be."""
        ...

    @property
    def lead_s(self) -> float:
        """How long before it takes effect an order must be given, to reach everybody in time."""
        ...

    def begin(self, who: str, phase: Phase, at_s: float, part: Part) -> None: ...

    def grant(self, who: str, phase: int, first: int, count: int, last: bool) -> None: ...

    def amend(self, who: str, phase: int, at_s: float, part: Part) -> None: ...

    def end(self, phase: int) -> None: ...


class Conductor:
    """The state of one run's course. All times are seconds since the run began, at `began_s` of this clock.

    `on_end` is called when the last phase is over and its last request finished.
    """

    def __init__(
        self,
        course: Course,
        crew: Crew,
        began_s: float,
        on_end: Callable[[], None],
        *,
        overlap: bool = False,
        most_members: int | None = None,
    ) -> None:
        """`overlap` lets a phase drain while the next begins; `most_members` share an open loop at most."""
        self.over = False
        self.begun: list[Phase] = []
        """The phases so far, the present one included."""
        self.users_wanted: int | None = None
        """The level of users that the present or the next phase needs; None leaves it to Locust."""
        self._course = course
        self._crew = crew
        self._began_s = began_s
        self._on_end = on_end
        self._overlap = overlap
        self._most_members = most_members
        self._next_index = 0
        self._dealt = 0
        self._phase_began_s = 0.0
        self._full_users: int | None = None
        self._reached: int | None = None
        self._parts: dict[str, Part] = {}
        self._ended: set[str] = set()
        """Who sends nothing more of the present phase, open loop."""
        self._idle: dict[int, set[str]] = {}
        self._used_up = False
        self._news = Event()
        self._greenlet = gevent.spawn(self._conduct)

    @property
    def phase(self) -> Phase | None:
        """The phase that is running, or was the last to run."""
        return self.begun[-1] if self.begun else None

    def stop(self) -> None:
        """Begin nothing more."""
        self.over = True
        self._greenlet.kill(block=False)

    # -- told by the crew ---------------------------------------------------------------------------------

    def ask(self, who: str, number: int, count: int) -> None:
        """A process wants `count` indices of a phase: it is granted what is left, in fair parts."""
        phase = self.phase
        if phase is None or phase.number != number or self.over:
            return
        if phase.requests is not None:
            left = phase.requests - self._dealt
            sharers = len(self._crew.members)
            count = min(count, left, max(left // (2 * sharers), 1) if sharers > 1 else left)
        first = self._next_index
        self._next_index += count
        self._dealt += count
        last = self._dealt == phase.requests
        self._crew.grant(who, number, first, count, last)
        if last and not self._used_up:
            self._used_up = True
            for other in self._crew.members:  # also those who have nobody to ask for more
                self._crew.grant(other, number, first + count, 0, last)

    def ended(self, who: str, number: int, next_i: int) -> None:
        """A process sends nothing more of an open-loop phase; see `generator.Conductor`."""
        if self.phase is not None and self.phase.number == number:
            self._dealt = max(self._dealt, next_i)
            self._ended.add(who)
            self._news.set()

    def idle(self, who: str, number: int) -> None:
        """A process has nothing of a phase in flight or to come."""
        self._idle.setdefault(number, set()).add(who)
        self._news.set()

    # ------------------------------------------------------------------------------------------------------

    def _conduct(self) -> None:
        while (phase := self._course.next_phase(self._now_s())) is not None:
            self._await_users(phase)
            self._begin(phase)
            self._watch(phase)
            elapsed_s = self._now_s() - self._phase_began_s
            self._crew.end(phase.number)
            if phase.open_loop:
                self._await_ended()
                self._next_index += self._dealt
            calm = self._overlap or self._await_idle(phase, self._course.patience_s)
            self._course.finished(phase, elapsed_s)
            if not calm:
                logger.warning("The last requests of this phase are not answered: the run ends here.")
                break
        else:
            for phase in self.begun:
                self._await_idle(phase)
        self.over = True
        self._on_end()

    def _await_users(self, phase: Phase) -> None:
        """Until somebody is there to send, and the level is reached."""
        self.users_wanted = phase.users
        deadline_s = self._now_s() + _USERS_LIMIT_S
        while not self._crew.members or not self._crew.users:
            gevent.sleep(_SOON_S)
        if phase.open_loop:
            self._let_users_gather()
            return
        if phase.users is None or (self._overlap and self.begun):
            return  # with overlap, users come and go while the step warms up
        while self._crew.users != phase.users:
            if self._now_s() > deadline_s:
                logger.warning("%d users are there, not %d.", self._crew.users, phase.users)
                return
            gevent.sleep(_SOON_S)

    def _let_users_gather(self) -> None:
        """Users who are started together count as one: workers report theirs one after the other."""
        seen, since_s = self._crew.users, self._now_s()
        while self._crew.users < self._crew.target_users and self._now_s() - since_s < _GATHERING_S:
            gevent.sleep(_SOON_S)
            if self._crew.users != seen:
                seen, since_s = self._crew.users, self._now_s()

    def _begin(self, phase: Phase) -> None:
        self.begun.append(phase)
        self._dealt, self._used_up, self._ended = 0, False, set()
        self._phase_began_s = self._now_s() + (self._crew.lead_s if phase.open_loop else 0.0)
        self._parts = {}
        for who, part in self._share_out().items():
            self._admit(who, phase, part)
        if self._course.length != 1:
            of = f" of {self._course.length}" if self._course.length else ""
            logger.info("Phase %d%s: %s", len(self.begun), of, phase.title)

    def _admit(self, who: str, phase: Phase, part: Part) -> None:
        self._parts[who] = part
        self._crew.begin(who, phase, self._phase_began_s, part)

    def _share_out(self) -> dict[str, Part]:
        """The parts of all members, who must have one schedule: made at one time, before anybody is told."""
        members, scale = list(self._crew.members), self._scale()
        sharing = members[: self._most_members]
        return {
            who: Part(self._next_index, scale, sharing.index(who) if who in sharing else None, len(sharing))
            for who in members
        }

    def _scale(self) -> float:
        """The share of Locust's users that are there: ramping them ramps the rate of an open loop."""
        if self.users_wanted is not None:
            return 1.0
        users, target = self._crew.users, self._crew.target_users
        if self._full_users is None:
            self._full_users = target
        if users >= target:
            self._reached = target
        elif self._reached == target:
            users = target  # Locust moves users from one worker to another: no ramp of anybody's
        return users / self._full_users if self._full_users else 1.0

    def _watch(self, phase: Phase) -> None:
        """Until the phase has had its time or its requests, or enough is known."""
        ends_s = float("inf") if phase.seconds is None else self._phase_began_s + phase.seconds
        while (left_s := ends_s - self._now_s()) > 0 and not self._all_idle(phase):
            self._news.clear()
            self._news.wait(min(left_s, _LOOK_EVERY_S))
            self._follow_the_crew(phase)
            if self._course.decided(phase, self._now_s() - self._phase_began_s):
                return

    def _follow_the_crew(self, phase: Phase) -> None:
        """Let in who has come, and share an open loop among those who are there."""
        parts = self._share_out()
        for who in parts.keys() - self._parts.keys():  # they have no part in what was due before
            self._admit(who, phase, replace(parts[who], position=None))
        changed = {who: part for who, part in parts.items() if part != self._parts[who]}
        if not phase.open_loop or not changed:
            return
        at_s = max(self._now_s() - self._phase_began_s, 0.0) + self._crew.lead_s
        self._idle.pop(phase.number, None)  # whoever had nothing to send may have some now
        for who, part in changed.items():
            self._parts[who] = part
            self._crew.amend(who, phase.number, at_s, part)

    def _await_ended(self) -> None:
        while not set(self._crew.members) <= self._ended:
            self._news.clear()
            self._news.wait(_LOOK_EVERY_S)

    def _await_idle(self, phase: Phase, limit_s: float | None = None) -> bool:
        """Until the last request of a phase is finished; False when that takes longer than `limit_s`."""
        deadline_s = self._now_s() + (float("inf") if limit_s is None else limit_s)
        while not self._all_idle(phase):
            if self._now_s() > deadline_s:
                return False
            self._news.clear()
            self._news.wait(_LOOK_EVERY_S)
        return True

    def _all_idle(self, phase: Phase) -> bool:
        waited_for = set(self._crew.members)
        if phase.open_loop and phase is self.phase:
            waited_for = {who for who in waited_for if self._has_part(who)}
        return waited_for <= self._idle.get(phase.number, set())

    def _has_part(self, who: str) -> bool:
        part = self._parts.get(who)
        return part is not None and part.position is not None

    def _now_s(self) -> float:
        return perf_counter() - self._began_s
