"""Prompts of the user's own: a column of JSON lines, JSON, CSV or parquet, with output lengths beside it.

`output_len` (or vLLM's `output_tokens`) of a row is how many tokens are asked for; rows may be without.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.formats import BrokenRow
from vllm_locust.workloads.datasets.reading import Wanted, encoded, read, text_of
from vllm_locust.workloads.datasets.spool import MEMORY_BYTES
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prompt_set import (
    LONGEST_OUTPUT,
    Prompts,
    PromptSet,
    PromptSpool,
    refuse_input_len,
)
from vllm_locust.workloads.scenario import Context

OUTPUT_COLUMNS = ("output_len", "output_tokens")


def prompt_file(
    name: str, context: Context, column: str, output_len: Lengths, *, salt: bool = True
) -> PromptSet:
    """The scenario of `context.dataset_path`; `output_len` is for rows that do not say theirs."""
    refuse_input_len(name, context)
    if context.dataset_path is None:
        raise UsageError(
            f"scenario {name} needs --dataset-path: a file of JSON lines, JSON, CSV or parquet with a column "
            f"{column!r}, or hf:ORG/NAME"
        )
    prompts, source = read_prompts(context.dataset_path, column)
    source = {**source, "salted": salt}
    return PromptSet(name, name, prompts, context.max_tokens, output_len, source, salt)


@lru_cache(maxsize=2)
def read_prompts(
    path: Path, column: str = "prompt", memory_bytes: int = MEMORY_BYTES
) -> tuple[Prompts, Mapping[str, Any]]:
    """All prompts of a file, once per process, and where they are from (see `datasets.reading.read`)."""
    spool = PromptSpool(memory_bytes)
    wanted = Wanted(
        "prompts",
        column,
        f"expected are rows with a text in {column!r} (--set column=NAME takes another), and a number in "
        "'output_len' or nothing",
        OUTPUT_COLUMNS,
    )

    def keep(row: Mapping[str, Any]) -> bool:
        text = encoded(text_of(row, column))
        spool.append(text, _output_len(row))
        return True

    source = read(path, wanted, keep)
    if not source["kept"]:
        raise UsageError(f"{path} has no rows; {wanted.expected}")
    return spool.prompts(), source


def _output_len(row: Mapping[str, Any]) -> int | None:
    for column in OUTPUT_COLUMNS:
        value = row.get(column)
        if value is None or value == "":
            continue
        tokens = _whole(value)
        if not 1 <= tokens <= LONGEST_OUTPUT:
            raise BrokenRow(f"{column!r} is {str(value)[:40]!r}, not a whole number of at least 1")
        return tokens
    return None


def _whole(value: Any) -> int:
    """The whole number that a value is or says, 128.0 too; 0 for anything else."""
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if number.is_integer() else 0
