"""The line between the leading process and its observer: MessagePack maps, one after the other, both ways.

`do` names what is asked of the observer, `say` what it answers; the rest are the fields. Times are the clock
of this machine, `time.perf_counter`, which all its processes share.

    to the observer    watch    sources logs gpu interval_s      whom to ask about the server from now on
                       begin    see `live.Identity`              a run begins
                       phase    number title level unit at_s of  a phase begins, at_s since the run began
                       delta    recording                        measured since then: `Recording.to_dict`
                       state    users in_flight ...              how the run stands, see `live.LiveRun.state`
                       scrape   token                            ask the server now, and say when that is done
                       end                                       the run is over
    from the observer  ready    exporter problem                 the exporter's address, or None and why
                       sample   sample                           see `core.server.ServerSample`
                       status   sources                          of each its name, is it up, its problem
                       view     body                             the live view, JSON
                       done     token                            that scrape is over, whatever came of it
                       ended    at_s                             the last figures are on the page
                       served   began_s                          somebody has fetched the exporter's page
                       tell     sentence                         something a person should know

The observer ends when the line does.
"""

import socket
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

import msgpack  # type: ignore[import-untyped]

_RECEIVE_BYTES = 1 << 16
_LARGEST_BYTES = 1 << 28


class Wire:
    """One end of the line. Sending is safe from several threads or greenlets at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; OSError when nobody is there any more."""
        data = msgpack.packb(message)
        with self._sending:
            self._connection.sendall(data)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the other end sends, until it is gone."""
        unpacker = msgpack.Unpacker(max_buffer_size=_LARGEST_BYTES, strict_map_key=False)
        while True:
            try:
                data = self._connection.recv(_RECEIVE_BYTES)
            except OSError:
                return
            if not data:
                return
            unpacker.feed(data)
            yield from unpacker

    def close(self) -> None:
        self._connection.close()
