"""Leads the processes that generate load through the phases of a run.

It decides when a phase begins and ends, deals out the requests of closed loops, and tells each process its
part of an open loop. It works the same for one process and for fifty: they are an `Ensemble`.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Protocol

import gevent
from gevent.event import Event

from vllm_locust.load.phases import Course, Phase

logger = logging.getLogger(__name__)

# How often the course, the users and the ensemble are looked at.
_LOOK_EVERY_S = 0.25
_SOON_S = 0.005
_USERS_LIMIT_S = 10.0
_GATHERING_S = 0.3
_REACTION_S = 0.02


@dataclass(frozen=True, slots=True)
class Part:
    """A process's part of an open loop: `position` of `of`, from index `base` on, at `scale` of the rate."""

    base: int
    scale: float
    position: int | None
    of: int


class Ensemble(Protocol):
    """The processes that generate load, as far as the conductor knows them."""

    @property
    def present(self) -> Sequence[str]:
        """Those who are there and not done, in an order that does not change."""
        ...

    @property
    def members(self) -> Sequence[str]:
        """Those of them who may be given work: not the ones who are leaving."""
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

    def set_users(self, users: int) -> None:
        """Ask Locust for so many users, at once."""
        ...

    def begin(self, who: str, phase: Phase, at_s: float, part: Part) -> None: ...

    def grant(self, who: str, phase: int, indices: Sequence[int], last: bool) -> None: ...

    def amend(self, who: str, phase: int, at_s: float, part: Part) -> None: ...

    def end(self, phase: int) -> None: ...


class Watcher(Protocol):
    """Who wants to know where the run is."""

    def phase_begins(self, phase: Phase) -> None:
        """A phase's load is about to begin: now is the time to look at how things stand before it."""
        ...

    def phase_began(self, phase: Phase, at_s: float, of: int | None) -> None:
        """A phase's load begins `at_s` seconds into the run; there are `of`, if that is known."""
        ...

    def phase_ended(self, phase: Phase) -> None:
        """Its load is over, its last requests may not be."""
        ...

    def phase_drained(self, phase: Phase) -> None:
        """Its last request is finished; not told where the next phase begins before that."""
        ...


class Conductor:
    """The state of one run's course. All times are seconds since the run began, at `began_s` of this clock.

    `on_end` is called when the last phase is over and its last request finished, or when going on failed.
    """

    def __init__(
        self,
        course: Course,
        ensemble: Ensemble,
        began_s: float,
        on_end: Callable[[], None],
        *,
        watchers: Sequence[Watcher] = (),
        before: Callable[[Phase], Phase] = lambda phase: phase,
        overlap: bool = False,
        most_members: int | None = None,
    ) -> None:
        """`before` does what is to be done before the load of a phase begins.

        Of the `watchers` the first is told first that a phase begins, and last that it ended.
        `overlap` lets a phase drain while the next begins; `most_members` share an open loop at most.
        """
        self.over = False
        self.failed = False
        """Going on was impossible: the log says why."""
        self.begun: list[Phase] = []
        """The phases so far, the present one included."""
        self.users_wanted: int | None = None
        """The level of users that the present or the next phase needs; None leaves it to Locust."""
        self._course = course
        self._ensemble = ensemble
        self._began_s = began_s
        self._on_end = on_end
        self._watchers = watchers
        self._before = before
        self._overlap = overlap
        self._most_members = most_members
        self._next_index = 0
        self._next_number: dict[int, int] = {}
        """By the member of the scenario."""
        self._dealt = 0
        self._returned: deque[int] = deque()
        self._used_up = False
        self._phase_began_s = 0.0
        self._full_users: int | None = None
        self._reached: int | None = None
        self._parts: dict[str, Part] = {}
        """Of all who were let into the present phase."""
        self._admitted: dict[int, set[str]] = {}
        self._ended: set[str] = set()
        """Who sends nothing more of the present phase, open loop."""
        self._idle: dict[int, set[str]] = {}
        self._news = Event()
        self._greenlet = gevent.spawn(self._run)

    @property
    def phase(self) -> Phase | None:
        """The phase that is running, or was the last to run."""
        return self.begun[-1] if self.begun else None

    def stop(self) -> None:
        """Begin nothing more."""
        self.over = True
        self._greenlet.kill(block=False)

    # -- told by the ensemble -----------------------------------------------------------------------------

    def ask(self, who: str, number: int, count: int) -> None:
        """A process wants `count` indices of a phase: it is granted what is left, in fair parts."""
        phase = self.phase
        if phase is None or phase.number != number or self.over:
            return
        if phase.requests is not None:
            left = phase.requests - self._dealt
            sharers = len(self._ensemble.members)
            count = min(count, left, max(left // (2 * sharers), 1) if sharers > 1 else left)
        self._deal(who, phase, count)

    def give_back(self, who: str, number: int, indices: Sequence[int]) -> None:
        """A process will not send these after all: somebody else does, if the phase counts its requests."""
        phase = self.phase
        if phase is None or phase.number != number or phase.requests is None or self.over:
            return
        self._returned.extend(indices)
        self._dealt -= len(indices)
        members = self._ensemble.members
        if self._used_up and members and self._ensemble.users:
            # Round and round, until it comes to one who has users.
            heir = members[(members.index(who) + 1) % len(members)] if who in members else members[0]
            self._idle.get(number, set()).discard(heir)
            self._deal(heir, phase, len(self._returned))

    def ended(self, who: str, number: int, next_i: int) -> None:
        """A process sends nothing more of an open-loop phase; see `generator.Leader`."""
        if self.phase is not None and self.phase.number == number:
            self._dealt = max(self._dealt, next_i)
            self._ended.add(who)
            self._news.set()

    def idle(self, who: str, number: int) -> None:
        """A process has nothing of a phase in flight or to come."""
        self._idle.setdefault(number, set()).add(who)
        self._news.set()

    def changed(self) -> None:
        """Somebody has come or gone."""
        self._news.set()

    # ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._conduct()
        except Exception:
            logger.exception("The run cannot go on")
            self.failed = True
        self.over = True
        self._on_end()

    def _conduct(self) -> None:
        while (phase := self._course.next_phase(self._now_s())) is not None:
            phase = self._before(self._numbered(phase))
            self._await_users(phase)
            for watcher in self._watchers:
                watcher.phase_begins(phase)
            self._begin(phase)
            self._watch(phase)
            elapsed_s = self._now_s() - self._phase_began_s
            self._ensemble.end(phase.number)
            for watcher in reversed(self._watchers):
                watcher.phase_ended(phase)
            if phase.open_loop:
                self._await(self._all_ended, phase)
                self._next_index += self._dealt
            self._next_number[phase.member] = phase.number_of(self._next_index)
            calm = self._overlap or self._drain(phase)
            self._course.finished(phase, elapsed_s)
            if not calm:
                logger.warning("The last requests of this phase are not answered: the run ends here.")
                return
        for phase in self.begun:
            self._await(self._all_idle, phase)

    def _drain(self, phase: Phase) -> bool:
        """Until its last request is finished; False when that takes too long."""
        calm = self._await(self._all_idle, phase, self._course.patience_s)
        if calm:
            for watcher in reversed(self._watchers):
                watcher.phase_drained(phase)
        return calm

    def _numbered(self, phase: Phase) -> Phase:
        """Indices count over the run, and the requests of each member of the scenario by themselves."""
        first_number = self._next_number.get(phase.member, 0)
        return replace(phase, first_index=self._next_index, first_number=first_number)

    def _await_users(self, phase: Phase) -> None:
        """Until somebody is there to send, and the level is reached."""
        while not self._ensemble.members or not self._ensemble.users:
            gevent.sleep(_SOON_S)
        self.users_wanted = phase.users
        if phase.follows_users:
            self._let_users_gather()
        if phase.users is None:
            return
        self._ensemble.set_users(phase.users)
        if self._overlap and self.begun:
            # Users come and go while the step warms up. Those who go must know it before they get more to do.
            gevent.sleep(_REACTION_S)
            return
        deadline_s = self._now_s() + _USERS_LIMIT_S
        while self._ensemble.users != phase.users:
            if self._now_s() > deadline_s:
                logger.warning("%d users are there, not %d.", self._ensemble.users, phase.users)
                return
            gevent.sleep(_SOON_S)

    def _let_users_gather(self) -> None:
        """Users who are started together count as one: workers report theirs one after the other."""
        seen, since_s = self._ensemble.users, self._now_s()
        while self._ensemble.users < self._ensemble.target_users and self._now_s() - since_s < _GATHERING_S:
            gevent.sleep(_SOON_S)
            if self._ensemble.users != seen:
                seen, since_s = self._ensemble.users, self._now_s()

    def _begin(self, phase: Phase) -> None:
        self.begun.append(phase)
        self._dealt, self._used_up, self._ended = 0, False, set()
        self._returned.clear()
        self._phase_began_s = self._now_s() + (self._ensemble.lead_s if phase.open_loop else 0.0)
        for watcher in self._watchers:
            watcher.phase_began(phase, self._phase_began_s, self._course.length)
        self._parts = {}
        for who, part in self._share_out(phase).items():
            self._admit(who, phase, part)
        if self._course.length != 1:
            of = f" of {self._course.length}" if self._course.length else ""
            logger.info("Phase %d%s: %s", len(self.begun), of, phase.title)

    def _admit(self, who: str, phase: Phase, part: Part) -> None:
        self._parts[who] = part
        self._admitted.setdefault(phase.number, set()).add(who)
        self._ensemble.begin(who, phase, self._phase_began_s, part)
        if self._used_up:
            self._ensemble.grant(who, phase.number, (), last=True)

    def _deal(self, who: str, phase: Phase, count: int) -> None:
        """Grant `count` indices, first those that somebody gave back; all are told of the last one."""
        indices = [self._returned.popleft() for _ in range(min(count, len(self._returned)))]
        self._dealt += count
        count -= len(indices)
        indices += range(self._next_index, self._next_index + count)
        self._next_index += count
        last = self._dealt == phase.requests
        self._ensemble.grant(who, phase.number, indices, last)
        if last and not self._used_up:
            self._used_up = True
            for other in self._ensemble.present:  # also those who have nobody to ask for more
                self._ensemble.grant(other, phase.number, (), last)

    def _share_out(self, phase: Phase) -> dict[str, Part]:
        """Everybody's part. They must have one schedule: it is made at one time, before anybody is told."""
        scale, base = self._scale(phase), self._base(phase)
        sharing = list(self._ensemble.members)[: self._most_members]
        return {
            who: Part(base, scale, sharing.index(who) if who in sharing else None, len(sharing))
            for who in self._ensemble.present
        }

    def _base(self, phase: Phase) -> int:
        """The index of the first request of an open loop, which counts its requests by itself."""
        return self._next_index if phase.open_loop else 0

    def _scale(self, phase: Phase) -> float:
        """The share of Locust's users that are there, where ramping them ramps the rate."""
        if not phase.follows_users:
            return 1.0
        users, target = self._ensemble.users, self._ensemble.target_users
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
            self._follow_the_ensemble(phase)
            if self._course.decided(phase, self._now_s() - self._phase_began_s):
                return

    def _follow_the_ensemble(self, phase: Phase) -> None:
        """Let in who has come, and share an open loop among those who are there."""
        parts = self._share_out(phase)
        for who in parts.keys() - self._parts.keys():  # they have no part in what was due before
            self._admit(who, phase, replace(parts[who], position=None))
        changed = {who: part for who, part in parts.items() if part != self._parts[who]}
        if not phase.open_loop or not changed:
            return
        at_s = max(self._now_s() - self._phase_began_s, 0.0) + self._ensemble.lead_s
        self._idle.pop(phase.number, None)  # whoever had nothing to send may have some now
        for who, part in changed.items():
            self._parts[who] = part
            self._ensemble.amend(who, phase.number, at_s, part)

    def _await(self, is_so: Callable[[Phase], bool], phase: Phase, limit_s: float | None = None) -> bool:
        """Until something is so for a phase; False when that takes longer than `limit_s`."""
        deadline_s = self._now_s() + (float("inf") if limit_s is None else limit_s)
        while not is_so(phase):
            if self._now_s() > deadline_s:
                return False
            self._news.clear()
            self._news.wait(_LOOK_EVERY_S)
        return True

    def _all_of_phase(self, phase: Phase, heard: set[str]) -> bool:
        """Whether all who are still there of those let into a phase have been heard."""
        return self._admitted.get(phase.number, set()) & set(self._ensemble.present) <= heard

    def _all_ended(self, phase: Phase) -> bool:
        return self._all_of_phase(phase, self._ended)

    def _all_idle(self, phase: Phase) -> bool:
        idle = self._idle.get(phase.number, set())
        if phase.open_loop and phase is self.phase:
            idle = idle | {who for who, part in self._parts.items() if part.position is None}
        return self._all_of_phase(phase, idle)

    def _now_s(self) -> float:
        return perf_counter() - self._began_s
