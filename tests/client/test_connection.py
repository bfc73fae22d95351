"""What must hold whatever the platform and the transport: TLS, no kernel stamps, refused and silent peers."""

import fcntl
import itertools
import math
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import get_hub

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    assert_true,
    chunk,
    scripted_server,
    tls_of,
    token,
    usage,
)
from vllm_locust.client import connection
from vllm_locust.client.chat import ChatClient, RequestOptions, Transport
from vllm_locust.client.connection import ConnectError, Connection, Waits, _Records, open_connection
from vllm_locust.client.exchange import Exchange
from vllm_locust.client.stamps import SO_TIMESTAMPNS, Pulse
from vllm_locust.client.target import Target
from vllm_locust.client.tcp_info import tcp_info
from vllm_locust.core.record import RequestRecord
from vllm_locust.errors import UsageError

CERTIFICATE = Path(__file__).parent / "certificate"
SCRIPT = [STREAM_HEAD, 0.05, token("a"), 0.06, token("b", "stop"), usage(5, 2), DONE + LAST_CHUNK]


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE / "cert.pem")


def ask_twice(target: Target, busy_s: float = 0.0) -> tuple[list[RequestRecord], int]:
    """Two answers over one client, during each of which this process is busy for `busy_s`.

    Their records, and how many reads had no stamp.
    """
    records: list[RequestRecord] = []
    transport = Transport(target, RequestOptions(model="m"))
    client = ChatClient(transport, records.append)
    try:
        for _ in range(2):
            waiting = gevent.spawn(client.chat, "hello")
            gevent.sleep(0.02)
            until = time.perf_counter() + busy_s
            while time.perf_counter() < until:
                pass
            waiting.get()
        return records, transport.pulse.unstamped_reads
    finally:
        client.close()
        transport.close()


def test_stamps_survive_tls() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        records, unstamped = ask_twice(Target.parse(server.url, client_context()), busy_s=0.06)
    assert [record.outcome for record in records] == ["ok", "ok"]
    assert server.connections == 1
    assert unstamped == 0
    assert_true(records[1], server.sent_s[6:8], server.sent_by_s[6:8])


def test_an_untrusted_certificate_is_refused() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        record = ask_twice(Target.parse(server.url))[0][0]
    assert record.outcome == "connect"
    assert "CERTIFICATE_VERIFY_FAILED" in (record.error or "")


def test_plain_http_to_a_tls_port_fails_cleanly() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        record = ask_twice(Target.parse(server.url.replace("https", "http")))[0][0]
    assert record.outcome in ("truncated", "protocol")


def test_tls_to_a_plain_port_fails_cleanly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target.parse(f"https://localhost:{listener.getsockname()[1]}")

        def answer_in_plain() -> None:
            accepted, _ = listener.accept()
            accepted.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
            accepted.close()

        answering = threading.Thread(target=answer_in_plain)
        answering.start()
        pulse = Pulse(get_hub().loop)
        with pytest.raises(ConnectError):
            open_connection(target, Waits(pulse), timeout_s=2)
        answering.join()
        pulse.close()


def test_without_kernel_stamps_the_read_is_the_stamp_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "enable_kernel_stamps", lambda _: False)
    script = [STREAM_HEAD, 0.05, token("a"), 0.25, token("b", "stop"), DONE + LAST_CHUNK]
    with scripted_server(script) as server:
        (_, record), unstamped = ask_twice(Target.parse(server.url), busy_s=0.15)
    assert record.outcome == "ok"
    assert unstamped > 0
    assert_true(record, server.sent_s[5:7], server.sent_by_s[5:7])


def test_a_peer_that_never_answers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pulse = Pulse(get_hub().loop)
        target = Target.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectError, match=r"no connection within 0\.\d+ s"):
            open_connection(target, Waits(pulse), timeout_s=0.1)
        pulse.close()


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://localhost:8000", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/v1", "localhost", 8000, "", "localhost:8000"),
        ("http://h/a/v1/", "h", 80, "/a", "h"),
        ("http://[::1]:8000", "::1", 8000, "", "[::1]:8000"),
        ("https://gateway", "gateway", 443, "", "gateway"),
    ],
)
def test_targets(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x:0", ""])
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address like"):
        Target.parse(url)


# -- what is made of a read, its stamp and what the looks told; played, so that nothing depends on the machine

OFFSET_NS = 100_000_000_000
"""`perf_counter` is so much ahead of the stamps' clock."""


class PlayedSocket:
    """Gives what it is told to: (bytes, stamp in seconds of `perf_counter` or None)."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.read: tuple[bytes, float | None] = (b"", None)
        self.room = 0

    def recvmsg(self, *_: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        data, stamp_s = self.read
        if stamp_s is None:
            return data, [], 0, None
        stamp = struct.pack("qq", *divmod(round(stamp_s * 1e9) - OFFSET_NS, 1_000_000_000))
        return data, [(socket.SOL_SOCKET, SO_TIMESTAMPNS, stamp)], 0, None

    def send(self, data: bytes) -> int:
        taken = min(len(data), self.room)
        if not taken:
            raise BlockingIOError
        return taken

    def setsockopt(self, *_: int) -> None:
        pass

    def getsockopt(self, *_: int) -> bytes:
        raise OSError("nothing is counted")

    def fileno(self) -> int:
        return self.ours.fileno()

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


class Desk:
    """A connection over a played socket, and the last (arrival, lag, end's bound, bound) it told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, doubt_s: float) -> None:
        self.socket = PlayedSocket()
        self.pulse = SimpleNamespace(
            reads=0,
            unstamped_reads=0,
            earliest_s=0.0,
            offset_ns=OFFSET_NS,
            doubt_s=doubt_s,
            clock_sets=0,
        )
        self.now_s = 0.0
        monkeypatch.setattr(connection, "perf_counter", lambda: self.now_s)
        self.connection = Connection(self.socket, Waits(self.pulse), None, "")  # type: ignore[arg-type]
        self.connection.receiver = self
        self.told: tuple[float, ...] = ()
        self.one_each: bool | None = None

    def on_bytes(self, _: bytes, *told: float) -> None:
        self.told = told

    def on_count(self, one_each: bool) -> None:
        self.one_each = one_each

    def on_close(self, error: str | None, *_: float) -> None:
        raise AssertionError(error)

    def read(
        self, at_s: float, stamp_s: float | None, earliest_s: float, data: bytes = b"x"
    ) -> tuple[float, ...]:
        self.now_s, self.pulse.earliest_s, self.socket.read = at_s, earliest_s, (data, stamp_s)
        self.connection._on_readable()
        return tuple(round(value, 9) for value in self.told)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk(monkeypatch, doubt_s=1e-6)
    yield desk
    desk.connection.close()


def test_a_stamp_is_the_arrival_of_the_last_byte(desk: Desk) -> None:
    assert desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0) == (8.2, 0.3, 1e-6, 0.2)
    assert desk.connection.contradictions == 0


def test_without_a_stamp_the_read_is_the_arrival(desk: Desk) -> None:
    assert desk.read(at_s=8.5, stamp_s=None, earliest_s=8.0) == (8.5, 0.5, 0.5, 0.5)
    assert (desk.pulse.unstamped_reads, desk.connection.contradictions) == (1, 0)


def test_what_a_full_read_leaves_behind_has_waited_as_long(desk: Desk) -> None:
    full = b"x" * 65536
    assert desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0, data=full)[-1] == pytest.approx(0.2)
    assert desk.read(at_s=8.7, stamp_s=8.3, earliest_s=8.6, data=full)[-1] == pytest.approx(0.3)
    assert desk.read(at_s=8.8, stamp_s=8.4, earliest_s=8.7)[-1] == pytest.approx(0.4)
    assert desk.read(at_s=9.0, stamp_s=8.95, earliest_s=8.9)[-1] == pytest.approx(0.05)
    assert desk.connection.contradictions == 0


def test_the_stamp_of_a_full_read_is_not_that_of_its_last_byte(desk: Desk) -> None:
    """The kernel joins packets: the stamp is that of the last one joined, of which the read took a part."""
    full = b"x" * 65536
    assert desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0, data=full) == (8.2, 0.3, 0.2, 0.2)
    # What it left behind is read to its end, which has the stamp again.
    assert desk.read(at_s=8.7, stamp_s=8.3, earliest_s=8.6) == (8.3, 0.4, 1e-6, 0.3)


def test_a_wait_lasted_at_least_until_the_last_look_that_found_nothing(desk: Desk) -> None:
    """It began at 2.0 and was over when the look after that of 2.25 told; the other has no look in it."""
    waits = desk.connection.waits
    desk.pulse.earliest_s = 2.25
    waits.add(2.0)
    waits.add(2.5)
    assert waits.least_s == 0.25


def test_a_wait_is_not_over_before_a_look_that_began_when_time_was_up() -> None:
    """Time is up from the beginning; which looks there were is made up."""
    pulse: Any = SimpleNamespace(earliest_s=-math.inf)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        gevent.spawn_later(0.003, theirs.send, b"x")
        Waits(pulse, most_s=0.0).wait(ours, connection.READ)
        pulse.earliest_s = math.inf
        with pytest.raises(connection._OutOfTime):
            Waits(pulse, most_s=1.0).wait(ours, connection.READ)


def test_waiting_for_room_to_send_is_no_delay_of_ours(desk: Desk) -> None:
    """4 of 10 bytes go at 3.0, 3 at 3.5 after a look at 3.25, and the rest at 4.0 after one at 3.75."""
    it = desk.connection
    desk.now_s, desk.socket.room = 3.0, 4
    it.send(b"x" * 10)
    assert it.sent_by_s == math.inf
    for desk.now_s, desk.pulse.earliest_s in ((3.5, 3.25), (4.0, 3.75)):
        desk.socket.room = 3
        it._on_writable()
    assert (it.sent_by_s, it.waits.least_s, it.sending) == (4.0, 0.5, False)


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        # (bytes, packets, of which out of order) that had come at counts behind reads of 10 bytes each
        ([(10, 1, 0), (20, 2, 0)], [True, True]),
        ([(10, 2, 0), (20, 3, 0)], [False, True]),
        # The next packet, or a part of it, could be read already: the count after that is about both reads.
        ([(14, 2, 0), (20, 2, 0), (30, 3, 0)], [None, True, True]),
        ([(14, 2, 0), (20, 3, 0), (30, 4, 0)], [None, False, True]),
        ([None, (20, 2, 0), (30, 4, 0)], [None, True, False]),
    ],
)
def test_reads_were_one_packet_each_if_as_many_came(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    counts: list[tuple[int, int, int] | None],
    told: list[bool | None],
) -> None:
    for number, count in enumerate(counts):
        monkeypatch.setattr(connection, "tcp_info", lambda _, count=count: count)
        desk.one_each, desk.pulse.reads = None, 0
        desk.read(at_s=8.5 + number, stamp_s=8.2 + number, earliest_s=8.0 + number, data=b"%010d" % number)
        assert desk.one_each is told[number]


def test_the_end_of_a_stream_is_no_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packets were read at once; an end that counted as a read would make them one each."""
    counted: list[bool] = []
    desk.connection.receiver = SimpleNamespace(  # type: ignore[assignment]
        on_bytes=lambda *_: None, on_close=lambda *_: None, on_count=counted.append
    )
    desk.pulse.reads = 1
    desk.connection._count_at = 99
    desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0, data=b"0123456789")
    monkeypatch.setattr(connection, "tcp_info", lambda _: (10, 2, 0))
    desk.read(at_s=8.6, stamp_s=None, earliest_s=8.0, data=b"")
    assert counted == [False]


def test_in_a_busy_loop_packets_are_counted_behind_the_first_read_and_then_now_and_then(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 reads none is the first of its round: behind number 1 and 17 is counted.

    So it is behind number 20, which may have waited for 6 ms, and 16 reads later.
    """
    asked: list[int] = []
    desk.connection.send(b"")
    for number in range(1, 41):

        def counts(_: object, number: int = number) -> tuple[int, int, int]:
            asked.append(number)
            return number, number, 0

        monkeypatch.setattr(connection, "tcp_info", counts)
        desk.pulse.reads = 1
        since_s = 0.006 if number == 20 else 0.004
        desk.read(at_s=number + 0.5, stamp_s=number + 0.2, earliest_s=number + 0.2 - since_s)
    assert asked == [1, 17, 20, 36]


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


@pytest.mark.parametrize(
    ("stamp_s", "end_since_s"),
    [
        (7.5, 7.5 - 1e-6),  # of a packet that came out of order, say: its turn came later
        (8.6, 8.0),  # in the future: the clock of the stamps was set
    ],
)
def test_a_stamp_that_cannot_be_true_widens(desk: Desk, stamp_s: float, end_since_s: float) -> None:
    """The read is the arrival; nothing but the last byte is known to be younger than what was told before."""
    desk.read(at_s=7.2, stamp_s=7.1, earliest_s=7.0)
    end_bound_s = round(8.5 - end_since_s, 9)
    told = desk.read(at_s=8.5, stamp_s=stamp_s, earliest_s=8.0)
    assert told == (8.5, end_bound_s, end_bound_s, pytest.approx(1.4))
    assert desk.connection.contradictions == 1


def test_nothing_arrives_before_what_was_told_before(desk: Desk) -> None:
    desk.read(at_s=8.5, stamp_s=8.4, earliest_s=8.0)
    assert desk.read(at_s=8.6, stamp_s=8.3, earliest_s=8.2) == (8.6, 0.4, 0.4, 0.4)
    assert desk.connection.contradictions == 1


def test_a_stamp_within_the_doubt_of_the_clocks_contradicts_nothing(desk: Desk) -> None:
    """It is claimed as late as it can be, which may be after the read."""
    assert desk.read(at_s=8.5, stamp_s=8.5 + 5e-7, earliest_s=8.0)[0] == 8.5
    assert desk.connection.contradictions == 0


def test_the_end_of_a_connection_came_since_the_last_look_that_found_nothing(desk: Desk) -> None:
    ends: list[tuple[object, ...]] = []
    desk.connection.receiver = SimpleNamespace(on_close=lambda *told: ends.append(told))  # type: ignore[assignment]
    desk.read(at_s=8.5, stamp_s=None, earliest_s=8.0, data=b"")
    assert ends == [(None, 8.5, 0.5)]


def test_packets_out_of_order_are_known_when_the_connection_is_closed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.connection.count_packets()
    assert desk.connection.upsets == 0  # nothing is counted
    monkeypatch.setattr(connection, "tcp_info", lambda _: (30, 3, 2))
    desk.connection.close()
    monkeypatch.setattr(connection, "tcp_info", lambda _: (30, 3, 7))
    desk.connection.count_packets()
    assert desk.connection.upsets == 2


@pytest.mark.parametrize("in_order", [True, False])
def test_stamps_of_an_answer_whose_packets_came_out_of_order_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    packets = itertools.count()
    monkeypatch.setattr(Connection, "upsets", property(lambda _: 0 if in_order else next(packets)))
    with scripted_server(SCRIPT) as server:
        _, record = ask_twice(Target.parse(server.url), busy_s=0.06)[0]
    assert record.contradictions == (0 if in_order else len(record.lags_s))
    assert_true(record, server.sent_s[6:8], server.sent_by_s[6:8])


def test_what_is_read_is_kept_with_the_arrival_that_was_told(desk: Desk) -> None:
    desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0)
    desk.read(at_s=9.0, stamp_s=None, earliest_s=8.9)
    assert {round(told_s, 9): read for told_s, read in desk.connection.reads.items()} == {8.2: (8.5, 8.0)}


def record_of(length: int) -> bytes:
    return b"\x17\x03\x03" + length.to_bytes(2, "big") + b"x" * length


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([record_of(10)], [True]),
        ([record_of(10) + record_of(300)], [False]),  # which byte completes which token?
        ([record_of(300)[:100], record_of(300)[100:]], [False, True]),
        ([record_of(300)[:3], record_of(300)[3:5], record_of(300)[5:]], [False, False, True]),
        ([record_of(10) + record_of(300)[:2], record_of(300)[2:]], [False, True]),
        ([record_of(10) + record_of(300)[:9], record_of(300)[9:]], [False, True]),
    ],
)
def test_the_last_byte_is_a_tls_records_last(reads: list[bytes], expected: list[bool]) -> None:
    records = _Records()
    assert [records.end_once(data) for data in reads] == expected
