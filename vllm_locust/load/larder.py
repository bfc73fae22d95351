"""Makes requests before they are due, so that nothing is made in the moment in which they are sent.

A request is a function of the plan: what was not made ahead is made when it is needed, and is the same. So
this guesses which come next, works in short turns while the event loop has nothing else to do, and keeps no
more than its bounds allow.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from time import perf_counter

import gevent
from gevent.event import Event

from vllm_locust.load.bodies import ReadyRequest
from vllm_locust.load.phases import Phase

MOST_REQUESTS = 1024
MOST_BYTES = 16 << 20

_TURN_S = 0.0005
_REST_S = 0.001


class Larder:
    """What is ready of one phase. `make(phase, index)` makes a request, and may raise."""

    def __init__(self, make: Callable[[Phase, int], ReadyRequest]) -> None:
        self._make = make
        self._phase: Phase | None = None
        self._ready: dict[int, ReadyRequest] = {}
        self._bytes = 0
        self._expected: Iterator[int] = iter(())
        self._step: int | None = None
        self._some = Event()
        self._worker = gevent.spawn(self._run)

    def begin(self, phase: Phase, step: int | None) -> None:
        """Requests are of this phase now, and the one after index i is i + `step`; None: see `expect`."""
        self._phase, self._step = phase, step
        self._forget(iter(()))

    def expect(self, indices: Iterable[int]) -> None:
        """These will be asked for, behind those that were said before."""
        self._expected = chain(self._expected, indices)
        self._some.set()

    def take(self, phase: Phase, index: int) -> ReadyRequest:
        """The request, made ahead or now. Raises what making it raises."""
        ready = self._ready.pop(index, None) if phase is self._phase else None
        if ready is not None:
            self._bytes -= ready.size
            self._some.set()
            return ready
        if self._step is not None and phase is self._phase:
            self._forget(count(index + self._step, self._step))
        return self._make(phase, index)

    def close(self) -> None:
        self._worker.kill()

    def _forget(self, expected: Iterator[int]) -> None:
        self._ready.clear()
        self._bytes = 0
        self._expected = expected
        self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            # Whoever has just taken one is about to send it, and goes first.
            gevent.sleep(_REST_S)
            ends_s = perf_counter() + _TURN_S
            while perf_counter() < ends_s:
                if not self._make_next():
                    self._some.clear()
                    break

    def _make_next(self) -> bool:
        """Make one; False when there is no room, or nothing to make."""
        if self._phase is None or len(self._ready) >= MOST_REQUESTS or self._bytes >= MOST_BYTES:
            return False
        index = next(self._expected, None)
        if index is None:
            return False
        try:
            ready = self._make(self._phase, index)
        except Exception:
            return True  # whoever takes it is told why
        self._ready[index] = ready
        self._bytes += ready.size
        return True
