"""A link that brings packets out of order, from this machine to itself: a TUN device.

    python wire.py HOST FARTHER      prints a line when it is up; gone with the process

The kernel hands over what is sent to FARTHER. Each packet comes back with its two addresses swapped, which
leaves its checksums right: who connects to FARTHER is connected to HOST, and takes it for FARTHER, and all
packets of both directions come by. Half of those with data wait for up to 10 ms, and others overtake them.

TCP's own time stamps are left out: with them the kernel throws away what was overtaken by a packet that was
sent once more (RFC 7323, PAWS), so that what came is not what has arrived.
"""

import fcntl
import heapq
import os
import random
import re
import select
import struct
import subprocess
import sys
import time

_SET_INTERFACE, _TUN, _NO_INFORMATION = 0x400454CA, 1, 0x1000
_LONGEST_S = 0.01
_TCP = 6
_OPENS = 0x02
_STAMP = re.compile(rb"\x08\x0a.{8}", re.DOTALL)


def main(host: str, farther: str) -> None:
    name = f"tun{os.getpid()}"
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH", name.encode(), _TUN | _NO_INFORMATION))
    for command in (f"address add {host} peer {farther} dev {name}", f"link set {name} up"):
        subprocess.run(["ip", *command.split()], check=True)
    print(name, flush=True)
    waiting: list[tuple[float, bytes]] = []
    while True:
        rest_s = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        if select.select([device], [], [], rest_s)[0]:
            packet = os.read(device, 1 << 16)
            if packet[0] >> 4 == 4:
                waits = carries_data(packet) and random.random() < 0.5
                due_s = time.monotonic() + (random.uniform(0, _LONGEST_S) if waits else 0)
                heapq.heappush(waiting, (due_s, swapped(without_stamps(packet))))
        while waiting and waiting[0][0] <= time.monotonic():
            os.write(device, heapq.heappop(waiting)[1])


def without_stamps(packet: bytes) -> bytes:
    """A packet that opens a connection does not offer time stamps."""
    begins = (packet[0] & 15) * 4
    ip, tcp = packet[:begins], packet[begins:]
    if packet[9] != _TCP or not tcp[13] & _OPENS:
        return packet
    tcp = tcp[:16] + b"\0\0" + tcp[18:20] + _STAMP.sub(b"\x01" * 10, tcp[20:], count=1)
    total = sum(struct.unpack(f"!{len(tcp) // 2 + 4}H", ip[12:20] + tcp)) + _TCP + len(tcp)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ip + tcp[:16] + struct.pack("!H", ~total & 0xFFFF) + tcp[18:]


def swapped(packet: bytes) -> bytes:
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def carries_data(packet: bytes) -> bool:
    """TCP with more than headers."""
    begins = (packet[0] & 15) * 4
    return packet[9] == _TCP and len(packet) > begins + (packet[begins + 12] >> 4) * 4


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"no such link can be made here: {error}")
