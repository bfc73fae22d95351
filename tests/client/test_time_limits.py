"""What is in time, and what is given up."""

import threading
from collections.abc import Callable

import pytest
from gevent.event import Event

from tests.client.asking import ANSWER, Asker, burn
from tests.scripted_server import (
    STREAM_HEAD,
    assert_true,
    plain,
    token,
)
from vllm_locust.client import connection, exchange


class Overslept(Event):
    """Time is up before the loop has looked at its sockets, and by then all has come."""

    has_come: Callable[[], bool]

    def wait(self, timeout: float | None = None) -> bool:
        while not self.has_come():
            burn(0.001)
        return self.is_set()


@pytest.fixture
def overslept(monkeypatch: pytest.MonkeyPatch) -> type[Overslept]:
    monkeypatch.setattr(exchange, "Event", Overslept)
    monkeypatch.setattr(connection, "_READ_SIZE", 100)  # reading once is not enough
    return Overslept


def test_the_total_timeout(asker: Callable[..., Asker]) -> None:
    never = threading.Event()
    it = asker([STREAM_HEAD, token("a"), never, token("b", "stop")], ANSWER, timeout_s=0.5)
    record = it.ask().record
    never.set()
    assert (record.outcome, record.error) == (
        "timeout",
        "no complete answer within 0.5 s; the head of a stream came, and 1 event with output",
    )
    # Whenever that was noticed, the time was up then, and the user free.
    assert record.sent_s is not None
    assert record.ended_s - record.ended_bound_s == pytest.approx(record.sent_s + 0.5)
    assert it.client.free == (record.ended_s, record.ended_bound_s)
    assert it.ask().record.outcome == "ok"
    assert it.server.connections == 2


@pytest.mark.parametrize("timeout_s", [60.0, 1e-6])
def test_an_answer_is_in_time_by_its_last_byte_whenever_it_is_read(
    asker: Callable[..., Asker], overslept: type[Overslept], timeout_s: float
) -> None:
    it = asker(ANSWER, timeout_s=timeout_s)
    overslept.has_come = lambda _: len(it.server.sent_by_s) == len(ANSWER)
    record = it.ask().record
    assert record.outcome == ("ok" if timeout_s == 60 else "timeout")
    if record.outcome == "ok":
        assert_true(record, it.server.sent_s[2:5], it.server.sent_by_s[2:5])
    assert it.transport.pulse.reads == 0, "no look has told of what was read"


def test_an_answer_that_came_too_late_is_none_though_it_was_read_before_time_was_seen_to_be_up(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient(Event):
        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(60.0)

    monkeypatch.setattr(exchange, "Event", Patient)
    it = asker(ANSWER, [plain("500 Oops", b"engine died")], timeout_s=1e-6)
    records = [it.ask().record for _ in range(2)]
    assert [(record.outcome, record.error) for record in records] == [
        ("timeout", f"no complete answer within 1e-06 s; {told}")
        for told in (
            "the head of a stream came, and 3 events with output",
            "the response 500 came, too late: engine died",
        )
    ]


def test_words_behind_a_broken_request_are_heard_though_the_loop_has_not_looked(
    asker: Callable[..., Asker], overslept: type[Overslept], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = asker([plain("413 Too Large", b"no")])
    send = connection.Connection.send

    def send_and_fail(self: connection.Connection, data: bytes) -> None:
        send(self, data)
        raise BrokenPipeError("gone")

    monkeypatch.setattr(connection.Connection, "send", send_and_fail)
    overslept.has_come = lambda _: len(it.server.sent_by_s) == 1
    assert it.ask().record.outcome == "http_413"
