"""Packets as the kernel counts them, over real sockets."""

import fcntl
import socket
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gevent import get_hub

from tests.scripted_server import (
    STREAM_HEAD,
    chunk,
    token,
)
from vllm_locust.client import connection
from vllm_locust.client.connection import Connection, Waits
from vllm_locust.client.exchange import Exchange
from vllm_locust.client.stamps import Pulse
from vllm_locust.client.tcp_info import tcp_info


@contextmanager
def on_loopback() -> Iterator[tuple[socket.socket, Connection, Exchange, Any]]:
    """A server's end, and a connection that has read the head of an answer and reads when it is told to."""
    pulse = Pulse(get_hub().loop)
    ours = connection._Socket()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours.connect(listener.getsockname())
        theirs = listener.accept()[0]
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    it, exchange = Connection(ours, Waits(pulse), None, ""), Exchange()
    it.receiver = exchange
    try:
        theirs.send(STREAM_HEAD)
        read(it, len(STREAM_HEAD))
        yield theirs, it, exchange, pulse
    finally:
        it.close()
        theirs.close()
        pulse.close()


def read(it: Connection, size: int) -> None:
    """Read so many bytes at once: a busy kernel delivers what was sent a little later."""
    pending = bytearray(4)
    while int.from_bytes(pending, sys.byteorder) < size:
        fcntl.ioctl(it._sock, termios.FIONREAD, pending)
    it._on_readable()


CRLF_EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(
    "packets",
    [
        [token("a")],
        [token("a") + token("b")],
        [chunk(CRLF_EVENT)],
        # The event comes with the first packet, and what closes it or its chunk with the second.
        [token("a")[:-2], token("a")[-2:]],
        [chunk(CRLF_EVENT)[:-3], chunk(CRLF_EVENT)[-3:]],
        [token("a")[:-1], token("a")[-1:]],
        [token("a"), token("b")],
        [token("a")[:20], token("a")[20:]],
    ],
)
def test_what_was_read_together_and_came_apart_is_not_taken_for_one(packets: list[bytes], busy: bool) -> None:
    """Real packets: the stamp is that of the last one, and a token may have come with the first."""
    with on_loopback() as (theirs, it, exchange, pulse):
        for _ in range(3):
            theirs.send(token("x"))
            read(it, len(token("x")))
            pulse.reads = 10 if busy else 0
        looked_s = pulse.earliest_s = time.perf_counter()
        for packet in packets:
            theirs.send(packet)
            sent_by_s = time.perf_counter()
        read(it, sum(map(len, packets)))
        it.count_packets()
        if len(packets) == 1:
            assert set(exchange.bounds_s) == {pulse.doubt_s}
        else:
            claim_s = exchange.answer.arrivals_s[-1]
            assert looked_s <= claim_s <= sent_by_s + pulse.doubt_s
            assert exchange.bounds_s[-1] == claim_s - looked_s


def test_the_end_of_the_stream_counts_as_no_byte() -> None:
    """A server that closes the connection: its FIN has a number as a byte has, whether it was read or not."""
    with on_loopback() as (theirs, it, exchange, pulse):
        pulse.reads = 10
        theirs.send(token("a"))
        theirs.shutdown(socket.SHUT_WR)
        read(it, len(token("a")))
        it.count_packets()
        assert exchange.bounds_s == [pulse.doubt_s]
        while not it.closed:
            it._on_readable()


def test_the_kernel_counts_packets() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as ours,
        listener.accept()[0] as theirs,
    ):
        assert tcp_info(ours) == (0, 0, 0)
        for number in (1, 2):
            theirs.send(b"abc")
            assert ours.recv(3, socket.MSG_WAITALL) == b"abc"
            assert tcp_info(ours) == (3 * number, number, 0)
        theirs.shutdown(socket.SHUT_WR)
        assert ours.recv(3) == b""
        assert tcp_info(ours) == (6, 2, 0)
    one, other = socket.socketpair()
    assert tcp_info(one) is None
    one.close()
    other.close()
