"""Answers as servers and gateways send them: what is one, and when its tokens came."""

import gzip
import json
from typing import Any

import pytest

from tests.client.dialects import (
    DONE,
    HEAD,
    ROLE,
    STOP,
    A,
    B,
    Case,
    chunk,
    event,
    read,
    three_ways,
    usage,
    used,
)
from vllm_locust.client.exchange import Exchange


@pytest.mark.parametrize(
    "reason",
    [
        *("", " ", "null", "None", "none", "not_finished", "NOT_FINISHED", False, 0, {}),
        *("in_progress", "running", "Pending", "FINISH_REASON_UNSPECIFIED", {"type": None}, {"type": ""}),
    ],
)
def test_no_finish_reason_yet_in_every_spelling(reason: Any) -> None:
    open_ = [chunk({"content": "a"}, reason), chunk({"content": "b"}, reason)]
    three_ways(Case([*open_, STOP, DONE], arrivals=[0, 1], text="ab"))
    three_ways(Case(open_, "truncated", "without a finish reason"))


@pytest.mark.parametrize(
    "reason",
    [
        *("max_length", "max_new_tokens", "token_limit", "normal", "SAFETY", "PROHIBITED_CONTENT"),
        *("tool-calls", "toolCalls", "content-filter", "Content Filter", "end-turn", "completed"),
        *("FINISH_REASON_STOP", "FinishReason.LENGTH", {"type": "stop"}, {"type": "length", "length": 8}),
    ],
)
def test_answers_that_ended_as_they_should(reason: Any) -> None:
    three_ways(Case([A, chunk({}, reason), DONE], arrivals=[0]))


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("network_error", '"network_error"'),
        ("incomplete", '"incomplete"'),
        ("stop-abort", '"stop-abort"'),
        ("stop: aborted", '"stop: aborted"'),
        ({"type": "abort"}, '"abort"'),
        ({"type": "abort", "message": "engine died"}, "engine died"),
    ],
)
def test_answers_that_ended_as_they_should_not(reason: Any, told: str) -> None:
    three_ways(Case([A, chunk({}, reason), DONE], "server_error_event", told))


@pytest.mark.parametrize(
    "word",
    [
        *(b"[done]", b'"[DONE]"', b"[DONE]", b"\xef\xbb\xbf[DONE]", b" [Done]\t", b"[DONE]\0"),
        *(b"[DONE]\xc2\xa0", b"\xe2\x80\x8b[DONE]", b"\xef\xbb\xbf \xef\xbb\xbf[DONE]\xe3\x80\x80"),
    ],
)
def test_the_last_word_in_every_spelling(word: bytes) -> None:
    three_ways(Case([A, event(word)], arrivals=[0]))


def test_a_byte_order_mark_may_lead_the_data() -> None:
    marked = b"data: \xef\xbb\xbf" + A.removeprefix(b"data: ")
    three_ways(Case([marked, B, STOP, DONE], arrivals=[0, 1], text="ab"))


def test_a_byte_order_mark_may_lead_every_event() -> None:
    mark = b"\xef\xbb\xbf"
    marked = [mark + each for each in (A, B, b": ping\n" + A, b"event: message\n" + B, STOP, DONE)]
    three_ways(Case(marked, arrivals=[0, 1, 2, 3], text="abab"))
    failed = [A, mark + b"event: error\ndata: engine died\n\n", STOP, DONE]
    three_ways(Case(failed, "server_error_event", "engine died"))


@pytest.mark.parametrize("encoding", [b"none", b"UTF-8", b"Identity", b""])
def test_a_content_encoding_that_names_no_compression(encoding: bytes) -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: " + encoding + b"\r\n\r\n")
    assert read([A, STOP, DONE], head=head).outcome() is None


@pytest.mark.parametrize(
    "sign",
    [
        event(b"null"),
        event(b"{}"),
        event({"type": "ping"}),
        event({"choices": [], "cost": "0.001"}),
        b"event: ping\ndata: still here\n\n",
        b"event: heartbeat\n\n",
    ],
)
def test_signs_of_life_leave_an_answer_as_it_is(sign: bytes) -> None:
    three_ways(Case([sign, A, sign, B, sign, DONE], arrivals=[1, 3], text="ab"))


@pytest.mark.parametrize("name", ["message", "chunk", "completion", "chat.completion.chunk", "token"])
def test_answers_may_come_in_events_of_any_name(name: str) -> None:
    named = [f"event: {name}\n".encode() + data for data in (A, B, STOP)]
    three_ways(Case([*named, b"event: done\n" + DONE], arrivals=[0, 1], text="ab"))


def test_an_unknown_event_that_output_follows_does_no_harm() -> None:
    three_ways(Case([event({"conversation": "x"}), A, event({"step": 2}), B, DONE], arrivals=[1, 3]))
    three_ways(Case([A, STOP, event({"conversation": "x"}), DONE], arrivals=[0]))


ANSWERS = {
    "as vLLM sends it": Case(
        [ROLE, A, B, STOP, usage(7, 2), DONE], arrivals=[1, 2], text="ab", tokens=(7, 2)
    ),
    "a null error with every chunk": Case(
        [chunk({"content": "a"}, error=None), chunk({}, "stop", error={}), usage(7, 1, error=None), DONE],
        arrivals=[0],
        tokens=(7, 1),
    ),
    "counts with a point": Case([A, STOP, usage(7.0, 1.0), DONE], arrivals=[0], tokens=(7, 1)),
    "a finish reason in other letters": Case([A, chunk({}, "STOP"), DONE], arrivals=[0]),
    "no finish reason but [DONE]": Case([A, DONE], arrivals=[0]),
    "content in parts": Case(
        [
            ROLE,
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
            chunk({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            STOP,
            usage(7, 3),
            DONE,
        ],
        arrivals=[1, 2],
        text="ab",
    ),
    "content as one part": Case(
        [
            chunk({"role": "assistant", "content": {"type": "text", "text": ""}}),
            chunk({"content": {"type": "text", "text": "a"}}),
            chunk({"content": {"type": "thinking", "thinking": "hm"}}),
            STOP,
            DONE,
        ],
        arrivals=[1, 2],
        text="a",
    ),
    "white space around the last word": Case([A, STOP, b"data: [DONE] \n\n"], arrivals=[0]),
    "a byte order mark": Case([b"\xef\xbb\xbf" + A, B, STOP, DONE], arrivals=[0, 1], text="ab"),
    "data of white space": Case([b"data:  \n\n", A, b"data:\n\n", STOP, DONE], arrivals=[1]),
    "pings": Case([b": ping\n\n", A, b"event: ping\ndata: {}\n\n", STOP, DONE], arrivals=[1]),
    "JSON in several lines of data": Case(
        [b'data: {"choices": [\ndata: {"delta": {"content": "a"}}]}\n\n', STOP, DONE], arrivals=[0], text="a"
    ),
    "NaN among the logprobs": Case(
        [event(b'{"choices": [{"delta": {"content": "a"}, "logprobs": {"x": -Infinity}}]}'), STOP, DONE],
        arrivals=[0],
        text="a",
    ),
    "halves of a character": Case(
        [
            event(b'{"choices": [{"delta": {"content": "\\ud83d"}}]}'),
            event(b'{"choices": [{"delta": {"content": "\\ude00"}}]}'),
            STOP,
            DONE,
        ],
        arrivals=[0, 1],
        text="\U0001f600",
    ),
    "bytes that are half a character": Case(
        [event(b'{"choices": [{"delta": {"content": "\xf0\x9f"}}]}'), A, STOP, DONE],
        arrivals=[0, 1],
        text="\ufffda",
    ),
    "two choices in turns": Case(
        [A, chunk({"content": "b"}, index=1), STOP, chunk({}, "length", 1), usage(7, 2), DONE],
        arrivals=[0, 1],
        choices=2,
    ),
    "usage behind the end, with a choice": Case(
        [A, STOP, chunk({"role": "assistant", "content": ""}, usage=used(7, 1)), DONE],
        arrivals=[0],
        tokens=(7, 1),
    ),
    "running usage": Case(
        [
            chunk({"role": "assistant", "content": ""}, usage=used(7, 0)),
            chunk({"content": "a"}, usage=used(7, 1)),
            chunk({"content": ""}, usage=used(7, 2)),
            chunk({"content": "bc"}, "length", usage=used(7, 4)),
            DONE,
        ],
        arrivals=[1, 2, 3],
        event_tokens=[1, 1, 2],
        tokens=(7, 4),
    ),
    "running usage that is still 0": Case(
        [
            chunk({"role": "assistant", "content": ""}, usage=used(7, 0)),
            chunk({"content": ""}, usage=used(7, 0)),
            chunk({"content": ""}, usage=used(7, 0)),
            chunk({"content": "a"}, "length", usage=used(7, 1)),
            DONE,
        ],
        arrivals=[3],
        event_tokens=[1],
    ),
    "running usage of each choice": Case(
        [
            chunk({"content": "a"}, usage=used(7, 1)),
            chunk({"content": "b"}, usage=used(7, 2)),
            chunk({"content": "c"}, index=1, usage=used(7, 1)),
            chunk({}, "stop", usage=used(7, 2)),
            chunk({}, "stop", 1, usage=used(7, 1)),
            usage(7, 3),
            DONE,
        ],
        arrivals=[0, 1, 2],
        tokens=(7, 3),
        choices=2,
    ),
    "usage of each chunk alone": Case(
        [
            chunk({"content": "a"}, usage=used(7, 2)),
            chunk({"content": "b"}, usage=used(7, 1)),
            chunk({"content": "c"}, "stop", usage=used(7, 2)),
            usage(7, 5),
            DONE,
        ],
        arrivals=[0, 1, 2],
        tokens=(7, 5),
    ),
    "running usage that stands still": Case(
        [
            chunk({"content": "a"}, usage=used(0, 0)),
            chunk({"content": "b"}, "stop", usage=used(7, 2)),
            DONE,
        ],
        arrivals=[0, 1],
        tokens=(7, 2),
    ),
    "an empty event that usage does not count": Case(
        [chunk({"role": "assistant"}), chunk({"content": ""}), A, B, STOP, usage(7, 2), DONE],
        arrivals=[2, 3],
    ),
    "an empty event that usage counts": Case(
        [chunk({"role": "assistant"}), chunk({"content": ""}), A, B, STOP, usage(7, 3), DONE],
        arrivals=[1, 2, 3],
    ),
    "empty events, and a usage that cannot be": Case(
        [chunk({"content": ""}), A, B, A, STOP, usage(7, 1), DONE], arrivals=[0, 1, 2, 3]
    ),
    "a call of a tool": Case(
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
            chunk({}, "tool_calls"),
            DONE,
        ],
        arrivals=[1, 2],
        text="",
    ),
}


OUTPUT: dict[str, Any] = {
    "reasoning": "hm",
    "reasoning_content": "hm",
    "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
    "thinking": "hm",
    "refusal": "no",
    "function_call": {"arguments": "{"},
    "audio": {"transcript": "hm"},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_answers(name: str) -> None:
    three_ways(ANSWERS[name])


@pytest.mark.parametrize(
    "role", [{}, {"role": "assistant", "content": ""}, {"role": "assistant", "tool_calls": []}]
)
@pytest.mark.parametrize("field", OUTPUT)
def test_what_was_generated_counts_in_whatever_field(field: str, role: dict[str, Any]) -> None:
    delta = {**role, field: OUTPUT[field]}
    three_ways(Case([ROLE, chunk(delta), chunk(delta), A, STOP, DONE], arrivals=[1, 2, 3], text="a"))


@pytest.mark.parametrize(
    "delta",
    [
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
        {"role": "assistant", "content": "", "reasoning": "", "function_call": {}},
        {"role": "assistant", "content": "", "audio": {"id": None}, "index": 3},
        {"name": "bot", "id": "chatcmpl-1"},
    ],
)
def test_what_only_opens_an_answer_does_not_count(delta: dict[str, Any]) -> None:
    three_ways(Case([chunk(delta), A, STOP, DONE], arrivals=[1], text="a"))


@pytest.mark.parametrize("ending", ["lost", "cut"])
def test_a_lost_stream_is_no_answer_though_its_chunks_have_an_empty_finish_reason(ending: str) -> None:
    exchange = Exchange()
    exchange.on_bytes(HEAD + chunk({"content": "a"}, ""), 0.0, 0.0, 0.0, 0.0)
    exchange.on_close("connection reset" if ending == "lost" else None, 1.0, 0.0)
    assert not exchange.answer.finished
    assert (exchange.outcome() or ("ok", ""))[0] == "truncated"


@pytest.mark.parametrize("kind", [b"Text/Event-Stream; charset=utf-8", b"TEXT/EVENT-STREAM"])
def test_letters_of_a_content_type_may_be_large(kind: bytes) -> None:
    head = HEAD.replace(b"text/event-stream", kind)
    assert read([A, STOP, DONE], head=head).outcome() is None


def test_a_compressed_body_is_told() -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    outcome = read([gzip.compress(A + STOP + DONE)], head=head).outcome()
    assert outcome == ("protocol", "the body is compressed: its content-encoding is gzip")
    failed = read([gzip.compress(b"{}")], head=head.replace(b"200 OK", b"502 Bad Gateway")).outcome()
    assert failed == ("http_502", "(a message compressed with gzip)")


def test_a_body_that_is_no_stream_is_shown() -> None:
    outcome = read(
        [b'{"choices": []}'], head=b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
    ).outcome()
    assert outcome == ("protocol", "expected an event stream, got text/plain: '{\"choices\": []}'")


@pytest.mark.parametrize("field", ["content", "reasoning"])
@pytest.mark.parametrize("escaped", ["\\n", '\\"', "\\u00e9\\\\", "\\ud83d\\ude00"])
def test_the_short_cut_reads_escapes_and_reasoning(field: str, escaped: str) -> None:
    def alike(text: str) -> bytes:
        return event(
            b'{"choices": [{"delta": {"%b": "%b"}}]}'.replace(b'": "', b'":"')
            % (field.encode(), text.encode())
        )

    texts = [escaped, "a", escaped, 'b","role":"x', "c"]
    exchange = read([*map(alike, texts), STOP, DONE])
    assert exchange.outcome() is None
    assert exchange.answer.arrivals_s == [0, 1, 2, 3, 4]
    shown = json.loads(f'"{escaped}"')
    assert exchange.answer.text == (f"{shown}a{shown}bc" if field == "content" else "")
