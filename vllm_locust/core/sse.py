"""Bytes in, server-sent events out.

Rule: what an event's data mean is not known here; only that some events and lines are errors, by their names.
"""

import re

import orjson

from vllm_locust.core.body import BYTE_ORDER_MARK, decoded
from vllm_locust.core.chunk import is_keep_alive
from vllm_locust.core.trouble import error_in, is_fine, names_bad_end, names_error

MAX_EVENT_BYTES = 8 << 20
"""A single event larger than this is not a stream of tokens; reading on would only eat memory."""

_PASSED_OVER = (b"id", b"retry")
_FIELD = re.compile(rb"[A-Za-z_-]+")


class EventTooLargeError(ValueError):
    """The peer sent more than MAX_EVENT_BYTES without ending an event."""


class SseDecoder:
    """Splits a stream of server-sent events, cut anywhere, into the `data` of each event.

    Implements the event stream format of the HTML standard as far as `data` is concerned: lines end in LF,
    CRLF or CR, several `data` lines of one event are joined by LF, comments and other fields are passed over.
    Four things go beyond it. A byte order mark may lead any line. And since servers tell errors so, an event
    that is named after an error or a bad end is an `error` and no data, so is a field of such a name, and so
    is a line that is the JSON of an error.
    """

    __slots__ = (
        "_comment",
        "_data",
        "_is_error",
        "_is_sign_of_life",
        "_size",
        "_skip_lf",
        "_tail",
        "between_events",
        "error",
        "stray",
    )

    def __init__(self) -> None:
        self.between_events = True
        """Nothing is pending: what comes next begins an event."""
        self.error: bytes | None = None
        """What the first error said; empty when it said nothing."""
        self.stray: bytes | None = None
        """The first line that is no field of an event stream, if there was one."""
        self._tail = b""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False
        self._is_error = self._is_sign_of_life = False
        self._comment = b""

    @property
    def begun(self) -> bytes:
        """What is pending."""
        return b"\n".join([*(b"data: " + data for data in self._data), self._tail]).strip()

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of every event that `piece` completes."""
        # Nearly always a piece is one whole event on one line: see that with four C calls.
        if (
            piece.endswith(b"\n\n")
            and piece.startswith(b"data: ")
            and piece.find(b"\n") == len(piece) - 2
            and self.between_events
            and b"\r" not in piece
        ):
            return [piece[6:-2]]
        return self._feed_lines(piece)

    def close(self) -> list[bytes]:
        """The data of an event that the end of the stream left without its blank line."""
        return [] if self.between_events else self._feed_lines(b"\n\n")

    def _feed_lines(self, piece: bytes) -> list[bytes]:
        if self._skip_lf and piece:
            piece = piece.removeprefix(b"\n")
            self._skip_lf = False
        lines = (self._tail + piece).splitlines(keepends=True)
        self._tail = b""
        if lines:
            last = lines[-1]
            if not last.endswith((b"\n", b"\r")):
                self._tail = lines.pop()
            elif not last.endswith(b"\n"):
                self._skip_lf = True  # a CR ends the line now; the LF of a CRLF may come with the next piece
        events: list[bytes] = []
        for line in lines:
            self._take_line(line.rstrip(b"\r\n"), events)
        self.between_events = not self._tail and not self._data and not self._is_error
        if len(self._tail) + self._size > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            self._end_event(events)
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
        elif not field:
            self._comment = value
        elif field == b"event":
            self._take_name(value.decode("utf-8", "replace").strip())
        elif line.startswith(BYTE_ORDER_MARK):
            return self._take_line(line.removeprefix(BYTE_ORDER_MARK), events)
        elif field not in _PASSED_OVER:
            self._take_stray(line, field, value)

    def _take_name(self, name: str) -> None:
        """Of the event, as far as it says what the data do not."""
        self._is_error = names_bad_end(name)
        self._is_sign_of_life = is_keep_alive(name)

    def _take_stray(self, line: bytes, field: bytes, value: bytes) -> None:
        """A line that is no field of an event stream."""
        if _FIELD.fullmatch(field) and names_error(field.decode()):
            if not is_fine(decoded(value)):
                self._tell_error(value)
        elif line.startswith((b"{", b"[")) and (message := _error_on(line)) is not None:
            self._tell_error(message.encode())
        elif self.stray is None:
            self.stray = line

    def _end_event(self, events: list[bytes]) -> None:
        data, is_error, comment = self._data, self._is_error, self._comment
        is_answer = not is_error and not self._is_sign_of_life
        self._data, self._size, self._comment = [], 0, b""
        self._is_error = self._is_sign_of_life = False
        if is_error:
            self._tell_error(b"\n".join(data) or comment)  # NVIDIA Dynamo tells it in the comment
        elif data and is_answer:
            events.append(b"\n".join(data))

    def _tell_error(self, what: bytes) -> None:
        if self.error is None:
            self.error = what


def _error_on(line: bytes) -> str | None:
    """What a line of JSON tells of an error, if it does."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return error_in(body)
