"""Real conversations in the ShareGPT format: `[{"id": ..., "conversations": [{"from": ..., "value": ...}]}]`.

The rules are those of `vllm bench serve --dataset-name sharegpt`: conversations of two turns or more; the
first turn is the prompt, the length of the second is the number of output tokens; kept are prompts of 4 to
1024 tokens with outputs of 4 tokens or more and at most 2048 tokens together. When the user sets the output
length, that one counts and the lower limit on outputs does not apply.

Lengths are counted by a local tokenizer where there is one (`Context.count_text`), as vLLM does. Without it
they are estimated at 4 characters a token: close for English, too few for code and for most other languages.
(To ask a server for each of some 90 000 rows would take minutes before every run.)

Whole conversations, for scenarios that hold them, are read by `conversations`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.formats import BrokenRow
from vllm_locust.workloads.datasets.reading import Wanted, encoded, read
from vllm_locust.workloads.datasets.spool import MEMORY_BYTES, Spool
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prompt_set import Prompt, PromptSet, PromptSpool, refuse_input_len
from vllm_locust.workloads.scenario import Context, CountTokens

SMALL_DATASET = Path(__file__).parent / "data" / "sharegpt_small.json"

_MIN_TOKENS = 4
_MAX_PROMPT_TOKENS = 1024
_MAX_TOTAL_TOKENS = 2048
_CHARACTERS_PER_TOKEN = 4
_EXPECTED = (
    'expected is a ShareGPT file, [{"id": ..., "conversations": [{"from": ..., "value": ...}, ...]}, ...]'
)

_WANTED = Wanted("conversations", "conversations", _EXPECTED, tables=False)
_QUESTION, _ANSWER = ("human", "user"), ("gpt", "chatgpt", "assistant", "bing", "bard")


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is to be sent of a file, and what run.json says of it."""

    kept: Sequence[Prompt]
    """Without output lengths where the user has set them."""
    source: Mapping[str, Any]
    """`filtered` are well-formed conversations that vLLM's rules leave out, see `datasets.reading.read`."""


def sharegpt(name: str, context: Context, *, salt: bool = True) -> PromptSet:
    """The scenario of `context.dataset_path`, or of the small data set that comes with the package."""
    refuse_input_len(name, context)
    path = context.dataset_path or SMALL_DATASET
    dataset = read_dataset(path, context.count_text, _longest(context.max_tokens))
    source = {**dataset.source, "salted": salt}
    return PromptSet(name, "sharegpt", dataset.kept, context.max_tokens, source=source, salted=salt)


def _longest(lengths: Lengths | None) -> int | None:
    """What the filter takes for the length of the answers that the user asks for."""
    return None if lengths is None else lengths.largest or lengths.smallest


@lru_cache(maxsize=2)
def read_dataset(
    path: Path,
    count_text: CountTokens | None = None,
    max_tokens: int | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Dataset:
    """Read and filter a ShareGPT file, once per process; `max_tokens` replaces the lengths of the answers."""
    count = count_text or estimated_tokens
    spool = PromptSpool(memory_bytes)

    def keep(row: Mapping[str, Any]) -> bool:
        texts = [_text(turn) for turn in _turns(row)[:2]]
        if len(texts) < 2:
            return False
        prompt, answer = texts
        output_tokens = count(answer) if max_tokens is None else max_tokens
        if not is_kept(count(prompt), output_tokens, output_is_given=max_tokens is not None):
            return False
        spool.append(encoded(prompt), output_tokens if max_tokens is None else None)
        return True

    source = read(path, _WANTED, keep)
    if not source["kept"]:
        raise UsageError(
            f"{path}: none of its {source['rows']} rows is a conversation of two turns with a prompt of "
            f"{_MIN_TOKENS} to {_MAX_PROMPT_TOKENS} tokens and at most {_MAX_TOTAL_TOKENS} tokens in all; "
            f"{_EXPECTED}"
        )
    return Dataset(spool.prompts(), source)


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


class ConversationStore(Sequence[list[tuple[str, str]]]):
    """Whole conversations, each a list of (question, answer)."""

    def __init__(self, records: Sequence[bytes], source: Mapping[str, Any]) -> None:
        self.source = source
        """See `datasets.reading.read`."""
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, number: int) -> list[tuple[str, str]]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[tuple[str, str]]]: ...
    def __getitem__(self, number: int | slice) -> list[tuple[str, str]] | list[list[tuple[str, str]]]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return [(question, answer) for question, answer in orjson.loads(self._records[number])]


def conversations(context: Context) -> ConversationStore:
    """All conversations of `context.dataset_path`, or of the small data set that comes with the package."""
    return read_conversations(context.dataset_path or SMALL_DATASET)


@lru_cache(maxsize=2)
def read_conversations(path: Path, memory_bytes: int = MEMORY_BYTES) -> ConversationStore:
    """Whole conversations, once per process: each question (`human`, `user`) with the answer behind it.

    What comes before the first question is left out, and a conversation ends where its turns do not alternate
    or say nothing. Without a question and its answer it is filtered.
    """
    spool = Spool(memory_bytes)

    def keep(row: Mapping[str, Any]) -> bool:
        pairs = _pairs(_turns(row))
        if not pairs:
            return False
        try:
            spool.append(orjson.dumps(pairs))
        except TypeError:
            raise BrokenRow("half a character (a lone surrogate)") from None
        return True

    source = read(path, _WANTED, keep)
    if not source["kept"]:
        raise UsageError(
            f"{path}: none of its {source['rows']} rows has a question and an answer; {_EXPECTED}"
        )
    return ConversationStore(spool.records(), source)


def _pairs(turns: Sequence[Any]) -> list[tuple[str, str]]:
    """Questions and answers, from the first question on as long as they alternate."""
    spoken = [_role_and_text(turn) for turn in turns]
    first = next((n for n, (role, _) in enumerate(spoken) if role in _QUESTION), len(spoken))
    pairs = []
    for (asker, question), (answerer, answer) in zip(spoken[first::2], spoken[first + 1 :: 2], strict=False):
        if asker not in _QUESTION or answerer not in _ANSWER or not (question.strip() and answer.strip()):
            break
        pairs.append((question, answer))
    return pairs


def _role_and_text(turn: Any) -> tuple[str, str]:
    text = _text(turn)
    return str(turn["from"]).lower() if "from" in turn else "", text


def _text(turn: Any) -> str:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise BrokenRow("a turn without a text in 'value'")
    return text


def _turns(row: Mapping[str, Any]) -> list[Any]:
    turns = row.get("conversations")
    if isinstance(turns, list):
        return turns
    if "conversations" in row:
        raise BrokenRow(f"'conversations' is no list ({type(turns).__name__})")
    raise BrokenRow(f"no 'conversations', but {', '.join(map(repr, row)) or 'nothing'}")
