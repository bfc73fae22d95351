"""A load balancer that works per connection: whoever keeps one sees one server for ever."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from threading import Thread
from urllib.parse import urlsplit


@contextmanager
def balancer(*servers: str) -> Iterator[str]:
    """The URL at which each new connection goes to the next of these; all are to be over at the end."""
    threads: list[Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads.append(Thread(target=_accept, args=(listener, servers, threads), daemon=True))
        threads[0].start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(timeout=60)


def _accept(listener: socket.socket, servers: Sequence[str], threads: list[Thread]) -> None:
    for server in cycle(servers):
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threads.append(Thread(target=_join, args=(client, server), daemon=True))
        threads[-1].start()


def _join(client: socket.socket, server: str) -> None:
    parts = urlsplit(server)
    with client, socket.create_connection((parts.hostname, parts.port)) as behind:
        for one in (client, behind):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = Thread(target=_carry, args=(behind, client), daemon=True)
        back.start()
        _carry(client, behind)
        back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    """All that comes, and then that no more does."""
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
