"""URLs of servers with secrets in them: how these are sent, and what may be told instead.

Rule: a URL is told without user, password and query, and what cannot be told apart from these is hidden with
them.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

# Passwords and queries may have commas of their own.
_NEXT_URL = re.compile(r"\s*,\s*(?=https?://)", re.IGNORECASE)
# Shorter ones would be found in any text, and are no secrets.
_SHORTEST_SECRET = 3


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


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """What takes these secrets out of a text, in which they may be written in the manner of URLs."""
    forms = {
        form
        for secret in secrets
        for plain in (secret, unquote(secret), unquote_plus(secret))
        for form in (plain, quote(plain, safe=""), quote(plain), quote_plus(plain))
        if len(form) >= _SHORTEST_SECRET
    }
    if not forms:
        return lambda text: text
    longest_first = sorted(forms, key=len, reverse=True)
    found = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return lambda text: found.sub(HIDDEN, text)
