"""What the client relies on, asked of a real vLLM with nothing but the standard library.

When one of these fails with a new vLLM, it is the server that changed, and the client has to follow.
"""

import json
import re
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

HELLO = [{"role": "user", "content": "Say something about the sea."}]
MAX_MODEL_LEN = 4096

# What the recorder and the exporter read: the names of the server's side.
METRICS = [
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_preemptions_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
]


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str, str]:
    """POST `body`, or GET without one: status, content type and the whole answer."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def chat(max_tokens: int, **more: Any) -> dict[str, Any]:
    """A streamed chat request as the client sends it."""
    return {
        "model": "tiny",
        "messages": HELLO,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def events(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, parsed; that it is well formed and ends with [DONE] is asserted here."""
    status, content_type, text = ask(url, path, body)
    assert (status, content_type) == (200, "text/event-stream; charset=utf-8")
    *blocks, nothing = text.split("\n\n")
    assert nothing == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    *data, done = (block.removeprefix("data: ") for block in blocks)
    assert done == "[DONE]"
    return [json.loads(each) for each in data]


@pytest.mark.parametrize("max_tokens", [1, 2, 100])
def test_chat_opens_with_the_role_and_closes_with_usage(vllm_url: str, max_tokens: int) -> None:
    first, *rest, usage = events(vllm_url, "/v1/chat/completions", chat(max_tokens))

    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in event["choices"][0]["delta"] for event in rest)
    assert 1 <= len(rest) <= max_tokens, "an event may carry several tokens, never none"
    assert [event["choices"][0]["finish_reason"] for event in rest] == [None] * (len(rest) - 1) + ["length"]

    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == max_tokens


def test_completions_take_token_ids_and_stream_text(vllm_url: str) -> None:
    prompt = list(range(100, 137))
    body = chat(20, prompt=prompt)
    del body["messages"]
    *rest, usage = events(vllm_url, "/v1/completions", body)

    assert all(isinstance(event["choices"][0]["text"], str) for event in rest)
    assert 1 <= len(rest) <= 20
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == len(prompt)
    assert usage["usage"]["completion_tokens"] == 20


def test_running_usage_counts_the_tokens_of_each_event(vllm_url: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = events(vllm_url, "/v1/chat/completions", chat(50, stream_options=options))
    counts = [event["usage"]["completion_tokens"] for event in found]
    assert counts == sorted(counts)
    assert counts[-1] == 50


def test_tokenize_counts_as_the_chat_does(vllm_url: str) -> None:
    status, _, text = ask(vllm_url, "/tokenize", {"model": "tiny", "messages": HELLO})
    assert status == 200
    counted = json.loads(text)
    usage = events(vllm_url, "/v1/chat/completions", chat(1))[-1]["usage"]
    assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]
    assert counted["max_model_len"] == MAX_MODEL_LEN


def test_a_repeated_prompt_is_cached_in_whole_blocks(vllm_url: str) -> None:
    long = [{"role": "user", "content": "The sea is deep and the ship is small. " * 20}]
    for _ in range(2):
        usage = events(vllm_url, "/v1/chat/completions", chat(1, messages=long))[-1]["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < usage["prompt_tokens"]


def test_models_tell_name_and_length(vllm_url: str) -> None:
    status, _, text = ask(vllm_url, "/v1/models")
    assert status == 200
    (model,) = json.loads(text)["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", MAX_MODEL_LEN)


def test_version_is_told(vllm_url: str) -> None:
    status, _, text = ask(vllm_url, "/version")
    assert status == 200
    assert re.match(r"\d+\.\d+", json.loads(text)["version"])


def test_an_unknown_model_is_404(vllm_url: str) -> None:
    status, _, text = ask(vllm_url, "/v1/chat/completions", chat(4, model="nope"))
    assert status == 404
    error = json.loads(text)["error"]
    assert (error["type"], error["param"], error["code"]) == ("NotFoundError", "model", 404)
    assert "nope" in error["message"]


def test_a_prompt_that_is_too_long_is_400(vllm_url: str) -> None:
    body = chat(4, messages=[{"role": "user", "content": "word " * (2 * MAX_MODEL_LEN)}])
    status, _, text = ask(vllm_url, "/v1/chat/completions", body)
    assert status == 400
    error = json.loads(text)["error"]
    assert (error["type"], error["param"], error["code"]) == ("BadRequestError", "input_tokens", 400)


def test_more_output_than_the_context_holds_is_400(vllm_url: str) -> None:
    status, _, text = ask(vllm_url, "/v1/chat/completions", chat(MAX_MODEL_LEN + 1))
    assert status == 400
    assert json.loads(text)["error"]["code"] == 400


def test_an_absent_endpoint_is_404(vllm_url: str) -> None:
    """As on any server that was not started in its development mode."""
    assert ask(vllm_url, "/reset_prefix_cache", {})[0] == 404


def test_metrics_have_the_names_that_are_read(vllm_url: str) -> None:
    events(vllm_url, "/v1/chat/completions", chat(5))
    status, content_type, text = ask(vllm_url, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain")

    samples = [line for line in text.splitlines() if line and not line.startswith("#")]
    labels = {name: [line for line in samples if line.startswith(f"{name}{{")] for name in METRICS}
    assert not [name for name, lines in labels.items() if not lines]
    for lines in labels.values():
        assert all('engine="0"' in line and 'model_name="tiny"' in line for line in lines)


def test_metrics_count_exactly_what_was_answered(vllm_url: str) -> None:
    def generated() -> float:
        text = ask(vllm_url, "/metrics")[2]
        (value,) = re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE)
        return float(value)

    before = generated()
    events(vllm_url, "/v1/chat/completions", chat(37))
    assert generated() - before == 37
