"""What stands in --host and --endpoint: where it goes, and where secrets of it are told. Lists of models."""

import json
import logging
from base64 import b64encode

import pytest

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    plain,
    scripted_server,
    token,
)
from vllm_locust.client.ask import find_model
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
    assert target.secret_url == f"http://hush:p%40ss@localhost:{server.port}/openai"


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
    "url", ["hush:p@ss@host", "ftp://hush:p@ss@host", "http://hush:p@ss@:80?key=7", "x?key=7"]
)
def test_a_wrong_address_is_told_without_its_secrets(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        Target.parse(url)
    assert "is not an address" in str(raised.value)
    assert not [secret for secret in SECRETS if secret in str(raised.value)]


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("/api/v3/chat/completions", "POST /base/api/v3/chat/completions?x=1 HTTP/1.1"),
        ("/chat?deep=1", "POST /base/chat?deep=1&x=1 HTTP/1.1"),
    ],
)
def test_another_path_is_asked(endpoint: str, line: str) -> None:
    with scripted_server(ANSWER) as server:
        target = Target.parse(f"http://localhost:{server.port}/base?x=1")
        transport = Transport(target, RequestOptions(model="m", endpoints={CHAT_PATH: endpoint}))
        client = ChatClient(transport, lambda record: None)
        assert client.chat("hello").record.outcome == "ok"
        client.close()
        transport.close()
        assert server.requests[0].decode().startswith(f"{line}\r\n")


def models(status: str, body: object, wanted: str | None) -> str:
    answer = plain(status, json.dumps(body).encode())
    with scripted_server([answer], [plain("404 Not Found", b"{}")]) as server:
        return find_model(Target.parse(server.url), {}, wanted).name


BARE = [{"id": "org/name", "object": "model"}]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        ("200 OK", BARE, "has a list of org/name"),
        ("200 OK", {"object": "list", "data": None}, "has no list of models"),
        ("200 OK", {"object": "list", "data": []}, "has a list of no models"),
        ("200 OK", {"data": [{"id": "openai/*"}]}, "has a list of openai/*"),
        ("200 OK", {"data": [{"id": "*"}, {"id": "org/name"}]}, "has a list of *, org/name"),
        ("200 OK", "<html>", "has no list of models"),
        ("404 Not Found", {"detail": "Not Found"}, "answered 404"),
        ("500 Oops", {}, "answered 500"),
    ],
)
def test_a_list_that_tells_too_little_is_a_warning_where_a_model_is_given(
    caplog: pytest.LogCaptureFixture, status: str, body: object, told: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert models(status, body, "m") == "m"
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(f"/v1/models {told}: going on with --model m.")


@pytest.mark.parametrize("body", [BARE, {"data": BARE}])
def test_the_first_model_of_a_list_is_taken(body: object) -> None:
    assert models("200 OK", body, None) == "org/name"


@pytest.mark.parametrize(
    ("status", "body", "wanted", "problem"),
    [
        ("200 OK", {"data": BARE}, "m", "--model 'm' is not served by "),
        ("200 OK", {"data": None}, None, "Give a model with --model."),
        ("200 OK", {"data": []}, None, "serves no model: give one with --model."),
        ("401 Unauthorized", {}, "m", "wants a key (401)"),
        ("404 Not Found", {}, None, "answered 404"),
    ],
)
def test_what_cannot_be_settled_is_the_users_to_settle(
    status: str, body: object, wanted: str | None, problem: str
) -> None:
    with pytest.raises(UsageError) as raised:
        models(status, body, wanted)
    assert problem in str(raised.value)
