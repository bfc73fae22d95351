"""Streams over a real socket: the bytes, their framing, the usage, the beat, and a client that leaves."""

import json
import re
import time

import pytest

from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.render import VERSION

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
INSTANT = CostModel(base_s=1e-6)
# As captured from vLLM 0.32, with the parts that differ from answer to answer made placeholders.
ROLE = (
    '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,"model":"tiny","choices":[{"index":0,'
    '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    '"prompt_token_ids":null,"prompt_text":null}'
)
TOKEN = (
    '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,"model":"tiny","choices":[{"index":0,'
    '"delta":{"content":"TEXT"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
)
LAST = TOKEN.replace('"finish_reason":null', '"finish_reason":"length","stop_reason":null')
USAGE = (
    '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,"model":"tiny","choices":[],'
    '"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4},"system_fingerprint":"FINGERPRINT"}'
)
TEXT_TOKEN = (
    '{"id":"cmpl-ID","object":"text_completion","created":TIME,"model":"tiny","choices":[{"index":0,'
    '"text":"TEXT","logprobs":null,"finish_reason":null,"stop_reason":null,'
    '"prompt_token_ids":null,"token_ids":null}]}'
)
TEXT_USAGE = (
    '{"id":"cmpl-ID","object":"text_completion","created":TIME,"model":"tiny","choices":[],'
    '"usage":{"prompt_tokens":4,"total_tokens":8,"completion_tokens":4},"system_fingerprint":"FINGERPRINT"}'
)


def shape(event: str) -> str:
    """An event with the parts that differ from answer to answer as placeholders."""
    event = re.sub(r'"id":"(chatcmpl|cmpl)-[^"]+"', r'"id":"\1-ID"', event)
    event = re.sub(r'"created":\d+', '"created":TIME', event)
    event = re.sub(r'"(content|text)":"[^"]+"', r'"\1":"TEXT"', event)
    return re.sub(r'"system_fingerprint":"[^"]+"', '"system_fingerprint":"FINGERPRINT"', event)


def chat(**fields):
    """A chat request that streams 4 tokens, with fields changed."""
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 4,
        "ignore_eos": True,
        "stream": True,
        **fields,
    }


WITH_USAGE = {"stream_options": {"include_usage": True}}
WITH_RUNNING_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}


def test_a_chat_stream_has_vllms_bytes(serve):
    with serve() as running:
        response = running.client().post(CHAT, chat(**WITH_USAGE))
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [shape(event) for event in response.events] == [ROLE, TOKEN, TOKEN, TOKEN, LAST, USAGE, "[DONE]"]


def test_without_usage_the_last_token_carries_the_fingerprint(serve):
    with serve() as running:
        response = running.client().post(CHAT, chat())
    last = LAST[:-1] + ',"system_fingerprint":"FINGERPRINT"}'
    assert [shape(event) for event in response.events] == [ROLE, TOKEN, TOKEN, TOKEN, last, "[DONE]"]
    assert f'"vllm-{VERSION}-' in response.events[-2]


def test_running_usage_counts_every_chunk(serve):
    with serve() as running:
        response = running.client().post(CHAT, chat(**WITH_RUNNING_USAGE))
    counts = [json.loads(event)["usage"] for event in response.events[:-1]]
    assert [count["completion_tokens"] for count in counts] == [0, 1, 2, 3, 4, 4]
    assert all(count["total_tokens"] == 9 + count["completion_tokens"] for count in counts)
    assert response.events[0].endswith(
        '"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0,'
        '"completion_tokens_details":null},"prompt_token_ids":null,"prompt_text":null}'
    )
    assert response.events[1].endswith(
        '"token_ids":null}],"usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1,'
        '"completion_tokens_details":null}}'
    )


def test_a_text_completion_stream_has_vllms_bytes(serve):
    body = {"prompt": [10, 20, 30, 40], "max_tokens": 4, "stream": True, "ignore_eos": True, **WITH_USAGE}
    with serve() as running:
        response = running.client().post(COMPLETIONS, body)
        counted = running.client().post(COMPLETIONS, body | WITH_RUNNING_USAGE)
    last = TEXT_TOKEN.replace('"finish_reason":null', '"finish_reason":"length"')
    expected = [TEXT_TOKEN, TEXT_TOKEN, TEXT_TOKEN, last, TEXT_USAGE, "[DONE]"]
    assert [shape(event) for event in response.events] == expected
    assert counted.events[0].endswith('"usage":{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}}')


def test_the_role_leaves_with_the_first_token_and_the_end_with_the_last(serve):
    with serve("metronome") as running:
        client = running.client()
        client.send(
            "POST",
            CHAT,
            json.dumps(chat(max_tokens=3, **WITH_USAGE)).encode(),
            {"Content-Type": "application/json"},
        )
        writes = []
        while not writes or not writes[-1].endswith(b"0\r\n\r\n"):
            writes.append(client.sock.recv(65536))
    if not writes[0].endswith(b"\r\n\r\n") or b"data:" in writes[0]:
        pytest.skip("the machine was too busy to tell the writes apart")
    assert [write.count(b"data: ") for write in writes] == [0, 2, 1, 3]


def test_answers_are_not_streamed_unless_asked(serve):
    with serve() as running:
        client = running.client()
        answer = client.post(CHAT, chat(stream=False)).json
        text = client.post(COMPLETIONS, {"prompt": "import os", "max_tokens": 4, "ignore_eos": True}).json
        streamed = client.post(CHAT, chat())
    assert list(answer) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "prompt_text"),
        *("kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "total_tokens": 13,
        "completion_tokens": 4,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    assert text["object"] == "text_completion"
    assert text["usage"]["prompt_tokens"] == 2
    assert len(text["choices"][0]["text"].split()) >= 3
    pieces = [json.loads(event)["choices"][0]["delta"]["content"] for event in streamed.events[:-1]]
    assert "".join(pieces) == answer["choices"][0]["message"]["content"]


def test_an_answer_that_may_stop_does_and_says_so(serve):
    with serve(cost=INSTANT) as running:
        first, again = (
            running.client().post(CHAT, chat(max_tokens=2000, ignore_eos=False, **WITH_USAGE))
            for _ in range(2)
        )
        forced = running.client().post(
            CHAT, chat(max_tokens=2000, ignore_eos=False, min_tokens=1500, **WITH_USAGE)
        )
    usage = json.loads(first.events[-2])["usage"]
    assert '"finish_reason":"stop"' in first.events[-3]
    assert 16 <= usage["completion_tokens"] < 1024
    assert json.loads(again.events[-2])["usage"] == usage
    assert json.loads(forced.events[-2])["usage"]["completion_tokens"] == 1500


def test_several_tokens_a_chunk(serve):
    with serve(stream_interval=4) as running:
        response = running.client().post(CHAT, chat(max_tokens=10, **WITH_RUNNING_USAGE))
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in response.events[:-1]]
    assert counts == [0, 1, 5, 9, 10, 10]


def test_cached_tokens_are_told_when_asked_for(serve):
    body = chat(messages=[{"role": "user", "content": " word" * 92}], **WITH_USAGE)
    with serve(enable_prompt_tokens_details=True) as running:
        client = running.client()
        usages = [json.loads(client.post(CHAT, body).events[-2])["usage"] for _ in range(2)]
    # 92 + 8 tokens: six whole blocks of 16.
    assert usages[0]["prompt_tokens_details"] == {"cached_tokens": 0, "created_cache_tokens": 96}
    assert usages[1]["prompt_tokens_details"] == {"cached_tokens": 96, "created_cache_tokens": 0}


def test_the_metronome_is_never_ahead_of_its_beat_over_a_real_socket(serve):
    """In virtual time it is never behind either; on a machine it may be."""
    with serve("metronome") as running:
        began_s = time.perf_counter()
        running.client().post(CHAT, chat(max_tokens=15))
        assert time.perf_counter() - began_s >= 0.300  # 15 steps of 20 ms


def test_a_silent_stream_is_kept_alive(serve):
    with serve("metronome", sse_keep_alive_interval_s=0.004, stream_interval=100) as running:
        response = running.client().post(CHAT, chat(max_tokens=5))
    assert b": keep-alive\n\n" in response.body
    assert response.events[-1] == "[DONE]"


def test_hanging_up_ends_the_request(serve):
    with serve("metronome") as running:
        client, watcher = running.client(), running.client()
        body = json.dumps(chat(max_tokens=1000)).encode()
        client.send("POST", CHAT, body, {"Content-Type": "application/json"})
        assert client.sock.recv(4096)
        wait_for(lambda: metric(watcher, "vllm:num_requests_running") == 1)
        client.sock.close()
        wait_for(lambda: metric(watcher, "vllm:num_requests_running") == 0)
        assert metric(watcher, "vllm:kv_cache_usage_perc") == 0
        assert metric(watcher, "vllm:request_success_total") == 0


def test_a_slow_reader_holds_up_nobody_and_loses_nothing(serve, tmp_path):
    path = tmp_path / "sent.jsonl"
    with serve(cost=INSTANT, send_log=path) as running:
        slow, quick = running.client(buffer_size=4096), running.client()
        # Some 7 MB of answer, whose every chunk repeats the long id: more than the sockets take.
        body = chat(max_tokens=3000, **WITH_RUNNING_USAGE)
        headers = {"Content-Type": "application/json", "X-Request-Id": 2000 * "x"}
        slow.send("POST", CHAT, json.dumps(body).encode(), headers)
        wait_for(lambda: metric(quick, 'vllm:request_success_total{engine="0",finished_reason="length"') == 1)
        assert quick.post(CHAT, chat()).status == 200
        response = slow.receive()
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in response.events[:-1]]
    assert counts == [*range(3001), 3000]
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["delayed_chunks"] > 200


def metric(client, name):
    """The first value of a metric on /metrics."""
    page = client.get("/metrics").body.decode()
    return float(next(line for line in page.splitlines() if line.startswith(name)).rpartition(" ")[2])


def wait_for(condition):
    """Until it holds, at most 60 s."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
