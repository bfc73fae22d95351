"""What is odd about answers that are ok: counted, and said in sentences.

Rule: a sentence says what was seen. What may be behind it is told as a possibility, with all the others that
the counts leave open.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from vllm_locust.core.record import RequestRecord
from vllm_locust.core.trouble import bare_reason

# Finish reasons that say so; tools are called at any length.
_ENDS_OF_THE_MODEL = frozenset({"stop", "eos", "eostoken", "endid", "endoftext", "endturn", "complete"})


@dataclass(slots=True)
class Oddities:
    """Counts of successful requests in the window."""

    in_one_piece: int = 0
    """Their events came all at once, see `RequestRecord.in_one_piece`, ..."""
    perhaps_read_late: int = 0
    """... and that may be so because they were read late."""
    in_few_pieces: int = 0
    """Their events came in crowds, see `record.in_few_pieces`: ..."""
    few_pieces: int = 0
    """... in so many pieces together, ..."""
    events_in_few_pieces: int = 0
    """... with so many events."""
    of_several_tokens: int = 0
    """They have a TPOT, or one that nobody knows, ..."""
    tpot_unknown: int = 0
    """... which are these."""
    itl_unknown: int = 0
    """They have several events, and nobody knows the time between their tokens."""
    asked_for_exact_length: int = 0
    """The server was asked for an exact number of tokens, ..."""
    shorter_than_asked: int = 0
    """... and counted fewer, ..."""
    perhaps_shorter: int = 0
    """... or counted none, while the model ended the answer and fewer events came."""
    usage_below_stream: int = 0
    """Usage counts fewer tokens than events brought some."""
    usage_above_asked: int = 0
    """Usage counts more tokens than were asked for."""
    of_several_choices: int = 0
    """More than one answer was asked for, and they have several tokens."""
    with_hidden_reasoning: int = 0
    """Usage counts reasoning that is not shown, see `RequestRecord.hidden_tokens`."""

    def add(self, record: RequestRecord) -> None:
        in_one_piece, later_tokens = record.in_one_piece, record.later_tokens
        self.in_one_piece += in_one_piece
        self.perhaps_read_late += bool(record.perhaps_read_late)
        self.in_few_pieces += bool(record.few_pieces)
        self.few_pieces += record.few_pieces
        self.events_in_few_pieces += len(record.arrivals_s) if record.few_pieces else 0
        tpot_unknown = in_one_piece or (later_tokens != 0 and record.tpot_s is None)
        self.of_several_tokens += bool(tpot_unknown or later_tokens != 0)
        self.tpot_unknown += tpot_unknown
        self.itl_unknown += len(record.arrivals_s) > 1 and not record.has_gaps
        self.of_several_choices += bool(record.choices > 1 and later_tokens is None)
        self.with_hidden_reasoning += bool(record.hidden_tokens)
        self.usage_above_asked += record.usage_above_asked
        tokens = record.output_tokens
        if tokens is None:
            return
        if tokens < record.visible_events and not record.tokens_counted:
            self.usage_below_stream += 1
            return  # how long the answer was is not known
        if record.max_tokens is not None and record.exact_length:
            self._add_length(record, tokens, record.max_tokens * record.choices)

    def _add_length(self, record: RequestRecord, tokens: int, most: int) -> None:
        self.asked_for_exact_length += 1
        if not record.tokens_counted:
            self.shorter_than_asked += bool(tokens < most)
        elif bare_reason(record.finish_reason or "") in _ENDS_OF_THE_MODEL:
            self.perhaps_shorter += bool(tokens < most)

    def merge(self, other: "Oddities") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def describe(self, answers: int) -> dict[str, Any]:
        """The block `answers` of a summary that has so many of them."""
        return {**asdict(self), "sentences": list(self._sentences(answers))}

    def _sentences(self, answers: int) -> Iterator[str]:
        if kept := self.in_one_piece - self.perhaps_read_late:
            yield (
                f"{kept} of {answers} answers arrived in one piece, all events at once: their TPOT and ITL "
                "are undefined. A proxy may buffer them, the server may not stream, or it may send late what "
                "it made"
            )
        if self.in_few_pieces:
            yield (
                f"{self.in_few_pieces} of {answers} answers arrived in a few pieces, "
                f"{self.events_in_few_pieces / self.few_pieces:.3g} events at once on average: their TPOT "
                "and ITL are undefined, and their TTFT is that of the first piece. A proxy may buffer them, "
                "or the server may make several at once, or send late what it made"
            )
        if self.perhaps_read_late:
            yield (
                f"Whether {self.perhaps_read_late} of {answers} answers arrived in one piece is not known, "
                "since this client may have read them late: their TPOT and ITL are undefined"
            )
        if self.shorter_than_asked:
            yield (
                f"{self.shorter_than_asked} of {self.asked_for_exact_length} answers are shorter than asked, "
                "although ignore_eos was sent"
            )
        if self.perhaps_shorter:
            yield (
                f"{self.perhaps_shorter} of {self.asked_for_exact_length} answers may be shorter than asked, "
                "although ignore_eos was sent: by its finish reason the model ended them, and the server did "
                "not count their tokens, of which an event may bring several"
            )
        if self.usage_below_stream:
            yield (
                f"In {self.usage_below_stream} of {answers} answers usage contradicts the stream: it counts "
                "fewer tokens than there were events with output. TPOT and tokens per second follow usage"
            )
        if self.usage_above_asked:
            yield (
                f"In {self.usage_above_asked} of {answers} answers usage counts more tokens than were asked "
                "for: their TPOT is undefined, and tokens per second follow usage"
            )
        if self.of_several_choices:
            yield (
                f"{self.of_several_choices} of {answers} answers have several choices, whose tokens come "
                "side by side and are counted together: their TPOT and ITL are undefined"
            )
        if self.with_hidden_reasoning:
            yield (
                f"In {self.with_hidden_reasoning} of {answers} answers usage counts reasoning of which the "
                "stream shows nothing: their TPOT is undefined"
            )
