"""Sends the requests of an open loop when they are due, whether earlier ones are answered or not.

A request that is due is sent at once, however late it may be: what is late stays in the results, as the
difference between `intended_s` and `sent_s`.
"""

import math
import sys
from collections.abc import Callable, Iterable
from time import perf_counter

import gevent
from gevent.event import Event

from vllm_locust.client.alarm import Alarm
from vllm_locust.core.arrival import Arrival, Schedule
from vllm_locust.load.bodies import ReadyRequest
from vllm_locust.load.lanes import Due, Lanes

# Sending many at a time must leave sockets unread for no longer than this.
_TURN_S = 0.001
_UNTIL_NEXT_ROUND_S = 0.0001
_LOOK_EVERY_S = 0.01
# Sent so late, requests still make a valid measurement, see `core.validity`.
_IN_TIME_S = 0.01


class Pacer:
    """One open-loop phase of one process.

    `make(i)` builds request `i` of the phase, before it is due, or None if it cannot be made. `on_idle` is
    called whenever nothing is left to send and all that was sent is finished; an amendment of the schedule
    may bring more.
    """

    def __init__(
        self,
        phase: int,
        schedule: Schedule,
        began_s: float,
        make: Callable[[int], ReadyRequest | None],
        lanes: Lanes,
        on_idle: Callable[[int], None],
        requests: int | None = None,
    ) -> None:
        self.phase = phase
        self.schedule = schedule
        self.handed_out = 0
        self.next_i = 0
        """Behind the last request of the phase that was due here."""
        self._began_s = began_s
        self._make = make
        self._lanes = lanes
        self._on_idle = on_idle
        self._awake = Event()
        self._alarm = Alarm(self._awake.set)
        self._ended = False
        self._requests = requests
        self._position: int | None = 0
        self._of = 1
        self._turn_ends_s = perf_counter() + _TURN_S
        self._greenlet = gevent.spawn(self._run)

    def share(self, position: int | None, of: int) -> None:
        """From now on every `of`-th request is sent here, the one at `position` first; None: none of them."""
        self._position, self._of = position, of

    def upcoming(self) -> Iterable[int]:
        """The requests of the phase that are sent here next, as things stand."""
        if self._position is None:
            return ()
        first = self.next_i + (self._position - self.next_i) % self._of
        return range(first, self._requests or sys.maxsize, self._of)

    def amend(self) -> None:
        """The schedule has changed: what comes next may be another request, or at another time."""
        self._awake.set()

    def end(self) -> None:
        """Send nothing more of this phase. What was due long before and has not been sent is dropped."""
        if self._ended:
            return
        self._ended = True
        self._greenlet.kill()
        self._alarm.close()
        self._lanes.drop_waiting(self.phase)
        self._drop_overdue()
        gevent.spawn(self._tell_when_idle)

    def _run(self) -> None:
        while True:
            arrival = self.schedule.peek()
            if arrival is None:
                self._rest()
            elif arrival.at_s == math.inf:
                self._wait_until(math.inf)
            else:
                due = self._due(arrival)
                if self._wait_until(self._began_s + arrival.at_s):
                    self._hand_over(arrival)
                    if due is not None:
                        self._lanes.submit(due)
                    self._let_others_run()

    def _rest(self) -> None:
        """Nothing is to come as things stand. More users or fewer workers may change that, until the end."""
        if self.schedule.out_of_time and not self._wait_until(self._began_s + self.schedule.end_s):
            return
        telling = gevent.spawn(self._tell_when_idle)
        self._wait_until(math.inf)
        telling.kill()

    def _wait_until(self, at_s: float) -> bool:
        """True when this moment is there; False when the schedule was amended before."""
        if at_s <= perf_counter():
            return True
        self._awake.clear()
        if at_s < math.inf:
            self._alarm.set(at_s)
        self._awake.wait()
        now_s = perf_counter()
        self._turn_ends_s = now_s + _TURN_S
        return now_s >= at_s

    def _let_others_run(self) -> None:
        if perf_counter() > self._turn_ends_s:
            # Not sleep(0): that would be a next turn in the same round, before any socket is looked at.
            gevent.sleep(_UNTIL_NEXT_ROUND_S)
            self._turn_ends_s = perf_counter() + _TURN_S

    def _due(self, arrival: Arrival) -> Due | None:
        request = self._make(arrival.i)
        return None if request is None else Due(request, self.phase, self._began_s + arrival.at_s)

    def _hand_over(self, arrival: Arrival) -> None:
        self.schedule.pop()
        self.handed_out += 1
        self.next_i = arrival.i + 1

    def _drop_overdue(self) -> None:
        """What was due while this process was too busy to send it; a moment ago is not too late."""
        now_s = perf_counter() - self._began_s
        while (arrival := self.schedule.peek()) is not None and arrival.at_s < now_s:
            self._hand_over(arrival)
            due = self._due(arrival)
            if due is not None and arrival.at_s > now_s - _IN_TIME_S:
                self._lanes.submit(due)
            elif due is not None:
                self._lanes.drop(due, "the load was over before this process came to send it")

    def _tell_when_idle(self) -> None:
        while self._lanes.unfinished(self.phase):
            gevent.sleep(_LOOK_EVERY_S)
        self._on_idle(self.phase)
