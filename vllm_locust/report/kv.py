"""The KV cache of a run: what the server has, what of it was in use at the peak, and what waited.

Rule: capacity is what each engine says (`vllm:cache_config_info`): its tokens, and where it does not tell
those blocks x block size, without the one block that no request gets. What was in use is the peak of its own
usage of that, at least: it was asked once a second. What would have fit is computed of the requests
themselves: each holds its prompt and, in the mean, half of its answer, in whole blocks. What was seen of
waiting is `report.waiting`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np

from vllm_locust.core.kv_size import usable_blocks
from vllm_locust.core.record import OK
from vllm_locust.report.waiting import describe_waiting
from vllm_locust.results.folder import Results
from vllm_locust.results.requests import UNKNOWN, Requests

_WIDTH = 110


@dataclass(frozen=True, slots=True)
class EngineKv:
    """The cache of one engine over a run; None is not known."""

    engine: str
    num_gpu_blocks: int | None
    block_size: int
    tokens: int
    """That requests can have."""
    usage_peak: float | None
    usage_mean: float | None

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
    """What was seen of requests that waited."""


def describe_kv(results: Results) -> KvUse | None:
    """None where no engine told its sizes: an older run, or a server that was not asked."""
    server = (results.summary or {}).get("server") or {}
    engines = [_engine(one) for one in server.get("engines") or () if _has_sizes(one)]
    if not engines:
        return None
    held = [_mean_held(results.requests, engine.block_size) for engine in engines]
    fit = None if None in held else sum(e.tokens / h for e, h in zip(engines, held, strict=True) if h)
    return KvUse(
        engines,
        fit,
        server.get("requests_running_peak"),
        server.get("requests_waiting_peak"),
        describe_waiting(server),
    )


def render_kv(use: KvUse) -> Iterator[str]:
    """The lines of a report."""
    yield "KV cache"
    yield "--------"
    for engine in use.engines:
        yield _line(f"engine {engine.engine}", f"{engine.tokens} tokens, {_blocks(engine)}")
        if engine.usage_peak is not None:
            yield _line("peak", f"at least {engine.tokens_at_peak} tokens ({engine.usage_peak * 100:.1f} %)")
        if engine.usage_mean is not None:
            yield _line("mean", f"{engine.tokens_in_the_mean} tokens ({engine.usage_mean * 100:.1f} %)")
    if use.requests_fit is not None:
        peak = "n/a" if use.running_peak is None else use.running_peak
        yield _line(
            "at once",
            f"{use.requests_fit:.1f} requests of these lengths fit that share nothing, {peak} at least "
            "ran at the peak",
        )
    yield fill(use.sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


def _blocks(engine: EngineKv) -> str:
    if engine.num_gpu_blocks is None:
        return f"n/a blocks of {engine.block_size}"
    return f"{engine.num_gpu_blocks} blocks of {engine.block_size}, one of them vLLM's own"


def _has_sizes(engine: Mapping[str, Any]) -> bool:
    return bool(engine.get("block_size") and (engine.get("num_gpu_blocks") or _tokens(engine)))


def _tokens(engine: Mapping[str, Any]) -> int:
    told: int = engine.get("kv_cache_size_tokens") or 0
    blocks: int | None = engine.get("num_gpu_blocks")
    if not blocks:
        return told
    return (told or blocks * engine["block_size"]) * usable_blocks(blocks) // blocks


def _engine(engine: Mapping[str, Any]) -> EngineKv:
    return EngineKv(
        str(engine["engine"]),
        engine.get("num_gpu_blocks"),
        engine["block_size"],
        _tokens(engine),
        engine.get("kv_cache_usage_peak"),
        engine.get("kv_cache_usage_mean"),
    )


def _mean_held(requests: Requests, block_size: int) -> float | None:
    """Tokens of the blocks that an answered request holds at a moment of its life, in the mean.

    None where nobody counted.
    """
    prompts, outputs = requests["prompt_tokens"], requests["output_tokens"]
    known = requests.is_word("outcome", OK) & (prompts != UNKNOWN) & (outputs != UNKNOWN)
    if not known.any():
        return None
    return float(np.ceil((prompts[known] + outputs[known] / 2) / block_size).mean() * block_size)


def _line(name: str, words: str) -> str:
    return f"  {name:<12} {words}"
