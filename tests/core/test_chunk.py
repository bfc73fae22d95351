"""What was generated and what only labels it, in the shapes of vLLM, its kin and gateways.

Event number n arrives at n seconds, so that the expected arrivals are the numbers of the events with output.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.record import SERVER_ERROR_EVENT
from vllm_locust.core.stream import Answer

DONE = "[DONE]"


def chunk(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def usage(tokens: int, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens, **more}}


def answer_of(*events: Any) -> Answer:
    answer = Answer()
    for second, event in enumerate(events):
        data = event if isinstance(event, str) else json.dumps(event)
        answer.feed(f"data: {data}\n\n".encode(), float(second))
    assert answer.failure is None
    return answer


ROLE, A, STOP = chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({}, "stop")


def call(**fields: Any) -> list[dict[str, Any]]:
    return [{"index": 0, **fields}]


OPENING: dict[str, Any] = {
    "OpenAI": {"role": "assistant", "content": "", "refusal": None},
    "DeepSeek": {"role": "assistant", "content": None, "reasoning_content": ""},
    "MiniMax": {"role": "", "reasoning_content": ""},
    "Groq": {"role": "assistant", "content": "", "channel": "analysis"},
    "OpenRouter": {
        **{"role": "assistant", "content": "", "reasoning": None},
        "reasoning_details": [{"type": "reasoning.text", "text": "", "format": "anthropic-v1", "index": 0}],
    },
    "LiteLLM": {
        **{"role": "assistant", "content": "", "provider_specific_fields": {"citations": ["a document"]}},
        "thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "EqoB"}],
    },
    "Azure, of its own documents": {
        **{"role": "assistant", "content": ""},
        "context": {"citations": [{"content": "a document", "title": "t"}], "intent": "[]"},
    },
    "Mistral": {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    "Mistral that thinks": {"role": "assistant", "content": [{"type": "thinking", "thinking": []}]},
    "thinking that is empty": {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": ""}]}],
    },
    "a call of nothing": {
        **{"role": "assistant", "content": None},
        "tool_calls": call(id="", type="function", function={"name": "", "arguments": ""}),
    },
    "audio to come": {"role": "assistant", "content": None, "audio": {"id": "audio_1", "expires_at": 1}},
    "labels": {
        **{"role": "assistant", "content": "", "id": "msg_1", "name": "bot", "object": "delta"},
        **{"status": "in_progress", "model": "m", "provider": "x", "obfuscation": "aZ", "index": 0},
        **{"created_at": "2026-12-01T00:00:00Z", "messageId": "7", "stopReason": "none", "token_id": 12},
    },
    "what was looked up": {
        **{"role": "assistant", "content": "", "references": ["http://x"], "metadata": {"trace": "x"}},
        **{"search_queries": ["what is x"], "documents": [{"url": "http://x", "text": "looked up"}]},
    },
    "sources": {"role": "assistant", "content": "", "annotations": [{"url_citation": {"title": "t"}}]},
}
NOTHING: dict[str, Any] = {
    "no fields": {},
    "null": {"content": None, "tool_calls": None, "role": None},
    "the id of a call": {"tool_calls": call(id="call_1", type="function")},
    "a signature": {"reasoning_content": {"signature": "EqoB"}},
    "no parts": {"content": []},
    "documents": {"documents": [{"text": "looked up"}], "metadata": {"trace": "x"}},
}
EMPTY: dict[str, Any] = {
    "content": {"content": ""},
    "content, as SGLang sends it": {"role": None, "content": "", "reasoning_content": None},
    "a part": {"content": [{"type": "text", "text": ""}]},
    "reasoning": {"reasoning": ""},
    "arguments": {"tool_calls": call(function={"arguments": ""})},
}
OUTPUT: dict[str, Any] = {
    "the name of a function": {"tool_calls": call(id="x", function={"name": "f", "arguments": ""})},
    "the name of a function, and the role": {
        "role": "assistant",
        "tool_calls": call(id="x", type="function", function={"name": "f", "arguments": ""}),
    },
    "arguments": {"tool_calls": call(function={"arguments": "{"})},
    "a call that is no list, as TGI sends it": {"tool_calls": {"function": {"name": None, "arguments": "{"}}},
    "a call of the older kind": {"function_call": {"name": "f"}},
    "the input of a tool": {"tool_calls": call(custom={"input": "x"})},
    "reasoning in an object": {"reasoning_content": {"text": "hm"}},
    "reasoning in details": {"role": "assistant", "content": "", "reasoning_details": [{"text": "hm"}]},
    "reasoning that is encrypted": {"reasoning_details": [{"type": "reasoning.encrypted", "data": "aZ"}]},
    "thinking in parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    "a refusal": {"refusal": "no"},
    "sound": {"audio": {"id": "audio_1", "data": "UklG"}},
    "a picture": {"images": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
    "a field that nobody knows": {"musings": "hm"},
}


@pytest.mark.parametrize("who", OPENING)
def test_what_opens_an_answer_is_no_token(who: str) -> None:
    assert answer_of(chunk(OPENING[who]), A, A, STOP, DONE).arrivals_s == [1, 2]


@pytest.mark.parametrize("what", NOTHING)
def test_what_has_no_text_is_no_token(what: str) -> None:
    assert answer_of(ROLE, chunk(NOTHING[what]), A, STOP, DONE).arrivals_s == [2]


@pytest.mark.parametrize("what", EMPTY)
def test_an_empty_text_is_a_token_that_does_not_show_unless_usage_says_otherwise(what: str) -> None:
    empty = chunk(EMPTY[what])
    assert answer_of(ROLE, empty, A, STOP, DONE).arrivals_s == [1, 2]
    none_yet = {**empty, "usage": {"total_tokens": 0}}
    assert answer_of(ROLE, none_yet, A, STOP, DONE).arrivals_s == [2]
    counted = answer_of(ROLE, empty, A, STOP, usage(1), DONE)
    assert (counted.take_surplus(), counted.arrivals_s) == ([0], [2])


@pytest.mark.parametrize("what", OUTPUT)
def test_what_was_generated_is_output(what: str) -> None:
    answer = answer_of(ROLE, chunk(OUTPUT[what]), chunk(OUTPUT[what]), A, STOP, DONE)
    assert (answer.arrivals_s, answer.visible_events, answer.text) == ([1, 2, 3], 3, "a")


def test_an_answer_of_minimax() -> None:
    none_yet = {"total_tokens": 0, "total_characters": 0}
    opening = chunk({"role": "", "reasoning_content": ""}, usage=none_yet)
    words = [chunk({"role": "", "content": f"word {n}"}, usage=none_yet) for n in range(3)]
    answer = answer_of(opening, *words, STOP, usage(9), DONE)
    assert (answer.arrivals_s, answer.output_tokens, answer.event_tokens) == ([1, 2, 3], 9, [])


def test_a_whole_answer_in_one_event_is_one() -> None:
    whole = {"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    answer = answer_of({"choices": [whole], "usage": {"completion_tokens": 2}})
    assert (answer.text, answer.arrivals_s, answer.finished) == ("hello", [0], True)


def test_what_was_said_so_far_is_not_said_again() -> None:
    """Perplexity repeats it beside each delta."""
    deltas = [chunk({"role": "assistant", "content": word}) for word in ("a", "b", "")]
    for number, said in enumerate(("a", "ab", "ab")):
        deltas[number]["choices"][0]["message"] = {"content": said}
    answer = answer_of(*deltas, STOP, DONE)
    assert (answer.text, answer.arrivals_s) == ("ab", [0, 1])


@pytest.mark.parametrize("reason", ["content_filter: RECITATION", "TOOL_CALL", "guardrail_intervened"])
def test_reasons_of_gateways_for_a_whole_answer(reason: str) -> None:
    assert answer_of(A, chunk({}, reason), DONE).finished


def test_the_error_of_groq_is_one() -> None:
    answer = Answer()
    for event in (A, chunk({}, "stop", x_groq={"id": "req_1", "error": "over capacity"})):
        answer.feed(b"data: " + json.dumps(event).encode() + b"\n\n", 0.0)
    assert answer.failure == (SERVER_ERROR_EVENT, "over capacity")


def reasoned(tokens: int, of_reasoning: int) -> dict[str, Any]:
    return usage(tokens, completion_tokens_details={"reasoning_tokens": of_reasoning})


THOUGHT = chunk({"reasoning_content": "hm"})


@pytest.mark.parametrize(
    ("events", "hidden"),
    [
        ([A, A, reasoned(202, 200)], 200),
        ([A, A, usage(202, reasoning_tokens=200)], 200),  # SGLang
        ([THOUGHT, A, A, reasoned(202, 200)], 0),
        ([chunk({"content": [{"thinking": [{"text": "hm"}]}]}), A, reasoned(202, 200)], 0),
        ([chunk({"content": ""}), A, A, reasoned(3, 1)], 1),  # what the empty one was, nobody knows
        ([A, A, A, reasoned(4, 2)], 0),  # three events and two tokens: reasoning is among them
        ([A, A, reasoned(2, 0)], 0),
        ([A, A, usage(2)], 0),
        ([A, A], 0),
    ],
)
def test_reasoning_that_is_not_shown(events: list[Any], hidden: int) -> None:
    assert answer_of(ROLE, *events, STOP, DONE).hidden_tokens == hidden


BESIDE = st.dictionaries(
    st.sampled_from(
        ["p", "nvext", "timings", "cost", "provider", "obfuscation", "x_groq", "warning", "meta"]
    ),
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=4)
    | st.lists(st.text(max_size=4), max_size=2),
    max_size=3,
)
LABELS = st.dictionaries(
    st.sampled_from(
        ["id", "message_id", "model", "status", "mimeType", "finish_reason", "created_at", "service_tier"]
    ),
    st.text(max_size=4),
    max_size=3,
) | st.dictionaries(
    st.sampled_from(["score", "musings", "seen"]), st.none() | st.booleans() | st.floats(0, 1), max_size=2
)


@st.composite
def parts_of_an_answer(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[int]]:
    """Chunks of all legal kinds in any order, labelled at random, and which of them carry output."""
    events, output = [], []
    for number in range(draw(st.integers(1, 6))):
        shapes = {"opening": OPENING, "nothing": NOTHING, "output": OUTPUT}
        kind = draw(st.sampled_from(list(shapes)))
        delta = draw(st.sampled_from(list(shapes[kind].values())))
        labelled = chunk({**draw(LABELS), **delta}, **draw(BESIDE))
        labelled["choices"][0] |= draw(BESIDE)
        events.append(labelled)
        output += [number] if kind == "output" else []
    return events, output


@given(parts_of_an_answer())
def test_labels_change_nothing_about_an_answer(parts: tuple[list[dict[str, Any]], list[int]]) -> None:
    events, output = parts
    answer = answer_of(*events, A, STOP, DONE)
    assert answer.arrivals_s == [*output, len(events)]
    assert (answer.finished, answer.text) == (True, "a")
