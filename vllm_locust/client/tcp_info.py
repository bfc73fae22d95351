"""What the kernel counts of a TCP connection: packets and bytes received, and packets out of order.

Rule: one snapshot is consistent, and tells what no stamp can: whether reads were one packet each. Where the
platform does not count (anything but Linux 5.5 or later), nothing is told.
"""

import socket
import struct
import sys

_TCP, _TCP_INFO = int(socket.IPPROTO_TCP), 11
# Of struct tcp_info: tcpi_state, tcpi_bytes_received, tcpi_data_segs_in and tcpi_rcv_ooopack.
_COUNTS = struct.Struct("=B127xQ16xI68xI")
_SIZE = _COUNTS.size
# The peer has ended the stream, and that has a number as a byte has.
_CLOSE_WAIT = 8


def tcp_info(sock: socket.socket) -> tuple[int, int, int] | None:
    """Of `sock` since it was connected: bytes received, packets with data, packets out of order.

    The bytes are those in order, which were read or can be. The packets are all that came, repeated ones,
    too; out of order are those that came before one which precedes them. None where the platform does not
    count, or it is no TCP socket.
    """
    if sys.platform != "linux":
        return None
    try:
        counts = sock.getsockopt(_TCP, _TCP_INFO, _SIZE)
    except OSError:
        return None
    if len(counts) < _SIZE:
        return None
    state, received, packets, out_of_order = _COUNTS.unpack(counts)
    return received - (state == _CLOSE_WAIT), packets, out_of_order
