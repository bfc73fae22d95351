"""The exporter's HTTP server: `/metrics`, in threads, silent, and never in the way.

Rule: one answer per connection, at most 16 connections at a time, and none that is idle for 10 s. A new one
takes the place of the oldest, so that nobody who holds on to his can keep Prometheus out.
"""

import gzip
import logging
import os
import socket
import socketserver
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from time import perf_counter
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.observe.metrics import CONTENT_TYPE

logger = logging.getLogger(__name__)

PATH = "/metrics"

_MOST_CONNECTIONS = 16
_IDLE_LIMIT_S = 10.0
_LOOK_EVERY_S = 0.1
_JOIN_S = 1.0
_QUICKLY = 1
_PLAIN = "text/plain; charset=utf-8"


class Endpoint:
    """Listens and answers from construction on, until `stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        render: Callable[[], bytes],
        served: Callable[[float], None],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`render` makes the page; `served` is told, for each page handed over whole, when it was asked for.

        Both are called in threads of the server. Port 0 takes a free one. UsageError when the address cannot
        be had.
        """
        try:
            self._server = _Server(host, port, render, served, clock)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None) or 0
            reason = os.strerror(number) if number > 0 else str(error)
            raise UsageError(
                f"Cannot listen on port {port} of {host} ({reason}): choose another with --exporter-port, "
                "0 for a free one, off for none."
            ) from error
        self._thread = Thread(target=self._server.serve_forever, args=(_LOOK_EVERY_S,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where the page is."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{PATH}"

    def stop(self) -> None:
        """Close all sockets, at once; a page that is on its way is cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server.cut_all()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(
        self,
        host: str,
        port: int,
        render: Callable[[], bytes],
        served: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self.render = render
        self.served = served
        self.clock = clock
        # From the oldest on. Whoever closes a socket takes it out first, so that nobody cuts a gone one.
        self._connections: dict[socket.socket, Thread] = {}
        self._changing = Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask a name server who we are

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._changing:
            if len(self._connections) >= _MOST_CONNECTIONS:
                oldest = next(iter(self._connections))
                _cut(oldest)
                del self._connections[oldest]
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        """End the threads of all connections."""
        with self._changing:
            threads = list(self._connections.values())
            for connection in self._connections:
                _cut(connection)
        for thread in threads:
            thread.join(_JOIN_S)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("A client of %s hung up", PATH, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "vllm-locust"
    sys_version = ""
    timeout = _IDLE_LIMIT_S

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants to read of every scrape."""

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == PATH:
            asked_s = self.server.clock()
            if self._send(HTTPStatus.OK, CONTENT_TYPE, self._render(), zip_it=self._accepts_gzip()):
                self.server.served(asked_s)
        elif path == "/":
            self._send(HTTPStatus.OK, _PLAIN, f"Metrics for Prometheus are at {PATH}\n".encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, _PLAIN, f"Not found; metrics are at {PATH}\n".encode())

    def _render(self) -> bytes:
        try:
            return self.server.render()
        except Exception:
            logger.exception("Could not make the page %s", PATH)
            raise

    def _send(self, status: HTTPStatus, content_type: str, body: bytes, *, zip_it: bool = False) -> bool:
        """Whether a body was sent, to its end."""
        if zip_it:
            body = gzip.compress(body, _QUICKLY)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if zip_it:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.command == "HEAD":
            return False
        self.wfile.write(body)
        return True

    def _accepts_gzip(self) -> bool:
        for offer in self.headers.get("Accept-Encoding", "").lower().split(","):
            coding, _, quality = offer.partition(";")
            if coding.strip() == "gzip":
                return quality.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
        return False


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # the client was quicker
        connection.shutdown(socket.SHUT_RDWR)
