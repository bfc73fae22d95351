"""Writes down which bytes of a server come over an interface, and when, by the kernel's stamps.

    python sniffer.py INTERFACE PORT FILE   prints a line when it listens, at SIGTERM how many packets it lost

It shares nothing with the client but the clock. One record per packet: the stamp in ns, the client's port,
the TCP sequence number, the number of bytes, the bytes. One without bytes says where those of a connection
begin.
"""

import ctypes
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

HEAD = struct.Struct("<QHIH")

_ALL_PROTOCOLS = 3  # sees a packet before TCP does; of one protocol it would see it afterwards
_OUTGOING = 4
_OPENS = 0x02  # the packet that opens a connection has the number before that of the first byte
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_BYTES = 256 << 20


def main(interface: str, port: int, file: Path) -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock,
        file.open("wb", buffering=0) as output,
    ):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        _keep_only(sock, port)
        sock.bind((interface, _ALL_PROTOCOLS))
        signal.signal(signal.SIGTERM, _stop)
        print("listening", flush=True)
        with suppress(KeyboardInterrupt):
            _copy(sock, output)
        packets, lost = struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        print(lost, "of", packets, flush=True)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _keep_only(sock: socket.socket, port: int) -> None:
    """Let the kernel pass over what is not TCP from `port`: others may use the interface, too."""
    program = [
        (0x30, 0, 0, 9),  # the protocol ...
        (0x15, 0, 4, 6),  # ... is TCP
        (0xB1, 0, 0, 0),  # the length of the IP header
        (0x48, 0, 0, 0),  # the source port behind it ...
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0xFFFF),  # ... is ours: all of it
        (0x06, 0, 0, 0),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("HL", len(program), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)


def _copy(sock: socket.socket, output: BinaryIO) -> None:
    while True:
        ip, ancillary, _, address = sock.recvmsg(1 << 17, 64)
        if address[2] == _OUTGOING:  # on its way out, and will come in
            continue
        length = int.from_bytes(ip[2:4], "big")
        tcp = ip[(ip[0] & 15) * 4 : length]
        payload = tcp[(tcp[12] >> 4) * 4 :]
        opens = bool(tcp[13] & _OPENS)
        if payload or opens:
            seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
            to_port, sequence = struct.unpack_from(">HI", tcp, 2)
            stamp_ns = seconds * 1_000_000_000 + nanoseconds
            output.write(HEAD.pack(stamp_ns, to_port, (sequence + opens) % (1 << 32), len(payload)) + payload)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    except PermissionError:
        sys.exit("no raw socket may be opened here")
