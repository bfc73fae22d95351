"""What the client makes of a stream, for the tests of how servers and gateways send answers and errors.

Every stream is read three times: an event at a time, whole, and cut at every byte. Event number n arrives at
n seconds, so that the expected arrivals are the numbers of the events that carry output.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm_locust.client.exchange import Exchange

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more})


def used(prompt: Any, output: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output}


def usage(prompt: Any, output: Any, **more: Any) -> bytes:
    return event({"choices": [], "usage": used(prompt, output), **more})


ROLE = chunk({"role": "assistant", "content": ""})


A, B, STOP = chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")


def read(pieces: Sequence[bytes], choices: int = 1, head: bytes = HEAD) -> Exchange:
    """What the client makes of pieces that arrive a second apart, behind the head, and of their end."""
    exchange = Exchange(choices)
    exchange.on_bytes(head, 0.0, 0.0, 0.0, 0.0)
    for second, piece in enumerate(pieces):
        exchange.on_bytes(piece, float(second), 0.0, 0.0, 0.0)
    exchange.on_close(None, float(len(pieces)), 0.0)
    exchange.release()
    return exchange


@dataclass(frozen=True)
class Case:
    events: Sequence[bytes]
    outcome: str = "ok"
    message: str = ""
    """A part of it."""
    arrivals: Sequence[int] | None = None
    text: str | None = None
    tokens: tuple[int | None, int | None] | None = None
    choices: int = 1
    event_tokens: Sequence[int] = field(default=())


def check(case: Case, exchange: Exchange) -> None:
    answer = exchange.answer
    kind, message = exchange.outcome() or ("ok", "")
    assert (kind, case.message in message) == (case.outcome, True), message
    assert len(exchange.bounds_s) == len(answer.arrivals_s)
    if case.arrivals is not None:
        assert len(answer.arrivals_s) == len(case.arrivals)
    if case.text is not None:
        assert answer.text == case.text
    if case.tokens is not None:
        assert (answer.prompt_tokens, answer.output_tokens) == case.tokens
    if len(answer.event_tokens) == len(answer.arrivals_s):
        assert answer.event_tokens == list(case.event_tokens)
    else:
        assert not case.event_tokens


def three_ways(case: Case) -> None:
    by_event = read(case.events, case.choices)
    check(case, by_event)
    if case.arrivals is not None:
        assert by_event.answer.arrivals_s == list(case.arrivals)
    body = b"".join(case.events)
    check(case, read([body], case.choices))
    check(case, read([body[place : place + 1] for place in range(len(body))], case.choices))
