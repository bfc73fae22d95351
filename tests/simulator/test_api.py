"""The endpoints and their errors; the messages are those captured from vLLM 0.32."""

import json
import threading

import pytest

from vllm_locust.simulator.config import LimitOverrides
from vllm_locust.simulator.render import VERSION

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
LIMITS = LimitOverrides(max_model_len=4096)
HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 "
    "input tokens, which exceeds this limit even without any output tokens. "
    "Please reduce the length of the input prompt. (parameter=input_tokens, value=4097)"
)
TOO_MANY = (
    "max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer output tokens. "
    "(parameter=max_tokens, value=5000)"
)
BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)

ERRORS = {
    "long chat": (
        (CHAT, {"messages": [{"role": "user", "content": " word" * 5000}]}),
        (400, TOO_LONG, "BadRequestError", "input_tokens"),
    ),
    "long prompt": (
        (COMPLETIONS, {"prompt": " word" * 5000, "stream": True}),
        (400, TOO_LONG, "BadRequestError", "input_tokens"),
    ),
    "prompt and output": (
        (COMPLETIONS, {"prompt": " word" * 4000, "max_tokens": 100}),
        (
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 100 output tokens "
            "and your prompt contains at least 3997 input tokens, for a total of at least 4097 tokens. "
            "Please reduce the length of the input prompt or the number of requested output tokens. "
            "(parameter=input_tokens, value=3997)",
            "BadRequestError",
            "input_tokens",
        ),
    ),
    "max_tokens": ((CHAT, {**HI, "max_tokens": 5000}), (400, TOO_MANY, "BadRequestError", "max_tokens")),
    "max_tokens of a completion": (
        (COMPLETIONS, {"model": "tiny", "prompt": "hi", "max_tokens": 5000}),
        (400, TOO_MANY, "BadRequestError", "max_tokens"),
    ),
    "unknown model": (
        (CHAT, {**HI, "model": "nope"}),
        (404, "The model `nope` does not exist. Valid aliases: tiny.", "NotFoundError", "model"),
    ),
    "bad json": (
        (CHAT, b'{"model": "tiny", '),
        (
            400,
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.18', 'msg': 'JSON decode error', "
            "'input': '<dict of 0 items>', "
            "'ctx': {'error': 'Expecting property name enclosed in double quotes'}}",
            "Bad Request",
            "body.18",
        ),
    ),
    "missing messages": (
        (CHAT, {"model": "tiny"}),
        (
            400,
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', "
            "'input': '<dict of 1 items>'}",
            "Bad Request",
            "body.messages",
        ),
    ),
    "negative temperature": (
        (CHAT, {**HI, "max_tokens": 4, "temperature": -1}),
        (
            400,
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
            "BadRequestError",
            "temperature",
        ),
    ),
    "no tokens": (
        (CHAT, {**HI, "max_tokens": 0}),
        (
            400,
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            "BadRequestError",
            "max_tokens",
        ),
    ),
    "negative tokens": (
        (CHAT, {**HI, "max_tokens": -1}),
        (
            400,
            "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)",
            "BadRequestError",
            "max_tokens",
        ),
    ),
    "min_tokens": (
        (CHAT, {**HI, "max_tokens": 4, "min_tokens": 10}),
        (400, "min_tokens must be less than or equal to max_tokens=4, got 10.", "BadRequestError", None),
    ),
    "stream options without stream": (
        (CHAT, {**HI, "max_tokens": 4, "stream_options": {"include_usage": True}}),
        (
            400,
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "BadRequestError",
            "stream_options",
        ),
    ),
    "empty prompt": (
        (COMPLETIONS, {"model": "tiny", "prompt": "", "max_tokens": 2}),
        (
            400,
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
            "BadRequestError",
            "prompt",
        ),
    ),
    "token outside the vocabulary": (
        (COMPLETIONS, {"model": "tiny", "prompt": [999999], "max_tokens": 2}),
        (400, "Token id 999999 is out of vocabulary", "BadRequestError", None),
    ),
    "image": (
        (
            CHAT,
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}],
                    }
                ]
            },
        ),
        (400, "tiny is not a multimodal model", "BadRequestError", None),
    ),
    "several prompts": (
        (COMPLETIONS, {"prompt": ["a b", "c d"]}),
        (
            400,
            "The simulator takes one prompt per request. (parameter=prompt, value=2 prompts)",
            "BadRequestError",
            "prompt",
        ),
    ),
    "wrong content": (
        (CHAT, {"messages": [{"role": "user", "content": 5}]}),
        (
            400,
            "1 validation error:\n  {'type': 'content_type', 'loc': 'body.messages', "
            "'msg': 'Input should be a text or a list of parts', 'input': 5}",
            "Bad Request",
            "body.messages",
        ),
    ),
    "wrong type": (
        (CHAT, {**HI, "max_tokens": "many"}),
        (
            400,
            "1 validation error:\n  {'type': 'int_type', 'loc': 'body.max_tokens', "
            "'msg': 'Input should be a valid integer', 'input': 'many'}",
            "Bad Request",
            "body.max_tokens",
        ),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_vllms(serve, case):
    (path, body), (status, message, kind, param) = ERRORS[case]
    with serve(limits=LIMITS) as running:
        response = running.client().post(path, body)
    assert response.status == status
    assert response.headers["content-type"] == "application/json"
    assert response.json == {"error": {"message": message, "type": kind, "param": param, "code": status}}


def test_a_request_that_breaks_the_server_is_answered_with_500(serve, monkeypatch, capfd):
    monkeypatch.setattr("vllm_locust.simulator.text.encode_chat", lambda _: 1 / 0)
    with serve() as running:
        client = running.client()
        broken = client.post(CHAT, HI)
        assert client.get("/health").status == 200
    assert (broken.status, broken.json["error"]["type"]) == (500, "InternalServerError")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_only_json_is_read(serve):
    with serve() as running:
        response = running.client().post(CHAT, HI, {"Content-Type": "text/plain"})
    assert response.status == 400
    assert response.json["error"]["message"] == (
        "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    )


def test_unknown_paths_and_methods(serve):
    with serve() as running:
        client = running.client()
        missing = client.post("/v1/nothing", {})
        wrong = client.get(CHAT)
        profile = client.post("/start_profile", {})
    assert (missing.status, missing.body) == (404, b'{"detail":"Not Found"}')
    assert (profile.status, profile.body) == (404, b'{"detail":"Not Found"}')
    assert (wrong.status, wrong.body) == (405, b'{"detail":"Method Not Allowed"}')
    assert wrong.headers["allow"] == "POST"


def test_an_error_leaves_the_connection_usable(serve):
    with serve(limits=LIMITS) as running:
        client = running.client()
        assert client.post(CHAT, {"model": "nope", **HI, "max_tokens": 5000}).status == 400
        assert client.post(CHAT, {**HI, "max_tokens": 1, "nonsense_field": 1}).status == 200


def test_the_small_endpoints(serve):
    with serve(limits=LIMITS) as running:
        client = running.client()
        for path in ("/health", "/ping"):
            response = client.get(path)
            assert (response.status, response.body) == (200, b"")
            assert "content-type" not in response.headers
        assert client.get("/version").json == {"version": VERSION}
        assert client.get("/load").json == {"server_load": 0}
        (card,) = client.get("/v1/models").json["data"]
        metrics = client.get("/metrics?x=1", {"Accept": "application/openmetrics-text"})
    assert (card["id"], card["max_model_len"], card["owned_by"]) == ("tiny", 4096, "vllm")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"vllm:num_requests_running{" in metrics.body


def test_tokenize_and_detokenize(serve):
    with serve(limits=LIMITS) as running:
        client = running.client()
        plain = client.post("/tokenize", {"model": "tiny", "prompt": "import os"}).json
        chat = client.post("/tokenize", HI).json
        back = client.post("/detokenize", {"model": "tiny", "tokens": [1, 2, 3]}).json
        again = client.post("/tokenize", {"prompt": back["prompt"]}).json
        used = client.post(CHAT, {**HI, "max_tokens": 1}).json["usage"]["prompt_tokens"]
        wrong = client.post("/tokenize", {"model": "tiny"})
    assert list(plain) == ["count", "max_model_len", "tokens", "token_strs"]
    assert (plain["count"], len(plain["tokens"]), plain["max_model_len"]) == (2, 2, 4096)
    assert chat["count"] == used == 9
    assert again["count"] == 3
    assert wrong.status == 400


def test_a_key_guards_the_models_and_nothing_else(serve):
    with serve(api_key="secret") as running:
        client = running.client()
        refused = client.post(CHAT, HI)
        wrong = client.get("/v1/models", {"Authorization": "Bearer other"})
        right = client.get("/v1/models", {"Authorization": "Bearer secret"})
        health = client.get("/health")
    assert (refused.status, refused.body) == (401, b'{"error":"Unauthorized"}')
    assert (wrong.status, right.status, health.status) == (401, 200, 200)


def test_overload_is_refused_as_vllm_does(serve):
    with serve("metronome", max_num_queued_reqs=1) as running:
        first, second = running.client(), running.client()
        body = {**HI, "max_tokens": 50, "ignore_eos": True}
        holder = threading.Thread(target=first.post, args=(CHAT, body))
        holder.start()
        while second.get("/load").json != {"server_load": 1}:
            pass
        whole = second.post(CHAT, body)
        streamed = second.post(CHAT, {**body, "stream": True})
        text = second.post(COMPLETIONS, {"prompt": "hi", "stream": True})
        page = second.get("/metrics").body.decode()
        holder.join()
    error = {"message": BUSY, "type": "Service Unavailable", "param": None, "code": 503}
    assert (whole.status, whole.json) == (503, {"error": error})
    assert (text.status, text.json) == (503, {"error": error})
    assert streamed.status == 200
    assert streamed.body == b"data: " + json.dumps({"error": error}).encode() + b"\n\ndata: [DONE]\n\n"
    assert 'vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"} 3.0' in page


def test_request_ids_come_from_the_client(serve):
    with serve() as running:
        client = running.client()
        by_header = client.post(CHAT, {**HI, "max_tokens": 1}, {"X-Request-Id": 'my "id"'}).json
        by_body = client.post(COMPLETIONS, {"prompt": "hi", "max_tokens": 1, "request_id": "mine"}).json
    assert by_header["id"] == 'chatcmpl-my "id"'
    assert by_body["id"] == "cmpl-mine"


def test_requests_may_come_in_pieces_and_chunks(serve):
    with serve() as running:
        client = running.client()
        body = json.dumps({**HI, "max_tokens": 1}).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for byte in head:
            client.sock.send(bytes([byte]))
        assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for start in range(0, len(body), 20):
            piece = body[start : start + 20]
            client.sock.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.sock.send(b"0\r\n\r\n")
        assert client.receive().status == 200


def test_a_client_may_ask_to_close(serve):
    with serve() as running:
        client = running.client()
        assert (
            client.post(CHAT, {**HI, "max_tokens": 2, "stream": True}, {"Connection": "close"}).status == 200
        )
        assert client.sock.recv(1) == b""


def test_pipelined_requests_are_refused(serve):
    with serve() as running:
        client = running.client()
        client.sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert client.receive().status == 400


def test_what_is_not_http_is_refused(serve):
    with serve() as running:
        client = running.client()
        client.sock.sendall(b"hello?\r\n\r\n")
        response = client.receive()
    assert (response.status, response.body) == (400, b"Invalid HTTP request received.")
