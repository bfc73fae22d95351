"""A process that stands between an experiment and what it starts, so that nothing is left behind.

    python supervisor.py SECONDS COMMAND...

It runs COMMAND and ends with its exit code. When its standard input is closed, on purpose or because the
experiment was killed, it ends the command: SIGINT to its process group, SIGTERM after half of SECONDS,
SIGKILL after all of them, and so it does with whatever the command has started, daemons among them.
SIGTERM makes it skip the waiting. It never ends before the last descendant has (where /proc tells of them).

Rule: the standard library only, and nothing to do while the command runs: it must not disturb a measurement.
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NOT_STARTED = 127
_GRACE_S = 5.0
"""For what the command has left running when it ended by itself."""
_POLL_S = 0.05
_GIVE_UP_S = 30.0
"""After SIGKILL: a process that the kernel does not let go will not be waited for any longer."""


class Supervisor:
    """Of one command."""

    def __init__(self, patience_s: float, command: list[str]) -> None:
        self._patience_s = patience_s
        self._command = command
        self._child = 0
        self._status: int | None = None
        self._hurry = False

    def run(self) -> int:
        """Until the last descendant is gone; the command's exit code."""
        prctl = _prctl()
        prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans among the descendants become our children
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_hurry", True))
        self._child = _start(self._command, prctl)
        while self._status is None and not self._hurry:
            ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
            if woken in ready:
                os.read(woken, 4096)
            self._reap()
            if sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 4096):
                break
        self._end()
        return _exit_code(self._status)

    def _end(self) -> None:
        began_s = time.monotonic()
        patience_s = self._patience_s if self._status is None else min(_GRACE_S, self._patience_s)
        signals = [(0.0, signal.SIGINT), (patience_s / 2, signal.SIGTERM)]
        if self._status is not None:
            signals = [(0.0, signal.SIGTERM)]
        while self._reap() or self._descendants():
            waited_s = time.monotonic() - began_s
            if self._hurry or waited_s >= patience_s:
                self._signal(signal.SIGKILL)
            elif signals and waited_s >= signals[0][0]:
                self._signal(signals.pop(0)[1])
            if waited_s > patience_s + _GIVE_UP_S:
                return
            time.sleep(_POLL_S)

    def _reap(self) -> bool:
        """Take note of children that have ended; whether there are others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                self._status = status

    def _signal(self, number: signal.Signals) -> None:
        """To the command's process group, and to descendants that have left it."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, number)
        for pid in self._descendants():
            with suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self._child:
                    os.kill(pid, number)

    def _descendants(self) -> list[int]:
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                # The name of a process stands in brackets, and may hold spaces and brackets itself.
                state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.parent.name)] = int(parent)
        found, new = [], [os.getpid()]
        while new:
            new = [pid for pid, parent in parents.items() if parent in new]
            found += new
        return found


def _prctl() -> Callable[[int, int], int]:
    """Linux's prctl(2); elsewhere nothing happens."""
    if sys.platform != "linux":
        return lambda *_: 0
    library = ctypes.CDLL(None)
    return lambda option, value: int(library.prctl(option, value, 0, 0, 0))


def _start(command: list[str], prctl: Callable[[int, int], int]) -> int:
    """The process id of the command, which leads a session and process group of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(_NOT_STARTED)


def _exit_code(status: int | None) -> int:
    """As a shell has it: 128 more than the number of the signal that ended the command."""
    if status is None:
        return 128 + signal.SIGKILL
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(Supervisor(float(sys.argv[1]), sys.argv[2:]).run())
