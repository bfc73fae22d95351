"""Real conversations in the ShareGPT format: `[{"id": ..., "conversations": [{"from": ..., "value": ...}]}]`.

The rules are those of `vllm bench serve --dataset-name sharegpt`: conversations of two turns or more; the
first turn is the prompt, the length of the second is the number of output tokens; kept are prompts of 4 to
1024 tokens with outputs of 4 tokens or more and at most 2048 tokens together. When the user sets the output
length, that one counts and the lower limit on outputs does not apply.

Lengths are counted by a local tokenizer where there is one (`Context.count_text`), as vLLM does. Without it
they are estimated at 4 characters a token: close for English, too few for code and for most other languages.
(To ask a server for each of some 90 000 rows would take minutes before every run.)

The first pass over the data takes each conversation once, in an order drawn from the seed, with its prompt
unchanged. Each further pass has another order, and a salt in front of each prompt, so that no cache knows it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import permuted, salt
from vllm_locust.workloads.scenario import Context, CountTokens, PlannedRequest, Scenario

SMALL_DATASET = Path(__file__).parent / "data" / "sharegpt_small.json"

_MIN_TOKENS = 4
_MAX_PROMPT_TOKENS = 1024
_MAX_TOTAL_TOKENS = 2048
_CHARACTERS_PER_TOKEN = 4
_EXPECTED = (
    'expected is a ShareGPT file, [{"id": ..., "conversations": [{"from": ..., "value": ...}, ...]}, ...]'
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt, and how many tokens its answer had (or is to have)."""

    prompt: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a file holds, sorted out: `kept` to be sent, the others only counted."""

    kept: tuple[Conversation, ...]
    filtered: int
    """Well-formed conversations that vLLM's rules leave out."""
    skipped: int
    """Rows that are no conversation at all."""


@dataclass(frozen=True, slots=True)
class ShareGPT:
    """The conversations of a data set, each once per pass."""

    name: str
    dataset: Dataset
    profile: str = "sharegpt"

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        kept = self.dataset.kept
        turn, position = divmod(index, len(kept))
        conversation = kept[permuted(position, len(kept), self.name, seed, turn)]
        unique = f"{salt(self.name, seed, index)}: " if turn else ""
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.profile,
            prompt=unique + conversation.prompt,
            max_tokens=conversation.output_tokens,
        )


def sharegpt(name: str, context: Context) -> ShareGPT:
    """The scenario of `context.dataset_path`, or of the small data set that comes with the package."""
    if context.input_len is not None:
        raise UsageError(
            f"--input-len does not go with scenario {name}, whose prompts are as long as they were written: "
            "leave it out, or take a synthetic scenario"
        )
    return ShareGPT(
        name, read_dataset(context.dataset_path or SMALL_DATASET, context.count_text, context.max_tokens)
    )


@lru_cache(maxsize=2)
def read_dataset(path: Path, count_text: CountTokens | None = None, max_tokens: int | None = None) -> Dataset:
    """Read and filter a ShareGPT file, once per process; `max_tokens` replaces the lengths of the answers."""
    rows = _rows(path)
    turns = [_first_turns(row) for row in rows]
    skipped = turns.count(None)
    if skipped * 2 > len(rows):
        raise UsageError(f"{path}: {skipped} of {len(rows)} rows are no conversations; {_EXPECTED}")
    kept = tuple(_conversations(turns, count_text or estimated_tokens, max_tokens))
    if not kept:
        raise UsageError(
            f"{path}: none of its {len(rows)} rows is a conversation of two turns with a prompt of "
            f"{_MIN_TOKENS} to {_MAX_PROMPT_TOKENS} tokens and at most {_MAX_TOTAL_TOKENS} tokens in all; "
            f"{_EXPECTED}"
        )
    return Dataset(kept, filtered=len(rows) - skipped - len(kept), skipped=skipped)


def estimated_tokens(text: str) -> int:
    """Four characters a token, rounded up."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def is_kept(prompt_tokens: int, output_tokens: int, output_is_given: bool = False) -> bool:
    """Whether vLLM's benchmark would send a conversation of these lengths."""
    return (
        _MIN_TOKENS <= prompt_tokens <= _MAX_PROMPT_TOKENS
        and (output_is_given or output_tokens >= _MIN_TOKENS)
        and prompt_tokens + output_tokens <= _MAX_TOTAL_TOKENS
    )


def _conversations(
    turns: Sequence[Sequence[str] | None], count: CountTokens, max_tokens: int | None
) -> Iterator[Conversation]:
    for values in turns:
        if values is None or len(values) < 2:
            continue
        prompt, answer = values
        output_tokens = count(answer) if max_tokens is None else max_tokens
        if is_kept(count(prompt), output_tokens, output_is_given=max_tokens is not None):
            yield Conversation(prompt, output_tokens)


def _first_turns(row: Any) -> Sequence[str] | None:
    """The texts of the first two turns (or of the only one), None for a row that is no conversation."""
    turns = row.get("conversations") if isinstance(row, dict) else None
    if not isinstance(turns, list):
        return None
    values = [turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2]]
    texts = [value for value in values if isinstance(value, str)]
    return texts if len(texts) == len(values) else None


def _rows(path: Path) -> list[Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the data set cannot be read ({error.strerror}); {_EXPECTED}") from None
    try:
        rows = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path} is {_what_it_is(path, content)} ({error}); {_EXPECTED}") from None
    if not isinstance(rows, list):
        raise UsageError(f"{path}: the file holds one {type(rows).__name__}, not a list of rows; {_EXPECTED}")
    return rows


def _what_it_is(path: Path, content: bytes) -> str:
    if path.suffix == ".csv":
        return "a CSV file, not JSON"
    first_line, _, rest = content.strip().partition(b"\n")
    if rest and first_line.startswith(b"{") and first_line.rstrip().endswith(b"}"):
        return "a file of JSON lines, not one JSON list"
    return "no valid JSON"
