"""A server for a session: started and waited for, or found; stopped until nothing of it is left."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from vllm_locust.core.urls import authorization, credentials_of, without_secrets
from vllm_locust.errors import VllmLocustError
from vllm_locust.experiment.definition import Configuration, Timing
from vllm_locust.experiment.log import telling_lines
from vllm_locust.experiment.plan import server_command
from vllm_locust.experiment.process import Process

_LOOPBACK = "127.0.0.1"
_POLL_S = 0.1
_ASK_EVERY_S = 0.5
_ANSWER_S = 5.0
_PORT_FREE_S = 15.0


class ServerFailed(VllmLocustError):
    """A server that could not be used; the message says why."""


class Server:
    """One that answers; `process` is None when it is not ours."""

    def __init__(self, url: str, process: Process | None, log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    def death(self) -> str | None:
        """How it ended, in words; None while it lives, or when that cannot be known."""
        if self._process is None or (code := self._process.poll()) is None:
            return None
        return _ended(code, self._log)


@contextmanager
def serving(
    configuration: Configuration, timing: Timing, log: Path, tell: Callable[[str], None]
) -> Iterator[Server]:
    """A server that is ready; ServerFailed when it does not get so. It is gone when the block ends.

    `tell` is called now and then with how the wait goes on.
    """
    if configuration.url is not None:
        _await_ready(configuration.url, timing, None, log, tell)
        yield Server(configuration.url, None, log)
        return
    port = free_port()
    url = f"http://{_LOOPBACK}:{port}"
    process = Process(
        server_command(configuration, port),
        log,
        patience_s=timing.stop_timeout_s,
        environment={**os.environ, **configuration.environment},
    )
    try:
        _await_ready(url, timing, process, log, tell)
        yield Server(url, process, log)
    finally:
        tell("stopping")
        process.stop()
        _await_free(port)


def free_port() -> int:
    """A port of the loopback interface that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _await_ready(
    url: str, timing: Timing, process: Process | None, log: Path, tell: Callable[[str], None]
) -> None:
    health = _behind(url, timing.ready_path)
    began_s = asked_s = time.monotonic()
    while (now_s := time.monotonic()) - began_s < timing.ready_timeout_s:
        if process is not None and (code := process.poll()) is not None:
            raise ServerFailed(_ended(code, log))
        if now_s >= asked_s:
            asked_s = now_s + _ASK_EVERY_S
            if _is_ready(health):
                return
        tell("waiting for its health")
        time.sleep(_POLL_S)
    last = f": {words}" if process is not None and (words := telling_lines(log)) else ""
    raise ServerFailed(
        f"it was not ready within {timing.ready_timeout_s:g} s ({without_secrets(health)}){last}"
    )


def _behind(url: str, path: str) -> str:
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}{path}").geturl()


def _is_ready(health: str) -> bool:
    parts = urlsplit(health)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_ANSWER_S)
    try:
        resource = parts._replace(scheme="", netloc="", fragment="").geturl()
        connection.request("GET", resource, headers=authorization(credentials_of(parts.netloc)))
        return connection.getresponse().status < 400
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _await_free(port: int) -> None:
    """Nobody listens there any more; whoever still does is not a process that we have started."""
    deadline_s = time.monotonic() + _PORT_FREE_S
    while time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection((_LOOPBACK, port), timeout=1):
            time.sleep(_POLL_S)
            continue
        return
    raise VllmLocustError(
        f"Port {port} is still served after the server was stopped: its command has handed it to something "
        "that this experiment cannot end, such as a container. Stop that, then go on."
    )


def _ended(code: int, log: Path) -> str:
    how = f"by signal {code - 128}" if code > 128 else f"with exit code {code}"
    return f"the server ended {how}: {telling_lines(log) or 'it said nothing'}"
