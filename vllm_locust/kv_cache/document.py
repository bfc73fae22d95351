"""Everything that the command prints, as one document fit for JSON: the model, memory, a server, what fits.

Rule: a server that runs tells the truth: where there is one, what fits is computed of its blocks, and the
calculation stands beside it.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.capacity import (
    REST_BYTES,
    REST_RANGE_BYTES,
    Blocks,
    Lengths,
    Memory,
    blocks_of_memory,
    describe_blocks,
    describe_model,
    longest_of,
)
from vllm_locust.kv_cache.config import Config, read_config
from vllm_locust.kv_cache.options import size_of
from vllm_locust.kv_cache.pool import Pool
from vllm_locust.kv_cache.server import EngineCache
from vllm_locust.kv_cache.shape import cache_shape
from vllm_locust.kv_cache.weights import weights_of

_DEFAULT_BLOCK_SIZE = 16


def read_model(args: argparse.Namespace, engines: Sequence[EngineCache]) -> tuple[Config, Pool]:
    """The model and its cache with these options. UsageError where the config or the options are wrong."""
    config = read_config(args.model)
    shape = cache_shape(config)
    parallel = args.tensor_parallel_size
    if (why := shape.problem_with(parallel)) is not None:
        raise UsageError(f"--tensor-parallel-size {parallel} does not go with {config.path}: {why}")
    block_size = args.block_size or (engines[0].block_size if engines else _DEFAULT_BLOCK_SIZE)
    return config, Pool(shape, _kv_dtype(args, config), block_size, parallel)


def model_document(
    args: argparse.Namespace, config: Config, pool: Pool, engines: Sequence[EngineCache]
) -> dict[str, Any]:
    """What is known of a model, and of a server that serves it."""
    memory, calculated = _calculated(args, config, pool)
    document: dict[str, Any] = {"model": describe_model(config, pool)}
    if memory is not None:
        document["memory"] = _of_memory(memory)
    if engines:
        document |= server_document(args, engines)
        document["comparison"] = _comparison(pool, engines, calculated)
    known = _fewest(engines) if engines else calculated
    if known is not None:
        longest = args.max_model_len or longest_of(config)
        document["fits"] = describe_blocks(pool, known, _lengths(args), longest)
    return document


def server_document(args: argparse.Namespace, engines: Sequence[EngineCache]) -> dict[str, Any]:
    """What a server said, and how many requests of the length that is asked about an engine holds."""
    lengths = _lengths(args)
    return {
        "server": [
            {
                "engine": engine.engine,
                "num_gpu_blocks": engine.num_gpu_blocks,
                "block_size": engine.block_size,
                "cache_dtype": engine.cache_dtype,
                "tokens": engine.capacity_tokens,
                "max_model_len": engine.max_model_len,
                "max_concurrency": engine.max_concurrency,
                "asked_len": None if lengths is None else lengths.total,
                "asked_concurrency": None if lengths is None else engine.concurrency(lengths.total),
            }
            for engine in engines
        ]
    }


def _dtype(args: argparse.Namespace, config: Config) -> str:
    """What vLLM computes with: models of 32 bits run in 16 unless one insists."""
    if args.dtype != "auto":
        return str(args.dtype)
    return "bfloat16" if config.dtype == "float32" else config.dtype


def _kv_dtype(args: argparse.Namespace, config: Config) -> str:
    if args.kv_cache_dtype != "auto":
        return str(args.kv_cache_dtype)
    known = config.quantization
    if stored := known.get("kv_cache_quant_algo") or known.get("kv_cache_scheme"):
        # The checkpoint comes with a quantised cache.
        four = stored.get("num_bits") == 4 if isinstance(stored, Mapping) else "4" in str(stored)
        return "nvfp4" if four else "fp8"
    return _dtype(args, config)


def _lengths(args: argparse.Namespace) -> Lengths | None:
    if args.input_len is not None:
        return Lengths(args.input_len, args.output_len or 0)
    return None if args.max_model_len is None else Lengths(args.max_model_len, 0)


def _calculated(args: argparse.Namespace, config: Config, pool: Pool) -> tuple[Memory | None, Blocks | None]:
    """How a GPU's memory is shared out, where that is asked, and how many blocks there are, if known."""
    if args.num_gpu_blocks:
        return None, Blocks.exactly(args.num_gpu_blocks)
    if args.kv_cache_memory_bytes:
        return None, Blocks.exactly(pool.blocks_in(size_of(args.kv_cache_memory_bytes)))
    if not args.gpu_memory:
        return None, None
    weights = weights_of(config, pool.shape, _dtype(args, config), args.weights_gb)
    share = weights.bytes / args.tensor_parallel_size
    memory = Memory(size_of(args.gpu_memory), args.gpu_memory_utilization, share, weights.source)
    return memory, blocks_of_memory(pool, memory)


def _fewest(engines: Sequence[EngineCache]) -> Blocks:
    """Of the engine with the fewest: requests do not move between engines."""
    return Blocks.exactly(min(engine.num_gpu_blocks for engine in engines))


def _comparison(pool: Pool, engines: Sequence[EngineCache], calculated: Blocks | None) -> Mapping[str, Any]:
    told = _fewest(engines).count
    compared: dict[str, Any] = {"kv_cache_bytes": told * pool.block_bytes}
    if calculated is not None:
        compared |= {"num_gpu_blocks": calculated.count, "off": calculated.count / told - 1}
    return compared


def _of_memory(memory: Memory) -> Mapping[str, Any]:
    return {
        "gpu_memory_bytes": memory.total,
        "gpu_memory_utilization": memory.utilization,
        "weights_bytes": memory.weights,
        "weights_source": memory.source,
        "assumed_rest_bytes": REST_BYTES,
        "assumed_rest_range_bytes": REST_RANGE_BYTES,
        "kv_cache_bytes": memory.for_cache(),
    }
