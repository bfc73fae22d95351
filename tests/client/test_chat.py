"""What a client sends, and what its record says."""

import gc
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import orjson
import pytest
from gevent.event import Event

from tests.client.asking import ANSWER, Asker, burn
from tests.scripted_server import (
    DONE,
    HANG_UP,
    LAST_CHUNK,
    STREAM_HEAD,
    chunk,
    event,
    plain,
    token,
)
from tests.turns import look_around, until
from vllm_locust.client.chat import ChatClient, Origin
from vllm_locust.client.exchange import Exchange
from vllm_locust.core.stream import Answer


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


def test_a_request_that_cannot_be_made_is_told_and_recorded(asker: Callable[..., Asker]) -> None:
    it = asker(ANSWER)
    with pytest.raises(TypeError):
        it.client.chat("a lone surrogate: \ud800")
    assert [record.outcome for record in it.records] == ["protocol"]
    assert it.transport.in_flight == 0


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
