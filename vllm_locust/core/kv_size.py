"""How large the KV cache of each engine is, of what the labels of `vllm:cache_config_info` say.

Rule: blocks are those of one engine, or not known. Under data parallelism vLLM writes the sum over all
engines into the `num_gpu_blocks` of each; `kv_cache_size_tokens`, which newer ones have, is each engine's own
and tells which of the two a number is. Both count the null block, which no request ever gets; the usage
that vLLM tells does not: it is the share of `usable_blocks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

_ALIKE = 0.1
"""vLLM counts tokens in sequences of `max_model_len`, whose last block may have places to spare."""


@dataclass(frozen=True, slots=True)
class Told:
    """The sizes in the labels of one engine; None is not said."""

    num_gpu_blocks: int | None = None
    block_size: int | None = None
    kv_cache_size_tokens: int | None = None

    @classmethod
    def of_labels(cls, labels: Mapping[str, str]) -> Self:
        """What is no number ("None" until the cache is made) is not said."""
        return cls(*(_whole(labels.get(name)) for name in cls.__slots__))

    def sizes(self) -> dict[str, float]:
        """Those that are known."""
        known = ((name, getattr(self, name)) for name in type(self).__slots__)
        return {name: float(size) for name, size in known if size is not None}


def usable_blocks(num_gpu_blocks: int) -> int:
    """Those that requests can have: one is vLLM's null block."""
    return max(num_gpu_blocks - 1, 0)


def engine_of(labels: Mapping[str, str]) -> str:
    """Its number, behind its replica where Ray has several on a page; empty where there is none."""
    return "/".join(part for part in (labels.get("ReplicaId"), labels.get("engine")) if part)


def blocks_of_each(engines: Mapping[str, Told]) -> dict[str, Told]:
    """The same engines of one page, each with its own blocks, or with None where that cannot be told.

    By `engine_of`: only the engines of one replica are data-parallel.
    """
    replicas: dict[str, dict[str, Told]] = {}
    for name, told in engines.items():
        replicas.setdefault(name.rpartition("/")[0], {})[name] = told
    return {name: told for replica in replicas.values() for name, told in _of_a_replica(replica).items()}


def _of_a_replica(engines: Mapping[str, Told]) -> Mapping[str, Told]:
    if len(engines) < 2 or len({told.num_gpu_blocks for told in engines.values()}) > 1:
        return engines
    return {
        name: replace(told, num_gpu_blocks=_own_blocks(told, len(engines))) for name, told in engines.items()
    }


def _own_blocks(told: Told, engines: int) -> int | None:
    """Of a number that may be the sum over so many engines."""
    blocks, size, tokens = told.num_gpu_blocks, told.block_size, told.kv_cache_size_tokens
    if not (blocks and size and tokens):
        return None
    for parts in (1, engines):
        if abs(blocks / parts * size / tokens - 1) <= _ALIKE:
            return blocks // parts
    return None  # layers differ in what they keep, so that tokens do not tell blocks


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
