"""One HTTP exchange: a request goes out, its response comes in, and says when it is over.

Rule: HTTP is here and nowhere else; the parsing is httptools'. A 200 with an event stream is handed on to an
`Answer` piece by piece; any other body is kept, in bounds, for its error message.
"""

from collections.abc import Mapping
from math import inf
from time import perf_counter
from typing import Any

import httptools
from gevent.event import Event

from vllm_locust.client.connection import Connection
from vllm_locust.core.body import beginning, compression_of, decoded, told_error
from vllm_locust.core.record import PROTOCOL, SERVER_ERROR_EVENT, TRUNCATED, http_outcome
from vllm_locust.core.stream import Answer
from vllm_locust.core.trouble import error_in, lone_message
from vllm_locust.core.urls import without_secrets

_MAX_BODY_BYTES = 64 << 10
# Names that are none of a compression: two are there so that proxies keep their hands off, one is a mistake.
_NO_COMPRESSION = ("identity", "none", "utf-8")


class Exchange:
    """Receives the response to one request. `over` is set once nothing more is to come.

    `arrival_s` is when the last bytes came, and `ended_s` when it was known that nothing follows; either may
    have been earlier, by `arrival_bound_s` and `ended_bound_s` at most.
    `limit_s` is when the last byte must have come.
    `bounds_s` runs beside `answer.arrivals_s`: how much earlier each event may have arrived, at most.
    """

    __slots__ = (
        "_began_s",
        "_body",
        "_body_size",
        "_parser",
        "_unproven",
        "answer",
        "arrival_bound_s",
        "arrival_s",
        "bounds_s",
        "complete",
        "content_encoding",
        "content_type",
        "contradictions",
        "ended_bound_s",
        "ended_s",
        "framed",
        "keep_alive",
        "lags_s",
        "limit_s",
        "location",
        "over",
        "status",
        "streaming",
    )

    def __init__(self, choices: int = 1) -> None:
        """`choices` is how many answers the request asks for."""
        self.answer = Answer(choices)
        self.over = Event()
        self.status = 0
        self.content_type = ""
        self.content_encoding = ""
        self.location = ""
        self.streaming = False
        self.framed = False  # by a length or chunks: otherwise the body ends when the connection does
        self.complete = False
        self.keep_alive = False
        self.arrival_s = self.ended_s = 0.0
        self.arrival_bound_s = self.ended_bound_s = 0.0
        self.limit_s = inf
        self.lags_s: list[float] = []
        self.bounds_s: list[float] = []
        self.contradictions = 0
        self._began_s = 0.0
        # Places in `bounds_s`, and what stands there if their reads turn out to be one packet each.
        self._unproven: list[tuple[int, float]] = []
        self._body: list[bytes] = []
        self._body_size = 0
        self._parser: Any = httptools.HttpResponseParser(self)

    @property
    def untouched(self) -> bool:
        """True as long as not a byte of the response has come."""
        return not self.lags_s

    @property
    def late(self) -> bool:
        """Whether the last bytes came when time was up."""
        return self.arrival_s > self.limit_s

    @property
    def _compressed(self) -> str:
        """How the body is compressed; empty when it is not."""
        return "" if self.content_encoding in _NO_COMPRESSION else self.content_encoding

    # What the connection tells

    def on_bytes(
        self, data: bytes, arrival_s: float, lag_s: float, end_bound_s: float, bound_s: float
    ) -> None:
        if self.over.is_set():
            self.keep_alive = False  # nothing more was asked for
            return
        self.arrival_s, self.arrival_bound_s = arrival_s, end_bound_s
        if not self.lags_s:
            self._began_s = arrival_s - bound_s
        self.lags_s.append(lag_s)
        answer = self.answer
        before = len(answer.arrivals_s)
        try:
            self._parser.feed_data(data)
        except Exception as error:  # an upgrade, say: what escapes here would silence the connection
            self.keep_alive = False
            if not self.complete:
                what = f"{type(error).__name__} {error}, in {beginning(data)}"
                answer.fail(PROTOCOL, f"not an HTTP response: {what}")
        for place in range(before, len(answer.arrivals_s)):
            self.bounds_s.append(bound_s)
            if end_bound_s < bound_s:
                self._unproven.append((place, end_bound_s))
        if not before and answer.arrivals_s and answer.arrivals_s[0] < arrival_s:
            # Usage told of it afterwards.
            self.bounds_s[0] = answer.arrivals_s[0] - self._began_s
            self._unproven.clear()
        if self.complete or answer.failure is not None:
            self._end(arrival_s, end_bound_s)

    def on_count(self, one_each: bool) -> None:
        if one_each:
            for place, bound_s in self._unproven:
                self.bounds_s[place] = bound_s
        self._unproven.clear()

    def on_close(self, error: str | None, now_s: float, bound_s: float) -> None:
        if self.status and not self.framed and error is None:
            self.complete = True
        if error is not None and not self.complete:
            self.answer.fail(TRUNCATED, f"connection lost: {error}")
        self.keep_alive = False
        self._end(now_s, bound_s)

    def distrust(self, reads: Mapping[float, tuple[float, float]]) -> None:
        """Forget the stamps of these reads: (read when, waited since when), by the arrival that was told."""

        def without_stamp(told_s: float, bound_s: float) -> tuple[float, float]:
            read_s, since_s = reads.get(told_s, (told_s, told_s))
            return read_s, read_s - min(since_s, told_s - bound_s)

        told = zip(self.answer.arrivals_s, self.bounds_s, strict=True)
        untold = [without_stamp(*each) for each in told]
        self.answer.arrivals_s = [arrival_s for arrival_s, _ in untold]
        self.bounds_s = [bound_s for _, bound_s in untold]
        ended_with_bytes = self.ended_s == self.arrival_s
        self.arrival_s, self.arrival_bound_s = without_stamp(self.arrival_s, self.arrival_bound_s)
        if ended_with_bytes:
            self.ended_s, self.ended_bound_s = self.arrival_s, self.arrival_bound_s
        self.contradictions += len(reads)

    # What the HTTP parser tells

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("more came than was asked for")
        # What a 103 Early Hints said is not about the response.
        self.content_type = self.content_encoding = self.location = ""
        self.framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.decode("latin-1")
        elif name == b"content-encoding":
            self.content_encoding = value.decode("latin-1").strip().lower()
        elif name == b"location":
            self.location = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self.framed = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        is_stream = self.content_type.lower().startswith("text/event-stream")
        self.streaming = self.status == 200 and is_stream and not self._compressed

    def on_body(self, piece: bytes) -> None:
        if self.streaming:
            self.answer.feed(piece, self.arrival_s)
        elif self._body_size < _MAX_BODY_BYTES:
            self._body.append(piece)
            self._body_size += len(piece)

    def on_message_complete(self) -> None:
        if self.status >= 200:  # 100 Continue and its like only announce the response
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()

    def release(self) -> None:
        """Nothing more is to be told. Lets go of the parser and of what usage shows to be no tokens.

        The parser holds us, and such a circle would keep every answer until a collection.
        """
        self._parser = None
        self._unproven.clear()
        if self.over.is_set():
            for place in reversed(self.answer.take_surplus()):
                del self.bounds_s[place]

    # What became of it

    def so_far(self) -> str:
        """How far the response had come, where time ran out."""
        answer = self.answer
        if not self.status:
            return "not a byte of a response came" if self.untouched else "a part of a response's head came"
        if not self.streaming:
            told = f": {self._body_message()}" if self._body else ""
            came = "too late" if self.complete else "and not all of its body"
            return f"the response {self.status} came, {came}{told}"
        count = len(answer.arrivals_s)
        events = f"{count or 'no'} event{'s' * (count > 1)} with output"
        pending = f"; then a part of an event came, {beginning(answer.begun)}" if answer.begun else ""
        return f"the head of a stream came, and {events}{pending or _odd_in(answer)}"

    def outcome(self) -> tuple[str, str] | None:
        """None for a whole answer, else (failure kind, message)."""
        if self.status == 200 and self.streaming:
            return self._stream_outcome()
        if self.answer.failure is not None:
            return self.answer.failure
        if self.status == 0:
            return TRUNCATED, "the connection was closed before any response"
        if 300 <= self.status < 400:
            to = without_secrets(self.location)
            told = (
                f"redirected to {to}: give that address as --host" if to else "redirected, and not told where"
            )
            return http_outcome(self.status), told
        if self.status != 200:
            return http_outcome(self.status), self._body_message()
        return self._not_a_stream()

    def _stream_outcome(self) -> tuple[str, str] | None:
        answer = self.answer
        if answer.failure is not None and answer.failure[0] != TRUNCATED:
            return answer.failure
        if not answer.finished:
            return answer.failure or self._unfinished()
        if not answer.arrivals_s:
            return PROTOCOL, f"the answer carried no output{_last_of(answer)}"
        return None

    def _unfinished(self) -> tuple[str, str]:
        answer = self.answer
        if answer.odd_line is not None and (told := lone_message(decoded(answer.odd_line))) is not None:
            return SERVER_ERROR_EVENT, told
        if not answer.arrivals_s and answer.stray is not None:
            told = f"the body is no event stream, it has lines such as {beginning(answer.stray)}"
            return PROTOCOL, _untold_compression(answer.stray) or told
        if answer.missing_choices and answer.done:
            return TRUNCATED, f"{answer.missing_choices} of the choices that were asked for never came"
        if answer.finish_reason is not None:
            return TRUNCATED, "the stream ended before all choices had a finish reason"
        missing = "a finish reason" if answer.done else "a finish reason or [DONE]"
        if answer.half is not None:
            met = f"; it ended in the middle of {beginning(answer.half)}"
        else:
            met = _odd_in(answer) or ("" if answer.arrivals_s else "; it had no event")
        return TRUNCATED, f"the stream ended without {missing}{met}"

    def _not_a_stream(self) -> tuple[str, str]:
        if self._compressed:
            return PROTOCOL, f"the body is compressed: its content-encoding is {self._compressed}"
        content = b"".join(self._body)
        if (told := _untold_compression(content)) is not None:
            return PROTOCOL, told
        body = decoded(content)
        if (message := error_in(body) or lone_message(body)) is not None:
            return SERVER_ERROR_EVENT, message
        what = beginning(content) if content else "an empty body"
        met = f"{self.content_type or 'no content type'}: {what}"
        return PROTOCOL, f"expected an event stream, got {met}"

    def _body_message(self) -> str:
        if self._compressed:
            return f"(a message compressed with {self._compressed})"
        return told_error(b"".join(self._body)) or "(no message)"

    def _end(self, ended_s: float, bound_s: float) -> None:
        if not self.over.is_set():
            # An event without its blank line came with the last bytes, if not before.
            self.answer.close(self.arrival_s)
            for late_s in self.answer.arrivals_s[len(self.bounds_s) :]:
                self.bounds_s.append(late_s - self._began_s)
            self.ended_s, self.ended_bound_s = ended_s, bound_s
            self.over.set()


def _odd_in(answer: Answer) -> str:
    """What was met in a stream that may be an error, or instead of output; empty where all was as usual."""
    if answer.odd_line is not None:
        return f"; among its events was {beginning(answer.odd_line)}"
    return "" if answer.arrivals_s else _last_of(answer)


def _last_of(answer: Answer) -> str:
    """The last event of an answer without output, where there was one."""
    return "" if answer.silent is None else f"; its last event was {beginning(answer.silent)}"


def _untold_compression(content: bytes) -> str | None:
    kind = compression_of(content)
    return kind and f"the body is compressed with {kind}, and no content-encoding says so"


def run_exchange(exchange: Exchange, connection: Connection, request: bytes) -> None:
    """Send `request` over an idle connection and wait for its whole response, until `exchange.limit_s`.

    An `exchange` that is late or not over afterwards ran out of time. Leaves the connection closed unless the
    server keeps it open for the next request; so does whatever interrupts the wait.
    """
    connection.receiver = exchange
    contradictions, upsets = connection.contradictions, connection.upsets
    began_s = perf_counter()
    try:
        try:
            connection.send(request)
        except OSError as error:
            # A server that refuses early may have answered and closed: its words come first.
            if not exchange.over.wait(timeout=0.1):
                connection.catch_up(perf_counter())
            if not exchange.over.is_set():
                now_s = perf_counter()
                exchange.on_close(str(error), now_s, now_s - began_s)
        exchange.over.wait(max(exchange.limit_s - perf_counter(), 0.001))
    finally:
        if not exchange.over.is_set():
            connection.catch_up(min(exchange.limit_s, perf_counter()))
        connection.count_packets()
        exchange.release()
        exchange.contradictions = connection.contradictions - contradictions
        if connection.upsets > upsets:
            exchange.distrust(connection.reads)
        connection.reads.clear()  # not before sending, which would be late by it
        connection.receiver = None
        reusable = exchange.complete and exchange.keep_alive and exchange.answer.failure is None
        if not reusable or connection.sending:
            connection.close()
