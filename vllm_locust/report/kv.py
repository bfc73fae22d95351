"""The KV cache of a run: what the server has, what of it was in use at the peak, and who was the limit.

Rule: capacity is blocks x block size, as each engine says (`vllm:cache_config_info`), and what was in use is
the peak of its own usage of that. Where layers have a window several blocks hold the same tokens, so that
these are places for tokens rather than tokens. What would have fit is computed of the requests themselves:
each holds its prompt and, in the mean, half of its answer, in whole blocks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np

from vllm_locust.core.record import OK
from vllm_locust.results.folder import Results
from vllm_locust.results.requests import UNKNOWN, Requests

_WIDTH = 110
_FULL = 0.95


@dataclass(frozen=True, slots=True)
class EngineKv:
    """The cache of one engine over a run; None is not known."""

    engine: str
    num_gpu_blocks: int
    block_size: int
    usage_peak: float | None
    usage_mean: float | None

    @property
    def tokens(self) -> int:
        return self.num_gpu_blocks * self.block_size

    @property
    def tokens_at_peak(self) -> int | None:
        return None if self.usage_peak is None else round(self.usage_peak * self.tokens)

    @property
    def tokens_in_the_mean(self) -> int | None:
        return None if self.usage_mean is None else round(self.usage_mean * self.tokens)


@dataclass(frozen=True, slots=True)
class KvUse:
    """The caches of a run's servers, and the requests that were in them."""

    engines: Sequence[EngineKv]
    requests_fit: float | None
    """Of this run's lengths, at once, in all engines together."""
    running_peak: int | None
    waiting_peak: int | None
    sentence: str
    """Whether memory was the limit."""


def describe_kv(results: Results) -> KvUse | None:
    """None where no engine told its sizes: an older run, or a server that was not asked."""
    server = (results.summary or {}).get("server") or {}
    engines = [_engine(one) for one in server.get("engines") or () if _has_sizes(one)]
    if not engines:
        return None
    held = [_mean_blocks(results.requests, engine.block_size) for engine in engines]
    fit = None if None in held else sum(e.num_gpu_blocks / h for e, h in zip(engines, held, strict=True) if h)
    return KvUse(
        engines,
        fit,
        server.get("requests_running_peak"),
        server.get("requests_waiting_peak"),
        _limit(server, [engine.usage_peak for engine in engines]),
    )


def render_kv(use: KvUse) -> Iterator[str]:
    """The lines of a report."""
    yield "KV cache"
    yield "--------"
    for engine in use.engines:
        size = f"{engine.num_gpu_blocks} blocks x {engine.block_size} = {engine.tokens} tokens"
        yield _line(f"engine {engine.engine}", size)
        if engine.usage_peak is not None:
            yield _line("peak", f"{engine.tokens_at_peak} tokens ({engine.usage_peak * 100:.1f} %)")
        if engine.usage_mean is not None:
            yield _line("mean", f"{engine.tokens_in_the_mean} tokens ({engine.usage_mean * 100:.1f} %)")
    if use.requests_fit is not None:
        peak = "n/a" if use.running_peak is None else use.running_peak
        yield _line(
            "at once", f"{use.requests_fit:.1f} requests of these lengths fit, {peak} ran at the peak"
        )
    yield fill(use.sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _has_sizes(engine: Mapping[str, Any]) -> bool:
    return bool(engine.get("num_gpu_blocks") and engine.get("block_size"))


def _engine(engine: Mapping[str, Any]) -> EngineKv:
    return EngineKv(
        str(engine["engine"]),
        engine["num_gpu_blocks"],
        engine["block_size"],
        engine.get("kv_cache_usage_peak"),
        engine.get("kv_cache_usage_mean"),
    )


def _mean_blocks(requests: Requests, block_size: int) -> float | None:
    """What an answered request holds at a moment of its life, in the mean; None where nobody counted."""
    prompts, outputs = requests["prompt_tokens"], requests["output_tokens"]
    known = requests.is_word("outcome", OK) & (prompts != UNKNOWN) & (outputs != UNKNOWN)
    if not known.any():
        return None
    return float(np.ceil((prompts[known] + outputs[known] / 2) / block_size).mean())


def _limit(server: Mapping[str, Any], peaks: Sequence[float | None]) -> str:
    if server.get("preemptions"):
        return (
            f"Memory was the limit: the cache was full, and {server['preemptions']} times a request lost its "
            "place and was computed again."
        )
    waiting_peak = server.get("requests_waiting_peak")
    if waiting_peak == 0:
        return "No request waited: the cache held nobody up."
    known = [peak for peak in peaks if peak is not None]
    if waiting_peak is None or len(known) < len(peaks):
        return "Whether memory was the limit is not known: the server did not tell all that it takes."
    usage_peak = max(known)
    if usage_peak >= _FULL:
        return "Memory was the limit: requests waited while the cache was full."
    return (
        "Memory was not the limit: requests waited while the cache was never more than "
        f"{usage_peak * 100:.1f} % full. They waited for a place in the batch (--max-num-seqs, "
        "--max-num-batched-tokens)."
    )


def _line(name: str, words: str) -> str:
    return f"  {name:<12} {words}"
