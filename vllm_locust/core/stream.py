"""Stamped bytes in, one streamed answer out.

Rule: this file knows how an answer grows out of events; how bytes become events is in `sse`, what one chunk
carries in `chunk`, and what tells of an end or an error in `trouble`. It does not know where the bytes come
from, what time it is, or what HTTP is; an arrival time is handed in with every piece of the body.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from vllm_locust.core.body import beginning, parse_leniently, told_error
from vllm_locust.core.chunk import EMPTY, THOUGHT, carried, is_unknown, is_usual
from vllm_locust.core.record import PROTOCOL, SERVER_ERROR_EVENT
from vllm_locust.core.sse import SseDecoder
from vllm_locust.core.trouble import bad_end, error_in, finish_reason, is_whole, lone_message
from vllm_locust.core.urls import shortened

_MAX_ERROR_CHARS = 500
_LAST_WORD = "[DONE]"
# What nobody sees around an event: white space, byte order marks, the end of a string in C.
_UNSEEN = (
    " \t\r\n\v\f\0\N{NO-BREAK SPACE}\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}"
)
# A server whose chunks differ in more than their text is not worth more attempts to learn their form.
_MAX_LESSONS = 3
# Where the chunks of an answer have what they differ in.
_TEXT_FIELDS = ("content", "reasoning", "reasoning_content")
_STRING = re.compile(rb'(?:[^"\\]|\\.)*')


class Answer:
    """What one streamed answer has said so far.

    `arrivals_s` holds the arrival of each token-carrying event. The opening role event is not one; an event
    with empty content and no role is (half a character), unless usage says that no token came with it.
    `failure` is None or (outcome, message).
    """

    __slots__ = (
        "_choices",
        "_empty",
        "_ended",
        "_finish_s",
        "_index",
        "_is_text",
        "_last_usage",
        "_lessons",
        "_open",
        "_prefix",
        "_sse",
        "_suffix",
        "_thought",
        "_unknown",
        "_usage",
        "_usage_runs",
        "_zero_tells",
        "arrivals_s",
        "cached_tokens",
        "done",
        "event_tokens",
        "failure",
        "finish_reason",
        "half",
        "output_tokens",
        "prompt_tokens",
        "silent",
        "text_parts",
    )

    def __init__(self, choices: int = 1) -> None:
        """`choices` is how many answers were asked for: the `n` of the request."""
        self._sse = SseDecoder()
        self._choices = choices
        # The choices that were seen and have not ended, those that have, and the last one that was seen.
        self._open: set[Any] = set()
        self._ended: set[Any] = set()
        self._index: Any = ...
        self._last_usage = 0
        # Usage with each chunk counts on from chunk to chunk. That of several choices may be each one's own.
        self._usage_runs = choices == 1
        # A count of 0 is one, and not what a server writes that does not know yet.
        self._zero_tells = True
        self._finish_s: float | None = None
        self._thought = 0
        self._usage: Mapping[str, Any] = {}
        # An event that begins and ends like one seen before, and has plain text in between: see `_learn`.
        self._prefix = self._suffix = b""
        self._is_text = True
        self._lessons = _MAX_LESSONS
        # The last event that nobody knows, and how many had carried output before it.
        self._unknown: tuple[bytes, int] | None = None
        # Places in `arrivals_s` of events that show nothing.
        self._empty: list[int] = []
        self.arrivals_s: list[float] = []
        self.event_tokens: list[int] = []
        """As long as `arrivals_s` where running usage told the tokens of each event."""
        self.text_parts: list[str] = []
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.done = False
        self.failure: tuple[str, str] | None = None
        self.silent: bytes | None = None
        """The last event of the answer that carried no output: its opening, its end, or what nobody reads."""
        self.half: bytes | None = None
        """The event that the end of the body cut."""

    @property
    def text(self) -> str:
        """The answer's text; reasoning and tool calls are not part of it."""
        text = "".join(self.text_parts)
        if text.isascii():
            return text
        # Characters that came as two halves become whole, a half alone becomes a replacement character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @property
    def finished(self) -> bool:
        """True once the server said that the answer is complete: all of its choices, where there are several.

        Its last word, [DONE], will do where no choice was given a reason and nothing odd came before it.
        """
        if self._open and self._ended:
            return False
        if len(self._ended) >= self._choices:
            return True
        return self.done and not self.missing_choices and (bool(self._ended) or self.odd_line is None)

    @property
    def missing_choices(self) -> int:
        """How many of the several choices that were asked for never came."""
        return 0 if self._choices == 1 else max(self._choices - len(self._open | self._ended), 0)

    @property
    def stray(self) -> bytes | None:
        """The first line of the body that is no field of an event stream, if there was one."""
        return self._sse.stray

    @property
    def begun(self) -> bytes:
        """What has come of an event that is not complete."""
        return self._sse.begun

    @property
    def odd_line(self) -> bytes | None:
        """What may have told of an error: an unknown event behind all output, else a stray line."""
        if self._unknown is not None and self._unknown[1] == len(self.arrivals_s):
            return self._unknown[0]
        return self.stray

    @property
    def hidden_tokens(self) -> int:
        """Tokens that usage counts as reasoning, where the stream marks none as such and may lack them.

        It does not where it shows more than the tokens that are left.
        """
        details = self._usage.get("completion_tokens_details")
        of_reasoning = _count((details if isinstance(details, dict) else self._usage).get("reasoning_tokens"))
        if self._thought or of_reasoning is None:
            return 0
        return 0 if self.visible_events > (self.output_tokens or 0) - of_reasoning else of_reasoning

    @property
    def visible_events(self) -> int:
        """How many of the events of `arrivals_s` show something: each has cost at least a token."""
        return len(self.arrivals_s) - len(self._empty)

    def feed(self, piece: bytes, arrival_s: float) -> None:
        """Take a piece of the body that arrived at `arrival_s`; what cannot be parsed becomes `failure`."""
        prefix = self._prefix
        try:
            if prefix and piece.startswith(prefix) and piece.endswith(self._suffix):
                text = _unquoted(piece[len(prefix) : -len(self._suffix)])
                if text and self._sse.between_events:
                    if self._is_text:
                        self.text_parts.append(text)
                    self.arrivals_s.append(arrival_s)
                    return
            for data in self._sse.feed(piece):
                self._take_event(data, arrival_s)
            self._take_error()
        except ValueError as error:
            self.fail(PROTOCOL, f"the stream cannot be parsed: {error}{self._stray_line()}")

    def close(self, arrival_s: float) -> None:
        """Take what the end of the body left over."""
        for data in self._sse.close():
            try:
                self._take_event(data, arrival_s)
            except ValueError:
                self.half = b"data: " + data
                if _is_several_chunks(data):
                    self.fail(PROTOCOL, f"no blank line ends the events: {beginning(self.half)}")
        self._take_error()

    def fail(self, outcome: str, message: str) -> None:
        """Keep the first failure; later ones are its consequences."""
        if self.failure is None:
            self.failure = (outcome, shortened(message, _MAX_ERROR_CHARS))

    def take_surplus(self) -> Sequence[int]:
        """The events that were no tokens, as places in `arrivals_s`, from which they are taken.

        When usage counts fewer tokens than there were events, the surplus are events that show nothing, the
        first ones first: a server that opens an answer before its first token says so in this way only. A
        usage that is less than what was shown says nothing about the others.
        """
        surplus = len(self.arrivals_s) - (self.output_tokens or 0)
        if self.output_tokens is None or not 0 < surplus <= len(self._empty):
            return ()
        places = self._empty[:surplus]
        for place in reversed(places):
            del self.arrivals_s[place]
        self._empty = [place - surplus for place in self._empty[surplus:]]
        self.event_tokens.clear()
        return places

    def _take_error(self) -> None:
        if self._sse.error is not None:
            self.fail(
                SERVER_ERROR_EVENT, told_error(self._sse.error) or "the server sent an error without a word"
            )

    def _stray_line(self) -> str:
        return "" if self.stray is None else f"; {beginning(self.stray)} is no line of an event stream"

    def _take_event(self, data: bytes, arrival_s: float) -> None:
        """Raises ValueError when it is none of a streamed answer."""
        if data == b"[DONE]":
            self.done = True
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            bare = data.decode("utf-8", "surrogateescape").strip(_UNSEEN).encode("utf-8", "surrogateescape")
            if bare != data or not bare:
                if bare:  # what is known, with nothing around it
                    self._take_event(bare, arrival_s)
                return
            chunk = _LAST_WORD if bare.upper() == _LAST_WORD.encode() else parse_leniently(data)
        if chunk == _LAST_WORD:
            self.done = True
            return
        if not chunk:
            return  # a sign of life
        try:
            self._take_chunk(chunk, data, arrival_s)
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError) as error:
            if isinstance(chunk, list) and (message := error_in(chunk)) is not None:
                return self.fail(SERVER_ERROR_EVENT, message)
            what = error if isinstance(chunk, dict) else "an event is no JSON object"
            raise ValueError(f"{what}, in {beginning(data)}") from None

    def _take_chunk(self, chunk: Mapping[str, Any], data: bytes, arrival_s: float) -> None:
        choices, usage = chunk.get("choices") or (), chunk.get("usage")
        if not is_usual(chunk, choices):
            self._take_unusual(chunk, data)
        said = 0
        for choice in choices:
            said |= carried(choice, self.text_parts)
            if choice.get("finish_reason") or (choice.get("index") or 0) != self._index:
                self._take_progress(choice, arrival_s)
        self._thought |= said & THOUGHT
        tokens = self._take_usage(usage) if usage else None
        if not said or (said == EMPTY and tokens == 0):
            if choices:
                self.silent = data
            if self.output_tokens and not self.arrivals_s and self._finish_s is not None:
                # All that was generated are special tokens, which have no text: they came with the end.
                self.arrivals_s.append(self._finish_s)
            return
        if said == EMPTY:
            self._empty.append(len(self.arrivals_s))
        self.arrivals_s.append(arrival_s)
        if tokens is not None:
            self._take_tokens(tokens)
        elif self._lessons and not usage:
            self._learn(data, choices)

    def _take_unusual(self, chunk: Mapping[str, Any], data: bytes) -> None:
        """Whether a chunk that has more than an answer tells of an error, or nobody knows what it tells."""
        if (message := error_in(chunk)) is not None:
            self.fail(SERVER_ERROR_EVENT, message)
        elif is_unknown(chunk) or lone_message(chunk) is not None:
            self._unknown = data, len(self.arrivals_s)

    def _take_progress(self, choice: Mapping[str, Any], arrival_s: float) -> None:
        """Whether the choice has ended, and how."""
        index = self._index = choice.get("index") or 0
        reason = finish_reason(choice)
        if reason is None:
            if index not in self._ended:
                self._open.add(index)
            return
        self.finish_reason = reason
        self._finish_s = arrival_s
        self._ended.add(index)
        self._open.discard(index)
        if not is_whole(reason):
            self.fail(SERVER_ERROR_EVENT, bad_end(choice, reason))

    def _learn(self, data: bytes, choices: Sequence[Mapping[str, Any]]) -> None:
        """Remember what stands around the text of a token event that says nothing but its text.

        The chunks of an answer differ in their text alone. One that has the same bytes around it, and a JSON
        string inside, is the same JSON with another text and need not be parsed: that saves a tenth of the
        client's time. Anything else goes the long way.
        """
        delta = choices[0].get("delta") or {}
        field = next((field for field in _TEXT_FIELDS if delta.get(field)), None)
        if field is None or len(choices) > 1 or finish_reason(choices[0]) is not None:
            return
        self._lessons -= 1
        head, found, rest = data.partition(b'"%s":"' % field.encode())
        string = _STRING.match(rest)
        if found and string is not None and _unquoted(string[0]) == delta[field]:
            self._prefix = b"data: " + head + found
            self._suffix = rest[string.end() :] + b"\n\n"
            self._is_text = field == "content"

    def _take_usage(self, usage: Any) -> int | None:
        """How many tokens came since the event before that carried output; None where that is not known."""
        if not isinstance(usage, dict):
            return None
        prompt_tokens = _count(usage.get("prompt_tokens"))
        if prompt_tokens is not None:
            self.prompt_tokens = prompt_tokens
        self._usage = usage
        details = usage.get("prompt_tokens_details")
        cached_tokens = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        if cached_tokens is not None:
            self.cached_tokens = cached_tokens
        output_tokens = _count(usage.get("completion_tokens"))
        if output_tokens is None:
            # Some leave out what is 0.
            is_zero = _count(usage.get("total_tokens")) in (0, prompt_tokens or 0)
            return 0 if is_zero and self._zero_tells else None
        self.output_tokens = output_tokens
        if output_tokens < self._last_usage:
            self._doubt_running_usage()
        if self._usage_runs:
            return output_tokens - self._last_usage
        return 0 if output_tokens == 0 and self._zero_tells else None

    def _take_tokens(self, tokens: int) -> None:
        if tokens == 0:
            self._doubt_running_usage()  # something to show, and not a token more
            self._zero_tells &= bool(self.output_tokens)
            return
        self.event_tokens.append(tokens)
        self._last_usage += tokens

    def _doubt_running_usage(self) -> None:
        """It does not count on from chunk to chunk, so that the tokens of an event are not known."""
        self._usage_runs = False
        self.event_tokens.clear()


def _unquoted(raw: bytes) -> str | None:
    """The text between the quotes of a JSON string; None when it is no whole string."""
    try:
        text: str = orjson.loads(b'"%b"' % raw)
    except orjson.JSONDecodeError:
        return None
    return text


def _is_several_chunks(data: bytes) -> bool:
    """Whether lines that came as one event are events of their own."""
    first, joined, _ = data.partition(b"\n")
    try:
        return bool(joined) and bool(parse_leniently(first))
    except ValueError:
        return False


def _count(value: Any) -> int | None:
    """Servers in other languages write 7.0, "7" or "7.0" for 7; -1 and "n/a" tell of no count."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 62 else None
