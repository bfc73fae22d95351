"""One client's connection: bytes in, whole HTTP requests out; bytes to send, kept when the client is slow.

Rule: nothing here blocks, and nothing here knows what a request means.
"""

import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import httptools

_READ_SIZE = 1 << 18
_SO_TIMESTAMPNS = 35
_stamp_of = struct.Struct("@qq").unpack_from


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A complete request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_ns: int
    """CLOCK_REALTIME at which its last bytes reached the kernel, or were read where no stamp exists."""


def stamp_arrivals(sock: socket.socket) -> None:
    """Ask the kernel to stamp what arrives, where it can."""
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def read_stamped(sock: socket.socket) -> tuple[bytes, int]:
    """What can be read now, and when its last bytes arrived."""
    data, ancillary, _, _ = sock.recvmsg(_READ_SIZE, 64)
    for level, kind, stamp in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _stamp_of(stamp)
            return data, seconds * 1_000_000_000 + nanoseconds
    return data, time.time_ns()


class Connection:
    """A non-blocking socket; one request is answered at a time."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        on_request: Callable[["Connection", HttpRequest], None],
        on_close: Callable[["Connection"], None],
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamp_arrivals(sock)
        self._sock = sock
        self._send = sock.send
        self._selector = selector
        self._on_request = on_request
        self._on_close = on_close
        self._parser = httptools.HttpRequestParser(self)
        self._backlog = bytearray()
        self._answering = False
        self._keep_alive = True
        self._complete = False
        self._method = ""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.closed = False
        selector.register(sock, selectors.EVENT_READ, self.on_event)

    def on_event(self, mask: int) -> None:
        """The selector's callback."""
        if mask & selectors.EVENT_WRITE and not self.closed:
            self._flush()
        if mask & selectors.EVENT_READ and not self.closed:
            self._read()

    def send(self, data: bytes) -> bool:
        """Send now what the kernel takes and the rest later; True when it took all."""
        if self._backlog:
            self._backlog += data
            return False
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return False
        if sent == len(data):
            return True
        if not self.closed:
            self._backlog += data[sent:]
            self._selector.modify(self._sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self.on_event)
        return False

    def end_answer(self) -> None:
        """The answer is complete: take the next request, or hang up when the client wished so."""
        self._answering = False
        if not self._keep_alive and not self._backlog:
            self.close()

    def close(self) -> None:
        """Hang up; what was not sent yet is lost."""
        if self.closed:
            return
        self.closed = True
        self._selector.unregister(self._sock)
        self._sock.close()
        # The parser refers to this object as its protocol: without this, only the collector would free both.
        del self._parser
        self._on_close(self)

    def _flush(self) -> None:
        try:
            sent = self._send(self._backlog)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._backlog[:sent]
        if self._backlog:
            return
        self._selector.modify(self._sock, selectors.EVENT_READ, self.on_event)
        if not self._answering and not self._keep_alive:
            self.close()

    def _read(self) -> None:
        try:
            data, stamp_ns = read_stamped(self._sock)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse()
            return
        if self._complete and not self.closed:
            self._accept(stamp_ns)

    def _accept(self, stamp_ns: int) -> None:
        self._complete = False
        if self._answering:
            # A second request before the first is answered: pipelining, which no client of vLLM needs.
            self.close()
            return
        self._answering = True
        path = httptools.parse_url(self._url).path.decode("latin-1") if self._url else "/"
        self._on_request(self, HttpRequest(self._method, path, self._headers, b"".join(self._body), stamp_ns))

    def _refuse(self) -> None:
        message = b"Invalid HTTP request received."
        self._keep_alive = False
        self.send(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(message), message)
        )
        self.close()

    # Callbacks of httptools; it reports an exception in one of them as a parser error.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second request in one read: pipelining is refused")
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._method = self._parser.get_method().decode("latin-1")
        self._keep_alive = self._parser.should_keep_alive()
        if self._headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = True
