"""What the kernel counts of a TCP connection: packets and bytes received, and packets out of order.

Rule: one snapshot is consistent, and tells what no stamp can: whether a read was one packet. Where the
platform does not count (anything but Linux 5.5 or later), nothing is told.
"""

import socket
import struct
import sys
from typing import NamedTuple

# Of struct tcp_info: tcpi_bytes_received, tcpi_data_segs_in and tcpi_rcv_ooopack.
_COUNTS = struct.Struct("=128xQ16xI68xI")


class TcpInfo(NamedTuple):
    """Since the connection was opened."""

    bytes_received: int
    """In order: they were read or can be."""
    packets: int
    """That carried data, repeated ones and those that came out of order included."""
    out_of_order: int
    """Packets that came before one which precedes them."""


def tcp_info(sock: socket.socket) -> TcpInfo | None:
    """The counts of `sock` now; None where the platform has none, or it is no TCP socket."""
    if sys.platform != "linux":
        return None
    try:
        counts = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS.size)
    except OSError:
        return None
    return TcpInfo(*_COUNTS.unpack(counts)) if len(counts) == _COUNTS.size else None
