"""Answers as servers and gateways send them: what is one, what is a failure, and when its tokens came.

Every stream is read three times: an event at a time, whole, and cut at every byte. Event number n arrives at
n seconds, so that the expected arrivals are the numbers of the events that carry output.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

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


FAILURES = {
    "aborted by vLLM": Case(
        [ROLE, A, B, chunk({"content": ""}, "abort"), usage(7, 2), DONE], "server_error_event", '"abort"'
    ),
    "ended by an error without a word": Case([A, chunk({}, "error"), DONE], "server_error_event", '"error"'),
    "ended for a reason that nobody knows": Case(
        [A, chunk({}, "oops"), DONE], "server_error_event", '"oops"'
    ),
    "error beside a choice": Case(
        [A, chunk({"content": ""}, "error", error={"code": 502, "message": "provider gone"}), DONE],
        "server_error_event",
        "provider gone",
    ),
    "error inside a choice": Case(
        [A, event({"choices": [{"delta": {}, "error": {"message": "no memory"}}]}), STOP, DONE],
        "server_error_event",
        "no memory",
    ),
    "an event named error": Case(
        [A, b'event: error\ndata: {"code": 500, "message": "engine died"}\n\n', DONE],
        "server_error_event",
        "engine died",
    ),
    "an event named error that is plain text": Case(
        [A, b"event: error\ndata: engine died\n\n", STOP, DONE], "server_error_event", "engine died"
    ),
    "an event named error that looks like a chunk": Case(
        [A, b"event: error\n" + STOP, DONE], "server_error_event", "finish_reason"
    ),
    "an event named error with its message in a comment": Case(
        [A, b'event: error\n: "worker went away"\n\n'], "server_error_event", "worker went away"
    ),
    "an event named error without a word": Case(
        [A, b"event: error\n\n", STOP, DONE], "server_error_event", "without a word"
    ),
    "a field named error": Case(
        [A, b'error: {"code": 500, "message": "slot lost"}\n\n', STOP, DONE],
        "server_error_event",
        "slot lost",
    ),
    "an error in fields of other names": Case(
        [A, event({"error_code": 17, "error_msg": "quota"}), DONE], "server_error_event", "quota"
    ),
    "an error that is a code and a message": Case(
        [A, event({"code": 500, "message": "engine died"}), DONE], "server_error_event", "engine died"
    ),
    "an error by its type": Case(
        [A, event({"type": "error", "detail": "overloaded"}), DONE], "server_error_event", "overloaded"
    ),
    "cut, with an empty finish reason in each chunk": Case(
        [chunk({"content": "a"}, ""), chunk({"content": "b"}, "")], "truncated", "without a finish reason"
    ),
    "one of two choices unfinished": Case(
        [A, chunk({"content": "b"}, index=1), STOP, DONE], "truncated", "all choices", choices=2
    ),
    "one of two choices unfinished, though one was asked for": Case(
        [A, chunk({"content": "b"}, index=1), STOP], "truncated", "all choices"
    ),
    "one of two choices never begun": Case([A, STOP], "truncated", "all choices", choices=2),
    "one of two choices never came, and the last word did": Case(
        [A, STOP, usage(7, 1), DONE],
        "truncated",
        "1 of the choices that were asked for never came",
        choices=2,
    ),
    "a cut behind the JSON of an error that is no event": Case(
        [A, b'{"error": {"message": "engine died"}}'], "server_error_event", "engine died"
    ),
    "a cut behind a text": Case(
        [A, b"upstream connect error or disconnect/reset before headers"],
        "truncated",
        "without a finish reason or [DONE]; among its events was 'upstream connect error",
    ),
    "the last word behind a text": Case(
        [A, b"<html>502 Bad Gateway</html>\n\n", DONE], "truncated", "was '<html>502 Bad Gateway</html>'"
    ),
    "the last word behind an event that nobody knows": Case(
        [A, event({"verdict": "gone"}), DONE],
        "truncated",
        """without a finish reason; among its events was '{"verdict": "gone"}'""",
    ),
    "one of two choices aborted": Case(
        [A, chunk({"content": "b"}, "abort", 1), STOP, DONE], "server_error_event", '"abort"', choices=2
    ),
    "half an event at the end": Case(
        [A, b'data: {"choices": [{"del'], "truncated", "without a finish reason"
    ),
    "neither usage nor anything else says that there is output": Case(
        [ROLE, chunk({"content": ""}, "stop"), usage(7, 0), DONE], "protocol", "no output"
    ),
    "events that single line breaks end": Case(
        [ROLE[:-1], A[:-1], STOP[:-1], DONE[:-1]], "protocol", "no blank line ends the events: 'data: {"
    ),
    "JSON over several lines of which one is data": Case(
        [b'data: {\n "choices": [{"delta": {"content": "a"}}]\n}\n\n', DONE],
        "protocol",
        """an event is no JSON: '{'; ' "choices": [{""",
    ),
    "a body that has no events": Case(
        [b'{"choices": []}\n', b'{"choices": []}\n'], "protocol", "no event stream, it has lines such as '{"
    ),
    "text where JSON is expected": Case(
        [event(b"keep-alive"), A, STOP, DONE], "protocol", "an event is no JSON: 'keep-alive'"
    ),
    "a list where an object is expected": Case([event(b"[1]"), DONE], "protocol", "in '[1]'"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_failures(name: str) -> None:
    three_ways(FAILURES[name])


ERRORS: dict[str, Any] = {
    "FastAPI": {"detail": "engine died"},
    "API gateways of AWS": {"message": "engine died"},
    "in large letters": {"Message": "engine died"},
    "Bedrock": {"internalServerException": {"message": "engine died"}},
    "Bedrock, with a status": {
        "modelStreamErrorException": {"message": "engine died", "originalStatusCode": 1}
    },
    "MiniMax": {"id": "x", "base_resp": {"status_code": 1008, "status_msg": "engine died"}},
    "a status in words": {"status": "error", "message": "engine died"},
    "no success": {"success": False, "msg": "engine died"},
    "Apigee": {"fault": {"faultstring": "engine died", "detail": {"errorcode": "x"}}},
    "a status in a number": {"statusCode": 500, "message": "engine died"},
    "a code and a reason": {"code": 500, "reason": "engine died"},
    "a code in a string": {"code": "InternalError", "message": "engine died"},
    "only the kind": {"error_type": "engine died"},
    "err": {"err": "engine died"},
    "an exception": {"exception": "engine died"},
    "an exception by its type": {"type": "exception", "message": "engine died"},
    "a failed response": {"type": "response.failed", "reason": "engine died"},
    "vLLM before 0.9": {"object": "error", "message": "engine died", "type": "BadRequestError", "code": 400},
    "Anthropic": {"type": "error", "error": {"type": "overloaded_error", "message": "engine died"}},
    "Cloudflare": {"errors": [{"message": "engine died", "code": 3040}], "success": False, "result": {}},
    "a problem of RFC 9457": {"type": "about:blank", "title": "engine died", "status": 503},
    "FastAPI's validation": {"detail": [{"loc": ["body"], "msg": "engine died", "type": "missing"}]},
    "FastAPI's detail of one's own": {"detail": {"msg": "engine died"}},
    "several messages": {"message": ["engine died", "and all is lost"]},
    "by the event": {"event": "error", "message": "engine died"},
    "WeChat": {"errcode": 40001, "errmsg": "engine died"},
    "Google": [{"error": {"code": 429, "message": "engine died", "status": "RESOURCE_EXHAUSTED"}}],
    "a failure": {"failure": {"message": "engine died"}},
    "inside something else": {"response": {"id": "x", "error": {"message": "engine died"}}},
    "deep inside": {"output": {"steps": [{"id": 1}, {"meta": {"error": "engine died"}}]}},
}


@pytest.mark.parametrize("end", [[STOP, DONE], [DONE], []], ids=["stop", "done", "cut"])
@pytest.mark.parametrize("who", ERRORS)
def test_an_error_is_one_in_whatever_fields(who: str, end: list[bytes]) -> None:
    three_ways(Case([A, event(ERRORS[who]), *end], "server_error_event", "engine died"))
    line = json.dumps(ERRORS[who]).encode() + b"\n\n"
    three_ways(Case([A, line, *end], "server_error_event", "engine died"))


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"prompt_tokens": "7", "completion_tokens": "1"}, (7, 1)),
        ({"prompt_tokens": "7.0", "completion_tokens": " 1 "}, (7, 1)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, (None, None)),
        ({**used(7, 1), "prompt_tokens_details": [{"modality": "TEXT", "tokenCount": 7}]}, (7, 1)),
        ({**used(7, 1), "prompt_tokens_details": {"cached_tokens": "0"}}, (7, 1)),
        ({**used(7, 1), "prompt_tokens_details": {"cached_tokens": -1}}, (7, 1)),
    ],
)
def test_counts_are_read_in_every_spelling(counts: dict[str, Any], tokens: tuple[int | None, ...]) -> None:
    three_ways(Case([A, STOP, event({"choices": [], "usage": counts}), DONE], arrivals=[0], tokens=tokens))


NOTHING_YET: dict[str, dict[str, Any]] = {
    "0": used(7, 0),
    "left out, where the total is the prompt's": {"prompt_tokens": 7, "total_tokens": 7},
    "left out, where the total is 0": {"total_tokens": 0},
}


@pytest.mark.parametrize("zero", NOTHING_YET)
def test_a_count_of_zero_says_that_no_token_came(zero: str) -> None:
    empty = [chunk({"content": ""}, index=index, usage=NOTHING_YET[zero]) for index in (0, 1)]
    tokens = [chunk({"content": "abc"}, index=index, usage=used(7, 3)) for index in (0, 1)]
    stops = [chunk({}, "stop", 0), chunk({}, "stop", 1)]
    two = Case([*empty, *tokens, *stops, usage(7, 6), DONE], arrivals=[2, 3], tokens=(7, 6), choices=2)
    three_ways(two)
    three_ways(Case([empty[0], tokens[0], STOP, DONE], arrivals=[1], event_tokens=[3]))
    # Counted anew in each chunk, as shows where 3 follow on 3.
    anew = [tokens[0], tokens[0], empty[0], tokens[0]]
    three_ways(Case([*anew, STOP, usage(7, 9), DONE], arrivals=[0, 1, 3], tokens=(7, 9)))


@pytest.mark.parametrize("zero", NOTHING_YET)
@pytest.mark.parametrize("choices", [1, 2])
def test_a_zero_that_stands_beside_output_says_nothing(zero: str, choices: int) -> None:
    shown, half = (chunk({"content": text}, usage=NOTHING_YET[zero]) for text in ("a", ""))
    other = [chunk({"content": "b"}, "stop", 1)] if choices == 2 else []
    three_ways(Case([shown, half, *other, STOP, DONE], arrivals=[0, 1, 2][: choices + 1], choices=choices))


@pytest.mark.parametrize(
    "count", [7.5, -2, 1e300, [7], {}, True, "n/a", "", "7.5", "-2", "nan", "1e300", "٧.٥"]
)
def test_what_is_no_count_leaves_an_answer_whole_and_its_tokens_unknown(count: Any) -> None:
    three_ways(Case([A, STOP, usage(7, count), DONE], arrivals=[0], tokens=(7, None)))
    three_ways(Case([A, STOP, usage(count, 1), DONE], arrivals=[0], tokens=(None, 1)))
    running = [chunk({"content": text}, usage=used(7, count)) for text in "ab"]
    three_ways(Case([*running, STOP, usage(7, 3), DONE], arrivals=[0, 1], tokens=(7, 3)))


@pytest.mark.parametrize("what", [[1], [used(7, 1)], "7 tokens", 8, True])
def test_what_is_no_usage_is_passed_over(what: Any) -> None:
    every = [chunk({"content": text}, usage=what) for text in "ab"]
    three_ways(Case([*every, event({"choices": [], "usage": what}), STOP, DONE], arrivals=[0, 1]))
    three_ways(Case([*every, STOP, usage(7, 2), DONE], arrivals=[0, 1], tokens=(7, 2)))


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
    "name",
    [
        *("exception", "server_error", "Error", "response.failed", "abort", "timeout"),
        *("internalServerException", "cancel", "streamerror", "StreamErrors", "fatal", "response.incomplete"),
        *("request_timed_out", "TIMED_OUT", "stream.cancelled", "worker-crashed"),
    ],
)
def test_an_error_is_one_by_the_name_of_its_event(name: str) -> None:
    told = f"event: {name}\ndata: engine died\n\n".encode()
    three_ways(Case([A, told, STOP, DONE], "server_error_event", "engine died"))


@pytest.mark.parametrize("field", ["error", "Error", "ERROR", "exception", "server-error"])
def test_an_error_is_one_in_a_field_of_the_stream(field: str) -> None:
    three_ways(
        Case([A, f"{field}: engine died\n\n".encode(), STOP, DONE], "server_error_event", "engine died")
    )


BESIDE: dict[str, dict[str, Any]] = {
    "a message": {"error_message": "engine died", "error_code": 500},
    "an object": {"object": "error", "message": "engine died"},
    "MiniMax": {"base_resp": {"status_code": 1000, "status_msg": "engine died"}},
    "a code": {"code": 10013, "message": "engine died"},
    "a status": {"status": "failed", "message": "engine died"},
    "one level deeper": {"meta": {"provider": "x", "error": {"message": "engine died"}}},
    "a code of 0 and words": {"error": {"code": 0, "message": "engine died"}},
    "a type of its own": {"type": "response.incomplete", "message": "engine died"},
}


@pytest.mark.parametrize("who", BESIDE)
def test_an_error_beside_an_answer_is_one(who: str) -> None:
    three_ways(Case([A, chunk({}, "stop", **BESIDE[who]), DONE], "server_error_event", "engine died"))


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "engine died"}},
        {"errorMessage": "engine died"},
        {"status": "failed", "message": "engine died"},
        {"status": "engine died: failed"},
        {"type": "error", "text": "engine died"},
    ],
)
@pytest.mark.parametrize("place", ["choice", "delta", "message"])
def test_an_error_inside_an_answer_is_one(place: str, told: dict[str, Any]) -> None:
    choice = {"delta": {}, **told} if place == "choice" else {place: told}
    three_ways(Case([A, event({"choices": [choice]}), STOP, DONE], "server_error_event", "engine died"))
    beside = {"index": 0, "delta": {"content": "b"}, "finish_reason": "stop", **choice}
    three_ways(Case([A, event({"choices": [beside]}), DONE], "server_error_event", "engine died"))


@pytest.mark.parametrize(
    "told",
    [
        '"finish_reason":"stop","native_finish_reason":"error"',
        '"finish_reason":"stop","native_finish_reason":"MODEL_ERROR"',
        '"finish_reason":null,"stop_reason":"abort"',
        '"finish_reason":"","stop_reason":"abort"',
        '"stop_reason":"aborted"',
        '"finish_reason":"stop","status":"failed"',
        '"finish_reason":"stop","state":"CANCELLED"',
        '"finish_reason":"stop","status_code":500',
        '"finish_reason":"stop","success":false',
    ],
)
def test_a_state_of_a_choice_that_is_a_failure(told: str) -> None:
    choice = f'{{"index":0,"delta":{{"content":"b"}},{told}}}'
    aborted = event(f'{{"choices":[{choice}]}}'.encode())
    three_ways(Case([A, aborted, DONE], "server_error_event", choice))


@pytest.mark.parametrize("stop", ["abort", "error:", "failed", 128009, None])
@pytest.mark.parametrize("field", ["stop_reason", "matched_stop", "stopping_word"])
def test_what_the_user_asked_to_stop_at_is_no_failure(field: str, stop: Any) -> None:
    end = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop", field: stop}
    three_ways(Case([A, event({"choices": [end]}), DONE], arrivals=[0, 1]))


NO_FAILURES: dict[str, dict[str, Any]] = {
    "text completions with the probabilities of words": {
        "logprobs": {"tokens": ["a"], "top_logprobs": [{" error": -0.1, "exception": -2.5}]}
    },
    "llama.cpp": {"completion_probabilities": [{"content": "error", "probs": [{"tok_str": "error"}]}]},
    "Azure": {
        "content_filter_result": {"error": {"code": "content_filter_error", "message": "not filtered"}},
        "content_filter_results": {"hate": {"filtered": False}, "custom": {"status": "failed"}},
    },
    "what was looked up": {"search_results": [{"title": "t", "error": "page is gone"}]},
    "a step that failed": {"steps": [{"type": "search", "status": "failed"}, {"event": "error"}]},
    "what was asked for": {
        "request": {"tools": [{"error": "x"}]},
        "response_format": {"error": {"type": "y"}},
    },
    "a state that goes on": {"status": "incomplete", "native_finish_reason": None, "state": "running"},
    "what the provider says": {"native_finish_reason": "MALFORMED_FUNCTION_CALL"},
    "counts": {"usage": {"errors": 3, "terror": 1}, "metrics": {"error": 0.25}},
}


@pytest.mark.parametrize("place", ["chunk", "choice"])
@pytest.mark.parametrize("who", NO_FAILURES)
def test_what_sounds_like_an_error_and_is_none(who: str, place: str) -> None:
    more = NO_FAILURES[who]
    choice = {"index": 0, "delta": {"content": "a"}, **(more if place == "choice" else {})}
    told = event({"choices": [choice], **(more if place == "chunk" else {})})
    three_ways(Case([told, told, STOP, DONE], arrivals=[0, 1], text="aa"))


def test_what_was_generated_is_no_error_whatever_its_fields() -> None:
    call = {"tool_calls": {"function": {"arguments": {"error": "x"}}}, "tool_results": {"error": "y"}}
    said = [chunk(call), chunk({"content": [{"type": "text", "text": "a", "error": "z"}]})]
    three_ways(Case([*said, STOP, DONE], arrivals=[0, 1], text="a"))


NO_ERRORS: dict[str, dict[str, Any]] = {
    "empty": {"error": {}, "errors": [], "error_message": ""},
    "null": {"error": None, "errors": [None], "exception": None},
    "with nothing in it": {"error": {"code": None, "message": None}},
    "zero": {"error": {"code": 0, "message": ""}},
    "false": {"error": False, "success": True},
    "a code of success": {"code": 200, "message": "OK"},
    "a code in a string": {"code": "0", "message": "Success"},
    "fields of nothing": {"error_code": 0, "error_msg": ""},
    "a code of 0 in words": {"error": {"code": 0, "message": "No error"}},
    "fields of success": {"error_code": 0, "error_msg": "Success."},
    "one level deeper": {"meta": {"error": {"code": 0, "message": "No error"}}},
    "WeChat": {"errcode": 0, "errmsg": "OK!"},
    "zeros in every spelling": {"error_code": 0.0, "err": "-", "exception": "NONE", "error": "no_error"},
    "MiniMax": {"base_resp": {"status_code": 0, "status_msg": ""}},
    "a status": {"status": "in_progress"},
    "an Azure filter that was not applied": {
        "content_filter_results": {"error": {"code": "content_filter_error", "message": "not filtered"}}
    },
}


@pytest.mark.parametrize("who", NO_ERRORS)
def test_what_says_that_all_is_well_is_no_error(who: str) -> None:
    more = NO_ERRORS[who]
    alone = event({"choices": [], **more})
    three_ways(Case([chunk({"content": "a"}, **more), alone, STOP, alone, DONE], arrivals=[0]))
    three_ways(Case([A, chunk({}, "stop", **more), event(more), DONE], arrivals=[0]))


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


def test_words_of_an_answer_are_no_error() -> None:
    text = chunk({"content": '"error": {"message": "exception", "status": 500}'})
    three_ways(Case([text, text, STOP, DONE], arrivals=[0, 1]))


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
