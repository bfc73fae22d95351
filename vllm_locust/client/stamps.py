"""When bytes arrived, as exactly as this machine can tell.

On Linux the kernel stamps every packet on arrival (SO_TIMESTAMPNS) and hands the stamp over with the read, so
it does not matter how late this process reads. Elsewhere the read itself is the stamp, and `Pulse` bounds how
much earlier the bytes may have come.
"""

import os
import resource
import socket
import struct
import sys
from contextlib import suppress
from time import perf_counter
from typing import Any

import gevent

SO_TIMESTAMPNS = 35
"""Missing from the socket module; the number holds on every Linux but alpha, parisc and sparc."""

STAMP_SPACE = 64
"""Room for the ancillary data of one stamp."""

# The loop doubles what it can report with each round that was not enough: 64 becomes 2048 in six.
_WIDENING_ROUNDS = 20

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


class Pulse:
    """Follows the event loop's rounds, to say what no socket can: since when data may have been waiting.

    In each round the loop looks once which sockets are readable, and then everybody reads. What a look finds
    was not there at the look before. So it arrived after `earliest_s`: the last look that found it absent.
    When the loop had nothing to do and slept, it woke the moment data came, and `earliest_s` is that moment.

    One look reports only so many sockets (libev: 64, and twice as many after each time that was not enough).
    After one that may have been cut short, what the next one finds may be older: it counts from the last look
    that saw all.
    """

    # Shorter looks than this were no sleep. Longer ones may have been work: asking about a thousand sockets.
    _ASLEEP_S = 20e-6
    # Sockets of others that may take places in a look: web UI, workers, timers.
    _OTHERS = 8

    def __init__(self, loop: Any) -> None:
        self.reads = 0
        """Sockets found readable in this round; whoever reads one adds it."""
        self.unstamped_reads = 0
        """Reads so far that came without a stamp of the kernel."""
        self.earliest_s = self._looked_s = self._saw_all_s = self._before_s = perf_counter()
        self._most_reads = 64
        self._pauses = _pauses()
        self._loop = loop
        # Lowest and highest priority: last before the look, behind the round's greenlets, and first after it.
        self._watchers = (loop.prepare(ref=False, priority=-2), loop.check(ref=False, priority=2))
        self._watchers[0].start(self._before_look)
        self._watchers[1].start(self._after_look)

    def widen(self, sockets: int = 2048) -> None:
        """Let one look report so many sockets, by having so many readable for a moment.

        Otherwise the first burst of a big test is read in portions, with other work in between.
        """
        reader, writer = os.pipe()
        os.write(writer, b".")
        copies: list[int] = []
        with suppress(OSError):  # what the limit of open files leaves is enough
            for _ in range(sockets):
                copies.append(os.dup(reader))
        watchers = [self._loop.io(copy, 1) for copy in copies]
        for watcher in watchers:
            watcher.start(self._count_read)
        for _ in range(_WIDENING_ROUNDS):
            gevent.sleep(0)
            if self._most_reads >= len(copies):
                break
        for watcher in watchers:
            watcher.stop()
            watcher.close()
        for descriptor in (reader, writer, *copies):
            os.close(descriptor)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()

    def _count_read(self) -> None:
        self.reads += 1

    def _before_look(self) -> None:
        # A look that reported fewer than another one did was not cut short.
        self._most_reads = max(self._most_reads, self.reads)
        if self.reads < self._most_reads - self._OTHERS:
            self._saw_all_s = self._looked_s
        self.reads = 0
        self._pauses = _pauses()
        self._before_s = perf_counter()

    def _after_look(self) -> None:
        now = perf_counter()
        slept = now - self._before_s > self._ASLEEP_S and _pauses() > self._pauses
        self.earliest_s = now if slept else self._saw_all_s
        self._looked_s = now


_WHO = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


def _pauses() -> int:
    """How often this thread gave up the processor of its own accord, as one does to sleep."""
    return resource.getrusage(_WHO).ru_nvcsw
