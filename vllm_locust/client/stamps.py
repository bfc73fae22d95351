"""When bytes arrived, as exactly as this machine can tell, and how wrong that can be.

On Linux the kernel stamps every packet on arrival (SO_TIMESTAMPNS) and hands the stamp over with the read, so
it does not matter how late this process reads. A read has one stamp, that of its last packet; elsewhere the
read itself is the stamp. `Pulse` bounds how much earlier the other bytes may have come.

Rule: a bound rests on what was seen, never on how long something took. This process may be stopped, put
aside or throttled between any two of its instructions, and no clock or counter of its own tells.
"""

import os
import socket
import struct
import sys
from contextlib import suppress
from time import perf_counter_ns, time_ns
from typing import Any

import gevent

from vllm_locust.client.alarm import Ticker

SO_TIMESTAMPNS = 35
"""Missing from the socket module; the number holds on every Linux but alpha, parisc and sparc."""

STAMP_SPACE = 64
"""Room for the ancillary data of one stamp."""

# The loop doubles what it can report with each round that was not enough: 64 becomes 2048 in six.
_WIDENING_ROUNDS = 20
# The first look of libev can report so many sockets.
_FIRST_LOOK = 64
# How often the loop looks while answers are awaited.
_LOOK_EVERY_S = 0.0005
# How often the clocks are compared.
_COMPARE_EVERY_NS = 5_000_000
# A packet is stamped a little before its socket is readable: the kernel is at work on it in between.
_DELIVERY_NS = 50_000
# Farther than clocks are apart.
_FAR_NS = 1 << 62
_NANO = 1e-9

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
    """Follows the event loop's looks, to say what no socket can: since when data may have been waiting.

    In each round the loop looks once which sockets are readable, and then everybody reads. A socket that a
    look did not report was empty when that look *began*: what the next one finds came later. When the look
    ended says nothing, for the process may have been stopped between the kernel's answer and ours.

    One look reports only so many sockets (libev: 64, and twice as many after each time that was not enough).
    One that may have been cut short does not count: what the next one finds may be older.

    While answers are awaited the loop is woken often, so that a look is never long ago and bounds are small.
    """

    def __init__(self, loop: Any) -> None:
        self.reads = 0
        """Sockets found readable in this round; whoever reads one adds it."""
        self.unstamped_reads = 0
        """Reads so far that came without a stamp of the kernel."""
        self.offset_ns = _FAR_NS
        """`perf_counter_ns` minus the clock of the stamps, at most; at least, it is `doubt_s` less.

        Both clocks are steered alike, so it only changes when the latter is set: each comparison narrows it
        down, and one that does not fit begins anew.
        """
        self.doubt_s = 0.0
        self._clock_sets = 0
        self._least_offset_ns = -_FAR_NS
        self._compare_ns = 0
        self._before_s = self._read_clocks()
        self.earliest_s = self._saw_all_s = self._before_s
        """What is read in this round was not stamped before."""
        self.looked_s = self._before_s
        """When the last look began."""
        self._most_reads = _FIRST_LOOK
        self._loop = loop
        self._ticker = Ticker(_LOOK_EVERY_S)
        # Lowest and highest priority: last before the look, behind the round's greenlets, and first after it.
        self._watchers = (loop.prepare(ref=False, priority=-2), loop.check(ref=False, priority=2))
        self._watchers[0].start(self._before_look)
        self._watchers[1].start(self._after_look)

    @property
    def clock_sets(self) -> int:
        """How often the clock of the stamps was seen to have been set, up to now."""
        self._compare(perf_counter_ns(), time_ns(), perf_counter_ns())
        return self._clock_sets

    def quicken(self) -> None:
        """Look often: answers are awaited."""
        self._ticker.start()

    def rest(self) -> None:
        """Look when there is something to see."""
        self._ticker.stop()

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
        self._ticker.close()
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()

    def _count_read(self) -> None:
        self.reads += 1

    def _before_look(self) -> None:
        # A look that reported so many sockets can report so many.
        self._most_reads = max(self._most_reads, self.reads)
        self.reads = 0
        self._before_s = self._read_clocks()

    def _after_look(self) -> None:
        self.earliest_s = self._saw_all_s
        self.looked_s = self._before_s
        # Pending is what this look reported and what else is due, timers for one.
        if self._loop.pendingcnt < self._most_reads:
            self._saw_all_s = self._before_s

    def _read_clocks(self) -> float:
        """The earliest stamp of what cannot be seen yet; compares the clocks when it is time to."""
        now_ns = perf_counter_ns()
        if now_ns >= self._compare_ns:
            self._compare_ns = now_ns + _COMPARE_EVERY_NS
            self._compare(now_ns, time_ns(), perf_counter_ns())
        return (now_ns - _DELIVERY_NS) * _NANO

    def _compare(self, before_ns: int, stamp_ns: int, now_ns: int) -> None:
        least_ns = max(self._least_offset_ns, before_ns - stamp_ns)
        most_ns = min(self.offset_ns, now_ns - stamp_ns)
        if least_ns > most_ns:
            self._clock_sets += 1
            least_ns, most_ns = before_ns - stamp_ns, now_ns - stamp_ns
        self._least_offset_ns, self.offset_ns = least_ns, most_ns
        self.doubt_s = (most_ns - least_ns) * _NANO
