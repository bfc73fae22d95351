"""What is odd about answers that are ok: counted, and said in sentences.

Rule: a sentence says what was seen. What may be behind it is told as a possibility, with all the others that
the counts leave open.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from vllm_locust.core.record import RequestRecord


@dataclass(slots=True)
class Oddities:
    """Counts of successful requests in the window."""

    in_one_piece: int = 0
    """Their events came all at once, see `RequestRecord.in_one_piece`, ..."""
    perhaps_read_late: int = 0
    """... and that may be so because they were read late."""
    of_several_tokens: int = 0
    """They have a TPOT, or came in one piece."""
    asked_for_exact_length: int = 0
    """The server was asked for an exact number of tokens, ..."""
    shorter_than_asked: int = 0
    """... and counted fewer."""
    usage_below_stream: int = 0
    """Usage counts fewer tokens than events brought some."""
    usage_above_asked: int = 0
    """Usage counts more tokens than were asked for."""

    def add(self, record: RequestRecord) -> None:
        self.in_one_piece += bool(record.in_one_piece)
        self.perhaps_read_late += bool(record.perhaps_read_late)
        tokens, most = record.output_tokens, record.max_tokens
        self.of_several_tokens += bool(record.later_tokens or record.in_one_piece)
        if tokens is None or record.tokens_counted:
            return
        if tokens < record.visible_events:
            self.usage_below_stream += 1
            return  # how long the answer was is not known
        if most is not None:
            self.usage_above_asked += bool(tokens > most * record.choices)
            self.asked_for_exact_length += record.exact_length
            self.shorter_than_asked += bool(record.exact_length and tokens < most * record.choices)

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
        if self.usage_below_stream:
            yield (
                f"In {self.usage_below_stream} of {answers} answers usage contradicts the stream: it counts "
                "fewer tokens than there were events with output. TPOT and tokens per second follow usage"
            )
        if self.usage_above_asked:
            yield (
                f"In {self.usage_above_asked} of {answers} answers usage counts more tokens than were asked "
                "for. TPOT and tokens per second follow usage"
            )
