"""What a worker reports: all of it, each thing once, in messages of a bounded size."""

import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from locust.env import Environment
from locust.rpc import Message

from tests.core.made_records import an_ok
from vllm_locust.client.ask import ServerModel
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.settings import Settings
from vllm_locust.load.worker import REQUESTS_PER_REPORT, WorkerLink
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context

LIMIT = 64 * 1024


class Wire:
    """A worker's runner, of which only the connection is there."""

    worker_index = 3
    client_id = "worker"

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.told: list[dict[str, Any]] = []

    def send_message(self, kind: str, data: dict[str, Any]) -> None:
        packed = Message(kind, data, "worker").serialize()
        self.sizes.append(len(packed))
        self.told.append(Message.unserialize(packed).data)

    def reports(self) -> list[dict[str, Any]]:
        return [message for message in self.told if message.get("do") == "report"]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def link(wire: Wire) -> Iterator[WorkerLink]:
    environment = Environment(user_classes=[])
    environment.runner = SimpleNamespace(user_count=0, stats=environment.stats)  # type: ignore[assignment]
    model = ServerModel(name="tiny", max_model_len=None, server_version=None)
    targets = [Target.parse("http://127.0.0.1:1")]
    prepared = Prepared(Settings(), targets, model, catalogue.load("tiny", Context()))
    link = WorkerLink(environment, wire, prepared, {"id": "run1", "seed": 1})  # type: ignore[arg-type]
    while (asked := wire.told[-1])["do"] == "what_time":
        link.obey({"do": "time", "run": "run1", "elapsed_s": 0.0, "asked_s": asked["asked_s"]})
    link.generator.set_clock(100.0, 0.25)
    wire.told = wire.told[-1:]
    yield link
    link.finish()


def measured(index: int, draw: np.random.Generator) -> RequestRecord:
    """200 tokens with gaps of all sizes, of one of four profiles."""
    arrivals_s = 101.0 + index / 100 + np.cumsum(draw.lognormal(-4, 1.5, 200))
    return an_ok(
        101.0 + index / 100,
        arrivals_s=arrivals_s.tolist(),
        profile=f"profile_{index % 4}",
        lags_s=draw.lognormal(-8, 1, 150).tolist(),
        bounds_s=draw.lognormal(-9, 1, 200).tolist(),
    )


def test_reports_are_bounded_and_together_all_there_is(link: WorkerLink, wire: Wire) -> None:
    draw = np.random.default_rng(1)
    records = [measured(index, draw) for index in range(3 * REQUESTS_PER_REPORT + 50)]
    whole = Recording(origin_s=100.0, clock_bound_s=0.25)
    for record in records:
        whole.add(record)
        link.generator.add(record)
    link.generator.settle()
    link.finish()
    merged = Recording()
    for report in wire.reports():
        merged.merge(Recording.from_dict(report["recording"]))
    assert summarize(merged) == summarize(whole)
    lines = b"".join(zlib.decompress(report["lines"]) for report in wire.reports())
    assert lines == b"".join(to_json_line(record, 100.0) for record in records)
    assert max(wire.sizes) <= LIMIT
    assert [report["last"] for report in wire.reports()] == [False] * (len(wire.reports()) - 1) + [True]


def test_a_phase_is_idle_when_all_of_it_is_reported(link: WorkerLink, wire: Wire) -> None:
    record = measured(0, np.random.default_rng(2))
    link.generator.add(record)
    link.idle(0)
    assert [message["do"] for message in wire.told] == ["hello", "report", "idle"]
    assert orjson.loads(zlib.decompress(wire.told[1]["lines"]))["profile"] == "profile_0"


def test_behind_the_last_report_there_is_silence(link: WorkerLink, wire: Wire) -> None:
    link.finish()
    told = len(wire.told)
    link.idle(0)
    link.report()
    link.finish()
    assert len(wire.told) == told


def test_orders_of_another_run_are_not_obeyed(link: WorkerLink) -> None:
    link.obey({"do": "end", "run": "another", "phase": 7})
    link.obey({"do": "cancel", "run": "another"})
    assert not link.generator.load_is_over
