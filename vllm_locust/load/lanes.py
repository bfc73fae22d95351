"""The connections of an open loop: as many as there are requests in flight, up to a cap.

Requests wait in one queue, in the order in which they were due, until a lane takes them: at once when there
is no cap. What finds no socket left, or no turn before the load is over, was never sent: it is dropped.

A conversation keeps its lane to its end, also while somebody thinks: the cap is one of conversations then.
"""

import logging
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.pool import Group

from vllm_locust.client.chat import ChatClient
from vllm_locust.load.bodies import ReadyRequest

logger = logging.getLogger(__name__)

# Sockets and files that are not requests: results, workers, the web UI, the interpreter's own.
_OTHER_FILES = 100
_NO_TURN = "the load was over before its turn came, as --max-concurrency requests ran"


@dataclass(frozen=True, slots=True)
class Due:
    """A request with the moment it is intended for."""

    request: ReadyRequest
    phase: int
    intended_s: float


class Lanes:
    """Sends what is due over as many connections as that takes.

    `send(client, due)` sends one request and returns when it is answered; `drop(due, why)` records one that
    is never sent.
    """

    def __init__(
        self,
        new_client: Callable[[], ChatClient],
        send: Callable[[ChatClient, Due], object],
        drop: Callable[[Due, str], None],
    ) -> None:
        self.drop = drop
        self._new_client = new_client
        self._send = send
        self._cap: int | None = None
        self._idle: list[ChatClient] = []
        self._lanes = Group()
        self._starting = 0
        """Lanes that are about to take the first requests of the queue."""
        self._queue: deque[Due] = deque()
        self._sockets = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES
        self._unfinished: dict[int, int] = {}

    def set_cap(self, cap: int | None) -> None:
        """At most `cap` requests in flight from now on; None leaves it to the operating system."""
        self._cap = cap
        for _ in range(len(self._queue) - self._starting):
            self._start_lane()

    def submit(self, due: Due) -> None:
        """Send as soon as the cap allows."""
        if len(self._lanes) >= self._sockets:
            self.drop(due, f"all {self._sockets} sockets of this process are in use (see ulimit -n)")
            return
        self._unfinished[due.phase] = self._unfinished.get(due.phase, 0) + 1
        self._queue.append(due)
        self._start_lane()

    def unfinished(self, phase: int) -> int:
        """Requests of a phase that wait or are in flight."""
        return self._unfinished.get(phase, 0)

    def drop_waiting(self, phase: int) -> None:
        """Give up what has no lane yet of a phase."""
        queue = list(self._queue)
        kept = queue[: self._starting]
        for due in queue[self._starting :]:
            if due.phase != phase:
                kept.append(due)
                continue
            self._unfinished[phase] -= 1
            self.drop(due, _NO_TURN)
        self._queue = deque(kept)

    def drain(self, limit_s: float) -> None:
        """Wait for what is in flight; what is not answered after `limit_s` is cancelled."""
        self._lanes.join(timeout=limit_s)
        self.cancel()

    def cancel(self) -> None:
        """End what is in flight."""
        self._lanes.kill(block=True)
        self._starting = 0  # a lane that is ended before it begins never takes its request
        for phase in {due.phase for due in self._queue}:
            self.drop_waiting(phase)

    def close(self) -> None:
        for client in self._idle:
            client.close()
        self._idle.clear()

    def _start_lane(self) -> None:
        if self._cap is None or len(self._lanes) < self._cap:
            self._starting += 1
            self._lanes.start(gevent.Greenlet(self._work))

    def _work(self) -> None:
        self._starting -= 1
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            while self._queue:
                self._send_one(client, self._queue.popleft())
                if self._starting >= len(self._queue) or self._too_many():
                    return
        finally:
            self._idle.append(client)

    def _too_many(self) -> bool:
        return self._cap is not None and len(self._lanes) > self._cap

    def _send_one(self, client: ChatClient, due: Due) -> None:
        try:
            self._send(client, due)
        except Exception:
            logger.exception("Could not send request %d", due.request.index)  # its record says `protocol`
        finally:
            self._unfinished[due.phase] -= 1
