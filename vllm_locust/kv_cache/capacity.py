"""From a model and a GPU to tokens and requests: the numbers that the command prints.

Rule: what is assumed stands in one place with how far it may be off, and the result is told for both ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from vllm_locust.core.kv_size import usable_blocks
from vllm_locust.kv_cache.config import Config
from vllm_locust.kv_cache.pool import Pool, bytes_per_number

GIB = 1 << 30

REST_BYTES = 2 * GIB
"""What a GPU needs besides weights and KV cache: activations of the largest step, CUDA graphs, the context of
CUDA and NCCL. vLLM measures it at its start, this is a guess."""
REST_RANGE_BYTES = (1 * GIB, 4 * GIB)
"""As seen in vLLM's logs: about 1.5 GiB for dense models of 7 billion parameters, 3 GiB for 72 billion on
four GPUs; large mixtures of experts took up to 8."""

_SHORTEST = 1024
_ROWS = 8


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one GPU, in bytes."""

    total: float
    utilization: float
    weights: float
    """This GPU's share: matrices are cut in equal parts, the few numbers that every GPU has do not count."""
    source: str
    """Where the size of the weights comes from."""

    def for_cache(self, rest_bytes: float = REST_BYTES) -> float:
        """What is left for the KV cache; negative where the weights do not even fit."""
        return self.total * self.utilization - self.weights - rest_bytes


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of the requests that are asked about, in tokens."""

    input_len: int
    output_len: int

    @property
    def total(self) -> int:
        return self.input_len + self.output_len


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many blocks there are, and what tells so."""

    count: int
    least: int
    """The same with the most, and ..."""
    most: int
    """... with the least that the assumption may be off; all three alike where nothing is assumed."""

    @classmethod
    def exactly(cls, count: int) -> Self:
        return cls(count, count, count)


def blocks_of_memory(pool: Pool, memory: Memory) -> Blocks:
    least, most = REST_RANGE_BYTES
    count, worst, best = (
        max(pool.blocks_in(memory.for_cache(rest)), 0) for rest in (REST_BYTES, most, least)
    )
    return Blocks(count, worst, best)


def table_lengths(asked: int | None, longest: int | None) -> Sequence[int]:
    """Lengths for a table: doubled from 1024 to what the model takes, and the one that was asked about."""
    bound = longest or asked or _SHORTEST << (_ROWS - 1)
    doubled = [_SHORTEST << i for i in range(_ROWS) if _SHORTEST << i <= bound]
    return sorted({*doubled, *([asked] if asked else [])})


def longest_of(config: Config) -> int | None:
    """Positions that the model has, if the config says."""
    return config.number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def describe_blocks(
    pool: Pool, blocks: Blocks, lengths: Lengths | None, longest: int | None
) -> Mapping[str, Any]:
    """All that follows from a number of blocks, fit for JSON."""
    length = lengths.total if lengths is not None else longest or _SHORTEST
    asked = None if lengths is None else lengths.total
    usable, fewest, most = map(usable_blocks, (blocks.count, blocks.least, blocks.most))
    return {
        "num_gpu_blocks": blocks.count,
        "num_gpu_blocks_range": [blocks.least, blocks.most],
        "tokens": pool.tokens(usable, length),
        "tokens_range": [pool.tokens(fewest, length), pool.tokens(most, length)],
        "tokens_in_sequences_of": None if pool.shape.window is None else length,
        "kv_cache_bytes": blocks.count * pool.block_bytes,
        "requests": None if lengths is None else _requests(pool, usable, lengths),
        "table": [
            {
                "tokens": tokens,
                "blocks": pool.blocks_of(tokens),
                "bytes": pool.bytes_of(tokens),
                "max_concurrency": pool.concurrency(usable, tokens),
            }
            for tokens in table_lengths(asked, longest)
        ],
    }


def _requests(pool: Pool, blocks: int, lengths: Lengths) -> Mapping[str, Any]:
    mean = (
        pool.mean_concurrency(blocks, lengths.input_len, lengths.output_len) if lengths.output_len else None
    )
    return {
        "input_len": lengths.input_len,
        "output_len": lengths.output_len,
        "bytes": pool.bytes_of(lengths.total),
        "max_concurrency": pool.concurrency(blocks, lengths.total),
        "mean_concurrency": mean,
    }


def describe_model(config: Config, pool: Pool) -> Mapping[str, Any]:
    """What the config says, fit for JSON."""
    shape = pool.shape
    return {
        "config": str(config.path),
        "model_type": config.model_type,
        "layers": shape.layers,
        "full_layers": shape.full_layers,
        "windowed_layers": shape.windowed_layers,
        "window": shape.window,
        "mla": shape.is_latent,
        "num_attention_heads": shape.attention_heads,
        "num_kv_heads": shape.kv_heads,
        "num_kv_heads_per_gpu": pool.heads,
        "head_dim": shape.head_dim,
        "kv_cache_dtype": pool.dtype,
        "tensor_parallel_size": pool.tensor_parallel_size,
        "block_size": pool.block_size,
        "bytes_per_token": pool.bytes_per_token,
        "formula": formula(pool),
    }


def formula(pool: Pool) -> str:
    """How the bytes of a token come about: `2 x 32 layers x 8 KV heads x 128 x 2 bytes`."""
    shape = pool.shape
    of_number = f"{bytes_per_number(pool.dtype):g} byte{'s' * (bytes_per_number(pool.dtype) != 1)}"
    if shape.is_latent:
        return f"{shape.layers} layers x {shape.head_dim} x {of_number}"
    heads = f"{pool.heads} KV head{'s' * (pool.heads != 1)}"
    return f"2 x {shape.layers} layers x {heads} x {shape.head_dim} x {of_number}"
