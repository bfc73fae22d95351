"""One keep-alive connection, read in callbacks of the event loop.

Rule: this file moves bytes and stamps them. It knows sockets and TLS, not HTTP. Whoever holds the connection
sets `receiver`; while there is none, anything that arrives ends the connection.

TLS runs over memory (`ssl.MemoryBIO`), so that the socket stays in our hands and the kernel's stamps survive.
"""

import errno
import os
import socket
import ssl
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Any, Protocol

from gevent import get_hub, with_timeout
from gevent.monkey import get_original

from vllm_locust.client.stamps import STAMP_SPACE, Pulse, enable_kernel_stamps, unpack_stamp
from vllm_locust.client.target import Target
from vllm_locust.client.tcp_info import tcp_info

# gevent's own socket would schedule a greenlet per read; ours stays with the original and its descriptor.
_Socket = get_original("socket", "socket")

READ, WRITE = 1, 2
_READ_SIZE = 65536
_NANO = 1e-9
_CONNECTING = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK)
# After so many reads packets are counted, however busy the loop is, and where so much depends on it.
_MOST_UNPROVEN = 16
_MUCH_S = 0.005


class Receiver(Protocol):
    """Takes what a connection receives. All times are `perf_counter` seconds."""

    def on_bytes(
        self, data: bytes, arrival_s: float, lag_s: float, end_bound_s: float, bound_s: float
    ) -> None:
        """`data` had arrived by `arrival_s`, and was read `lag_s` later.

        Its last byte arrived `end_bound_s` earlier at most, and any other `bound_s` at most.
        """

    def on_count(self, one_each: bool) -> None:
        """Each read since the last count was one packet, or perhaps not.

        The bound of the last byte of one packet is that of all its bytes.
        """

    def on_close(self, error: str | None, now_s: float, bound_s: float) -> None:
        """The peer closed, orderly (None) or not, `bound_s` before `now_s` at most; nothing follows."""


class ConnectError(Exception):
    """No connection came about; the message says what happened at which address."""


class _OutOfTime(Exception):
    """The network took longer than it may."""


@dataclass
class Waits:
    """Waits for sockets, and adds up how long the network took, whatever this process lost meanwhile."""

    pulse: Pulse
    least_s: float = 0.0
    """At least: until the last look at which a socket was seen not to be ready."""
    most_s: float = inf
    """What it may be."""

    def wait(self, sock: socket.socket, events: int) -> None:
        """Let other greenlets run until `sock` is ready.

        Raises _OutOfTime once a look that began when time was up saw that it is not.
        """
        since_s = perf_counter()
        ends_s = since_s + self.most_s - self.least_s
        hub = get_hub()
        watcher = hub.loop.io(sock.fileno(), events)
        try:
            while self.pulse.earliest_s < ends_s:
                left_s = max(ends_s - perf_counter(), 0.001)
                if not with_timeout(left_s, hub.wait, watcher, timeout_value=True):
                    return
            raise _OutOfTime
        finally:
            watcher.close()
            self.add(since_s)

    def add(self, since_s: float) -> None:
        """A wait that began then is over."""
        self.least_s += max(self.pulse.earliest_s - since_s, 0.0)


class Connection:
    """An open connection to a target. `open_connection` makes one; `close` is final."""

    def __init__(
        self,
        sock: socket.socket,
        waits: Waits,
        tls: ssl.SSLContext | None,
        server_name: str,
    ) -> None:
        """`waits` are those for the connection that `sock` is."""
        self.receiver: Receiver | None = None
        self.closed = False
        self.waits = waits
        """For the network, to connect and to send."""
        self.sent_by_s = inf
        """When all that was to be sent had been written."""
        self.contradictions = 0
        """Reads whose stamp cannot be true; the moment of the read was taken instead."""
        self.reads: dict[float, tuple[float, float]] = {}
        """When bytes were read, and since when they may have waited, by the arrival that was told of them.

        Whoever asks for it clears it.
        """
        self._sock = sock
        self._recvmsg = sock.recvmsg
        self._pulse = waits.pulse
        enable_kernel_stamps(sock)
        # Since when what the last read left behind may have been waiting; None when it left nothing.
        self._left_since_s: float | None = None
        self._latest_s = perf_counter()
        self._bytes_read = self._reads = 0
        # By how many packets outnumbered reads at the last count, and at which read the next one is due.
        self._surplus = self._count_at = 0
        self._out_of_order = 0
        self._watcher: Any = None
        self._writer: Any = None
        self._unsent = memoryview(b"")
        self._full_since_s = 0.0
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._records = _Records()
            self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
            self._handshake(self._tls)
        self._watcher = get_hub().loop.io(sock.fileno(), READ)
        self._watcher.start(self._on_readable)

    def catch_up(self, until_s: float) -> None:
        """Read now what came until then, if not yet more: the loop may not have looked since it came."""
        in_this_round, before = self._pulse.reads, -1
        while not self.closed and before < self._bytes_read and self._latest_s <= until_s:
            before = self._bytes_read
            self._on_readable()
        self._pulse.reads = in_this_round  # of which no look has told

    def close(self) -> None:
        if self.closed:
            return
        self.count_packets()  # afterwards there is nobody to ask
        self.closed = True
        self.receiver = None
        for watcher in (self._watcher, self._writer):  # first: they must not outlive their descriptor
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._sock.close()

    @property
    def upsets(self) -> int:
        """How much happened up to the last count that makes stamps untrue.

        That is that the clock was set, and packets that came before one which precedes them: the stamp of a
        read is that of its last byte's packet, and bytes before it may have come later.
        """
        return self._out_of_order + self._pulse.clock_sets

    def count_packets(self) -> None:
        """Tell the receiver whether each read since the last count is known to have been one packet.

        Each brought at least one, so they were if as many packets came as there were reads.
        """
        counts = None if self.closed else tcp_info(self._sock)
        if counts is None:
            return
        received, packets, self._out_of_order = counts
        if received != self._bytes_read:
            return  # what can be read is counted, too: the next count tells
        self._count_at = self._reads + _MOST_UNPROVEN
        surplus = packets - self._reads
        if self.receiver is not None:
            self.receiver.on_count(surplus == self._surplus)
        self._surplus = surplus

    def send(self, data: bytes) -> None:
        """Write `data`; what the socket's buffer does not take now follows as soon as it does.

        Raises OSError when the peer is gone; one that goes later shows as the end of the connection.
        """
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
        self._count_at = 0
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._writer is not None:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return
        self.sent_by_s = inf
        sent = _try_send(self._sock, data)
        self.sent_by_s = perf_counter()
        if sent < len(data):
            self._full_since_s, self.sent_by_s = self.sent_by_s, inf
            self._unsent = memoryview(data)[sent:]
            self._writer = get_hub().loop.io(self._sock.fileno(), WRITE)
            self._writer.start(self._on_writable)

    @property
    def sending(self) -> bool:
        """Part of what was to be sent still waits for room."""
        return self._writer is not None

    def _on_writable(self) -> None:
        self.waits.add(self._full_since_s)
        try:
            self._unsent = self._unsent[_try_send(self._sock, self._unsent) :]
        except OSError:
            # What the peer said before it went may still wait to be read, then comes the end of the stream.
            self._unsent = memoryview(b"")
        self._full_since_s = perf_counter()
        if not self._unsent:
            self.sent_by_s = self._full_since_s
            self._writer.stop()
            self._writer.close()
            self._writer = None

    def _on_readable(self) -> None:
        pulse = self._pulse
        pulse.reads += 1
        earliest_s, exact, at_once = pulse.earliest_s, True, False
        try:
            data, ancillary, _, _ = self._recvmsg(_READ_SIZE, STAMP_SPACE)
            now = perf_counter()
            self._bytes_read += len(data)
            if len(data) == _READ_SIZE or self._left_since_s is not None:
                # The kernel joins small packets: of one that is read in part the stamp is that of its end.
                exact = len(data) < _READ_SIZE
                earliest_s = self._left_behind(earliest_s, not exact)
            if data and self._tls is not None:
                exact = at_once = self._records.end_once(data) and exact
                data = self._decrypt(data)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return
        except OSError as error:  # SSLError is one
            self._lost(str(error), earliest_s)
            return
        receiver = self.receiver
        if not data or receiver is None:
            self._lost(None, earliest_s)
            return
        self._reads += 1
        arrival_s = None
        if ancillary:
            seconds, nanoseconds = unpack_stamp(ancillary[0][2])
            arrival_s = (seconds * 1_000_000_000 + nanoseconds + pulse.offset_ns) * _NANO
            if earliest_s <= arrival_s <= now and self._latest_s <= arrival_s:
                self._latest_s = arrival_s
                self.reads[arrival_s] = now, earliest_s
                bound_s = arrival_s - earliest_s
                end_bound_s = pulse.doubt_s if exact else bound_s
                receiver.on_bytes(
                    data, arrival_s, now - arrival_s, end_bound_s, end_bound_s if at_once else bound_s
                )
                # A busy loop reads much in a round, so that counting costs it next to nothing.
                if pulse.reads == 1 or bound_s > _MUCH_S or self._reads >= self._count_at:
                    self.count_packets()
                return
        self._tell_as_read(data, now, earliest_s, exact, arrival_s)

    def _tell_as_read(
        self, data: bytes, now: float, earliest_s: float, exact: bool, arrival_s: float | None
    ) -> None:
        """The read is the arrival of `data`; by the stamp, if there is one, it would be `arrival_s`."""
        end_since_s = earliest_s
        if arrival_s is None:
            self._pulse.unstamped_reads += 1
        elif not now < arrival_s <= now + self._pulse.doubt_s:
            # It came out of order, was held up on its way to the socket, or its clock was set: what else
            # was read may have been, too.
            self.contradictions += 1
            end_since_s = min(earliest_s, arrival_s - self._pulse.doubt_s)
            earliest_s = min(end_since_s, self._latest_s)
        self._latest_s = now
        if not exact:
            end_since_s = earliest_s
        assert self.receiver is not None
        self.receiver.on_bytes(data, now, now - end_since_s, now - end_since_s, now - earliest_s)

    def _left_behind(self, earliest_s: float, full: bool) -> float:
        """Since when bytes may have been waiting of which a full read left some behind, now or before."""
        if self._left_since_s is not None:
            earliest_s = self._left_since_s
        self._left_since_s = earliest_s if full else None
        return earliest_s

    def _decrypt(self, data: bytes) -> bytes:
        """All plain text there is now, empty when the peer closed TLS; SSLWantReadError for none yet."""
        assert self._tls is not None
        self._incoming.write(data)
        pieces = []
        try:
            while piece := self._tls.read(_READ_SIZE):
                pieces.append(piece)
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLWantReadError:
            if not pieces:
                raise
        finally:
            if self._outgoing.pending:  # TLS's own answer, to a key update
                self._write(self._outgoing.read())
        return b"".join(pieces)

    def _lost(self, error: str | None, earliest_s: float) -> None:
        receiver = self.receiver
        self.close()
        if receiver is not None:
            now_s = perf_counter()
            receiver.on_close(error, now_s, now_s - earliest_s)

    def _handshake(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
                finished = True
            except ssl.SSLWantReadError:
                finished = False
            if flight := self._outgoing.read():
                _send_all(self._sock, memoryview(flight), self.waits)
            if finished:
                return
            self.waits.wait(self._sock, READ)
            data = self._sock.recv(_READ_SIZE)
            if not data:
                raise ConnectError("the server closed the connection during the TLS handshake")
            self._records.end_once(data)
            self._incoming.write(data)


class _Records:
    """Follows where TLS records end, by their headers: 5 bytes, the last two of which are the length."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def end_once(self, data: bytes) -> bool:
        """Whether the end of `data`, which comes next, is the end of a record, and the only one in it.

        Then what it completes is complete with the last byte.
        """
        at = ends = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                ends += not self._left
            else:
                taken = min(5 - len(self._header), len(data) - at)
                self._header += data[at : at + taken]
                if len(self._header) == 5:
                    self._left = int.from_bytes(self._header[3:], "big")
                    self._header = b""
            at += taken
        return ends == 1 and not self._left and not self._header


def open_connection(target: Target, waits: Waits, timeout_s: float) -> Connection:
    """Connect to the first address of `target` that answers, TLS handshake included.

    `waits` takes how long the network took, whatever comes of it.

    Raises ConnectError when the network takes longer than `timeout_s` seconds or when no address works.
    """
    errors: list[str] = []
    try:
        addresses = target.addresses
    except OSError as error:
        raise ConnectError(f"{target.host}: {error}") from None
    for number, (family, address) in enumerate(addresses):
        # An address that is a black hole must not use up the time of the next one.
        share_s = max((timeout_s - waits.least_s) / (len(addresses) - number), 0.001)
        waits.most_s = waits.least_s + share_s
        try:
            return _connect(family, address, target, waits)
        except _OutOfTime:
            errors.append(f"{address[0]} port {address[1]}: no connection within {share_s:.2g} s")
        except (OSError, ConnectError) as error:
            errors.append(f"{address[0]} port {address[1]}: {error}")
    raise ConnectError("; ".join(errors))


def _connect(
    family: socket.AddressFamily, address: tuple[object, ...], target: Target, waits: Waits
) -> Connection:
    sock = _Socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _establish(sock, address, waits)
        return Connection(sock, waits, target.tls, target.host)
    except BaseException:
        sock.close()
        raise


def _establish(sock: socket.socket, address: tuple[object, ...], waits: Waits) -> None:
    """Connect; waits in the event loop only if the peer really is some time away.

    The second call tells whether the first one is through, as it is at once on one machine. Waiting for a
    turn of the loop instead would count the other users' turns as this one's time to connect.
    """
    error = sock.connect_ex(address)
    if error in _CONNECTING:
        error = sock.connect_ex(address)
    if error in _CONNECTING:
        waits.wait(sock, WRITE)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error not in (0, errno.EISCONN):
        raise OSError(error, os.strerror(error))


def _try_send(sock: socket.socket, data: bytes | memoryview) -> int:
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return 0


def _send_all(sock: socket.socket, data: memoryview, waits: Waits) -> None:
    while data:
        sent = _try_send(sock, data)
        if not sent:
            waits.wait(sock, WRITE)
        data = data[sent:]
