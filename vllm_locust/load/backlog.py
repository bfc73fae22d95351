"""Puts work off that need not be done at once, and does it in short turns of the event loop.

When a step of the server ends a thousand answers, a thousand users want to send their next question. Folding
and writing a thousand records first would make them late, and would leave the first tokens waiting in their
sockets. So records wait here, and users go first.
"""

import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

import gevent
from gevent.event import Event

logger = logging.getLogger(__name__)

T = TypeVar("T")

UNTIL_NEXT_ROUND_S = 0.0001
"""Lets the event loop look at its sockets: sleep(0) would be a next turn in the same round."""

_TURN_S = 0.001
# At least this part of the backlog per turn, so that it cannot grow without end on a busy machine.
_LEAST_SHARE = 20


class Backlog(Generic[T]):
    """Calls `work` for each thing that was added, in order, soon."""

    def __init__(self, work: Callable[[T], None]) -> None:
        self._work = work
        self._waiting: deque[T] = deque()
        self._some = Event()
        self._worker = gevent.spawn(self._run)

    def add(self, thing: T) -> None:
        self._waiting.append(thing)
        self._some.set()

    def drain(self) -> None:
        """Do all that is waiting now."""
        while self._waiting:
            self._do_next()

    def close(self) -> None:
        """Do all that is waiting, and end."""
        self._worker.kill()
        self.drain()

    def _run(self) -> None:
        while True:
            self._some.wait()
            least = len(self._waiting) // _LEAST_SHARE
            ends_s = perf_counter() + _TURN_S
            while self._waiting and (least > 0 or perf_counter() < ends_s):
                self._do_next()
                least -= 1
            if not self._waiting:
                self._some.clear()
            gevent.sleep(UNTIL_NEXT_ROUND_S)

    def _do_next(self) -> None:
        thing = self._waiting.popleft()
        try:
            self._work(thing)
        except Exception:
            # One that cannot be done must not keep all that come after it from being done.
            logger.exception("Could not take in %r", thing)
