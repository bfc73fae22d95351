"""What one process is to send in a closed loop: indices of the plan, handed to whoever is free.

The conductor deals out the indices, to one process or to many, and says when a phase begins and ends. Knows
no Locust.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gevent.event import Event

from vllm_locust.load.phases import Phase
from vllm_locust.workloads.scenario import PlannedRequest, Scenario


class PlanEnded(Exception):
    """Nothing more is to be sent."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that was handed out, with the phase it belongs to and when that phase began."""

    request: PlannedRequest
    phase: int
    phase_began_s: float


class Plan:
    """The stock of indices of one process.

    `ask(phase, count)` asks the conductor for more, who answers with `grant`, at once or later. `ahead()`
    says how many indices to keep in stock, so that nobody waits for an answer that takes a round trip.
    `on_idle(phase)` is called when a phase is over and its last request finished.
    """

    def __init__(
        self,
        members: Sequence[Scenario],
        seed: int,
        ask: Callable[[int, int], None],
        on_idle: Callable[[int], None],
        ahead: Callable[[], int] = lambda: 0,
    ) -> None:
        self._members = members
        self._seed = seed
        self._ask = ask
        self._on_idle = on_idle
        self._ahead = ahead
        self._phase: Phase | None = None
        self._began_s = 0.0
        self._stock: deque[int] = deque()
        self._asked = False
        self._used_up = True
        self._unfinished: dict[int, int] = {}
        self._ended = False
        self.handed_out = 0
        """Requests handed out so far, over all phases."""
        self.change = Event()
        """Set when `try_take` may have an answer; wait for it after None."""

    def begin(self, phase: Phase, began_s: float) -> None:
        """From now on requests are of this phase, which the conductor began at `began_s` of this clock."""
        self._phase, self._began_s = phase, began_s
        self._stock.clear()
        self._asked, self._used_up = False, phase.open_loop
        self._unfinished.setdefault(phase.number, 0)
        self._notify()

    def grant(self, number: int, first: int, count: int, last: bool) -> None:
        """The conductor's answer: `count` indices from `first` on; `last`: the phase has no more."""
        if self._phase is None or self._phase.number != number or self._used_up:
            return
        self._stock.extend(range(first, first + count))
        self._asked, self._used_up = False, last
        self._notify()
        self._idle_if_over(number)

    def end(self, number: int) -> None:
        """The phase is over: what is in stock stays unsent."""
        if self._phase is not None and self._phase.number == number:
            self._stock.clear()
            self._used_up = True
        self._idle_if_over(number)

    def abandon(self) -> None:
        """There is nobody left to send what is in stock."""
        self._stock.clear()
        if self._phase is not None:
            self._idle_if_over(self._phase.number)

    def stop(self) -> None:
        """Hand out nothing more; who waits gets PlanEnded."""
        self._ended = True
        self.change.set()

    def try_take(self) -> Taken | None:
        """The next request, or None while there is none: see `change`. Raises PlanEnded."""
        if self._ended:
            raise PlanEnded
        self._restock()
        phase = self._phase
        if phase is None or not self._stock:
            return None
        # Counted before it is made: a scenario that fails on one request goes on with the next.
        index = self._stock.popleft()
        self.handed_out += 1
        self._unfinished[phase.number] += 1
        try:
            request = self._members[phase.member].request(self._seed, index)
        except BaseException:
            self.finished(phase.number)
            raise
        return Taken(request, phase.number, self._began_s)

    def finished(self, number: int) -> None:
        """A request that was taken is finished, one way or the other."""
        self._unfinished[number] -= 1
        self._idle_if_over(number)

    def _restock(self) -> None:
        ahead = self._ahead()
        if self._phase is not None and not (self._used_up or self._asked) and len(self._stock) <= ahead // 2:
            self._asked = True
            self._ask(self._phase.number, ahead + 1 - len(self._stock))

    def _idle_if_over(self, number: int) -> None:
        if self._unfinished.get(number, 0) or self._ended:
            return
        current = self._phase is not None and self._phase.number == number
        open_loop = self._phase is not None and self._phase.open_loop
        if not current or (self._used_up and not self._stock and not open_loop):
            self._on_idle(number)

    def _notify(self) -> None:
        waiting, self.change = self.change, Event()
        waiting.set()
