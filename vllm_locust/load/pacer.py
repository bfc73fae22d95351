"""Sends the requests of an open loop when they are due, whether earlier ones are answered or not.

A request that is due is sent at once, however late it may be: what is late stays in the results, as the
difference between `intended_s` and `sent_s`. Under a cap on concurrency requests wait for their turn. What is
still waiting when the phase ends, or finds no socket left, was never sent: it is `dropped`.
"""

import logging
import math
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import gevent
from gevent.event import Event
from gevent.pool import Group

from vllm_locust.client.alarm import Alarm
from vllm_locust.client.chat import ChatClient
from vllm_locust.core.arrival import Arrival, Schedule
from vllm_locust.workloads.scenario import PlannedRequest

logger = logging.getLogger(__name__)

# Sockets and files that are not requests: results, workers, the web UI, the interpreter's own.
_OTHER_FILES = 100
# Sending many at a time must leave sockets unread for no longer than this.
_TURN_S = 0.001
_UNTIL_NEXT_ROUND_S = 0.0001
_LOOK_EVERY_S = 0.01
# Sent so late, requests still make a valid measurement, see `core.validity`.
_IN_TIME_S = 0.01


@dataclass(frozen=True, slots=True)
class Due:
    """A request with the moment it is intended for."""

    request: PlannedRequest
    phase: int
    intended_s: float


class Lanes:
    """Connections of one process, as many as there are requests in flight.

    `send(client, due)` sends one request and returns when it is answered; `drop(due, why)` records one that
    is never sent.
    """

    def __init__(
        self,
        new_client: Callable[[], ChatClient],
        send: Callable[[ChatClient, Due], object],
        drop: Callable[[Due, str], None],
    ) -> None:
        self.cap: int | None = None
        """Most requests in flight; None leaves it to the operating system."""
        self._new_client = new_client
        self._send = send
        self._drop = drop
        self._idle: list[ChatClient] = []
        self._busy = Group()
        self._queue: deque[Due] = deque()
        self._sockets = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES
        self._waits: dict[int, int] = {}

    def submit(self, due: Due) -> None:
        """Send as soon as the cap allows."""
        self._waits[due.phase] = self._waits.get(due.phase, 0) + 1
        busy = len(self._busy)
        if busy >= self._sockets:
            self._give_up(due, f"all {self._sockets} sockets of this process are in use (see ulimit -n)")
        elif self.cap is not None and busy >= self.cap:
            self._queue.append(due)
        else:
            self._busy.start(gevent.Greenlet(self._work, due))

    def refuse(self, due: Due, why: str) -> None:
        """Record a request that will never be sent."""
        self._drop(due, why)

    def unfinished(self, phase: int) -> int:
        """Requests of a phase that wait or are in flight."""
        return self._waits.get(phase, 0)

    def drop_waiting(self, phase: int) -> None:
        """Give up what has not been sent of a phase."""
        waiting, self._queue = self._queue, deque()
        for due in waiting:
            if due.phase == phase:
                self._give_up(
                    due, "the load was over before its turn came, as --max-concurrency requests ran"
                )
            else:
                self._queue.append(due)

    def drain(self, limit_s: float) -> None:
        """Wait for what is in flight; what is not answered after `limit_s` is cancelled."""
        self._busy.join(timeout=limit_s)
        self.cancel()

    def cancel(self) -> None:
        """End what is in flight."""
        self._busy.kill(block=True)

    def close(self) -> None:
        for client in self._idle:
            client.close()
        self._idle.clear()

    def _work(self, due: Due) -> None:
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            while True:
                self._send_one(client, due)
                if not self._queue:
                    return
                due = self._queue.popleft()
        finally:
            self._idle.append(client)

    def _send_one(self, client: ChatClient, due: Due) -> None:
        try:
            self._send(client, due)
        except Exception:
            logger.exception("Could not send %s", due.request.index)  # its record says `protocol`
        finally:
            self._waits[due.phase] -= 1

    def _give_up(self, due: Due, why: str) -> None:
        self._waits[due.phase] -= 1
        self._drop(due, why)


class Pacer:
    """One open-loop phase of one process.

    `make(i)` builds request `i` of the phase, before it is due. `on_idle` is called whenever nothing is left
    to send and all that was sent is finished; an amendment of the schedule may bring more.
    """

    def __init__(
        self,
        phase: int,
        schedule: Schedule,
        began_s: float,
        make: Callable[[int], PlannedRequest],
        lanes: Lanes,
        on_idle: Callable[[int], None],
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
        self._turn_ends_s = perf_counter() + _TURN_S
        self._greenlet = gevent.spawn(self._run)

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
        self._drop_overdue()
        self._lanes.drop_waiting(self.phase)
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
        try:
            return Due(self._make(arrival.i), self.phase, self._began_s + arrival.at_s)
        except Exception:
            logger.exception("Request %d of this phase could not be made", arrival.i)
            return None

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
                self._lanes.refuse(due, "the load was over before this process came to send it")

    def _tell_when_idle(self) -> None:
        while self._lanes.unfinished(self.phase):
            gevent.sleep(_LOOK_EVERY_S)
        self._on_idle(self.phase)
