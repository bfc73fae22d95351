"""Stamped bytes in, one streamed answer out.

Rule: this file knows server-sent events and the OpenAI-style chunks inside them. It does not know where the
bytes come from, what time it is, or what HTTP is; an arrival time is handed in with every piece of the body.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from vllm_locust.core.record import PROTOCOL, SERVER_ERROR_EVENT

MAX_EVENT_BYTES = 8 << 20
"""A single event larger than this is not a stream of tokens; reading on would only eat memory."""

_MAX_ERROR_CHARS = 500
# A server whose chunks differ in more than their text is not worth more attempts to learn their form.
_MAX_LESSONS = 3


class EventTooLargeError(ValueError):
    """The peer sent more than MAX_EVENT_BYTES without ending an event."""


class SseDecoder:
    """Splits a stream of server-sent events, cut anywhere, into the `data` of each event.

    Implements the event stream format of the HTML standard as far as `data` is concerned: lines end in LF,
    CRLF or CR, several `data` lines of one event are joined by LF, comments and other fields are passed over.
    """

    __slots__ = ("_data", "_size", "_skip_lf", "_tail", "at_end_of_event", "between_events")

    def __init__(self) -> None:
        self.between_events = True
        """Nothing is pending: what comes next begins an event."""
        self.at_end_of_event = False
        """An event was the last thing that came; no comment or other field came behind it."""
        self._tail = b""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False

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
            self.at_end_of_event = True
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
        self.at_end_of_event = False
        for line in lines:
            self.at_end_of_event = self._take_line(line.rstrip(b"\r\n"), events)
        self.at_end_of_event &= not self._tail
        self.between_events = not self._tail and not self._data
        if len(self._tail) + self._size > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> bool:
        """True when the line completes an event."""
        if not line:
            if not self._data:
                return False
            events.append(b"\n".join(self._data))
            self._data, self._size = [], 0
            return True
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
        return False


class Answer:
    """What one streamed answer has said so far.

    `arrivals_s` holds the arrival of each token-carrying event. The opening role event is not one; an event
    with empty content and no role is (half a character). `failure` is None or (outcome, message).
    """

    __slots__ = (
        "_finish_s",
        "_last_usage",
        "_lessons",
        "_prefix",
        "_sse",
        "_suffix",
        "arrivals_s",
        "cached_tokens",
        "done",
        "ends_with_token",
        "event_tokens",
        "failure",
        "finish_reason",
        "output_tokens",
        "prompt_tokens",
        "text_parts",
    )

    def __init__(self) -> None:
        self._sse = SseDecoder()
        self._last_usage = 0
        self._finish_s: float | None = None
        # An event that begins and ends like one seen before, and has plain text in between: see `_learn`.
        self._prefix = self._suffix = b""
        self._lessons = _MAX_LESSONS
        self.arrivals_s: list[float] = []
        self.event_tokens: list[int] = []
        self.text_parts: list[str] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.done = False
        self.ends_with_token = False
        """The last piece ended with an event that carries output: its arrival is the piece's."""
        self.failure: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """The answer's text; reasoning and tool calls are not part of it."""
        return "".join(self.text_parts)

    @property
    def finished(self) -> bool:
        """True once the server said that the answer is complete."""
        return self.done or self.finish_reason is not None

    def feed(self, piece: bytes, arrival_s: float) -> None:
        """Take a piece of the body that arrived at `arrival_s`; what cannot be parsed becomes `failure`."""
        prefix = self._prefix
        try:
            if prefix and piece.startswith(prefix) and piece.endswith(self._suffix):
                text = piece[len(prefix) : -len(self._suffix)]
                if text and b'"' not in text and b"\\" not in text and self._sse.between_events:
                    self.text_parts.append(text.decode())
                    self.arrivals_s.append(arrival_s)
                    self.ends_with_token = True
                    return
            self.ends_with_token = False
            for data in self._sse.feed(piece):
                self.ends_with_token = self._take_event(data, arrival_s)
            self.ends_with_token &= self._sse.at_end_of_event
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            self.fail(PROTOCOL, f"the stream cannot be parsed: {type(error).__name__}: {error}")

    def close(self, arrival_s: float) -> None:
        """Take what the end of the body left over."""
        try:
            for data in self._sse.close():
                self._take_event(data, arrival_s)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            pass  # half an event at a cut: the missing end of the stream says enough

    def fail(self, outcome: str, message: str) -> None:
        """Keep the first failure; later ones are its consequences."""
        if self.failure is None:
            self.failure = (outcome, message[:_MAX_ERROR_CHARS])

    def _take_event(self, data: bytes, arrival_s: float) -> bool:
        """True when it carries output."""
        if not data:
            return False
        if data == b"[DONE]":
            self.done = True
            return False
        event = orjson.loads(data)
        choices, usage = event.get("choices"), event.get("usage")
        carries = False
        if choices:
            choice = choices[0]
            carries = self._take_choice(choice)
            if carries:
                self.arrivals_s.append(arrival_s)
                if self._lessons and not usage:
                    self._learn(data, choice)
            elif choice.get("finish_reason") is not None:
                self._finish_s = arrival_s
        elif "error" in event or event.get("object") == "error":
            self.fail(SERVER_ERROR_EVENT, error_message(event))
        if usage:
            self._take_usage(usage, carries)
        return carries

    def _learn(self, data: bytes, choice: Mapping[str, Any]) -> None:
        """Remember what stands around the text of a token event that says nothing but its text.

        The chunks of an answer differ in their text alone. One that has the same bytes around it, and neither
        a quote nor a backslash inside, is the same JSON with another text and need not be parsed: that saves
        a tenth of the client's time. Anything else goes the long way.
        """
        content = (choice.get("delta") or {}).get("content")
        if not content or choice.get("finish_reason") is not None:
            return
        self._lessons -= 1
        head, found, rest = data.partition(b'"content":"')
        text = content.encode()
        if found and rest.startswith(text + b'"'):
            self._prefix = b"data: " + head + found
            self._suffix = rest[len(text) :] + b"\n\n"

    def _take_choice(self, choice: Mapping[str, Any]) -> bool:
        """True when it carries output."""
        reason = choice.get("finish_reason")
        if reason is not None:
            self.finish_reason = reason
        delta = choice.get("delta")
        if delta is None:
            return self._take_text(choice.get("text"))
        content = delta.get("content")
        return self._take_text(content) if content else self._take_other_output(delta, content)

    def _take_text(self, text: Any) -> bool:
        if text:
            if not isinstance(text, str):
                raise TypeError(f"{text!r} is no text")
            self.text_parts.append(text)
        return text is not None

    def _take_other_output(self, delta: Mapping[str, Any], content: str | None) -> bool:
        reasoning = delta.get("reasoning")
        if reasoning is None:
            reasoning = delta.get("reasoning_content")
        if reasoning or delta.get("tool_calls"):
            return True
        return (content is not None or reasoning is not None) and delta.get("role") is None

    def _take_usage(self, usage: Mapping[str, Any], carries: bool) -> None:
        prompt_tokens = _count(usage.get("prompt_tokens"))
        if prompt_tokens is not None:
            self.prompt_tokens = prompt_tokens
        output_tokens = _count(usage.get("completion_tokens"))
        if output_tokens is not None:
            self.output_tokens = output_tokens
            if output_tokens and not self.arrivals_s and self._finish_s is not None:
                # All that was generated are special tokens, which have no text: they came with the end.
                self.arrivals_s.append(self._finish_s)
            if carries:
                if output_tokens < self._last_usage:
                    raise ValueError(f"running usage fell from {self._last_usage} to {output_tokens}")
                self.event_tokens.append(output_tokens - self._last_usage)
                self._last_usage = output_tokens
        cached_tokens = _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        if cached_tokens is not None:
            self.cached_tokens = cached_tokens


def _count(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or not 0 <= value < 1 << 62):
        raise TypeError(f"{value!r} is no count of tokens")
    return value


def error_message(body: Any) -> str:
    """The human part of an error body as vLLM and its kin send it, else the body itself, shortened."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        if isinstance(inner, dict):
            for key in ("message", "detail"):
                if isinstance(message := inner.get(key), str):
                    return message[:_MAX_ERROR_CHARS]
        if isinstance(inner, str):
            return inner[:_MAX_ERROR_CHARS]
    return orjson.dumps(body).decode()[:_MAX_ERROR_CHARS]
