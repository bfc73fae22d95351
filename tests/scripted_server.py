"""A server that says exactly what a test tells it to, byte by byte, on real sockets in a real thread."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from vllm_locust.core.record import RequestRecord

HANG_UP = b"\x00hang up"
"""As a step: close the connection. Without it, the connection waits for the next request."""
RESET = b"\x00reset"
"""As a step: abort the connection, so that the client sees ECONNRESET."""

Step = bytes | float | threading.Event
"""Bytes to send at once, or seconds or something to wait for."""


@dataclass
class ScriptedServer:
    """Answers request number n (over all connections) with `scripts[n]`; the last one serves all later ones.

    `questions` are the answers to requests that begin so ("GET /version"): those are not counted, nor kept.
    `sent_s` notes `time.perf_counter()` just before each send, `sent_by_s` just after it, `requests` the raw
    requests.
    """

    scripts: Sequence[Sequence[Step]]
    tls: ssl.SSLContext | None = None
    questions: Mapping[str, bytes] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    sent_by_s: list[float] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    @property
    def connected(self) -> bool:
        """Whether a connection is still served: one that was hung up or reset is over for the client, too."""
        return any(thread.is_alive() for thread in self._threads[1:])

    def close(self) -> None:
        for open_socket in (self._listener, *self._open):
            _shut(open_socket)
        for thread in self._threads:
            thread.join(timeout=60)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._play(connection):
                pass
        except (OSError, ssl.SSLError):
            pass
        finally:
            connection.close()

    def _play(self, connection: socket.socket) -> bool:
        request = read_request(connection)
        if request is None:
            return False
        for beginning, answer in self.questions.items():
            if request.startswith(beginning.encode()):
                connection.sendall(answer)
                return True
        self.requests.append(request)
        for step in self.scripts[min(len(self.requests), len(self.scripts)) - 1]:
            if isinstance(step, float):
                time.sleep(step)
            elif isinstance(step, threading.Event):
                step.wait(60)
            elif step == HANG_UP:
                return False
            elif step == RESET:
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                )
                return False
            else:
                self.sent_s.append(time.perf_counter())
                connection.sendall(step)
                self.sent_by_s.append(time.perf_counter())
        return True


def _shut(open_socket: socket.socket) -> None:
    with suppress(OSError):
        open_socket.shutdown(socket.SHUT_RDWR)
    open_socket.close()


def read_request(connection: socket.socket) -> bytes | None:
    """One whole request, None at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def tls_of(certificate: Path) -> ssl.SSLContext:
    """A server's side of TLS with `cert.pem` and `key.pem` of this folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


@contextmanager
def scripted_server(
    *scripts: Sequence[Step],
    tls: ssl.SSLContext | None = None,
    questions: Mapping[str, bytes] | None = None,
) -> Iterator[ScriptedServer]:
    server = ScriptedServer(scripts, tls, questions or {})
    try:
        yield server
    finally:
        server.close()


def assert_true(record: RequestRecord, sent_s: Sequence[float], sent_by_s: Sequence[float]) -> None:
    """Truth <= claim <= truth + bound for tokens that left the server between these moments."""
    for claim_s, bound_s, from_s, to_s in zip(
        record.arrivals_s, record.bounds_s, sent_s, sent_by_s, strict=True
    ):
        assert from_s <= claim_s
        assert claim_s - bound_s <= to_s + 0.0001


# What to put into scripts

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def event(data: str) -> bytes:
    return chunk(f"data: {data}\n\n".encode())


ROLE = event('{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}')
DONE = event("[DONE]")


def token(text: str, finish: str | None = None) -> bytes:
    reason = f'"{finish}"' if finish else "null"
    return event(f'{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{reason}}}]}}')


def usage(prompt: int, output: int) -> bytes:
    return event(
        f'{{"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{output},'
        f'"total_tokens":{prompt + output}}}}}'
    )


def plain(status: str, body: bytes, *headers: str) -> bytes:
    """A whole response with a length."""
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body


@contextmanager
def remote_server(*scripts: Sequence[Step], certificate: Path | None = None) -> Iterator[Connection]:
    """The same in a process of its own, where no busy test keeps it from sending when it says it does.

    With TLS if `certificate` is a folder for `tls_of`. Gives a pipe: the port comes first, and after any
    message to it `sent_s` and `sent_by_s` so far.
    """
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(
        target=_serve_remotely, args=(scripts, certificate, theirs), daemon=True
    )
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
        ours.close()
        theirs.close()


def _serve_remotely(scripts: Sequence[Sequence[Step]], certificate: Path | None, pipe: Connection) -> None:
    server = ScriptedServer(scripts, certificate and tls_of(certificate))
    pipe.send(server.port)
    while True:
        pipe.recv()
        pipe.send((server.sent_s, server.sent_by_s))
