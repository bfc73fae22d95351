"""The decoder against sseclient-py and against every way to cut a stream; the answer against real bytes."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import sseclient
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core import sse
from vllm_locust.core.record import PROTOCOL, SERVER_ERROR_EVENT
from vllm_locust.core.sse import EventTooLargeError, SseDecoder
from vllm_locust.core.stream import Answer
from vllm_locust.core.trouble import error_message

SAMPLES = Path(__file__).parent / "samples"


def decode(pieces: list[bytes]) -> list[str]:
    decoder = SseDecoder()
    events = [data for piece in pieces for data in decoder.feed(piece)]
    return [data.decode() for data in events + decoder.close()]


def reference(body: bytes) -> list[str]:
    """What sseclient-py makes of the body, fed whole: its reader can be broken by cuts inside an event."""
    return [event.data for event in sseclient.SSEClient(iter([body])).events()]


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(body), *(position % (len(body) + 1) for position in cuts)})
    return [body[start:end] for start, end in pairwise(borders)]


text = st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=["Cs"]), max_size=30)
line = st.one_of(
    text.map(lambda value: f"data: {value}"),
    text.map(lambda value: f"data:{value.strip() or 'x'}"),
    text.map(lambda value: f": {value}"),
    st.sampled_from(["event: message", "id: 7", "retry: 1000", "data", ": keep-alive", "unknown: x"]),
)
event = st.lists(line, min_size=1, max_size=4)


@given(
    events=st.lists(event, max_size=6),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_any_stream_cut_anywhere_gives_the_events_of_sseclient(
    events: list[list[str]], newline: str, cuts: list[int]
) -> None:
    body = "".join(newline.join(lines) + newline * 2 for lines in events).encode()
    assert decode(cut(body, cuts)) == reference(body)


def test_byte_by_byte_gives_the_same_as_at_once() -> None:
    body = b'data: {"a": 1}\n\n: keep-alive\n\ndata: x\ndata: y\r\n\r\ndata: [DONE]\n\n'
    assert decode([body[i : i + 1] for i in range(len(body))]) == ['{"a": 1}', "x\ny", "[DONE]"]


def test_an_event_without_end_is_given_up_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = SseDecoder()
    decoder.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLargeError):
        decoder.feed(b"x" * 90)


def answer_of(*events: str, start_s: float = 1.0) -> Answer:
    """An answer whose events arrive one second apart."""
    answer = Answer()
    for number, data in enumerate(events):
        answer.feed(f"data: {data}\n\n".encode(), start_s + number)
    return answer


ROLE = '{"choices":[{"delta":{"role":"assistant","content":""}}]}'


def delta(content: str) -> str:
    return f'{{"choices":[{{"delta":{content},"finish_reason":null}}]}}'


@pytest.mark.parametrize(
    ("data", "carries"),
    [
        (ROLE, False),
        (delta('{"role":"assistant","content":null}'), False),
        (delta('{"role":"assistant","content":"x"}'), True),
        (delta('{"content":"x"}'), True),
        (delta('{"content":""}'), True),  # half a character
        (delta('{"reasoning":"hm"}'), True),
        (delta('{"reasoning_content":"hm"}'), True),
        (delta('{"content":null,"reasoning":"hm"}'), True),
        (delta('{"tool_calls":[{"index":0}]}'), False),
        (delta('{"tool_calls":[{"function":{"arguments":""}}]}'), True),
        (delta("{}"), False),
        ('{"choices":[{"text":"x"}]}', True),
        ('{"choices":[{"text":""}]}', True),
        ('{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', False),
        ("[DONE]", False),
    ],
)
def test_what_carries_a_token(data: str, carries: bool) -> None:
    answer = answer_of(data)
    assert answer.arrivals_s == ([1.0] if carries else [])
    assert answer.failure is None


def test_a_whole_answer() -> None:
    answer = answer_of(
        ROLE,
        delta('{"content":"Hel"}'),
        '{"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}',
        '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
        '"prompt_tokens_details":{"cached_tokens":4}}}',
        "[DONE]",
    )
    assert (answer.text, answer.arrivals_s) == ("Hello", [2.0, 3.0])
    assert (answer.finish_reason, answer.done) == ("stop", True)
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (7, 3, 4)


def test_running_usage_tells_the_tokens_of_each_event() -> None:
    def chunk(content: str, total: int) -> str:
        return (
            f'{{"choices":[{{"delta":{content}}}],"usage":{{"prompt_tokens":5,"completion_tokens":{total}}}}}'
        )

    answer = answer_of(
        chunk('{"role":"assistant","content":""}', 0),
        chunk('{"content":"a"}', 1),
        chunk('{"content":"bcd"}', 4),
    )
    assert answer.event_tokens == [1, 3]


@given(
    contents=st.lists(st.text(max_size=12), min_size=1, max_size=20),
    escape=st.booleans(),
    cuts=st.lists(st.integers(0, 5000), max_size=6),
)
def test_the_short_cut_for_alike_chunks_reads_what_json_reads(
    contents: list[str], escape: bool, cuts: list[int]
) -> None:
    contents = [content.encode("utf-8", "replace").decode() for content in contents]
    chunks = [{"id": "x", "choices": [{"delta": {"content": c}, "finish_reason": None}]} for c in contents]
    bodies = [json.dumps(chunk, ensure_ascii=escape, separators=(",", ":")) for chunk in chunks]
    pieces = [f"data: {body}\n\n".encode() for body in bodies]
    for parts in (pieces, cut(b"".join(pieces), cuts)):
        answer = Answer()
        for number, part in enumerate(parts):
            answer.feed(part, float(number))
        assert (answer.text, len(answer.arrivals_s), answer.failure) == (
            "".join(contents),
            len(contents),
            None,
        )
    assert answer_of(*bodies).arrivals_s == [1.0 + number for number in range(len(contents))]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error":{"message":"The engine is busy","type":"x","code":503}}', "The engine is busy"),
        ('{"error":"plain"}', "plain"),
        ('{"object":"error","message":"old style","code":400}', "old style"),
    ],
)
def test_an_error_event_is_a_failure(data: str, message: str) -> None:
    assert answer_of(data).failure == (SERVER_ERROR_EVENT, message)


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "[1]",
        '"x"',
        '{"choices":[1]}',
        '{"choices":[{"text":5}]}',
        '{"choices":[{"delta":{"content":5}}]}x',
        '{"choices":[{"delta":{"content":5}}],"usage":{"completion_tokens":1}}',
    ],
)
def test_what_cannot_be_parsed_is_a_failure_and_nothing_is_raised(data: str) -> None:
    answer = answer_of(data)
    assert answer.failure is not None
    assert answer.failure[0] == PROTOCOL
    assert answer.text == ""


@pytest.mark.parametrize(
    ("file", "text", "arrivals", "prompt", "output", "reason"),
    [
        ("chat.txt", "\n" * 12, 12, 21, 12, "length"),
        ("reasoning.txt", "", 4, 12, 20, "length"),
        ("stop_by_string.txt", "charact", 1, 21, 1, "stop"),
    ],
)
def test_bytes_of_a_real_vllm(
    file: str, text: str, arrivals: int, prompt: int, output: int, reason: str
) -> None:
    answer = Answer()
    answer.feed((SAMPLES / file).read_bytes(), 1.0)
    assert answer.failure is None
    assert (answer.text, len(answer.arrivals_s), answer.finish_reason) == (text, arrivals, reason)
    assert (answer.prompt_tokens, answer.output_tokens, answer.done) == (prompt, output, True)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage_never_raises(garbage: bytes, cuts: list[int]) -> None:
    answer = Answer()
    for piece in cut(garbage, cuts):
        answer.feed(piece, 1.0)
    answer.close(1.0)


def test_error_messages_are_the_human_part() -> None:
    assert error_message({"error": {"message": "too long"}}) == "too long"
    assert error_message({"detail": "Not Found"}) == "Not Found"
    assert error_message({"strange": 1}) == '{"strange":1}'
    assert error_message({"message": "x" * 5000}) == "x" * 500 + "..."


def finished(usage: str) -> Answer:
    """An answer of one token that has no text, as vLLM streams it."""
    answer = Answer()
    pieces = [
        '{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}',
        '{"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}',
        f'{{"choices": [], "usage": {{"prompt_tokens": 11, "completion_tokens": {usage}}}}}',
    ]
    for number, piece in enumerate(pieces):
        answer.feed(f"data: {piece}\n\n".encode(), float(number))
    return answer


def test_a_token_without_text_came_with_the_end_of_the_answer() -> None:
    assert finished("1").arrivals_s == [1.0]
    assert finished("0").arrivals_s == []
