"""The observer's process: `python -m vllm_locust.observe FD HOST PORT`, started by the one that leads.

FD is its end of the line (`observe.wire`), HOST and PORT where the exporter listens; port -1 is nowhere.
"""

import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.observe.live import Identity
from vllm_locust.observe.observer import Observer
from vllm_locust.observe.wire import Wire

_NICENESS = 10
"""On a machine that is busy, client and server come first."""


def main(fd: int, host: str, port: int) -> None:
    """Do what comes over the line, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the end is when the line ends, behind the last figures
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    line = socket.socket(fileno=fd)
    line.setblocking(True)  # gevent, on the other end, has made both ends non-blocking
    wire = Wire(line)

    def say(message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # nobody is there: the line's end is noticed where it is read
            wire.send(message)

    observer = Observer(say)
    exporter = problem = None
    if port >= 0:
        try:
            exporter = observer.listen((host, port))
        except UsageError as error:
            problem = str(error)
    say({"say": "ready", "exporter": exporter, "problem": problem})
    for message in wire.messages():
        _obey(observer, message)
    observer.close()
    wire.close()


def _obey(observer: Observer, message: dict[str, Any]) -> None:
    match message.pop("do"):
        case "watch":
            observer.watch(**message)
        case "begin":
            observer.begin(Identity(**message))
        case "phase":
            observer.phase(**message)
        case "delta":
            observer.delta(**message)
        case "state":
            observer.state(**message)
        case "scrape":
            observer.scrape(**message)
        case "end":
            observer.end()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
