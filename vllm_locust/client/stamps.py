"""When bytes arrived, as exactly as this machine can tell.

On Linux the kernel stamps every packet on arrival (SO_TIMESTAMPNS) and hands the stamp over with the read, so
it does not matter how late this process reads. Elsewhere the read itself is the stamp, and `Pulse` bounds how
much earlier the bytes may have come.
"""

import socket
import struct
import sys
from time import perf_counter
from typing import Any

SO_TIMESTAMPNS = 35
"""Missing from the socket module; the number holds on every Linux but alpha, parisc and sparc."""

STAMP_SPACE = 64
"""Room for the ancillary data of one stamp."""

unpack_stamp = struct.Struct("qq").unpack_from
"""Ancillary data -> (seconds, nanoseconds) of CLOCK_REALTIME."""


def enable_kernel_stamps(sock: socket.socket) -> bool:
    """Ask for receive stamps on `sock`; False where the platform has none."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def kernel_stamps_available() -> bool:
    """Whether sockets on this machine can be stamped by the kernel."""
    with socket.socket() as sock:
        return enable_kernel_stamps(sock)


class Pulse:
    """Follows the event loop's rounds, to say what no socket can: since when data may have been waiting.

    Whatever a round of the loop finds readable was not readable when the round before looked. So it arrived
    after `earliest_s`: the last look that found it absent. When the loop had nothing to do and slept, it woke
    the moment data came, and `earliest_s` is that moment.
    """

    # Shorter waits than this are not sleep: the loop looked, found something at once and went on.
    _ASLEEP_S = 20e-6

    def __init__(self, loop: Any) -> None:
        self.earliest_s = self._looked_s = self._before_s = perf_counter()
        # Lowest and highest priority: last before the look, behind all greenlets of the round, first after it.
        self._watchers = (loop.prepare(ref=False, priority=-2), loop.check(ref=False, priority=2))
        self._watchers[0].start(self._before_look)
        self._watchers[1].start(self._after_look)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()

    def _before_look(self) -> None:
        self._before_s = perf_counter()

    def _after_look(self) -> None:
        now = perf_counter()
        slept = now - self._before_s > self._ASLEEP_S
        self.earliest_s = now if slept else self._looked_s
        self._looked_s = now
