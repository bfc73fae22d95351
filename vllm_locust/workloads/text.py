"""Synthetic prompts: one word repeated, behind a salt that no other request has.

The salt is the very first thing of a prompt: a prefix cache works in blocks from the start, so two requests
never share a block of the user's text. The same seed gives the same prompts again: for a second run against a
server that still holds the first one's cache, take another seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import fraction, salt
from vllm_locust.workloads.exact import ExactPrompts, exact_prompts
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
    max_tokens: int
    range_ratio: float = 0.0
    """Output tokens vary uniformly within max_tokens * (1 +- range_ratio); 0 <= range_ratio < 1."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request's body, `{"temperature": 0.7}`."""
    exact: ExactPrompts | None = None
    """Takes the place of the repeated word: prompts of an exact number of tokens."""

    def __post_init__(self) -> None:
        problems = []
        if self.repetitions < 1 or self.max_tokens < 1:
            problems.append(f"scenario {self.name}: repetitions and max_tokens must be at least 1")
        if not 0 <= self.range_ratio < 1:
            problems.append(f"scenario {self.name}: range_ratio is {self.range_ratio}, allowed is 0 <= r < 1")
        if problems:
            raise UsageError(*problems)

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=self._prompt(seed, index),
            max_tokens=self._max_tokens(seed, index),
            prompt_tokens=self.exact.tokens if self.exact else None,
            extra=self.extra,
        )

    def with_options(self, context: Context) -> "TextProfile":
        """The profile with the user's `max_tokens` and `input_len` in place of its own lengths."""
        profile = replace(self, max_tokens=context.max_tokens or self.max_tokens)
        if context.input_len is None:
            return profile
        if context.count_tokens is None:
            raise UsageError(
                "--input-len needs a count of tokens: a server that answers /tokenize, or --tokenizer PATH"
            )
        return replace(profile, exact=exact_prompts(context.input_len, context.count_tokens))

    def _prompt(self, seed: int, index: int) -> str:
        if self.exact:
            return self.exact.prompt(self.name, seed, index)
        return salt(self.name, seed, index) + _body(self.repetitions)

    def _max_tokens(self, seed: int, index: int) -> int:
        if not self.range_ratio:
            return self.max_tokens
        offset = 2 * fraction(self.name, seed, index, "max_tokens") - 1
        return max(1, round(self.max_tokens * (1 + self.range_ratio * offset)))


@lru_cache(maxsize=64)
def _body(repetitions: int) -> str:
    return f": {_INSTRUCTION}{_WORD * repetitions}"
