"""Bodies that are no plain text arrive unharmed, and streamed calls of functions are measured as text is."""

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import orjson
import pytest

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    ROLE,
    STREAM_HEAD,
    ScriptedServer,
    Step,
    assert_true,
    event,
    scripted_server,
    token,
    usage,
)
from vllm_locust.client.chat import ChatClient, Origin, Reply, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.load.bodies import request_body
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context, PlannedRequest

RUN = {"ignore_eos": True, "temperature": 0.7}
ANSWER = [STREAM_HEAD, ROLE, token("a", "stop"), usage(5, 1), DONE, LAST_CHUNK]
STREAMED = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def delta(content: str, finish: str | None = None) -> bytes:
    """An event whose delta is this JSON."""
    return event(f'{{"choices":[{{"index":0,"delta":{content},"finish_reason":{json.dumps(finish)}}}]}}')


def named(function: str) -> str:
    """The beginning of a call."""
    return (
        '{"content":null,"tool_calls":[{"id":"chatcmpl-tool-1","type":"function","index":0,'
        f'"function":{function}}}]}}'
    )


def arguments(piece: str) -> str:
    """A piece of the arguments of a call."""
    content = json.dumps(piece)
    return f'{{"content":null,"tool_calls":[{{"index":0,"function":{{"arguments":{content}}}}}]}}'


class Sender:
    """A client of a scripted server, whose run has a temperature and ignores the end of answers."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.transport = Transport(Target.parse(server.url), RequestOptions(model="m", body=RUN))
        self.client = ChatClient(self.transport, lambda record: None)

    def send(self, planned: PlannedRequest) -> Reply:
        """Send a planned request, as a run does."""
        path, body = request_body(planned, "chat")
        return self.client.request(path, body, Origin())

    @property
    def received(self) -> bytes:
        """The body of the last request."""
        return self.server.requests[-1].partition(b"\r\n\r\n")[2]


@pytest.fixture
def sender() -> Iterator[Callable[..., Sender]]:
    with ExitStack() as opened:

        def start(*steps: Step) -> Sender:
            made = Sender(opened.enter_context(scripted_server(list(steps or ANSWER))))
            opened.callback(made.transport.close)
            opened.callback(made.client.close)
            return made

        yield start


def planned(name: str, index: int = 0, **parameters: str) -> PlannedRequest:
    return catalogue.load(name, Context(parameters=parameters)).request(1, index)


@pytest.mark.parametrize("parameters", [{}, {"choice": "get_weather"}])
def test_tools_arrive_as_they_are_and_win_over_the_run(
    sender: Callable[..., Sender], parameters: dict[str, str]
) -> None:
    it = sender()
    request = planned("tools", **parameters)
    assert it.send(request).record.outcome == "ok"
    assert json.loads(it.received) == {
        **STREAMED,
        "temperature": 0.7,
        "ignore_eos": False,
        "max_tokens": 128,
        "messages": [{"role": "user", "content": request.prompt}],
        "tools": request.extra["tools"],
        "tool_choice": request.extra["tool_choice"],
    }


@pytest.mark.parametrize("kind", ["json_schema", "json_object", "regex", "choice"])
def test_forms_arrive_as_they_are(sender: Callable[..., Sender], kind: str) -> None:
    it = sender()
    request = planned("structured", kind=kind)
    it.send(request)
    received = json.loads(it.received)
    assert received["ignore_eos"] is False
    assert {name: received[name] for name in request.extra} == request.extra
    assert set(received) == {*STREAMED, "temperature", "messages", "max_tokens", *request.extra}


def test_pictures_arrive_as_they_are(sender: Callable[..., Sender]) -> None:
    it = sender()
    request = planned("vision", images="3")
    it.send(request)
    received = json.loads(it.received)
    assert received["messages"] == request.messages
    assert received["ignore_eos"] is True, "nothing but the run's own"
    assert [part["type"] for part in received["messages"][0]["content"]] == ["image_url"] * 3 + ["text"]


def test_what_is_large_or_foreign_arrives_byte_for_byte(sender: Callable[..., Sender]) -> None:
    it = sender()
    noise = base64.b64encode(random.Random(1).randbytes(3_000_000)).decode()
    text = 'Zürich, 東京, \U0001f3d4, "quoted", back\\slash, \u2028 and \x7f'
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{noise}"}},
        {"type": "text", "text": text},
    ]
    schema = {"type": "object", "properties": {"größe": {"anyOf": [{"$ref": "#/$defs/x"}, {"type": "null"}]}}}
    request = PlannedRequest(
        index=0,
        scenario="own",
        profile="own",
        prompt=text,
        max_tokens=3,
        extra={
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
            "temperature": 0,
        },
        messages=({"role": "system", "content": "Sei höflich."}, {"role": "user", "content": content}),
    )
    assert it.send(request).record.outcome == "ok"
    messages = [{"role": "system", "content": "Sei höflich."}, {"role": "user", "content": content}]
    assert b'"messages":' + orjson.dumps(messages) in it.received
    assert "Zürich, 東京, \U0001f3d4".encode() in it.received, "not escaped: as few bytes as can be"
    received = json.loads(it.received)
    assert received["messages"] == messages
    assert received["response_format"] == request.extra["response_format"]
    assert received["temperature"] == 0


# The first two are vLLM's, 0.32 and before: without arguments, and with empty ones. Others send some at once.
@pytest.mark.parametrize(
    "function",
    ['{"name":"f"}', '{"name":"f","arguments":""}', '{"name":"f","arguments":"{"}'],
)
def test_a_streamed_call_is_measured(sender: Callable[..., Sender], function: str) -> None:
    it = sender(
        *(STREAM_HEAD, ROLE, 0.04, delta(named(function)), 0.05, delta(arguments('{"city": "Zü'))),
        *(0.03, delta(arguments('rich \\"x\\"'))),
        *(0.02, delta(arguments('"}'))),
        *(0.02, delta("{}", "tool_calls"), usage(22, 19), DONE, LAST_CHUNK),
    )
    reply = it.send(planned("tools"))
    record = reply.record
    assert (record.outcome, record.finish_reason, record.error) == ("ok", "tool_calls", None)
    assert (record.prompt_tokens, record.output_tokens, record.tokens_counted) == (22, 19, False)
    # The role before it and the empty delta behind it are no tokens.
    assert_true(record, it.server.sent_s[2:6], it.server.sent_by_s[2:6])
    assert record.first_token_s == record.arrivals_s[0]
    assert record.last_token_s == record.arrivals_s[3]
    assert record.ttft_s >= 0.04
    assert reply.text == "", "a call is no text"


def test_words_and_several_calls_are_one_answer(sender: Callable[..., Sender]) -> None:
    it = sender(
        *(STREAM_HEAD, ROLE, token("Let me "), token("see."), delta(named('{"name":"f"}'))),
        *(delta(arguments("{}")), delta(named('{"name":"g"}')), delta(arguments("{}"), "tool_calls")),
        *(usage(22, 6), DONE, LAST_CHUNK),
    )
    reply = it.send(planned("tools", choice="auto"))
    assert (reply.record.outcome, reply.text) == ("ok", "Let me see.")
    assert len(reply.record.arrivals_s) == 6


def test_calls_are_counted_where_the_server_does_not(sender: Callable[..., Sender]) -> None:
    it = sender(
        *(STREAM_HEAD, ROLE, delta(named('{"name":"f"}')), delta(arguments("{}"))),
        *(delta("{}", "stop"), DONE, LAST_CHUNK),
    )
    record = it.send(planned("tools")).record
    assert (record.outcome, record.output_tokens, record.tokens_counted) == ("ok", 2, True)


def test_a_call_that_is_cut_off_is_truncated(sender: Callable[..., Sender]) -> None:
    it = sender(STREAM_HEAD, ROLE, delta(named('{"name":"f"}')), delta(arguments('{"a"')), LAST_CHUNK)
    assert it.send(planned("tools")).record.outcome == "truncated"


def test_an_image_for_a_model_that_reads_only_is_a_failure_with_its_reason(
    sender: Callable[..., Sender],
) -> None:
    body = b'{"error":{"message":"tiny is not a multimodal model","type":"BadRequestError","code":400}}'
    head = (
        f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    record = sender(head.encode() + body).send(planned("vision")).record
    assert (record.outcome, record.ttft_s) == ("http_400", None)
    assert "tiny is not a multimodal model" in (record.error or "")
