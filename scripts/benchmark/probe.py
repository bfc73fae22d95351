"""A locustfile of listeners only: notes what the measuring process itself used during the test.

Writes JSON to $PROBE_FILE: CPU seconds from start to stop, and resident memory 10 s into the test and at its
end.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import events

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_seen: dict[str, float] = {}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


@events.test_start.add_listener
def _start(**_: Any) -> None:
    _seen["cpu_s"] = -time.process_time()
    gevent.spawn_later(10, lambda: _seen.update(early_mb=_resident_mb()))


@events.test_stop.add_listener
def _stop(**_: Any) -> None:
    _seen["cpu_s"] += time.process_time()
    _seen["late_mb"] = _resident_mb()
    Path(os.environ["PROBE_FILE"]).write_text(json.dumps(_seen))
