"""When a user's next request was intended: nothing that only the client needed time for may hide."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event
from locust import constant
from locust.env import Environment

from tests.scripted_server import DONE, HANG_UP, LAST_CHUNK, RESET, STREAM_HEAD, scripted_server, token
from tests.turns import look_around, until
from vllm_locust import VllmUser
from vllm_locust.client import chat, connection, exchange, stamps
from vllm_locust.client.chat import Moment, Origin, Reply, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.latencies import lateness_of
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.load import users
from vllm_locust.load.bodies import make_ready
from vllm_locust.load.generator import LoadGenerator
from vllm_locust.load.plan import Taken
from vllm_locust.workloads.scenario import PlannedRequest

ANSWER = STREAM_HEAD + token("a", "stop") + DONE + LAST_CHUNK


def begun() -> Event:
    event = Event()
    event.set()
    return event


@dataclass
class Stage:
    """What a user needs of a generator."""

    transport: Transport
    settings: Any = field(default_factory=lambda: SimpleNamespace(endpoint_type="chat"))
    clients: set[Any] = field(default_factory=set)
    records: list[RequestRecord] = field(default_factory=list)
    phase: int = 0
    phase_began_s: float = 0.0
    load_is_over: bool = False
    started: Event = field(default_factory=begun)
    own: list[str] = field(default_factory=list)

    @property
    def plan(self) -> "Stage":
        return self

    def try_take(self) -> Taken:
        request = PlannedRequest(len(self.records), "s", "p", "hello", max_tokens=1)
        return Taken(make_ready(request, request.index, "chat"), self.phase, self.phase_began_s)

    def finished(self, phase: int) -> None:
        pass

    def note_own(self, user: str) -> None:
        self.own.append(user)

    def note_called(self) -> None:
        pass

    def note_waiting(self, user: str) -> None:
        raise AssertionError("there always is a request")

    def send(self, *request: Any) -> Reply:
        return LoadGenerator.send(cast(LoadGenerator, self), *request)

    def take_in(self, record: RequestRecord) -> None:
        self.records.append(record)


class Pausing(VllmUser):
    abstract = True
    wait_time = constant(0.05)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with scripted_server([ANSWER]) as server:
        stage = Stage(Transport(Target.parse(server.url), RequestOptions(model="m")))
        yield stage
        for client in stage.clients:
            client.close()
        stage.transport.close()


def user_on(stage: Stage, kind: type[VllmUser]) -> VllmUser:
    environment = Environment(user_classes=[])
    environment.vllm_generator = stage  # type: ignore[attr-defined]
    return kind(environment)


def burn(seconds: float) -> None:
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        pass


def test_a_user_without_pause_is_free_when_the_answer_has_arrived(stage: Stage) -> None:
    user = user_on(stage, VllmUser)
    free_s = time.perf_counter()
    user.ask_next()
    burn(0.05)  # other users' turns, the prompt, anything
    user.ask_next()
    first, second = stage.records
    assert first.sent_s is not None
    assert second.sent_s is not None
    assert free_s <= first.intended_s <= first.sent_s
    assert second.intended_s == first.ended_s
    assert second.sent_s - second.intended_s >= 0.05


def test_the_pause_that_was_asked_for_is_no_lateness(stage: Stage) -> None:
    user = user_on(stage, Pausing)
    user.ask_next()
    gevent.sleep(user.wait_time())
    user.ask_next()
    first, second = stage.records
    assert second.intended_s == first.ended_s + 0.05


def test_a_phase_that_began_later_is_when_the_user_was_wanted(stage: Stage) -> None:
    user = user_on(stage, VllmUser)
    user.ask_next()
    stage.phase_began_s = time.perf_counter() + 5
    user.ask_next()
    assert stage.records[1].intended_s == stage.phase_began_s


@pytest.mark.parametrize(("state", "asks"), [("running", False), ("stopping", True)])
def test_behind_the_end_of_the_load_only_tasks_that_were_begun_go_on(
    stage: Stage, state: str, asks: bool
) -> None:
    user = user_on(stage, VllmUser)
    user._state = state
    stage.load_is_over = True
    asking = gevent.spawn(user.client.chat, "hello")
    until(lambda: stage.records or user._state == "waiting")
    asking.kill()
    assert bool(stage.records) == asks
    assert user._state == ("stopping" if asks else "waiting")


def test_a_task_of_ones_own_belongs_to_the_phase_there_is(stage: Stage) -> None:
    user = user_on(stage, VllmUser)
    stage.phase = 3
    user.client.chat("hello")
    assert stage.records[0].phase == 3


def test_a_turn_of_a_conversation_belongs_to_the_phase_it_began_in(stage: Stage) -> None:
    user = user_on(stage, VllmUser)
    stage.phase = 3
    user.client.chat("hello", origin=Origin(phase=2, session=0, turn=2))
    assert stage.records[0].phase == 2


def test_a_phase_cuts_off_what_is_not_known_before_it(stage: Stage) -> None:
    """Free at 10 s, or half a second before; thinks for 2 s."""
    user = user_on(stage, VllmUser)
    for began_s, intended in ((11.0, (12.0, 0.5)), (11.8, (12.0, 0.2)), (13.0, (13.0, 0.0))):
        user.client.free, user._thinking_s = Moment(10.0, 0.5), 2.0
        assert user._intended(began_s) == pytest.approx(intended)


# -- in time that a test makes ----------------------------------------------------------------------------


class Clock:
    """Stands still until it is set. Without stamps of the kernel's, whose clock is another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        for module in (chat, connection, exchange, users):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now_s)
        for name in ("perf_counter_ns", "time_ns"):
            monkeypatch.setattr(stamps, name, lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(connection, "enable_kernel_stamps", lambda _: False)


def wait_without_looking(is_so: Callable[[], bool]) -> None:
    """As a process that is stopped."""
    while not is_so():
        time.sleep(0.0001)


@pytest.mark.parametrize("ending", [ANSWER, RESET])
def test_what_is_noticed_late_is_in_the_ends_of_latencies_from_the_plan(
    monkeypatch: pytest.MonkeyPatch, ending: bytes
) -> None:
    """The answer ends at 0 ms, while the client is stopped until 200 ms; the next one has a token at 227 ms.

    So its TTFT from the intended start, and how late it was sent, are 200 ms too small.
    """
    clock, first, second = Clock(monkeypatch), threading.Event(), threading.Event()
    with scripted_server([first, ending, HANG_UP], [second, ANSWER]) as server:
        stage = Stage(Transport(Target.parse(server.url), RequestOptions(model="m")))
        user = user_on(stage, VllmUser)
        asking = gevent.spawn(lambda: [user.ask_next() for _ in range(2)])
        until(lambda: len(server.requests) == 1)
        look_around()
        first.set()
        wait_without_looking(lambda: not server.connected)
        clock.now_s += 0.2
        until(lambda: len(server.requests) == 2)
        clock.now_s += 0.027
        look_around()
        second.set()
        asking.join()
        user.client.close()
        stage.transport.close()
    recording = Recording()
    recording.add(stage.records[1])
    summary, lateness = summarize(recording), lateness_of(recording.total()).percentile(99)
    low_ms, high_ms = summary["error_bounds"]["p99_ttft_from_plan_ms"]
    assert summary["p99_ttft_from_plan_ms"] == pytest.approx(27)
    assert low_ms <= 227 <= high_ms <= 227.1
    assert lateness is not None
    assert lateness.value_s == 0
    assert 0.2 <= lateness.high_s <= 0.2003
