"""Calls of functions, pictures, and a cache that is emptied, as they were captured from vLLM 0.32."""

import json
import re
import threading

import pytest

from tests.simulator.test_stream import INSTANT, WITH_RUNNING_USAGE, WITH_USAGE, chat
from vllm_locust.simulator.text import IMAGE_TOKENS

CHAT = "/v1/chat/completions"
RESET = "/reset_prefix_cache"
PIXEL = "data:image/png;base64,iVBORw0KGgo="
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_weather", "søk")
]
NAMED = {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "søk"}}}
REQUIRED = {"tools": TOOLS, "tool_choice": "required"}

HEAD = (
    '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":TIME,"model":"tiny",'
    '"choices":[{"index":0,'
)
CALL = (
    HEAD + '"delta":{"content":null,"tool_calls":[{"id":"chatcmpl-tool-ID","type":"function","index":0,'
    '"function":{"name":"NAME"}}]},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
)
PIECE = (
    HEAD + '"delta":{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"PIECE"}}]},'
    '"logprobs":null,"finish_reason":null,"token_ids":null}]}'
)


def shape(event):
    """An event with the parts that differ from answer to answer as placeholders."""
    event = re.sub(r'"id":"(chatcmpl|chatcmpl-tool)-[0-9a-f]+"', r'"id":"\1-ID"', event)
    event = re.sub(r'"created":\d+', '"created":TIME', event)
    event = re.sub(r'"name":"[^"]+"', '"name":"NAME"', event)
    return re.sub(r'"arguments":"(?:[^"\\]|\\.)+"', '"arguments":"PIECE"', event)


def calls(response):
    """Of a stream: what each token says of the call, and why the last one was the last."""
    *tokens, last = (json.loads(event)["choices"][0] for event in response.events[1:-2])
    functions = [choice["delta"]["tool_calls"][0]["function"] for choice in (*tokens, last)]
    assert all(choice["finish_reason"] is None for choice in tokens)
    return functions, last["finish_reason"]


def looking(*contents):
    """A chat with pictures and texts, in this order, in a message each."""
    parts = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith("data:")
        else {"type": "text", "text": part}
        for part in contents
    ]
    return [{"role": "user", "content": [part]} for part in parts]


# -- calls of functions -----------------------------------------------------------------------------------


def test_a_call_has_vllms_bytes(serve):
    with serve() as running:
        response = running.client().post(CHAT, chat(**NAMED, **WITH_USAGE))
    last = PIECE.replace('"finish_reason":null', '"finish_reason":"length","stop_reason":null')
    assert [shape(event) for event in response.events[1:-2]] == [CALL, PIECE, PIECE, last]
    assert '"delta":{"role":"assistant","content":""}' in response.events[0]
    usage = json.loads(response.events[-2])["usage"]
    assert usage["completion_tokens"] == 4


@pytest.mark.parametrize(("fields", "reason"), [(NAMED, "stop"), (REQUIRED, "tool_calls")])
def test_a_call_that_ends_by_itself_has_whole_arguments(serve, fields, reason):
    body = chat(max_tokens=2000, ignore_eos=False, **fields, **WITH_USAGE)
    with serve(cost=INSTANT) as running:
        client = running.client()
        response = client.post(CHAT, body)
        whole = client.post(CHAT, {**body, "stream": False, "stream_options": None}).json
        page = client.get("/metrics").body.decode()
    (named, *pieces), ended = calls(response)
    assert named == {"name": named["name"]}
    assert ended == reason
    assert 1 + len(pieces) == json.loads(response.events[-2])["usage"]["completion_tokens"]
    arguments = "".join(piece["arguments"] for piece in pieces)
    assert len(json.loads(arguments)["text"].split()) > 5

    (choice,) = whole["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == reason
    assert call["type"] == "function"
    assert call["function"] == {"name": named["name"], "arguments": arguments}
    # For the engine it is an answer that stopped.
    assert 'finished_reason="stop",model_name="tiny"} 2.0' in page


def test_a_call_that_is_cut_says_so(serve):
    with serve(cost=INSTANT) as running:
        client = running.client()
        cut = client.post(CHAT, chat(max_tokens=9, **REQUIRED, **WITH_USAGE))
        name_alone = client.post(CHAT, chat(max_tokens=1, **NAMED, **WITH_USAGE))
    (_, *pieces), reason = calls(cut)
    assert reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads("".join(piece["arguments"] for piece in pieces))
    assert calls(name_alone) == ([{"name": "søk"}], "length")


def test_several_tokens_of_a_call_in_a_chunk(serve):
    with serve(cost=INSTANT, stream_interval=4) as running:
        response = running.client().post(CHAT, chat(max_tokens=10, **NAMED, **WITH_RUNNING_USAGE))
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in response.events[:-1]]
    assert counts == [0, 1, 5, 9, 10, 10]
    (named, first, *_), _ = calls(response)
    assert named == {"name": "søk"}
    assert first["arguments"].startswith('{"text":" ')


def test_which_function_is_called_depends_on_the_prompt(serve):
    with serve(cost=INSTANT) as running:
        client = running.client()

        def name(word):
            question = [{"role": "user", "content": word}]
            return calls(client.post(CHAT, chat(messages=question, **REQUIRED, **WITH_USAGE)))[0][0]["name"]

        names = [name(f"question {number}") for number in range(20)]
        assert names == [name(f"question {number}") for number in range(20)]
    assert set(names) == {"get_weather", "søk"}


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_an_answer_that_need_not_be_a_call_is_words(serve, choice):
    with serve(cost=INSTANT) as running:
        response = running.client().post(CHAT, chat(tools=TOOLS, tool_choice=choice, **WITH_USAGE))
    assert all(json.loads(event)["choices"][0]["delta"]["content"] for event in response.events[1:-2])


def test_tools_are_a_part_of_the_prompt_that_the_cache_knows(serve):
    with serve(cost=INSTANT, enable_prompt_tokens_details=True) as running:
        client = running.client()
        used = [
            json.loads(client.post(CHAT, chat(**fields, **WITH_USAGE)).events[-2])["usage"]
            for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}, NAMED, NAMED)
        ]
        counted = client.post("/tokenize", {"messages": chat()["messages"], **NAMED}).json["count"]
    without, unused, first, again = (usage["prompt_tokens"] for usage in used)
    assert without == unused < first == again == counted
    cached = used[-1]["prompt_tokens_details"]["cached_tokens"]
    assert cached == (again - 1) // 16 * 16 > 0


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        (
            {"tools": []},
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        ),
        ({"tool_choice": "required"}, "When using `tool_choice`, `tools` must be set.", "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": "any"},
            'Invalid value for `tool_choice`: any! Only named tools, "none", "auto" or '
            '"required" are supported.',
            "tool_choice",
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_told_as_vllm_does(serve, fields, message, param):
    with serve() as running:
        response = running.client().post(CHAT, chat(**fields))
    error = {
        "message": f"{message} (parameter={param})",
        "type": "BadRequestError",
        "param": param,
        "code": 400,
    }
    assert (response.status, response.json) == (400, {"error": error})


@pytest.mark.parametrize("tools", [["get_weather"], [{"type": "function"}], "get_weather", 5])
def test_tools_that_are_none_are_refused(serve, tools):
    with serve() as running:
        response = running.client().post(CHAT, chat(tools=tools, tool_choice="required"))
    assert response.status == 400
    assert response.json["error"]["param"] == "body.tools"


def test_the_form_of_an_answer_is_accepted_and_has_no_effect(serve):
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with serve(cost=INSTANT) as running:
        client = running.client()
        plain, formed, chosen = (
            [json.loads(event)["choices"] for event in client.post(CHAT, chat(**fields)).events[:-1]]
            for fields in ({}, {"response_format": schema}, {"structured_outputs": {"choice": ["a", "b"]}})
        )
    assert plain == formed == chosen


# -- pictures ---------------------------------------------------------------------------------------------


def test_a_picture_counts_and_is_cached_by_its_url(serve):
    def usage(client, *contents):
        response = client.post(CHAT, chat(messages=looking(*contents), **WITH_USAGE))
        return json.loads(response.events[-2])["usage"]

    with serve(cost=INSTANT, images_per_prompt=2, enable_prompt_tokens_details=True) as running:
        client = running.client()
        seen, again, other, text = (
            usage(client, *contents)
            for contents in ((PIXEL, "hi"), (PIXEL, "hi"), (f"{PIXEL}x", "hi"), ("hi", "hi"))
        )
        two = usage(client, PIXEL, f"{PIXEL}y")
        counted = client.post("/tokenize", {"messages": looking(PIXEL, "hi")}).json["count"]
    # A frame of 5 tokens around each of the two messages, 3 for the answer, one for the word.
    assert seen["prompt_tokens"] == other["prompt_tokens"] == counted == 2 * 5 + 3 + IMAGE_TOKENS + 1
    assert text["prompt_tokens"] == 2 * 5 + 3 + 2
    assert two["prompt_tokens"] == 2 * 5 + 3 + 2 * IMAGE_TOKENS
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in (seen, again, other, two)]
    # Of 590 tokens all but the last one, in whole blocks of 16; of two pictures the first one.
    assert cached == [0, 576, 0, 576]


def test_more_pictures_than_allowed_are_refused(serve):
    with serve(images_per_prompt=1) as running:
        client = running.client()
        refused = client.post(CHAT, chat(messages=looking(PIXEL, "and", PIXEL)))
        allowed = client.post(CHAT, chat(messages=looking(PIXEL, "and")))
    message = (
        "At most 1 image(s) may be provided in one prompt. "
        "Set `--limit-mm-per-prompt` to increase this limit. (parameter=image)"
    )
    error = {"message": message, "type": "BadRequestError", "param": "image", "code": 400}
    assert (refused.status, refused.json) == (400, {"error": error})
    assert allowed.status == 200


@pytest.mark.parametrize("part", [{"type": "image_url"}, {"type": "input_audio", "input_audio": {}}, 5])
def test_other_parts_are_refused(serve, part):
    with serve(images_per_prompt=1) as running:
        response = running.client().post(CHAT, chat(messages=[{"role": "user", "content": [part]}]))
    assert response.status == 400


# -- the cache --------------------------------------------------------------------------------------------


def test_the_prefix_cache_can_be_emptied_in_development(serve):
    body = chat(messages=[{"role": "user", "content": " word" * 92}], **WITH_USAGE)
    with serve(cost=INSTANT, dev_mode=True, enable_prompt_tokens_details=True) as running:
        client = running.client()

        def cached():
            usage = json.loads(client.post(CHAT, body).events[-2])["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

        assert [cached(), cached()] == [0, 96]
        emptied = client.post(f"{RESET}?reset_external=true", {})
        assert (emptied.status, emptied.body) == (200, b'{"success":true}')
        assert [cached(), cached()] == [0, 96]


def test_a_cache_in_use_is_not_emptied(serve):
    with serve("metronome", dev_mode=True) as running:
        holder, client = running.client(), running.client()
        thread = threading.Thread(target=holder.post, args=(CHAT, chat(max_tokens=20)))
        thread.start()
        while (
            client.get("/metrics").body.count(b'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0')
            == 0
        ):
            pass
        assert client.post(RESET, {}).json == {"success": False}
        thread.join()
        assert client.post(RESET, {}).json == {"success": True}


def test_no_cache_is_emptied_in_production(serve):
    with serve() as running:
        assert running.client().post(RESET, {}).status == 404
