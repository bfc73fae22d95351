"""Every way in which an answer can fail to come, over real sockets."""

from collections.abc import Callable

import pytest

from tests.client.asking import ANSWER, Asker
from tests.scripted_server import (
    DONE,
    HANG_UP,
    LAST_CHUNK,
    RESET,
    ROLE,
    STREAM_HEAD,
    Step,
    event,
    plain,
    token,
    usage,
)
from vllm_locust.client import connection
from vllm_locust.client.chat import ChatClient, Moment, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord

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


def test_an_upgrade_is_a_failure_and_not_silence(asker: Callable[..., Asker]) -> None:
    it = asker([b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"], ANSWER)
    assert it.ask().record.outcome == "protocol"
