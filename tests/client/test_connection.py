"""What is made of a read, its stamp and what the looks told: played, to depend on no machine."""

import math
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from vllm_locust.client import connection
from vllm_locust.client.connection import Connection, Waits
from vllm_locust.client.stamps import SO_TIMESTAMPNS

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


def test_what_is_read_is_kept_with_the_arrival_that_was_told(desk: Desk) -> None:
    desk.read(at_s=8.5, stamp_s=8.2, earliest_s=8.0)
    desk.read(at_s=9.0, stamp_s=None, earliest_s=8.9)
    assert {round(told_s, 9): read for told_s, read in desk.connection.reads.items()} == {8.2: (8.5, 8.0)}
