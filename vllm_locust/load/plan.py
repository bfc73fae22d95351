"""What one process is to send in a closed loop: indices of the plan, handed to whoever is free.

The conductor deals out the indices, to one process or to many, and says when a phase begins and ends. Knows
no Locust.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from gevent.event import Event

from vllm_locust.load.bodies import ReadyRequest
from vllm_locust.load.phases import Phase


class PlanEnded(Exception):
    """Nothing more is to be sent."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that was handed out, with the phase it belongs to and when that phase began."""

    request: ReadyRequest
    phase: int
    phase_began_s: float


class Dealer(Protocol):
    """Who deals out the indices."""

    def ask(self, phase: int, count: int) -> None:
        """Please grant `count` indices of a phase; the answer is `Plan.grant`, at once or later."""
        ...

    def give_back(self, phase: int, indices: Sequence[int]) -> None:
        """These were granted and will not be sent here."""
        ...

    def idle(self, phase: int) -> None:
        """Nothing of a phase is in flight or to come here."""
        ...


class Plan:
    """The stock of indices of one process.

    `make(phase, index)` builds a request, or says None if it cannot be made. `ahead()` says how many indices
    to keep in stock, so that nobody waits for an answer that takes a round trip; None: no stock is needed.
    """

    def __init__(
        self,
        dealer: Dealer,
        make: Callable[[Phase, int], ReadyRequest | None],
        ahead: Callable[[], int] | None = None,
    ) -> None:
        self._dealer = dealer
        self._make = make
        self._ahead = ahead
        self._phase: Phase | None = None
        self._began_s = 0.0
        self._stock: deque[int] = deque()
        self._asked = False
        self._used_up = True
        self._next: int | None = None
        """Without a stock, the index that is most likely granted next."""
        self._over: set[int] = set()
        """Phases of which the conductor wants nothing more."""
        self._unfinished: dict[int, int] = {}
        self._stopped = False
        self.handed_out = 0
        """Requests handed out so far, over all phases."""
        self.change = Event()
        """Set when `try_take` may have an answer; wait for it after None."""

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent when they are due, so that there are none to take."""
        return self._phase is not None and self._phase.open_loop

    def begin(self, phase: Phase, began_s: float) -> None:
        """From now on requests are of this phase, which the conductor began at `began_s` of this clock."""
        self._phase, self._began_s = phase, began_s
        self._stock.clear()
        self._asked, self._used_up = False, phase.open_loop
        self._next = None if self._ahead else phase.first_index
        self._unfinished.setdefault(phase.number, 0)
        self._notify()

    def grant(self, number: int, indices: Sequence[int], last: bool) -> None:
        """The conductor's answer, or what others gave back; `last`: there are no more to ask for."""
        if self._phase is None or self._phase.number != number or number in self._over or self._stopped:
            self._return(number, indices)
            return
        self._stock.extend(indices)
        self._asked, self._used_up = False, last
        self._notify()
        self._idle_if_over(number)

    def abandon(self) -> None:
        """There is nobody left to send what is in stock."""
        if self._phase is not None:
            self._return(self._phase.number, [*self._stock])
            self._stock.clear()
            self._idle_if_over(self._phase.number)

    def end(self, number: int) -> None:
        """The phase is over: what is in stock stays unsent."""
        self._over.add(number)
        if self._phase is not None and self._phase.number == number:
            self._stock.clear()
        self._idle_if_over(number)

    def stop(self) -> None:
        """Hand out nothing more; who waits gets PlanEnded."""
        if not self._stopped:
            self.abandon()
        self._stopped = True
        self.change.set()

    def upcoming(self) -> Iterable[int]:
        """The indices that are handed out next: those in stock, or where there is no stock those behind."""
        if self._stock or self._phase is None or self._used_up:
            return list(self._stock)
        if self._next is None:
            return ()
        bound = self._phase.requests
        return count(self._next) if bound is None else range(self._next, self._phase.first_index + bound)

    def try_take(self) -> Taken | None:
        """The next request, or None while there is none: see `change`. Raises PlanEnded."""
        while not self._stopped:
            self._restock()
            phase = self._phase
            if phase is None or not self._stock:
                return None
            # Counted before it is made: one that cannot be made is accounted for as well.
            index = self._stock.popleft()
            self._next = None if self._ahead else index + 1
            self.handed_out += 1
            self._unfinished[phase.number] += 1
            if (request := self._make(phase, index)) is not None:
                return Taken(request, phase.number, self._began_s)
            self.finished(phase.number)
        raise PlanEnded

    def finished(self, number: int) -> None:
        """A request that was taken is finished, one way or the other."""
        self._unfinished[number] -= 1
        self._idle_if_over(number)

    def _restock(self) -> None:
        ahead = self._ahead() if self._ahead else 0
        if self._phase is None or self._used_up or self._asked or self._phase.number in self._over:
            return
        if len(self._stock) <= ahead // 2:
            self._asked = True
            self._dealer.ask(self._phase.number, ahead + 1 - len(self._stock))

    def _return(self, number: int, indices: Sequence[int]) -> None:
        if indices:
            self._dealer.give_back(number, indices)

    def _idle_if_over(self, number: int) -> None:
        if self._unfinished.get(number, 0) or self._stopped:
            return
        phase = self._phase
        current = phase is not None and phase.number == number and not phase.open_loop
        if number in self._over or (current and self._used_up and not self._stock):
            self._dealer.idle(number)

    def _notify(self) -> None:
        waiting, self.change = self.change, Event()
        waiting.set()
