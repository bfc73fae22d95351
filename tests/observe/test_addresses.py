"""What options may name: a port to listen at, a URL to ask."""

import pytest

from vllm_locust.observe.addresses import (
    parse_bind,
    parse_interval,
    parse_metrics_url,
    same_origin,
)


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("9646", ("127.0.0.1", 9646)),
        ("0", ("127.0.0.1", 0)),
        (" 0.0.0.0:9000 ", ("0.0.0.0", 9000)),
        ("[::1]:9646", ("::1", 9646)),
        ("monitoring.local:1", ("monitoring.local", 1)),
    ],
)
def test_where_to_listen(text: str, bind: tuple[str, int]) -> None:
    assert parse_bind(text) == bind


@pytest.mark.parametrize("text", ["", "none", "70000", "-1", "9646:localhost", "localhost", "12 34", "²"])
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ValueError, match="PORT"):
        parse_bind(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8000", "http://localhost:8000/metrics"),
        ("http://localhost:8000/", "http://localhost:8000/metrics"),
        ("https://gateway/vllm/metrics?part=1", "https://gateway/vllm/metrics?part=1"),
    ],
)
def test_what_to_ask(text: str, url: str) -> None:
    assert parse_metrics_url(text) == url


@pytest.mark.parametrize(
    "text", ["localhost:8000", "ftp://x/metrics", "http://", "http://x:99999", "http://x:0", "http://x/a b"]
)
def test_what_cannot_be_asked(text: str) -> None:
    with pytest.raises(ValueError, match="http://localhost:8000/metrics"):
        parse_metrics_url(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a/metrics", "http://a:80/other", True),
        ("https://a/metrics", "http://a/metrics", False),
        ("http://a:8000/metrics", "http://a:8001/metrics", False),
        ("http://A/metrics", "http://a/metrics", True),
        ("http://a/metrics", "http://b/metrics", False),
    ],
)
def test_who_may_have_the_key(one: str, other: str, same: bool) -> None:
    assert same_origin(one, other) is same


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("500ms", 0.5), ("2m", 120.0)])
def test_how_often_to_ask(text: str, seconds: float) -> None:
    assert parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "100ms"])
def test_how_often_nobody_can_ask(text: str) -> None:
    with pytest.raises(ValueError):
        parse_interval(text)
