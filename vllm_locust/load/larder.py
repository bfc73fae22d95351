"""Makes requests before they are due, so that nothing is made in the moment in which they are sent.

A request is a function of the plan: what was not made ahead is made when it is needed, and is the same. So
this may guess wrong. It works in short turns while the event loop has nothing else to do, and keeps no more
than its bounds allow.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from time import perf_counter

import gevent
from gevent.event import Event

from vllm_locust.load.bodies import ReadyRequest
from vllm_locust.load.phases import Phase

MOST_REQUESTS = 1024
MOST_BYTES = 32 << 20

_TURN_S = 0.0005
_REST_S = 0.001


class Larder:
    """What is ready of one phase. `make(phase, index)` makes a request, and may raise."""

    def __init__(self, make: Callable[[Phase, int], ReadyRequest]) -> None:
        self._make = make
        self._phase: Phase | None = None
        self._upcoming: Callable[[], Iterable[int]] = tuple
        self._ready: dict[int, ReadyRequest | Exception] = {}
        self._bytes = 0
        self._some = Event()
        self._worker = gevent.spawn(self._run)

    def begin(self, phase: Phase, upcoming: Callable[[], Iterable[int]]) -> None:
        """Requests are of this phase now; `upcoming` says, at any time, which indices come next, in order."""
        self._phase, self._upcoming = phase, upcoming
        self._drop(list(self._ready))
        self.look()

    def look(self) -> None:
        """What comes next has changed."""
        self._some.set()

    def take(self, phase: Phase, index: int) -> ReadyRequest:
        """The request, made ahead or now. Raises what making it raises."""
        ready = self._ready.get(index) if phase is self._phase else None
        if ready is None:
            return self._make(phase, index)
        self._drop([index])
        self.look()
        if isinstance(ready, Exception):
            raise ready
        return ready

    def close(self) -> None:
        self._worker.kill()
        self._drop(list(self._ready))

    def _run(self) -> None:
        while True:
            self._some.wait()
            # Whoever has just taken one is about to send it, and goes first.
            gevent.sleep(_REST_S)
            if not self._make_some():
                self._some.clear()

    def _make_some(self) -> bool:
        """Work for a turn; False when nothing is left to be done."""
        ends_s = perf_counter() + _TURN_S
        wanted = list(islice(self._upcoming(), MOST_REQUESTS))
        self._drop(self._ready.keys() - set(wanted))  # guessed wrong, or taken before they were made
        for index in wanted:
            if index in self._ready:
                continue
            if self._bytes >= MOST_BYTES:
                return False
            self._make_one(index)
            if perf_counter() > ends_s:
                return True
        return False

    def _make_one(self, index: int) -> None:
        phase = self._phase
        assert phase is not None
        ready: ReadyRequest | Exception
        try:
            ready = self._make(phase, index)
        except Exception as error:
            ready = error  # whoever takes it is told
        if phase is self._phase:  # making one may take its time, and let others run
            self._ready[index] = ready
            self._bytes += _size(ready)

    def _drop(self, indices: Iterable[int]) -> None:
        for index in indices:
            self._bytes -= _size(self._ready.pop(index))


def _size(ready: ReadyRequest | Exception) -> int:
    return ready.size if isinstance(ready, ReadyRequest) else 0
