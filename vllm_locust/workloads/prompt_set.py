"""The prompts of a data set as a scenario: each of them once per pass, in an order drawn from the seed.

Each pass has another order, and each prompt a salt in front: a data set is the same in every run, and without
it a server's prefix cache would know the prompts from the run before. Where the user wants them as they were
written, only the passes after the first are salted.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.spool import MEMORY_BYTES, Records, Spool
from vllm_locust.workloads.draw import permuted, short_salt
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, PlannedRequest, Scenario

LONGEST_OUTPUT = (1 << 31) - 1
"""Tokens; what a number of the store can hold."""


class Prompt(NamedTuple):
    """A prompt, and how many tokens its answer had or is to have; None where nobody has said it."""

    prompt: str
    output_tokens: int | None


class Prompts(Sequence[Prompt]):
    """Prompts by number, most of them outside of memory where they are many."""

    __slots__ = ("_output_tokens", "_texts")

    def __init__(self, texts: Records, output_tokens: "array[int]") -> None:
        self._texts = texts
        self._output_tokens = output_tokens
        """0 where it is not known."""

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, number: int) -> Prompt: ...
    @overload
    def __getitem__(self, number: slice) -> list[Prompt]: ...
    def __getitem__(self, number: int | slice) -> Prompt | list[Prompt]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return Prompt(self._texts[number].decode(), self._output_tokens[number] or None)


class PromptSpool:
    """Takes prompts one after another."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._spool = Spool(memory_bytes)
        self._output_tokens = array("i")

    def append(self, text: bytes, output_tokens: int | None) -> None:
        """UsageError where there is no room for it."""
        self._spool.append(text)
        self._output_tokens.append(output_tokens or 0)

    def prompts(self) -> Prompts:
        """All that were appended; then nothing can be appended any more."""
        return Prompts(self._spool.records(), self._output_tokens)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Prompts that were written already."""

    name: str
    profile: str
    prompts: Sequence[Prompt]
    max_tokens: Lengths | None = None
    """The user's, in place of the prompts' own."""
    usual: Lengths = field(default_factory=lambda: Lengths.constant(128))
    """Where a prompt has none of its own."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """See `datasets.reading.read`."""
    salted: bool = True
    """In the first pass too."""

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        turn, position = divmod(index, len(self.prompts))
        text, output_tokens = self.prompts[permuted(position, len(self.prompts), self.name, seed, turn)]
        if self.max_tokens is not None or output_tokens is None:
            output_tokens = (self.max_tokens or self.usual).at(self.name, seed, index, "max_tokens")
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=f"{short_salt(self.name, seed, index)}: {text}" if self.salted or turn else text,
            max_tokens=output_tokens,
        )


def refuse_input_len(name: str, context: Context) -> None:
    """UsageError for `--input-len`, with which prompts that are written already do not go."""
    if context.input_len is not None:
        raise UsageError(
            f"--input-len does not go with scenario {name}, whose prompts are as long as they were written: "
            "leave it out, or take a synthetic scenario"
        )
