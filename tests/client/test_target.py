"""What stands in --host and --endpoint: where it goes, and where secrets of it are told. Lists of models."""

import gzip
import json
import logging
import re
from base64 import b64encode

import pytest

from tests.scripted_server import (
    DONE,
    HANG_UP,
    LAST_CHUNK,
    STREAM_HEAD,
    Step,
    plain,
    scripted_server,
    token,
)
from vllm_locust.client.ask import ServerModel, find_model
from vllm_locust.client.chat import CHAT_PATH, ChatClient, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.errors import UsageError

ANSWER = [STREAM_HEAD, token("a", "stop"), DONE, LAST_CHUNK]
LIST = plain("200 OK", b'{"object":"list","data":[{"id":"m"}]}')
SECRETS = ("hush", "p%40ss", "p@ss", "key=7")


def test_credentials_and_a_query_go_with_every_request_and_are_told_nowhere() -> None:
    with scripted_server([LIST], [LIST], ANSWER) as server:
        target = Target.parse(f"http://hush:p%40ss@localhost:{server.port}/openai/v1?api-version=2&key=7")
        assert find_model(target, {}, None).name == "m"
        transport = Transport(target, RequestOptions(model="m"))
        client = ChatClient(transport, lambda record: None)
        assert client.chat("hello").record.outcome == "ok"
        client.close()
        transport.close()
        lines = [request.split(b"\r\n\r\n")[0].decode().split("\r\n") for request in server.requests]
    assert [line[0] for line in lines] == [
        "GET /openai/v1/models?api-version=2&key=7 HTTP/1.1",
        "GET /openai/version?api-version=2&key=7 HTTP/1.1",
        "POST /openai/v1/chat/completions?api-version=2&key=7 HTTP/1.1",
    ]
    basic = b64encode(b"hush:p@ss").decode()
    assert all(f"Authorization: Basic {basic}" in line for line in lines)
    told = f"{target} {target!r} {target.url} {target.name} {target.authority}"
    assert not [secret for secret in SECRETS if secret in told]


def test_a_key_comes_before_the_credentials_of_the_url() -> None:
    with scripted_server(ANSWER) as server:
        target = Target.parse(f"http://hush:p@localhost:{server.port}")
        transport = Transport(target, RequestOptions(model="m", headers={"Authorization": "Bearer key"}))
        client = ChatClient(transport, lambda record: None)
        client.chat("hello")
        client.close()
        transport.close()
        assert server.requests[0].count(b"Authorization:") == 1
        assert b"Authorization: Bearer key\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hush:p@ss@host", "is not an address"),
        ("ftp://hush:p@ss@host", "is not an address"),
        ("http://hush:p@ss@:80?key=7", "is not an address"),
        ("x?key=7", "is not an address"),
        ("http://hush:pa/p@ss@host", "is not an address"),
        ("http://a,b:1", "is not an address"),
        ("http://a,", "is not an address"),
        ("http://hush:1/p@ss@host", "has an @ behind the host"),
        ("http://hush/p@ss@host", "has an @ behind the host"),
        ("http://hush:1?key=7@host", "has an @ behind the host"),
        ("http://hush:1#p@ss@host", "has an @ behind the host"),
        ("http://***@host", "has *** in the place of what was hidden: write it out."),
        ("http://host?***", "has *** in the place of what was hidden: write it out."),
    ],
)
def test_a_wrong_address_is_told_without_its_secrets(url: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        Target.parse(url)
    assert problem in str(raised.value)
    assert not [secret for secret in SECRETS if secret in str(raised.value)]


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("http://a:1,http://b:2", ["a:1", "b:2"]),
        ("http://me:p,w@a, https://b", ["a", "b"]),
        ("http://a?x=1,2,http://b", ["a", "b"]),
    ],
)
def test_several_hosts_with_commas_of_their_own(hosts: str, names: list[str]) -> None:
    assert [target.name for target in Target.parse_all(hosts)] == names


def test_what_no_request_line_can_carry_is_quoted() -> None:
    target = Target.parse("http://me:p@host/a b?key=ü x&done=%20%C3%BC")
    assert target.resource("/v1/models") == "/a%20b/v1/models?key=%C3%BC%20x&done=%20%C3%BC"


@pytest.mark.parametrize(
    "answer",
    [
        plain("404 Not Found", b'{"message": "no key=7 here, hush:p@ss, p%40ss, key%3D7, SECRET-KEY"}'),
        plain("401 Denied", b"hush:p%40ss with SECRET-KEY is not known"),
        plain("307 Elsewhere", b"", "Location: http://hush:p%40ss@else/x?key=7"),
        plain("307 Elsewhere", b"", "Location: /x?key=7"),
    ],
)
def test_what_the_server_tells_back_is_not_told_on(answer: bytes) -> None:
    with scripted_server([answer]) as server:
        target = Target.parse(f"http://hush:p%40ss@localhost:{server.port}?key=7")
        options = RequestOptions(model="m", headers={"X-Token": "SECRET-KEY"})
        transport = Transport(target, options)
        client = ChatClient(transport, lambda record: None)
        error = client.chat("hello").record.error or ""
        client.close()
        transport.close()
        with pytest.raises(UsageError) as raised:
            find_model(target, options.headers, None)
    for told in (error, str(raised.value)):
        assert "***" in told or "wants a key (401)" in told
        assert not [secret for secret in (*SECRETS, "key%3D7", "SECRET-KEY") if secret in told]


@pytest.mark.parametrize(
    ("base", "endpoint", "line"),
    [
        ("/base?x=1", "/api/v3/chat/completions", "POST /base/api/v3/chat/completions?x=1 HTTP/1.1"),
        ("/base?x=1", "/chat?deep=1", "POST /base/chat?deep=1&x=1 HTTP/1.1"),
        # As `vllm bench serve` does with --base-url and --endpoint, but for a /v1 in both.
        ("/base/v1", "/chat/completions", "POST /base/v1/chat/completions HTTP/1.1"),
        ("/v1/", "/v3/completions", "POST /v1/v3/completions HTTP/1.1"),
        ("/v1", "/v1/chat/completions", "POST /v1/chat/completions HTTP/1.1"),
        ("/v1", "/v10/chat", "POST /v1/v10/chat HTTP/1.1"),
    ],
)
def test_another_path_is_asked(base: str, endpoint: str, line: str) -> None:
    with scripted_server(ANSWER) as server:
        target = Target.parse(f"http://localhost:{server.port}{base}")
        transport = Transport(target, RequestOptions(model="m", endpoints={CHAT_PATH: endpoint}))
        client = ChatClient(transport, lambda record: None)
        assert client.chat("hello").record.outcome == "ok"
        client.close()
        transport.close()
        assert server.requests[0].decode().startswith(f"{line}\r\n")


def models(status: str, body: object, wanted: str | None) -> str:
    answer = plain(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    with scripted_server([answer], [plain("404 Not Found", b"{}")]) as server:
        return find_model(Target.parse(server.url), {}, wanted).name


BARE = [{"id": "org/name", "object": "model"}]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        ("200 OK", BARE, "has a list of org/name"),
        ("200 OK", {"object": "list", "data": None}, 'answered 200: {"object":"list","data":null}'),
        ("200 OK", {"object": "list", "data": []}, "has a list of no models"),
        ("200 OK", {"data": [{"id": "openai/*"}]}, "has a list of openai/*"),
        ("200 OK", {"data": [{"id": "*"}, {"id": "org/name"}]}, "has a list of *, org/name"),
        ("200 OK", b"<html>", "answered 200: <html>"),
        ("200 OK", b"\xef\xbb\xbf<html>\n <body>", "answered 200: <html> <body>"),
        ("200 OK", b"\xef\xbb\xbf" + json.dumps(BARE).encode(), "has a list of org/name"),
        ("200 OK", b"caf\xe9", "answered 200: (no text in UTF-8: 'caf\ufffd')"),
        ("200 OK", gzip.compress(b"{}", mtime=0), "answered 200: (a message compressed with gzip)"),
        ("500 Oops", gzip.compress(b"{}", mtime=0), "answered 500: (a message compressed with gzip)"),
        ("404 Not Found", {"detail": "Not Found"}, "answered 404: Not Found"),
        ("500 Oops", {"error": {"message": "no GPU"}}, "answered 500: no GPU"),
        (
            "401 Unauthorized",
            {"error": "who?"},
            "answered 401: who? (OPENAI_API_KEY or --api-key gives a key)",
        ),
        (
            "403 Forbidden",
            {"error": "not you"},
            "answered 403: not you (OPENAI_API_KEY or --api-key gives a key)",
        ),
    ],
)
def test_a_list_that_tells_too_little_is_a_warning_where_a_model_is_given(
    caplog: pytest.LogCaptureFixture, status: str, body: object, told: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert models(status, body, "m") == "m"
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(f"/v1/models {told}: going on with --model m.")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([HANG_UP], "does not answer: Remote end closed connection without response."),
        ([b"SSH-2.0\r\n\r\n", HANG_UP], "does not answer: SSH-2.0"),
        (
            [plain("307 Elsewhere", b"", "Location: http://b/v1/models?x=1")],
            "redirects to http://b/v1/models?***:",
        ),
    ],
)
def test_a_list_that_does_not_come_is_a_warning_too(
    caplog: pytest.LogCaptureFixture, steps: list[Step], told: str
) -> None:
    with scripted_server(steps) as server, caplog.at_level(logging.WARNING):
        target = Target.parse(server.url)
        assert find_model(target, {}, "m") == ServerModel("m", None, None)
        with pytest.raises(UsageError, match=re.escape(told)):
            find_model(target, {}, None)
    (message,) = [record.getMessage() for record in caplog.records]
    assert told in message
    assert message.endswith("It was asked for its models: going on with --model m.")


def test_nobody_there_is_no_list_that_does_not_come() -> None:
    with pytest.raises(UsageError, match=r"does not answer: .*refused"):
        find_model(Target.parse("http://127.0.0.1:1"), {}, "m")


@pytest.mark.parametrize("body", [BARE, {"data": BARE}])
def test_the_first_model_of_a_list_is_taken(body: object) -> None:
    assert models("200 OK", body, None) == "org/name"


@pytest.mark.parametrize(
    ("status", "body", "wanted", "problem"),
    [
        ("200 OK", {"data": BARE}, "m", "--model 'm' is not served by "),
        ("200 OK", {"data": None}, None, "Give a model with --model."),
        ("200 OK", {"data": []}, None, "serves no model: give one with --model."),
        ("401 Unauthorized", {}, None, "wants a key (401)"),
        ("404 Not Found", {}, None, "answered 404"),
    ],
)
def test_what_cannot_be_settled_is_the_users_to_settle(
    status: str, body: object, wanted: str | None, problem: str
) -> None:
    with pytest.raises(UsageError) as raised:
        models(status, body, wanted)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://localhost:8000", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/v1", "localhost", 8000, "", "localhost:8000"),
        ("http://h/a/v1/", "h", 80, "/a", "h"),
        ("http://[::1]:8000", "::1", 8000, "", "[::1]:8000"),
        ("https://gateway", "gateway", 443, "", "gateway"),
    ],
)
def test_targets(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x:0", ""])
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address like"):
        Target.parse(url)
