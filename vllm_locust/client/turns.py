"""Whose turn it is when many users want to go on at once.

When the answers of a batch end together, all users wake up in one round of the event loop. Were they to ask
again in one go, the first ones' tokens would wait for the last one's question, and of two that wait together
only the second has a stamp.
"""

from collections import deque
from time import perf_counter
from typing import Any

from gevent.hub import Waiter

from vllm_locust.client.stamps import Pulse

_SLICE_S = 0.002
"""So long the users of one round may keep the event loop from its sockets."""
# At least this part of those who wait per round, so that a wave does not take for ever on a busy machine.
_LEAST_SHARE = 20


class Turns:
    """Lets the event loop look at its sockets between the turns of many users."""

    def __init__(self, loop: Any, pulse: Pulse) -> None:
        self._pulse = pulse
        self._waiting: deque[Waiter[None]] = deque()
        # Behind the reads of its round, which have the usual priority.
        self._next_round = loop.timer(0.0, priority=-1)

    def take(self) -> None:
        """Go on at once, or behind a next look if the last one is long ago; first come, first served."""
        if not self._waiting and perf_counter() - self._pulse.looked_s < _SLICE_S:
            return
        if not self._waiting:
            self._next_round.start(self._give)
        waiter: Waiter[None] = Waiter()
        self._waiting.append(waiter)
        waiter.get()

    def close(self) -> None:
        self._next_round.stop()
        self._next_round.close()

    def _give(self) -> None:
        least = 1 + len(self._waiting) // _LEAST_SHARE
        ends_s = perf_counter() + _SLICE_S
        while self._waiting and (least > 0 or perf_counter() < ends_s):
            self._waiting.popleft().switch(None)
            least -= 1
        if self._waiting:
            self._next_round.start(self._give)
