"""Synthetic prompts: one word repeated behind a salt that no other request has, or so many tokens of words.

The salt is the very first thing of a prompt: a prefix cache works in blocks from the start, so two requests
never share a block of the user's text. The same seed gives the same prompts again: for a second run against a
server that still holds the first one's cache, take another seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import salt
from vllm_locust.workloads.filler import Filler, Segment, filler
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, PlannedRequest, Scenario

_INSTRUCTION = (
    "Write a long story in which the following refrain returns in every chapter, "
    "and keep adding chapters until you are asked to stop. The refrain:"
)
_WORD = " time"


@dataclass(frozen=True, slots=True)
class TextProfile:
    """A prompt of `repetitions` words behind a salt and an instruction of some 45 tokens."""

    name: str
    profile: str
    repetitions: int
    max_tokens: Lengths | int
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request's body, `{"temperature": 0.7}`."""

    def __post_init__(self) -> None:
        if self.repetitions < 1:
            raise UsageError(f"scenario {self.name}: repetitions must be at least 1")

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=salt(self.name, seed, index) + _body(self.repetitions),
            max_tokens=_output(self.max_tokens).at(self.name, seed, index, "max_tokens"),
            extra=self.extra,
        )

    def with_options(self, context: Context) -> "TextProfile | RandomText":
        """The profile with the user's `max_tokens` and `input_len` in place of its own lengths."""
        output = context.max_tokens or _output(self.max_tokens)
        if context.input_len is None:
            return replace(self, max_tokens=output)
        return random_text(self.name, context, context.input_len, output, self.profile, self.extra)


@dataclass(frozen=True, slots=True)
class RandomText:
    """Prompts and answers of drawn lengths, every prompt different from its first words on."""

    name: str
    profile: str
    input_len: Lengths
    max_tokens: Lengths
    filler: Filler
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        tokens = self.input_len.at(self.name, seed, index, "input_len")
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=self.filler.prompt([Segment(tokens, (self.name, seed, index))]),
            max_tokens=self.max_tokens.at(self.name, seed, index, "max_tokens"),
            prompt_tokens=tokens if self.filler.exact else None,
            extra=self.extra,
        )


def random_text(
    name: str,
    context: Context,
    input_len: Lengths,
    output_len: Lengths,
    profile: str | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    exact: bool = False,
) -> RandomText:
    """Prompts and answers of these lengths, unless the user's options say otherwise; `exact`: or none."""
    lengths = context.input_len or input_len
    filled = filler(context, lengths, exact=exact)
    lengths = lengths.above(filled.smallest_tokens)
    return RandomText(name, profile or name, lengths, context.max_tokens or output_len, filled, extra or {})


def _output(max_tokens: Lengths | int) -> Lengths:
    return Lengths.constant(max_tokens) if isinstance(max_tokens, int) else max_tokens


@lru_cache(maxsize=64)
def _body(repetitions: int) -> str:
    return f": {_INSTRUCTION}{_WORD * repetitions}"
