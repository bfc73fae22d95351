"""The numbers of `vllm-locust kv-cache` in words. Computes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from vllm_locust.kv_cache.capacity import REST_BYTES, REST_RANGE_BYTES
from vllm_locust.kv_cache.shape import CacheShape

_WIDTH = 100
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """`128 KiB`."""
    number, unit = float(count), 0
    while abs(number) >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.{0 if number == round(number) else 2}f} {_UNITS[unit]}"


def attention_words(shape: CacheShape) -> str:
    """In a few words: `GQA, 8 KV heads of 128`."""
    if shape.is_latent:
        return f"MLA, one vector of {shape.head_dim}"
    kind = "MHA" if shape.kv_heads == shape.attention_heads else "MQA" if shape.kv_heads == 1 else "GQA"
    return f"{kind}, {shape.kv_heads} KV head{'s' * (shape.kv_heads > 1)} of {shape.head_dim}"


def render_model(model: Mapping[str, Any], shape: CacheShape) -> Iterator[str]:
    """What the config says, and the bytes of a token."""
    yield from _title(f"{model['model_type'] or 'Model'} in {model['config']}")
    yield _line("attention", attention_words(shape))
    yield _line("layers", _layer_words(model))
    parallel = model["tensor_parallel_size"]
    if parallel > 1:
        kept = "all of the vector" if shape.is_latent else f"{model['num_kv_heads_per_gpu']} of the KV heads"
        yield _line("on each GPU", f"{kept}, with tensor parallelism of {parallel}")
    yield _line("KV cache type", model["kv_cache_dtype"])
    where = " on each GPU" if parallel > 1 else ""
    yield _line("a token takes", f"{model['bytes_per_token']} bytes{where} = {model['formula']}")
    if model["windowed_layers"] and model["full_layers"]:
        beyond = model["bytes_per_token"] * model["full_layers"] // model["layers"]
        yield _line("", f"{beyond} bytes behind the first {model['window']} tokens of a sequence")
    elif model["windowed_layers"]:
        yield _line("", f"none behind the first {model['window']} tokens of a sequence")


def _layer_words(model: Mapping[str, Any]) -> str:
    if not model["windowed_layers"]:
        return f"{model['layers']}, all of them keep every token"
    window = f"{model['windowed_layers']} keep {model['window']} tokens"
    return f"{model['layers']}: {model['full_layers']} keep every token, {window}"


def render_memory(memory: Mapping[str, Any]) -> Iterator[str]:
    """How the memory of a GPU is shared out."""
    yield from _title("Memory of a GPU")
    used = f"{size(memory['gpu_memory_bytes'])} x {memory['gpu_memory_utilization']:g}"
    yield _line(used, size(memory["gpu_memory_bytes"] * memory["gpu_memory_utilization"]))
    yield _line("- weights", f"{size(memory['weights_bytes'])}  ({memory['weights_source']})")
    low, high = map(size, REST_RANGE_BYTES)
    yield _line("- the rest, assumed", f"{size(REST_BYTES)}  ({low} to {high}, see below)")
    left = memory["kv_cache_bytes"]
    yield _line("= KV cache", size(left) if left > 0 else f"none: {size(-left)} too little")


def render_blocks(blocks: Mapping[str, Any], block_size: int) -> Iterator[str]:
    """Blocks, tokens and requests."""
    yield from _title("What fits")
    yield _line("blocks", f"{blocks['num_gpu_blocks']} of {block_size} tokens")
    low, high = blocks["tokens_range"]
    off = f"  ({low} to {high})" if low != high else ""
    yield _line("tokens", f"{blocks['tokens']}{off}{_in_sequences(blocks)}")
    if (requests := blocks["requests"]) is not None:
        yield from _requests(requests)
    yield ""
    yield f"  {'tokens a request':>16}  {'KV cache':>12}  {'blocks':>8}  {'at once':>9}"
    for row in blocks["table"]:
        taken, at_once = size(row["bytes"]), f"{row['max_concurrency']:.2f}"
        yield f"  {row['tokens']:>16}  {taken:>12}  {row['blocks']:>8}  {at_once:>9}"


def _in_sequences(blocks: Mapping[str, Any]) -> str:
    length = blocks["tokens_in_sequences_of"]
    return "" if length is None else f", in sequences of {length}"


def _requests(requests: Mapping[str, Any]) -> Iterator[str]:
    total = requests["input_len"] + requests["output_len"]
    yield _line(
        "requests at once", f"{requests['max_concurrency']:.2f} of {total} tokens, all at full length"
    )
    if requests["mean_concurrency"] is not None:
        words = "in the mean, each at another place of its answer"
        yield _line("", f"{requests['mean_concurrency']:.2f} {words}")


def render_server(
    engines: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any] | None
) -> Iterator[str]:
    """What a server said, and how far the calculation is from it."""
    yield from _title("What the server says")
    for engine in engines:
        name = f"engine {engine['engine']}"
        dtype = f", {engine['cache_dtype']}" if engine["cache_dtype"] else ""
        yield _line(name, f"{engine['num_gpu_blocks']} blocks of {engine['block_size']} tokens{dtype}")
        yield _line("", f"{engine['tokens']} tokens{_told(engine)}")
        if engine["asked_len"] is not None:
            yield _line(
                "", f"{engine['asked_concurrency']:.2f} requests of {engine['asked_len']} tokens at once"
            )
    if comparison is None:
        return
    if "kv_cache_bytes" in comparison:
        yield _line("by the config", f"these blocks are {size(comparison['kv_cache_bytes'])} on each GPU")
    if "num_gpu_blocks" in comparison:
        off = f"{comparison['off'] * 100:+.1f} % of the server's"
        yield _line("calculated", f"{comparison['num_gpu_blocks']} blocks, {off}")


def _told(engine: Mapping[str, Any]) -> str:
    if engine["max_concurrency"] is None:
        return ""
    return f", {engine['max_concurrency']:.2f} requests of {engine['max_model_len']} tokens at once"


def assumptions(assumed: bool, windowed: bool) -> Iterator[str]:
    """What stands behind the numbers."""
    yield from _title("What this assumes")
    if assumed:
        yield _sentence(
            "The rest: activations of the largest step, CUDA graphs, the contexts of CUDA and NCCL. vLLM "
            "measures it when it starts; here it is a guess: the tokens in brackets are for its two ends. "
            "Dense models of 7 billion parameters took about 1.5 GiB, large mixtures of experts up to 8 GiB; "
            "--max-num-batched-tokens and --max-num-seqs move it most. A running server knows it: --url."
        )
    yield _sentence(
        "No two requests share blocks. With a prefix cache that helps, more of them fit. "
        "One of the blocks is vLLM's own and holds no request's tokens: it is left out of what fits, though "
        "vLLM's own figures count it. More requests than --max-num-seqs never run at once."
    )
    if windowed:
        yield _sentence(
            "While a long prompt is being read, its windowed layers hold up to --max-num-batched-tokens more "
            "tokens, for which vLLM's own figure of the concurrency makes allowance, and this one does not."
        )


def _title(text: str) -> Iterator[str]:
    yield ""
    yield text


def _line(label: str, words: str) -> str:
    return f"  {label:<20} {words}"


def _sentence(text: str) -> str:
    return fill(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
