"""What scenarios are built upon in tests: counters that need no server."""

from pathlib import Path
from zlib import crc32

from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context


def count_words(prompt: str) -> int:
    return 5 + len(prompt.split())


def encode_words(text: str) -> list[int]:
    return [crc32(word.encode()) & 0xFFFF for word in text.split()]


def context(
    *,
    endpoint_type: str = "chat",
    max_tokens: str | None = None,
    input_len: str | None = None,
    dataset_path: Path | None = None,
    **parameters: str,
) -> Context:
    """A context with everything a scenario may ask for."""
    return Context(
        dataset_path=dataset_path,
        max_tokens=None if max_tokens is None else Lengths.parse(max_tokens),
        input_len=None if input_len is None else Lengths.parse(input_len),
        count_tokens=count_words,
        encode=encode_words,
        endpoint_type=endpoint_type,
        parameters=parameters,
    )
