"""What a failure says of bodies that are no stream of an answer: what was met, and its start."""

import gzip
import json

import pytest

from tests.scripted_server import HANG_UP, LAST_CHUNK, STREAM_HEAD, Step, chunk, plain, scripted_server
from vllm_locust.client.chat import ChatClient, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.record import PROTOCOL, SERVER_ERROR_EVENT, TRUNCATED


def part(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def stream(body: str | bytes) -> list[Step]:
    return [STREAM_HEAD, chunk(body if isinstance(body, bytes) else body.encode()), LAST_CHUNK]


ENDED = "the stream ended without a finish reason or [DONE]; "
EMPTY = '{"object":"chat.completion","choices":[{"index":0,"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    ("steps", "outcome", "told"),
    [
        (
            stream(f"data: {part('a')}\ndata: {part('b', 'stop')}\n"),
            PROTOCOL,
            "no blank line ends the events: ",
        ),
        (
            stream(f"data: {part('a')}data: {part('b')}"),
            TRUNCATED,
            f"{ENDED}it ended in the middle of 'data: ",
        ),
        (stream(""), TRUNCATED, f"{ENDED}it had no event"),
        (stream(": hello\n\nretry: 3\n\nid: 7\n\n"), TRUNCATED, f"{ENDED}it had no event"),
        (stream('data: {\n "choices": []}\n\n'), PROTOCOL, "an event is no JSON: '{'; "),
        (stream("data: {'choices': []}\n\n"), PROTOCOL, "an event is no JSON: \"{'choices'"),
        (stream("data: [1,2]\n\n"), PROTOCOL, "an event is no JSON object, in '[1,2]'"),
        (stream('data: "text"\n\n'), PROTOCOL, "an event is no JSON object, in '\"text\"'"),
        (
            stream(f"data: {EMPTY}\n\ndata: [DONE]\n\n"),
            PROTOCOL,
            f"no output; its last event was '{EMPTY[:60]}",
        ),
        (stream('data: {"token":{"text":"a"}}\n\n'), TRUNCATED, f'{ENDED}among its events was \'{{"token"'),
        (stream("<html>\n<body>Login"), PROTOCOL, "no event stream, it has lines such as '<html>'"),
        (stream("error: no GPU left\n\n"), SERVER_ERROR_EVENT, "no GPU left"),
        (stream(gzip.compress(b"data: {}\n\n")), PROTOCOL, "compressed with gzip, and no content-encoding"),
        ([plain("200 OK", gzip.compress(b"{}"))], PROTOCOL, "compressed with gzip, and no content-encoding"),
        (
            [plain("200 OK", b"{}", "content-encoding: br")],
            PROTOCOL,
            "compressed: its content-encoding is br",
        ),
        ([plain("200 OK", b"")], PROTOCOL, "expected an event stream, got no content type: an empty body"),
        ([plain("200 OK", b"<p>", "content-type: text/html")], PROTOCOL, "got text/html: '<p>'"),
        (
            [plain("200 OK", b'\xef\xbb\xbf{"error":{"message":"engine died"}}')],
            SERVER_ERROR_EVENT,
            "engine died",
        ),
        ([plain("200 OK", b'[{"error":{"message":"engine died"}}]')], SERVER_ERROR_EVENT, "engine died"),
        ([plain("500 Oops", gzip.compress(b"{}"))], "http_500", "(a message compressed with gzip)"),
        ([plain("500 Oops", b"\x28\xb5\x2f\xfd\x04")], "http_500", "(a message compressed with zstd)"),
        ([plain("500 Oops", b'\xef\xbb\xbf{"error":{"message":"busy"}}')], "http_500", "busy"),
        ([plain("500 Oops", b"\xef\xbb\xbfengine\r\n died")], "http_500", "engine died"),
        ([plain("500 Oops", b'{"message":"caf\xe9 closed"}')], "http_500", "caf\ufffd closed"),
        ([plain("500 Oops", b"caf\xe9 closed")], "http_500", "(no text in UTF-8: 'caf\ufffd closed')"),
        ([plain("500 Oops", b'{"x":"\\ud83d"}')], "http_500", '{"x":"?"}'),
        ([plain("500 Oops", b"[" * 60_000)], "http_500", "[[[["),
        ([plain("500 Oops", b"[" * 400 + b"]" * 400)], "http_500", "[[[["),
        ([plain("200 OK", b'{"choices":[1]}')], PROTOCOL, "got no content type: '{\"choices\":[1]}'"),
        ([plain("200 OK", b'{"a":' * 900 + b"1" + b"}" * 900)], PROTOCOL, 'got no content type: \'{"a":'),
        (stream('data: {"error":{"message":"half \\ud83d"}}\n\n'), SERVER_ERROR_EVENT, "half ?"),
        ([plain("302 Found", b"")], "http_302", "redirected, and not told where"),
        ([b"SSH-2.0-OpenSSH\r\n", HANG_UP], PROTOCOL, "not an HTTP response: HttpParserError"),
        ([b"SSH-2.0-OpenSSH\r\n", HANG_UP], PROTOCOL, "in 'SSH-2.0-OpenSSH"),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"], PROTOCOL, "in 'HTTP/1.1 101 S"),
    ],
)
def test_what_was_met_and_how_it_starts(steps: list[Step], outcome: str, told: str) -> None:
    with scripted_server(steps) as server:
        transport = Transport(Target.parse(server.url), RequestOptions(model="m"))
        client = ChatClient(transport, lambda record: None)
        record = client.chat("hello").record
        client.close()
        transport.close()
    assert record.outcome == outcome
    assert told in (record.error or "")
