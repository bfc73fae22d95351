"""The options of `vllm-locust kv-cache`: what they are, and what is wrong with them."""

import argparse
from collections.abc import Iterator

from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.pool import DTYPES, KV_DTYPES

# The least that each may be.
_WHOLE = {
    "tensor_parallel_size": 1,
    "block_size": 1,
    "num_gpu_blocks": 1,
    "input_len": 1,
    "output_len": 0,
    "max_model_len": 1,
}
_SIZES = ("gpu_memory", "kv_cache_memory_bytes")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options; where vLLM has one, its name and meaning are used."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="A folder with a config.json, that file, or the name of a model in the Hugging Face cache.",
    )
    parser.add_argument(
        "--url", metavar="URL", help="Ask a running vLLM (its /metrics), such as http://localhost:8000."
    )
    parser.add_argument("--input-len", metavar="N", type=int, help="Tokens of a prompt.")
    parser.add_argument("--output-len", metavar="N", type=int, help="Tokens of an answer.")
    parser.add_argument(
        "--max-model-len", metavar="N", type=int, help="Tokens of a request at most (the model's positions)."
    )
    parser.add_argument(
        "--tensor-parallel-size",
        "-tp",
        metavar="N",
        type=int,
        default=1,
        help="GPUs that share the model (1).",
    )
    parser.add_argument(
        "--dtype", default="auto", help="Of weights and activations (auto: the checkpoint's, in 16 bits)."
    )
    parser.add_argument(
        "--kv-cache-dtype", metavar="DTYPE", default="auto", help=f"One of {', '.join(KV_DTYPES)}."
    )
    parser.add_argument(
        "--block-size", metavar="N", type=int, help="Tokens of a block (16; of a server, what it says)."
    )
    parser.add_argument("--json", action="store_true", help="Print the same numbers as one JSON document.")
    _declare_memory(parser.add_argument_group("memory"))


def _declare_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--gpu-memory",
        metavar="SIZE",
        help="Of one GPU: 80GB, 24G, 40000MB. Units are powers of 1024, as makers of cards use them.",
    )
    group.add_argument(
        "--gpu-memory-utilization",
        metavar="RATIO",
        type=float,
        default=0.9,
        help="The part of it that vLLM takes (0.9; newer versions of vLLM take 0.92 unless told).",
    )
    group.add_argument(
        "--weights-gb",
        metavar="X",
        type=float,
        help="Size of all the weights in 10^9 bytes (from their files).",
    )
    group.add_argument(
        "--kv-cache-memory-bytes",
        metavar="SIZE",
        help="The KV cache's own size, in place of all of these: 16G.",
    )
    group.add_argument(
        "--num-gpu-blocks", metavar="N", type=int, help="The number of blocks, in place of any memory."
    )


def check(args: argparse.Namespace) -> None:
    """Raise UsageError with a sentence for each option that is wrong."""
    problems = [*_missing(args), *_wrong_numbers(args), *_wrong_words(args)]
    if problems:
        raise UsageError(*problems)


def size_of(text: str) -> float:
    """Bytes of `80GB`, `80G`, `80GiB` (the same), `1024`. ValueError for what is none."""
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = _UNITS.get(number[-1:], 1)
    value = float(number[:-1] if unit > 1 else number) * unit
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _missing(args: argparse.Namespace) -> Iterator[str]:
    if args.model is None and not args.url:
        yield "Name a model (a folder with a config.json), a running server (--url), or both"
    if args.output_len is not None and args.input_len is None:
        yield "--output-len needs --input-len, the length of the prompts"
    ways = [name for name in (*_SIZES, "num_gpu_blocks") if getattr(args, name)]
    if len(ways) > 1:
        yield f"{' and '.join(map(_option, ways))} exclude each other: each says how much fits"
    elif ways and args.model is None:
        yield f"{_option(ways[0])} says how much fits of a model: name one"


def _wrong_numbers(args: argparse.Namespace) -> Iterator[str]:
    for name, least in _WHOLE.items():
        if (value := getattr(args, name)) is not None and value < least:
            yield f"{_option(name)} {value} must be at least {least}"
    if not 0 < args.gpu_memory_utilization <= 1:
        yield f"--gpu-memory-utilization {args.gpu_memory_utilization:g} must be above 0 and at most 1"
    if args.weights_gb is not None and not 0 < args.weights_gb < float("inf"):
        yield f"--weights-gb {args.weights_gb:g} must be more than 0"


def _wrong_words(args: argparse.Namespace) -> Iterator[str]:
    for name, allowed in (("dtype", DTYPES), ("kv_cache_dtype", KV_DTYPES)):
        if (value := getattr(args, name)) not in allowed:
            yield f"{_option(name)} {value!r} is not counted here: it is one of {', '.join(allowed)}"
    for name in _SIZES:
        value = getattr(args, name)
        try:
            size_of("1" if value is None else value)
        except ValueError:
            yield f"{_option(name)} {value!r} is no size, such as 80GB"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
