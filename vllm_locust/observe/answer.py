"""One question over HTTP, with bounds on everything: how long it takes, and how much is taken in.

Rule: whatever answers, or does not, ends within the limits in a `Page` or in a `Trouble`.
"""

import http.client
import io
import socket
import ssl
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vllm_locust.core.urls import authorization, credentials_of

LIMIT_S = 5.0
"""For connecting, and from then on for the whole answer."""
LARGEST_BYTES = 32 << 20
"""Of a page, also when it comes compressed."""

_PIECE_BYTES = 1 << 16
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Source:
    """An address of metrics. `headers` go with every question; neither they nor a password are ever told."""

    url: str
    headers: Mapping[str, str]
    insecure: bool = False
    """Whether any certificate will do."""
    alike: int = 0
    """How many other sources on this host and port come before it."""

    @property
    def address(self) -> str:
        """Host and port."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return f"{f'[{host}]' if ':' in host else host}:{parts.port or _PORTS.get(parts.scheme, 80)}"

    @property
    def name(self) -> str:
        """Host and port, and a number where several sources have the same."""
        return f"{self.address}#{self.alike + 1}" if self.alike else self.address

    @property
    def shown(self) -> str:
        """The URL as it may be told: without a password, or what else may be secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self.address}{parts.path}"


def distinct(sources: Iterable[Source]) -> list[Source]:
    """Each source once, with a name of its own."""
    seen: dict[str, Source] = {}
    count: Counter[str] = Counter()
    for source in sources:
        if source.url not in seen:
            seen[source.url] = replace(source, alike=count[source.address])
            count[source.address] += 1
    return list(seen.values())


@dataclass(frozen=True, slots=True)
class Page:
    text: str
    at_s: float
    """When it was made, see `Questioner.ask`."""


class Trouble(Exception):
    """No page: `kind` tells troubles apart, `clause` says what was met, `hint` what to do about it."""

    def __init__(self, kind: str, clause: str, hint: str = "", *, lasting: bool = False) -> None:
        super().__init__(clause)
        self.kind = kind
        self.clause = clause
        self.hint = hint
        self.lasting = lasting
        """Whether asking again soon is of little use."""


class Questioner:
    """Asks one source for its page, each time over a connection of its own.

    A load balancer that works per connection would show whoever keeps one a single server, as if it were all.
    `clock` gives the times of pages.
    """

    def __init__(self, source: Source, clock: Callable[[], float], limit_s: float = LIMIT_S) -> None:
        self._source = source
        self._clock = clock
        self._limit_s = limit_s
        self._parts = urlsplit(source.url)
        self._tls: ssl.SSLContext | None = None
        """Kept: it takes 10 ms and more to read all certificates."""
        self._socket: socket.socket | None = None

    def ask(self) -> Page:
        """The page, or a Trouble.

        Its time is the middle between the question's last byte and the answer's first: somewhere between them
        the server wrote it, and half of that time is the most this can be wrong.
        """
        try:
            with closing(self._connection()) as connection:
                return self._question(connection)
        except Trouble:
            raise
        except Exception as error:  # a thread has to live on
            raise _trouble(error, self._limit_s) from error
        finally:
            self._socket = None

    def interrupt(self) -> None:
        """End a question under way, from another thread."""
        if self._socket is not None:
            with suppress(OSError):
                # A close would not wake who reads; a TLS socket's own shutdown is not for two threads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    # ------------------------------------------------------------------------------------------------------

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=self._limit_s)
        if self._tls is None:
            self._tls = _tls(self._source)
        return http.client.HTTPSConnection(host, port, timeout=self._limit_s, context=self._tls)

    def _question(self, connection: http.client.HTTPConnection) -> Page:
        connection.connect()
        self._socket = connection.sock
        deadline_s = monotonic() + self._limit_s
        began: list[float] = []

        def response(sock: socket.socket, *args: Any, **kwargs: Any) -> http.client.HTTPResponse:
            bounded: Any = _Bounded(sock, deadline_s, lambda: began.append(self._clock()))
            return http.client.HTTPResponse(bounded, *args, **kwargs)

        connection.response_class = response  # type: ignore[assignment]
        path = self._parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection.request("GET", path, headers=_headers(self._source, self._parts))
        asked_s = self._clock()
        with connection.getresponse() as answer:
            _refuse(answer, self._parts)
            body = _body(answer)
        return Page(body.decode("utf-8", "replace"), (asked_s + began[0]) / 2)


def _tls(source: Source) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if source.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Bounded:
    """In the place of the socket from which an answer is read: all of it has to be there by the deadline."""

    def __init__(self, sock: socket.socket, deadline_s: float, on_byte: Callable[[], None]) -> None:
        self._file = _BoundedFile(sock, deadline_s, on_byte)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What is read from."""
        return io.BufferedReader(self._file, _PIECE_BYTES)


class _BoundedFile(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline_s: float, on_byte: Callable[[], None]) -> None:
        self._sock = sock
        # Keeps the socket open when the connection, which is not to be used again, is closed before the end.
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline_s = deadline_s
        self._on_byte = on_byte

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline_s - monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        count = self._raw.readinto(buffer)
        if count:
            self._on_byte()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _headers(source: Source, parts: SplitResult) -> dict[str, str]:
    headers = {"Accept": "text/plain", "Accept-Encoding": "gzip", "User-Agent": "vllm-locust"}
    headers |= {"Connection": "close", **source.headers}
    if parts.username is not None:  # named for this very address
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers |= authorization(credentials_of(parts.netloc))
    return headers


# -- answers ----------------------------------------------------------------------------------------------

_ELSEWHERE = "--server-metrics-url names another address, --server-log FILE follows vLLM's log instead"


def _refuse(answer: http.client.HTTPResponse, parts: SplitResult) -> None:
    """Raise Trouble for anything but a page."""
    status = answer.status
    if status == 200:
        return
    kind = f"status {status}"
    if 300 <= status < 400:
        where = _without_secrets(answer.headers.get("Location", ""), parts)
        raise Trouble(kind, f"sends elsewhere, to {where}", "give that address with --server-metrics-url")
    if status in (401, 403):
        raise Trouble(kind, f"answers {status}", "--api-key or --header may open it", lasting=True)
    if status in (404, 405, 410):
        raise Trouble(kind, f"answers {status}", _ELSEWHERE)  # it may have metrics from its first request on
    raise Trouble(kind, f"answers {status}")


def _without_secrets(location: str, parts: SplitResult) -> str:
    try:
        there = urlsplit(location)
        host = f"{there.hostname}:{there.port}" if there.port else there.hostname
    except ValueError:
        return "an address that is none"
    scheme = there.scheme or parts.scheme
    return f"{scheme}://{host}{there.path}" if host else there.path or "nowhere"


def _body(answer: http.client.HTTPResponse) -> bytes:
    """The page's bytes, unpacked."""
    encoding = (answer.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Trouble("encoding", f"answers in an encoding nobody asked for, {encoding[:20]}")
    unpack = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 16)
    body = bytearray()
    while piece := answer.read(_PIECE_BYTES):
        # One byte more than may be tells that there is more.
        body += piece if unpack is None else unpack.decompress(piece, LARGEST_BYTES + 1 - len(body))
        if len(body) > LARGEST_BYTES:
            raise Trouble(
                "too large", f"answers more than {LARGEST_BYTES >> 20} MiB", _ELSEWHERE, lasting=True
            )
    if answer.length or (unpack is not None and not unpack.eof):
        raise http.client.IncompleteRead(b"")
    return bytes(body)


_ALIKE: tuple[tuple[type[Exception], str, str, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "certificate",
        "has a certificate that this machine does not trust",
        "--insecure accepts it",
    ),
    (ssl.SSLError, "tls", "does not speak TLS as it should", "is it http instead of https?"),
    (TimeoutError, "timeout", "did not give its page within {limit_s:g} s", ""),
    (ConnectionRefusedError, "refused", "refuses connections", "is the server up, and the port right?"),
    (socket.gaierror, "name", "cannot be found by that name", "is the name right?"),
    (zlib.error, "half", "answers with a gzip that is broken", ""),
    (http.client.IncompleteRead, "half", "broke off in the middle of its page", ""),
    (http.client.RemoteDisconnected, "hung up", "closed the connection without an answer", ""),
    (ConnectionError, "hung up", "broke the connection off", ""),
    (http.client.HTTPException, "no http", "does not answer in HTTP", _ELSEWHERE),
)


def _trouble(error: Exception, limit_s: float) -> Trouble:
    """What an error means. Its own text is not told: it can hold headers, or anything that a server sends."""
    for exception, kind, clause, hint in _ALIKE:
        if isinstance(error, exception):
            return Trouble(kind, clause.format(limit_s=limit_s), hint)
    if isinstance(error, OSError) and error.strerror:
        return Trouble(f"os {error.errno}", f"cannot be reached: {error.strerror}")
    return Trouble(type(error).__name__, f"could not be asked ({type(error).__name__})")
