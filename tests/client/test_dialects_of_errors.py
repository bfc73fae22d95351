"""What is a failure in a stream, in whatever words it is told, and what only sounds like one."""

import json
from typing import Any

import pytest

from tests.client.dialects import DONE, ROLE, STOP, A, B, Case, chunk, event, three_ways, usage

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
    "by the event": {"event": "error", "message": "engine died"},
    "WeChat": {"errcode": 40001, "errmsg": "engine died"},
    "Google": [{"error": {"code": 429, "message": "engine died", "status": "RESOURCE_EXHAUSTED"}}],
    "a failure": {"failure": {"message": "engine died"}},
    "inside something else": {"response": {"id": "x", "error": {"message": "engine died"}}},
    "iFlytek": {"header": {"code": 10013, "message": "engine died", "status": 2}},
    "gRPC": {"status": {"code": 13, "message": "engine died"}},
    "no success, in quotes": {"success": "false", "msg": "engine died"},
    "not ok": {"ok": False, "message": "engine died"},
    "an end that is true": {"failed": True, "message": "engine died"},
    "a traceback": {"traceback": "engine died"},
    "about a rate, and an error": {"rateLimitExceededException": {"message": "engine died"}},
    "inside an end": {"aborted": {"error": "engine died"}},
    "deep inside": {"output": {"steps": [{"id": 1}, {"meta": {"error": "engine died"}}]}},
}


@pytest.mark.parametrize("end", [[STOP, DONE], [DONE], []], ids=["stop", "done", "cut"])
@pytest.mark.parametrize("who", ERRORS)
def test_an_error_is_one_in_whatever_fields(who: str, end: list[bytes]) -> None:
    three_ways(Case([A, event(ERRORS[who]), *end], "server_error_event", "engine died"))
    line = json.dumps(ERRORS[who]).encode() + b"\n\n"
    three_ways(Case([A, line, *end], "server_error_event", "engine died"))


MESSAGES: dict[str, Any] = {
    "FastAPI": {"detail": "engine died"},
    "API gateways of AWS": {"message": "engine died"},
    "in large letters": {"Message": "engine died"},
    "FastAPI's validation": {"detail": [{"loc": ["body"], "msg": "engine died", "type": "missing"}]},
    "FastAPI's detail of one's own": {"detail": {"msg": "engine died"}},
    "several messages": {"message": ["engine died", "and all is lost"]},
    "beside nulls": {"choices": None, "usage": None, "message": "engine died"},
    "beside progress": {"message": "engine died", "progress": 0.5},
}


@pytest.mark.parametrize("who", MESSAGES)
def test_a_lone_message_is_an_error_unless_output_or_a_finish_reason_follows(who: str) -> None:
    data = json.dumps(MESSAGES[who]).encode()
    for told in (event(data), b"event: warning\n" + event(data), data + b"\n\n"):
        for end in ([DONE], []):
            three_ways(Case([A, told, *end], "server_error_event", "engine died"))
            three_ways(Case([told, ROLE, *end], "server_error_event", "engine died"))
            two = [A, chunk({"content": "b"}, index=1), STOP, told, *end]
            three_ways(Case(two, "server_error_event", "engine died", choices=2))
        three_ways(Case([A, told, STOP, DONE], arrivals=[0]))
        three_ways(Case([A, STOP, told, DONE], arrivals=[0]))
    three_ways(Case([event(data), ROLE, A, B, DONE], arrivals=[2, 3], text="ab"))
    three_ways(Case([event(data), A], "truncated", "without a finish reason"))


@pytest.mark.parametrize(
    "name",
    [
        *("exception", "server_error", "Error", "response.failed", "abort", "timeout"),
        *("internalServerException", "cancel", "streamerror", "StreamErrors", "fatal", "response.incomplete"),
        *("request_timed_out", "TIMED_OUT", "stream.cancelled", "worker-crashed"),
        *("disconnect", "on_llm_error"),
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
        '"finish_reason":"stop","success":"False"',
        '"finish_reason":"stop","aborted":true',
        '"finish_reason":"stop","timed_out":true',
        '"finish_reason":"stop","isCancelled":"true"',
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
    "OpenRouter, whose first provider refused": {
        "openrouter_metadata": {"attempt": 2, "attempts": [{"status": 429}, {"status": 200}]}
    },
    "attempts before": {"retries": [{"error": "429"}], "x_retry_error": "429", "fallbacks": [{"error": "x"}]},
    "warnings": {"warnings": [{"error": "deprecated"}], "history": [{"error": "x"}]},
    "what is about errors": {"error_budget": 0.99, "errorRate": 0.1, "metadata": {"on_error": "continue"}},
    "ends that did not come": {"failed": False, "aborted": None, "timeout": 30, "can_cancel": True},
    "a code that goes on": {"status": {"code": "RUNNING", "message": "at it"}, "header": {"code": 0}},
    "a code of something else": {"extra": {"code": 1, "message": "hi"}},
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


def test_words_of_an_answer_are_no_error() -> None:
    text = chunk({"content": '"error": {"message": "exception", "status": 500}'})
    three_ways(Case([text, text, STOP, DONE], arrivals=[0, 1]))
