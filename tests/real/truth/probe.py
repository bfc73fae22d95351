"""A second locustfile beside chat.py: writes down each token's claim and bound, and disturbs as told.

CLAIMS_FILE: where to. DISTURBANCE: what is done in this process, by the names in measure.py.
"""

import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from gevent.monkey import get_original
from locust import User, events, task

import vllm_locust
from vllm_locust import VllmUser  # noqa: F401 - brings `stream_finished` along
from vllm_locust.client import connection

DISTURBANCE = os.environ.get("DISTURBANCE", "")
really_sleep = get_original("time", "sleep")
claims = Path(os.environ["CLAIMS_FILE"]).open("w", encoding="utf-8")  # noqa: SIM115


@events.stream_finished.add_listener
def write_down(record: vllm_locust.RequestRecord, **_: Any) -> None:
    claim = {
        "index": record.index,
        "outcome": record.outcome,
        "arrivals_s": list(record.arrivals_s),
        "bounds_s": list(record.bounds_s),
        "contradictions": getattr(record, "contradictions", 0),
    }
    claims.write(json.dumps(claim) + "\n")
    if DISTURBANCE == "sleep in a listener":
        really_sleep(0.03)


@events.quit.add_listener
def close(**_: Any) -> None:
    claims.close()


if DISTURBANCE.endswith("without kernel stamps"):
    connection.enable_kernel_stamps = lambda _: False

if DISTURBANCE == "gc":

    @events.test_start.add_listener
    def collect_time_and_again(**_: Any) -> None:
        heap = [[number] for number in range(1_000_000)]

        def collect() -> None:
            while heap:
                gc.collect()
                gevent.sleep(0.2)

        gevent.spawn(collect)


if DISTURBANCE == "blocking task":

    class Blocker(User):
        fixed_count = 1

        @task
        def block(self) -> None:
            ends_s = time.perf_counter() + 0.05
            while time.perf_counter() < ends_s:
                pass
            gevent.sleep(0.1)
