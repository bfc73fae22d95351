"""Wakes the event loop at a moment, or time and again, to within some 0.1 ms.

gevent's own timers end with epoll's timeout, which counts in whole milliseconds and rounds up: a request
would be sent half a millisecond late on average. On Linux a timerfd is as exact as the kernel, and the event
loop looks at it as at any socket.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import get_hub

_READ = 1
_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _Spec(ctypes.Structure):
    """`struct itimerspec`: the interval or none, and the first moment, in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


def _timerfd() -> tuple[int, Callable[..., int]] | None:
    """A new timer and the function that sets it; None where there is none on the clock of `perf_counter`."""
    monotonic = time.get_clock_info("perf_counter").implementation == "clock_gettime(CLOCK_MONOTONIC)"
    if sys.platform != "linux" or not monotonic:
        return None
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0:
            settime: Callable[..., int] = libc.timerfd_settime
            return fd, settime
    return None


class Alarm:
    """Calls `ring` in the event loop at the moment it was last set to; one moment at a time."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = get_hub().loop
        self._timer: Any = None
        self._fd = -1
        if (made := _timerfd()) is not None:
            self._fd, self._settime = made
            self._watcher = self._loop.io(self._fd, _READ)
            self._watcher.start(self._on_timer)

    def set(self, at_s: float) -> None:
        """Ring at `at_s` of `time.perf_counter`, which lies in the future."""
        if self._fd < 0:
            self._stop_timer()
            self._loop.update_now()  # a timer counts from when the loop last looked at the clock
            self._timer = self._loop.timer(max(at_s - time.perf_counter(), 0.0))
            self._timer.start(self._ring)
            return
        whole_s = int(at_s)
        spec = _Spec(0, 0, whole_s, int((at_s - whole_s) * 1e9))
        self._settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)

    def close(self) -> None:
        """Never ring again."""
        self._stop_timer()
        if self._fd >= 0:
            self._watcher.stop()
            self._watcher.close()
            os.close(self._fd)
            self._fd = -1
        self._ring = _nothing

    def _on_timer(self) -> None:
        with suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self._fd, 8)
            self._ring()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None


class Ticker:
    """Wakes the event loop every `period_s` seconds (below 1) while it is started."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._loop = get_hub().loop
        self._timer: Any = None
        self._fd = -1
        if (made := _timerfd()) is not None:
            self._fd, self._settime = made
            self._watcher = self._loop.io(self._fd, _READ, ref=False)
            self._watcher.start(self._on_tick)

    def start(self) -> None:
        if self._fd >= 0:
            self._set(self._period_s)
        elif self._timer is None:
            self._timer = self._loop.timer(self._period_s, self._period_s, ref=False)
            self._timer.start(_nothing)

    def stop(self) -> None:
        if self._fd >= 0:
            self._set(0.0)
        elif self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        if self._fd >= 0:
            self._watcher.stop()
            self._watcher.close()
            os.close(self._fd)
            self._fd = -1

    def _set(self, period_s: float) -> None:
        period_ns = int(period_s * 1e9)
        self._settime(self._fd, 0, ctypes.byref(_Spec(0, period_ns, 0, period_ns)), None)

    def _on_tick(self) -> None:
        try:  # noqa: SIM105 - thousands of times a second
            os.read(self._fd, 8)
        except BlockingIOError:
            pass  # it was stopped meanwhile


def _nothing() -> None:
    pass
