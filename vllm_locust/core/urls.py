"""URLs of servers with secrets in them: how these are sent, and what may be told instead.

Rule: a URL is told without user, password and query, and what cannot be told apart from these is hidden with
them.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

# Passwords and queries may have commas of their own.
_NEXT_URL = re.compile(r"\s*,\s*(?=https?://)", re.IGNORECASE)
# Shorter ones would be found within any word: they are hidden where they stand alone.
_SHORTEST_SECRET = 3
_CUT = "..."


def split_urls(text: str) -> list[str]:
    """The URLs of a list with commas between them."""
    return _NEXT_URL.split(text.strip())


def credentials_of(netloc: str) -> str:
    """`user:password` of `user:password@host:port`, as they stand there; empty where there are none."""
    return netloc.rpartition("@")[0]


def authorization(credentials: str) -> dict[str, str]:
    """The header that they ask for, which is none where they are empty."""
    if not credentials:
        return {}
    user, _, password = credentials.partition(":")
    token = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def without_secrets(text: str) -> str:
    """A URL, a list of them, a path with a query, or a text that ends with such: as it may be told."""
    return ",".join(map(_without_secrets, _NEXT_URL.split(text)))


def as_address(text: str) -> str:
    """What was given for a URL, be it one or not, as it may be told."""
    if "://" in text:
        return without_secrets(text)
    return without_secrets(f"http://{text}").removeprefix("http://")


def as_given(value: Any) -> str:
    """What was given for an option, in quotes and as it may be told: it may have been meant as a URL."""
    return repr(as_address(value) if isinstance(value, str) and ("@" in value or "?" in value) else value)


def _without_secrets(text: str) -> str:
    before, separator, address = text.partition("://")
    if not separator:
        path, question, _ = text.partition("?")
        return f"{path}?{HIDDEN}" if question and path.startswith("/") else text
    path, question, query = address.partition("?")
    if "@" in query:  # or there is a question mark in the password: nobody can tell
        return f"{before}://{HIDDEN}"
    _, credentials, place = path.rpartition("@")
    return f"{before}://{f'{HIDDEN}@' if credentials else ''}{place}{f'?{HIDDEN}' if question else ''}"


def secrets_of_query(query: str) -> Iterator[str]:
    """The values of a query, and all of it."""
    yield query
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        yield value or name


def secrets_of_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """The values of headers, and the token behind a word such as `Bearer`."""
    for value in headers.values():
        yield from (value, value.rpartition(" ")[2])


def shortened(text: str, most: int) -> str:
    """Its first characters, and a mark where there are more: `hider` knows a secret by it that has no end."""
    return text if len(text) <= most else f"{text[:most]}{_CUT}"


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """What takes these secrets out of a text, in which they may be written as in URLs, in JSON or in quotes.

    One whose end was cut off by `shortened`, or with the text, is known by its first three characters. One
    that has no more than two is hidden where it stands alone: elsewhere it would be found in every word.
    """
    forms = {form for secret in secrets for form in _spellings(secret) if form}
    if not forms:
        return lambda text: text
    longest_first = sorted(forms, key=len, reverse=True)
    found = re.compile("|".join(map(_pattern, longest_first)), re.IGNORECASE)
    long_ones = [form for form in longest_first if len(form) >= _SHORTEST_SECRET]

    def hide(text: str) -> str:
        pieces = found.sub(HIDDEN, text).split(_CUT)
        return _CUT.join(_without_half(piece, long_ones) for piece in pieces)

    return hide


def _spellings(secret: str) -> Iterator[str]:
    for plain in (secret, unquote(secret), unquote_plus(secret)):
        yield from (plain, quote(plain, safe=""), quote(plain), quote_plus(plain))
        yield from (json.dumps(plain)[1:-1], repr(f'{plain}"')[1:-2])  # of a text with both kinds of quotes


def _pattern(secret: str) -> str:
    whole = re.escape(secret)
    return whole if len(secret) >= _SHORTEST_SECRET else rf"(?<!\w){whole}(?!\w)"


def _without_half(text: str, secrets: Sequence[str]) -> str:
    """Hide the beginning of a secret that a text ends with, be it in quotes."""
    end = text.rstrip("'\"")
    half = max(_half(end, secret) for secret in secrets) if secrets else 0
    return f"{end[:-half]}{HIDDEN}{text[len(end) :]}" if half else text


def _half(text: str, secret: str) -> int:
    """How many characters of the secret's beginning are the text's end; 0 when they are too few to tell."""
    first = secret[:_SHORTEST_SECRET]
    at = text.find(first, max(len(text) - len(secret), 0))
    while at >= 0 and not secret.startswith(text[at:]):
        at = text.find(first, at + 1)
    return len(text) - at if at >= 0 else 0
