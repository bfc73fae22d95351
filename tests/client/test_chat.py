"""Every way an answer can come or fail to come, over real sockets, against the server's log of send times."""

import gc
import hashlib
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gevent
import orjson
import pytest
from gevent.event import Event

from tests.scripted_server import (
    DONE,
    HANG_UP,
    LAST_CHUNK,
    RESET,
    ROLE,
    STREAM_HEAD,
    ScriptedServer,
    Step,
    assert_true,
    chunk,
    event,
    plain,
    scripted_server,
    token,
    usage,
)
from tests.turns import look_around, until
from vllm_locust.client import chat, connection, exchange, stamps
from vllm_locust.client.chat import UNPLANNED, ChatClient, Moment, Origin, Reply, RequestOptions, Transport
from vllm_locust.client.exchange import Exchange
from vllm_locust.client.target import ROUND_ROBIN, STICKY, Target
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.stream import Answer

ANSWER = [STREAM_HEAD, ROLE, token("a"), token("b"), token("c", "stop"), usage(5, 3), DONE, LAST_CHUNK]


def burn(seconds: float) -> None:
    """Keep this process busy: nothing is read meanwhile."""
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        pass


@contextmanager
def early_server(answer: bytes, ending: list[Step]) -> Iterator[int]:
    """Answers as soon as it has read a little of a request, and reads no more."""
    leave = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(answer)
        if ending == [HANG_UP]:
            connection.shutdown(socket.SHUT_WR)
        if ending == [RESET]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        leave.wait(60)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)  # a test that fails must not wait for it
        thread.start()
        yield listener.getsockname()[1]
        leave.set()
        thread.join()


class Asker:
    """A client of a scripted server, with everything it reported."""

    def __init__(self, server: ScriptedServer, **options: object) -> None:
        self.server = server
        self.records: list[RequestRecord] = []
        self.transport = Transport(Target.parse(server.url), RequestOptions(model="m", **options))  # type: ignore[arg-type]
        self.client = ChatClient(self.transport, self.records.append)

    def ask(self) -> Reply:
        return self.client.chat("hello", max_tokens=3)

    def close(self) -> None:
        self.client.close()
        self.transport.close()


@pytest.fixture
def asker() -> Iterator[Callable[..., Asker]]:
    open_things: list[object] = []

    def start(*scripts: list[Step], **options: object) -> Asker:
        context = scripted_server(*scripts)
        made = Asker(context.__enter__(), **options)
        open_things.append((made, context))
        return made

    yield start
    for made, context in open_things:  # type: ignore[misc]
        made.close()
        context.__exit__(None, None, None)


def test_the_bytes_of_a_request(asker: Callable[..., Asker]) -> None:
    it = asker(
        ANSWER, headers={"Authorization": "Bearer secret"}, body={"ignore_eos": True}, running_usage=True
    )
    it.ask()
    head, _, body = it.server.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert f"Host: localhost:{it.server.port}" in lines
    assert "Authorization: Bearer secret" in lines
    assert orjson.loads(body) == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 3,
    }


def test_times_are_those_of_the_servers_log(asker: Callable[..., Asker]) -> None:
    it = asker(
        [STREAM_HEAD, ROLE, 0.04, token("a"), 0.03, token("b"), 0.02, token("c", "stop"), DONE + LAST_CHUNK]
    )
    record = it.ask().record
    assert_true(record, it.server.sent_s[2:5], it.server.sent_by_s[2:5])
    assert record.first_token_s == record.arrivals_s[0]
    assert record.last_token_s == record.arrivals_s[2]
    assert record.ttft_s >= 0.04
    assert record.outcome == "ok"
    assert record.tokens_counted
    assert record.output_tokens == 3


def test_a_late_reader_still_tells_when_bytes_arrived(asker: Callable[..., Asker]) -> None:
    """The whole point: busy for 50 ms when the token comes, and still the arrival is the kernel's."""
    it = asker([STREAM_HEAD, 0.05, token("a"), 0.5, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    look_around()  # the head was a packet of its own, and is read
    while len(it.server.sent_by_s) < 2:
        burn(0.001)
    burn(0.05)
    record = waiting.get().record
    assert it.server.sent_s[1] <= record.arrivals_s[0] <= it.server.sent_by_s[1] + 0.0001
    assert max(record.lags_s) >= 0.05 - 0.0001
    assert record.bounds_s[0] < 1e-3


@pytest.mark.parametrize("step_ns", [20_000_000, -20_000_000])
def test_stamps_of_an_answer_in_which_the_clock_is_set_are_not_believed(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    """It is set behind the first token, which is read later: its stamp is that of a clock that is no more."""
    set_ns = [math.inf]

    def played(true_ns: int) -> int:
        return true_ns + (step_ns if true_ns >= set_ns[0] else 0)

    def unpack_played(ancillary: bytes) -> tuple[int, int]:
        seconds, nanoseconds = stamps.unpack_stamp(ancillary)
        return divmod(played(seconds * 1_000_000_000 + nanoseconds), 1_000_000_000)

    monkeypatch.setattr(stamps, "time_ns", lambda: played(time.time_ns()))
    monkeypatch.setattr(connection, "unpack_stamp", unpack_played)
    it = asker([STREAM_HEAD, 0.05, token("a"), 0.1, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    look_around()
    while len(it.server.sent_by_s) < 2:
        burn(0.001)
    set_ns[0] = time.time_ns()
    burn(0.03)
    record = waiting.get().record
    assert_true(record, it.server.sent_s[1:3], it.server.sent_by_s[1:3])
    assert record.contradictions > 0


@pytest.mark.parametrize("where", ["run_exchange", "open_connection"])
def test_what_we_lose_before_the_request_is_written_is_an_error_of_ours(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Busy for 50 ms between the stamp and the write, or before connecting."""
    original = getattr(chat, where)

    def late(*given: object) -> object:
        burn(0.05)
        return original(*given)

    monkeypatch.setattr(chat, where, late)
    record = asker(ANSWER).ask().record
    assert record.send_bound_s >= 0.05
    assert record.connect_bound_s >= (0.05 if where == "open_connection" else 0.0)


def test_events_read_together_say_how_uncertain_they_are(asker: Callable[..., Asker]) -> None:
    go_on = threading.Event()
    it = asker([STREAM_HEAD, go_on, token("a"), 0.08, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    looked_s = time.perf_counter()
    look_around()
    go_on.set()
    while len(it.server.sent_by_s) < 4:
        burn(0.001)
    record = waiting.get().record
    assert record.arrivals_s[0] >= it.server.sent_s[2] - 1e-4  # both carry the stamp of the last
    assert looked_s <= record.arrivals_s[0] - record.bounds_s[0] <= it.server.sent_by_s[1] + 1e-4


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


def test_keep_alive_comments_and_crlf(asker: Callable[..., Asker]) -> None:
    keep_alive = b": keep-alive\r\n\r\n"
    body = keep_alive + b'data: {"choices":[{"text":"x","finish_reason":"length"}]}\r\n\r\n' + keep_alive
    it = asker([STREAM_HEAD, chunk(body), DONE, LAST_CHUNK])
    reply = it.client.complete([1, 2, 3], max_tokens=1)
    assert (reply.text, reply.record.outcome, len(reply.record.arrivals_s)) == ("x", "ok", 1)
    assert it.server.requests[0].startswith(b"POST /v1/completions ")


@pytest.mark.parametrize("size", [1, 7])
def test_an_answer_cut_anywhere(asker: Callable[..., Asker], size: int) -> None:
    body = b"".join(step for step in ANSWER if isinstance(step, bytes))
    it = asker([body[start : start + size] for start in range(0, len(body), size)])
    reply = it.ask()
    assert (reply.text, reply.record.outcome) == ("abc", "ok")
    assert (reply.record.prompt_tokens, reply.record.output_tokens) == (5, 3)


ERROR = b'{"error":{"message":"The model `m` does not exist.","type":"NotFoundError","code":404}}'
BUSY = event('{"error":{"message":"The engine is currently busy","code":503}}')


@pytest.mark.parametrize(
    ("script", "outcome", "message"),
    [
        ([plain("404 Not Found", ERROR)], "http_404", "The model `m` does not exist."),
        ([plain("503 Service Unavailable", b"<h1>gone\n</h1>")], "http_503", "<h1>gone </h1>"),
        ([plain("500 Oops", b"")], "http_500", "(no message)"),
        (
            [plain("307 X", b"", "Location: https://there/")],
            "http_307",
            "https://there/: give that address as --host",
        ),
        ([STREAM_HEAD, BUSY, DONE, LAST_CHUNK], "server_error_event", "engine is currently busy"),
        (
            [STREAM_HEAD, ROLE, token("a"), BUSY, DONE, LAST_CHUNK],
            "server_error_event",
            "engine is currently busy",
        ),
        ([plain("200 OK", ERROR, "content-type: application/json")], "server_error_event", "does not exist"),
        (
            [plain("200 OK", b"<html>", "content-type: text/html")],
            "protocol",
            "expected an event stream, got text/html",
        ),
        ([STREAM_HEAD, ROLE, token("a"), LAST_CHUNK], "truncated", "without a finish reason"),
        ([STREAM_HEAD, ROLE, token("a"), HANG_UP], "truncated", "without a finish reason"),
        ([STREAM_HEAD, token("a"), 0.02, RESET], "truncated", "connection lost"),
        ([HANG_UP], "truncated", "before any response"),
        ([STREAM_HEAD, event("{broken")], "protocol", "cannot be parsed"),
        ([b"SSH-2.0-OpenSSH_9\r\n"], "protocol", "not an HTTP response"),
        ([STREAM_HEAD, DONE, LAST_CHUNK], "protocol", "no output"),
        (
            [STREAM_HEAD, event('{"choices":[{"delta":{},"finish_reason":"stop"}]}'), DONE, LAST_CHUNK],
            "protocol",
            "no output",
        ),
    ],
)
def test_failures_are_told_apart(
    asker: Callable[..., Asker], script: list[Step], outcome: str, message: str
) -> None:
    it = asker(script, ANSWER)
    reply = it.ask()
    assert reply.record.outcome == outcome
    assert message in (reply.record.error or "")
    assert len(it.records) == 1
    assert it.ask().record.outcome == "ok"  # the user goes on


def test_a_finished_answer_is_whole_if_the_connection_breaks_behind_it(asker: Callable[..., Asker]) -> None:
    it = asker([STREAM_HEAD, token("a", "stop"), usage(5, 1), DONE, 0.02, RESET])
    record = it.ask().record
    assert (record.outcome, record.output_tokens, record.error) == ("ok", 1, None)


@pytest.mark.parametrize("ending", [0.3, threading.Event()])
def test_a_complete_answer_ended_with_its_last_bytes(
    asker: Callable[..., Asker], ending: float | threading.Event
) -> None:
    """Told by the connection's end 0.3 s later, or by our patience; only the user has waited so long."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    last = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    it = asker([head, last, ending, HANG_UP], timeout_s=1.0 if ending == 0.3 else 0.3)
    record = it.ask().record
    if isinstance(ending, threading.Event):
        ending.set()
    assert (record.outcome, record.ended_s) == ("ok", record.last_token_s)
    assert it.client.free is not None
    assert it.client.free.at_s - record.ended_s >= 0.25


def test_a_refused_connection(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    it.server.close()
    record = it.ask().record
    assert record.outcome == "connect"
    assert "127.0.0.1" in (record.error or "")
    assert record.connect_s is not None
    assert record.sent_s is not None
    assert record.ended_s >= record.sent_s + record.connect_s
    assert 0 <= record.ended_bound_s == record.connect_bound_s <= record.connect_s


def test_the_pause_behind_a_refusal_is_no_lateness_of_what_comes_next(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    it.server.close()
    refused = it.ask().record
    free = it.client.free
    assert free == Moment(refused.ended_s, refused.ended_bound_s).later(0.2)
    assert it.ask().record.intended_s >= free.at_s - 1e-9


def test_a_request_that_cannot_be_written_failed_when_that_was_tried_or_later(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known 0.1 s later, as a server that refuses early is given time to say so."""

    def gone(*_: object) -> int:
        raise BrokenPipeError("gone")

    monkeypatch.setattr(connection, "_try_send", gone)
    record = asker(ANSWER).ask().record
    assert (record.outcome, record.error) == ("truncated", "connection lost: gone")
    assert record.sent_s is not None
    assert record.sent_s <= record.ended_s - record.ended_bound_s <= record.ended_s - 0.09


def test_an_unknown_host() -> None:
    records: list[RequestRecord] = []
    transport = Transport(Target.parse("http://no-such-host.invalid"), RequestOptions(model="m"))
    ChatClient(transport, records.append).chat("hello")
    transport.close()
    assert records[0].outcome == "connect"


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


def test_a_stream_that_stops_is_no_answer_though_each_chunk_has_an_empty_finish_reason(
    asker: Callable[..., Asker],
) -> None:
    part = event('{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}')
    it = asker([STREAM_HEAD, part, 0.3], timeout_s=0.1)
    assert it.ask().record.outcome == "timeout"


@pytest.mark.parametrize("where", ["request", "run"])
def test_all_answers_that_were_asked_for_must_end(asker: Callable[..., Asker], where: str) -> None:
    it = asker([STREAM_HEAD, token("a", "stop"), LAST_CHUNK], body={"n": 2} if where == "run" else {})
    reply = it.client.chat("hello", **({"n": 2} if where == "request" else {}))
    assert (reply.record.outcome, reply.record.error) == (
        "truncated",
        "the stream ended before all choices had a finish reason",
    )


def test_an_interrupted_user_leaves_a_cancelled_record(asker: Callable[..., Asker]) -> None:
    never = threading.Event()
    it = asker([STREAM_HEAD, token("a"), never, token("b", "stop")])
    user = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 2)
    look_around()
    user.kill()
    never.set()
    assert [record.outcome for record in it.records] == ["cancelled"]
    assert it.records[0].output_tokens == 1
    assert it.transport.in_flight == 0


def test_a_user_interrupted_when_all_had_come_has_the_answer(asker: Callable[..., Asker]) -> None:
    """Though the loop had not looked since: it was busy, or the process stopped."""
    go_on = threading.Event()
    it = asker([go_on, *ANSWER])
    user = gevent.spawn(it.ask)
    until(lambda: len(it.server.requests) == 1)
    look_around()
    go_on.set()
    while len(it.server.sent_by_s) < len(ANSWER):
        burn(0.001)
    user.kill()
    assert [(record.outcome, record.output_tokens) for record in it.records] == [("ok", 3)]


def test_a_user_interrupted_before_their_turn_has_sent_nothing(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = asker(ANSWER)
    monkeypatch.setattr(it.transport.turns, "take", Event().wait)
    user = gevent.spawn(it.ask)
    gevent.sleep(0)
    user.kill()
    [record] = it.records
    assert (record.outcome, record.sent_s, it.transport.in_flight) == ("cancelled", None, 0)


def test_concurrency_counts_what_is_in_flight(asker: Callable[..., Asker]) -> None:
    all_are_there = threading.Event()
    it = asker([STREAM_HEAD, all_are_there, *ANSWER[1:]])
    clients = [ChatClient(it.transport, it.records.append) for _ in range(3)]
    asking = [gevent.spawn(client.chat, "hello") for client in clients]
    until(lambda: len(it.server.requests) == 3)
    all_are_there.set()
    gevent.joinall(asking)
    for client in clients:
        client.close()
    assert sorted(record.concurrency for record in it.records) == [1, 2, 3]


def test_running_usage_reaches_the_record(asker: Callable[..., Asker]) -> None:
    def counted(content: str, total: int) -> bytes:
        return event(
            f'{{"choices":[{{"delta":{{"content":"{content}"}},"finish_reason":"length"}}],'
            f'"usage":{{"prompt_tokens":5,"completion_tokens":{total}}}}}'
        )

    it = asker([STREAM_HEAD, counted("a", 1), counted("bcd", 4), DONE, LAST_CHUNK])
    record = it.ask().record
    assert (list(record.event_tokens), record.output_tokens, record.tokens_counted) == ([1, 3], 4, False)


def test_a_large_request_is_sent_whole(asker: Callable[..., Asker]) -> None:
    it = asker([0.1, *ANSWER])
    prompt = "x" * 8_000_000
    assert it.client.chat(prompt).record.outcome == "ok"
    assert prompt.encode() in it.server.requests[0]


def test_nothing_of_an_answer_waits_for_the_garbage_collector(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER, [STREAM_HEAD, HANG_UP], ANSWER, [plain("500 Oops", b"")])
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            it.ask()
        it.records.clear()
        left = [thing for thing in gc.get_objects() if isinstance(thing, (Exchange, Answer))]
    finally:
        gc.enable()
    assert left == []


LARGE = "x" * 12_000_000  # more than any socket's buffer takes


@pytest.mark.parametrize("ending", [[HANG_UP], [RESET], []])
def test_an_answer_that_comes_while_we_still_write(asker: Callable[..., Asker], ending: list[Step]) -> None:
    """A gateway refuses a prompt by its length, and never reads the rest of it."""
    it = asker(ANSWER, timeout_s=60)
    it.server.close()
    with early_server(plain("413 Too Large", b'{"error":{"message":"too large"}}'), ending) as port:
        it.transport.targets[0] = Target.parse(f"http://127.0.0.1:{port}")
        record = it.client.chat(LARGE).record
    assert record.outcome in ("http_413", "truncated" if ending == [RESET] else "http_413")


def test_the_timeout_covers_writing(asker: Callable[..., Asker]) -> None:
    it = asker([], timeout_s=0.2)
    with early_server(b"", []) as port:
        it.transport.targets[0] = Target.parse(f"http://127.0.0.1:{port}")
        record = it.client.chat(LARGE).record
    assert (record.outcome, record.error) == (
        "timeout",
        "no complete answer within 0.2 s; not a byte of a response came",
    )


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


def test_a_token_with_something_behind_it_in_the_same_read_is_uncertain(asker: Callable[..., Asker]) -> None:
    """The stamp is that of the last bytes: here of [DONE], 80 ms after the token."""
    go_on = threading.Event()
    it = asker([STREAM_HEAD, go_on, token("a", "stop"), 0.08, DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    go_on.set()
    while len(it.server.sent_by_s) < 3:
        burn(0.001)
    record = waiting.get().record
    assert record.arrivals_s[0] - record.bounds_s[0] <= it.server.sent_by_s[1] + 1e-4
    assert record.bounds_s[0] >= it.server.sent_s[2] - it.server.sent_by_s[1] - 1e-4


def test_a_request_that_cannot_be_made_is_told_and_recorded(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    with pytest.raises(TypeError):
        it.client.chat("a lone surrogate: \ud800")
    assert [record.outcome for record in it.records] == ["protocol"]
    assert it.transport.in_flight == 0


def test_bytes_behind_a_whole_answer_do_not_spoil_it(asker: Callable[..., Asker]) -> None:
    it = asker([b"".join(step for step in ANSWER if isinstance(step, bytes)) + b"garbage"], ANSWER)
    assert [it.ask().record.outcome for _ in range(2)] == ["ok", "ok"]
    assert it.server.connections == 2


def test_an_upgrade_is_a_failure_and_not_silence(asker: Callable[..., Asker]) -> None:
    it = asker([b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], ANSWER)
    assert it.ask().record.outcome == "protocol"


def test_the_record_says_what_was_asked_and_in_which_conversation(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    it.client.chat("hello", max_tokens=3, origin=Origin(index=4, prompt_tokens=6, session=4, turn=1))
    it.client.complete("hello", max_tokens=3)
    it.client.chat([{"role": "user", "content": "hello"}])
    first, completion, same = it.records
    assert (first.session, first.turn, first.planned_prompt_tokens, first.max_tokens) == (4, 1, 6, 3)
    assert first.prompt_tokens == 5, "what the server counted"
    assert (same.session, same.turn, same.planned_prompt_tokens, same.max_tokens) == (None,) * 4
    # BLAKE2b of the prompt as JSON, by Python's json and another call of hashlib.
    text = json.dumps([{"role": "user", "content": "hello"}], separators=(",", ":")).encode()
    assert first.prompt_hash == same.prompt_hash == hashlib.blake2b(text, digest_size=8).hexdigest()
    assert completion.prompt_hash == hashlib.blake2b(b'"hello"', digest_size=8).hexdigest()
    assert first.target is None, "there is one host only"


@dataclass
class Hosts:
    """Clients of two servers."""

    servers: Sequence[ScriptedServer]
    transport: Transport
    records: list[RequestRecord] = field(default_factory=list)

    def client(self) -> ChatClient:
        return ChatClient(self.transport, self.records.append)

    @property
    def asked(self) -> list[int]:
        """Which server each of the requests went to, by its record."""
        names = [f"localhost:{server.port}" for server in self.servers]
        return [names.index(str(record.target)) for record in self.records]

    @property
    def counts(self) -> list[int]:
        return [len(server.requests) for server in self.servers]


@contextmanager
def two_hosts(routing: str, worker: int = 0) -> Iterator[Hosts]:
    with scripted_server(ANSWER) as one, scripted_server(ANSWER) as other:
        targets = [Target.parse(one.url), Target.parse(other.url)]
        transport = Transport(targets, RequestOptions(model="m"), worker=worker, routing=routing)
        yield Hosts([one, other], transport)
        transport.close()


def test_a_sticky_user_stays_with_a_host_and_hosts_are_dealt_in_turn() -> None:
    with two_hosts(STICKY) as hosts:
        users = [hosts.client() for _ in range(3)]
        for user in (*users, *users, users[1]):
            user.chat("hello")
        assert hosts.asked == [0, 1, 0, 0, 1, 0, 1]
        assert hosts.counts == [4, 3]
        assert [server.connections for server in hosts.servers] == [2, 1]
        for user in users:
            user.close()


def test_round_robin_sends_each_request_to_the_next_host_over_one_connection_each() -> None:
    with two_hosts(ROUND_ROBIN) as hosts:
        user, other = hosts.client(), hosts.client()
        for one in (user, user, user, other, user):
            one.chat("hello")
        assert hosts.asked == [0, 1, 0, 1, 0]
        assert [server.connections for server in hosts.servers] == [1, 2]
        user.close()
        other.close()
        user.chat("hello")
        assert hosts.servers[1].connections == 3, "all connections were closed"
        user.close()


def test_who_comes_after_a_user_gets_a_host_of_their_own() -> None:
    with two_hosts(STICKY) as hosts:
        client = hosts.client()
        for _ in range(3):
            client.leave_host()
            client.chat("hello")
            client.chat("hello")
        client.close()
        assert hosts.asked == [0, 0, 1, 1, 0, 0]
        assert [server.connections for server in hosts.servers] == [1, 1]


def test_workers_begin_with_different_hosts() -> None:
    with two_hosts(STICKY, worker=1) as hosts:
        client = hosts.client()
        client.chat("hello")
        client.close()
        assert hosts.asked == [1]


def test_each_host_is_asked_by_its_own_name_and_path() -> None:
    with scripted_server(ANSWER) as one, scripted_server(ANSWER) as other:
        targets = [Target.parse(f"{one.url}/a"), Target.parse(f"{other.url}/b/v1")]
        transport = Transport(targets, RequestOptions(model="m"), routing=ROUND_ROBIN)
        records: list[RequestRecord] = []
        client = ChatClient(transport, records.append)
        client.chat("hello")
        client.chat("hello")
        client.close()
        transport.close()
        for server, path, record in zip((one, other), "ab", records, strict=True):
            assert server.requests[0].startswith(f"POST /{path}/v1/chat/completions HTTP/1.1\r\n".encode())
            assert f"\r\nHost: localhost:{server.port}\r\n".encode() in server.requests[0]
            assert record.target == f"localhost:{server.port}/{path}"


def test_a_stream_that_a_proxy_kept_until_its_end_arrives_in_one_piece(asker: Callable[..., Asker]) -> None:
    whole = b"".join(
        [STREAM_HEAD, ROLE, *[token("a")] * 49, token("a", "stop"), usage(5, 50), DONE, LAST_CHUNK]
    )
    it = asker([0.05, whole], ANSWER, body={"ignore_eos": True})
    record = it.client.chat("hello", max_tokens=64).record
    assert (record.outcome, record.in_one_piece, record.tpot_s) == ("ok", True, None)
    assert (record.output_tokens, record.visible_events) == (50, 50)
    assert (record.max_tokens, record.exact_length) == (64, True)


@pytest.mark.parametrize(
    ("run", "body", "most", "exact"),
    [
        ({"ignore_eos": True}, {"max_tokens": 64}, 64, True),
        ({"ignore_eos": True}, {"max_completion_tokens": 8}, 8, True),
        ({"ignore_eos": True, "max_completion_tokens": 8}, {"max_tokens": 64}, 8, True),  # as vLLM takes it
        ({"ignore_eos": True, "stop": ["###"]}, {"max_tokens": 64}, 64, False),
        ({"ignore_eos": True}, {"max_tokens": 64, "stop": "x"}, 64, False),
        ({"ignore_eos": True, "stop": ["###"]}, {"max_tokens": 64, "stop": []}, 64, True),
        ({"ignore_eos": True}, {"max_tokens": 64, "stop_token_ids": [2]}, 64, False),
        ({"ignore_eos": True}, {}, None, True),
        ({}, {"max_tokens": 64}, 64, False),
    ],
)
def test_how_many_tokens_are_asked_for(
    asker: Callable[..., Asker],
    run: Mapping[str, Any],
    body: Mapping[str, Any],
    most: int | None,
    exact: bool,
) -> None:
    record = asker(ANSWER, body=run).client.chat("hello", **body).record
    assert (record.max_tokens, record.exact_length) == (most, exact)


def test_a_text_completion_has_no_newer_name_for_how_many_tokens(asker: Callable[..., Asker]) -> None:
    record = asker(ANSWER).client.complete("hello", max_tokens=64, max_completion_tokens=8).record
    assert record.max_tokens == 64
