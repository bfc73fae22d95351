"""URLs with secrets in them: nothing of these is left in what may be told."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.urls import (
    as_address,
    as_given,
    authorization,
    hider,
    shortened,
    split_urls,
    without_secrets,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a:1/metrics", "http://a:1/metrics"),
        ("http://me:p/w@a/metrics?token=t", "http://***@a/metrics?***"),
        ("http://me:p w@a:8000", "http://***@a:8000"),
        ("http://me:p,w@a", "http://***@a"),
        ("http://me:p@w@a/v1", "http://***@a/v1"),
        ("http://me:p?w@a", "http://***"),
        ("http://a?mail=x@y", "http://***"),
        ("http://a?key=a b", "http://a?***"),
        ("http://me:p@a,http://b?x=1, HTTPS://c", "http://***@a,http://b?***,HTTPS://c"),
        ("found http://me:p@a/?b=c", "found http://***@a/?***"),
        ("/chat?key=7", "/chat?***"),
        ("why?", "why?"),
        ("/data/me@home.json", "/data/me@home.json"),
    ],
)
def test_what_may_be_secret_is_not_told(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(["http://b", "http://b?x=1"]))
def test_the_place_is_all_that_is_told(user: str, password: str, other: str) -> None:
    url = f"http://{quote(user, safe='')}:{quote(password, safe='')}@a:8000/v1"
    assert without_secrets(url) == "http://***@a:8000/v1"
    assert without_secrets(f"{url},{other}").startswith("http://***@a:8000/v1,http://b")
    assert split_urls(f"{url},{other}") == [url, other]


@given(st.text(st.characters(exclude_characters="?"), min_size=1))
def test_nor_is_anything_left_of_a_password_that_should_have_been_quoted(password: str) -> None:
    if not split_urls(f"http://me:{password}@a")[1:]:
        assert without_secrets(f"http://me:{password}@a") == "http://***@a"


@pytest.mark.parametrize(
    ("text", "shown"), [("me:p@a", "***@a"), ("x?key=7", "x?***"), ("ftp://me:p@a", "ftp://***@a"), ("", "")]
)
def test_what_is_no_url_may_have_secrets_too(text: str, shown: str) -> None:
    assert as_address(text) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("v1/chat/completions?key=KK77", "'v1/chat/completions?***'"),
        ("user:S3cret@127.0.0.1:8000/metrics?x=TOP", "'***@127.0.0.1:8000/metrics?***'"),
        ("ftp://user:S3cret@gateway", "'ftp://***@gateway'"),
        ("12 apples", "'12 apples'"),
        (12, "12"),
    ],
)
def test_what_was_given_for_an_option_may_have_been_meant_as_a_url(given: object, shown: str) -> None:
    assert as_given(given) == shown


def test_credentials_are_sent_as_the_standard_says() -> None:
    # RFC 7617, section 2 and 2.1: the examples there.
    assert authorization("Aladdin:open%20sesame") == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}
    assert authorization("test:123%C2%A3") == {"Authorization": "Basic dGVzdDoxMjPCow=="}
    assert authorization("me") == authorization("me:")
    assert authorization("") == {}


def test_what_a_server_tells_back_is_hidden_however_it_is_written() -> None:
    hide = hider(["p%40 ss", "ab", ""])
    assert hide("p%40 ss or p@ ss or p%40%20ss or p%40+ss, not about pass") == (
        "*** or *** or *** or ***, not about pass"
    )
    assert hider([])("as it is") == "as it is"
    hide = hider(["it's ü"])
    body = '{"key": "it\'s ü"}'
    assert hide(f"{body} {body!r} {json.dumps(body)}").count("***") == 3
    assert "ü" not in hide(f"{body} {body!r} {json.dumps(body)}")


@pytest.mark.parametrize("most", range(30))
def test_of_a_secret_that_is_cut_two_characters_are_left_at_most(most: int) -> None:
    text = shortened("your key sk-12345678 is old", most)
    left = {7: "your ke", 10: "your key s", 11: "your key sk", 20: "your key ***"}.get(min(most, 20))
    for told in (hider(["sk-12345678"])(text), hider(["sk-12345678"])(repr(text))[1:-1]):
        assert "sk-" not in told
        assert left is None or told.startswith(left)


def test_what_the_server_or_the_connection_has_cut_is_a_beginning_too() -> None:
    hide = hider(["sk-12345678", "sk-abc"])
    assert hide("it ended in the middle of 'key sk-123'") == "it ended in the middle of 'key ***'"
    assert hide("sk-ab") == "***"
    assert hide("sk-9 is no beginning of sk-") == "sk-9 is no beginning of ***"


def test_a_secret_of_one_or_two_characters_is_hidden_where_it_stands_alone() -> None:
    """Elsewhere it would take every message apart."""
    hide = hider(["ab", "7", "me:7"])
    assert hide("about 17 tabs: me:7, 'ab', key=7") == "about 17 tabs: ***, '***', key=***"
