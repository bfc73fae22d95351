"""`vllm-locust kv-cache`: how many tokens and requests fit into a GPU's memory."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vllm_locust.kv_cache.options import check, declare

if TYPE_CHECKING:
    from vllm_locust.kv_cache.pool import Pool

DESCRIPTION = """\
How many tokens, blocks and requests a GPU's memory holds: from a model's config.json (GQA, MLA, sliding
windows, quantised KV caches, tensor parallelism), or as a running vLLM tells it, or both beside each other.
Runs no model and downloads nothing.
"""

EXAMPLES = """\
examples:
  vllm-locust kv-cache models/Llama-3-8B                       what a token takes
  vllm-locust kv-cache models/Llama-3-8B --gpu-memory 80GB --input-len 3500 --output-len 500
  vllm-locust kv-cache qwen72b/config.json --gpu-memory 80GB --tensor-parallel-size 4 --kv-cache-dtype fp8
  vllm-locust kv-cache --url http://localhost:8000             what a server has
  vllm-locust kv-cache models/Llama-3-8B --url http://localhost:8000 --gpu-memory 80GB
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    declare(parser)


def run(args: argparse.Namespace) -> int:
    """Print what fits. UsageError with all that is wrong with the options, the config or the server."""
    from vllm_locust.kv_cache.document import model_document, read_model, server_document
    from vllm_locust.kv_cache.server import ask_server

    check(args)
    engines = ask_server(args.url) if args.url else ()
    if args.model is None:
        document, pool = server_document(args, engines), None
    else:
        config, pool = read_model(args, engines)
        document = model_document(args, config, pool, engines)
    if args.json:
        import json

        print(json.dumps(document, indent=2))
    else:
        print("\n".join(_lines(document, pool)).lstrip("\n"))
    return 0


def _lines(document: Mapping[str, Any], pool: "Pool | None") -> Sequence[str]:
    from vllm_locust.kv_cache import text

    lines: list[str] = []
    if pool is not None:
        lines += text.render_model(document["model"], pool.shape)
    if "memory" in document:
        lines += text.render_memory(document["memory"])
    if "server" in document:
        lines += text.render_server(document["server"], document.get("comparison"))
    if pool is not None and "fits" in document:
        lines += text.render_blocks(document["fits"], pool.block_size)
        lines += text.assumptions("memory" in document, pool.shape.window is not None)
    return lines
