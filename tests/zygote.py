"""Processes that begin with Locust imported, which saves each a second: forks of one that waits to be asked.

A fork goes on as `python -m MODULE` would, in a session of its own.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path

from gevent.os import fork_gevent

ROOT = Path(__file__).parents[1]
IMPORTED = ("locust.main", "vllm_locust.load.prepare", "vllm_locust.load.run", "vllm_locust.load.worker")
"""Only what no order matters for: the suite joins Locust when a locustfile says so."""


def environment() -> Mapping[str, str]:
    """The environment of a user: with Locust's monkey patching, and without keys of other tools."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "OPENAI_API_KEY" and not name.startswith("LOCUST_")
    }


class Fork:
    """A process, with what tests use of `subprocess.Popen`; its output needs no reader."""

    def __init__(self, *command: str, cwd: Path = ROOT, given: str = "") -> None:
        """`command` is a module and its arguments, `given` what it finds on its stdin."""
        self.returncode: int | None = None
        stdin, *self._outputs = (os.memfd_create(name) for name in ("stdin", "stdout", "stderr"))
        os.write(stdin, given.encode())
        os.lseek(stdin, 0, os.SEEK_SET)
        self._status, status = socket.socketpair()
        request = json.dumps({"command": command, "env": environment(), "cwd": str(cwd)})
        socket.send_fds(zygote(), [request.encode()], [stdin, *self._outputs, status.fileno()])
        status.close()
        os.close(stdin)
        self.pid = int(self._status.recv(64))

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(64))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("a fork", timeout or 0) from None
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has written to stdout and to stderr, once it has ended."""
        self.wait(timeout)
        return self._output

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return os.pread(self._outputs[1], 1 << 20, 0).decode()

    @cached_property
    def _output(self) -> tuple[str, str]:
        self._status.close()
        stdout, stderr = map(text_of, self._outputs)
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def text_of(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, encoding="utf-8") as text:
        return text.read()


def output_of(*command: str, given: str) -> str:
    """What a fork that ends well writes to stdout."""
    fork = Fork(*command, given=given)
    stdout, stderr = fork.communicate()
    assert fork.returncode == 0, stderr
    return stdout


@cache
def zygote() -> socket.socket:
    """Where it takes requests. It is started when it is first asked for."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            cwd=ROOT, env=environment(), start_new_session=True,
        )  # fmt: skip

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def serve(requests: socket.socket) -> None:
    """Fork for each request, and tell the fork's process id and, when it has ended, its status."""
    ready, wait = select.poll(), os.waitpid
    for name in IMPORTED:  # and gevent has changed what was just taken
        import_module(name)
    gc.freeze()
    ready.register(requests, select.POLLIN)
    forks: dict[int, tuple[int, int]] = {}
    while True:
        for descriptor, _ in ready.poll():
            if descriptor in forks:
                ready.unregister(descriptor)
                os.close(descriptor)
                pid, status = forks.pop(descriptor)
                os.write(status, b"%d" % os.waitstatus_to_exitcode(wait(pid, 0)[1]))
                os.close(status)
                continue
            request, files, _, _ = socket.recv_fds(requests, 1 << 16, 4)
            if not request:
                return
            if (pid := fork_gevent()) == 0:
                go_on(files, **json.loads(request))
                return
            *streams, status = files
            for stream in streams:
                os.close(stream)
            os.write(status, b"%d" % pid)
            descriptor = os.pidfd_open(pid)
            ready.register(descriptor, select.POLLIN)
            forks[descriptor] = pid, status


def go_on(files: Sequence[int], command: list[str], env: Mapping[str, str], cwd: str) -> None:
    """As `command`, which has the first three of the files as a process of its own has them."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0] = cwd
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
