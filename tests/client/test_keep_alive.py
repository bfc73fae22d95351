"""How long a connection lives, and what becomes of a request when it ends."""

import threading
import time
from collections.abc import Callable

import gevent
import pytest

from tests.client.asking import ANSWER, Asker, burn
from tests.scripted_server import (
    HANG_UP,
    STREAM_HEAD,
)
from tests.turns import until
from vllm_locust.client import chat, connection
from vllm_locust.client.chat import UNPLANNED


def test_connections_are_kept_alive(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    records = [it.ask().record for _ in range(3)]
    assert [record.outcome for record in records] == ["ok"] * 3
    assert it.server.connections == 1
    assert [record.connect_s is None for record in records] == [False, True, True]
    assert [record.index - UNPLANNED for record in records] == [0, 1, 2]


def test_a_connection_closed_while_idle_is_replaced(asker: Callable[..., Asker]) -> None:
    it = asker([*ANSWER, HANG_UP])
    assert it.ask().record.outcome == "ok"
    gevent.sleep(0.05)
    assert it.ask().record.outcome == "ok"
    assert it.server.connections == 2


def test_a_connection_closed_under_the_request_is_tried_once_more(asker: Callable[..., Asker]) -> None:
    """The server's close and our request cross each other; nobody has worked on the request."""
    it = asker(ANSWER, [HANG_UP], ANSWER)
    assert it.ask().record.outcome == "ok"
    reply = it.ask()
    assert (reply.text, reply.record.outcome) == ("abc", "ok")
    assert it.server.connections == 2


def test_a_close_that_crossed_the_request_and_was_noticed_late_did_so_all_the_same(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time to cross in, the close counts only where it may have come before the request went out."""
    it = asker(ANSWER, [HANG_UP], ANSWER)
    it.ask()
    send = connection.Connection.send

    def send_and_be_busy(self: connection.Connection, data: bytes) -> None:
        send(self, data)
        while it.server.connected and len(it.server.requests) < 3:
            burn(0.001)

    monkeypatch.setattr(chat, "_CROSSING_S", 0.0)
    monkeypatch.setattr(connection.Connection, "send", send_and_be_busy)
    assert it.ask().record.outcome == "ok"


def test_connection_close_is_honoured(asker: Callable[..., Asker]) -> None:
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    it = asker([head, *ANSWER[1:], HANG_UP])
    assert [it.ask().record.outcome for _ in range(2)] == ["ok", "ok"]
    assert it.server.connections == 2


def test_a_body_that_ends_with_the_connection(asker: Callable[..., Asker]) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    it = asker([head, b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n', HANG_UP])
    assert it.ask()[0] == "x"
    assert it.records[0].outcome == "ok"


def test_a_server_that_worked_and_then_closed_is_not_asked_again(asker: Callable[..., Asker]) -> None:
    worked = threading.Event()
    it = asker(ANSWER, [worked, HANG_UP], ANSWER)
    it.ask()
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.requests) == 2)
    long_after_s = time.perf_counter() + 0.1
    until(lambda: it.transport.pulse.earliest_s > long_after_s)
    worked.set()
    assert waiting.get().record.outcome == "truncated"
    assert len(it.server.requests) == 2


def test_bytes_behind_a_whole_answer_do_not_spoil_it(asker: Callable[..., Asker]) -> None:
    it = asker([b"".join(step for step in ANSWER if isinstance(step, bytes)) + b"garbage"], ANSWER)
    assert [it.ask().record.outcome for _ in range(2)] == ["ok", "ok"]
    assert it.server.connections == 2
