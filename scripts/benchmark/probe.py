"""A locustfile of listeners only: notes what the process that leads used during the test.

Writes JSON to $PROBE_FILE: CPU seconds from start to stop, resident memory 10 s into the test and at its end,
and the sizes in bytes of the reports that workers sent.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events
from locust.rpc import Message
from locust.runners import WorkerRunner

from vllm_locust.load.messages import TO_MASTER

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_seen: dict[str, Any] = {}
_unserialize = Message.unserialize


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


def _note_size(data: bytes) -> Message:
    message = _unserialize(data)
    if message.type == TO_MASTER and message.data["do"] == "report":
        _seen["messages"].append(len(data))
    return message


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    _seen["messages"] = []
    Message.unserialize = staticmethod(_note_size)
    _seen["cpu_s"] = -time.process_time()
    gevent.spawn_later(10, lambda: _seen.update(early_mb=_resident_mb()))


@events.test_stop.add_listener
def _stop(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    _seen["cpu_s"] += time.process_time()
    _seen["late_mb"] = _resident_mb()
    Path(os.environ["PROBE_FILE"]).write_text(json.dumps(_seen))
