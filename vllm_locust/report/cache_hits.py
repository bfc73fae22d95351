"""Whether the server's prefix cache helped some runs more than others, which is no merit of theirs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vllm_locust.report.words import listed

HIT_RATE = "prefix_cache_hit_rate"
"""Of a block `server`."""
_TOLD = "prefix_cache_hit_rate_told_mean"
"""The same of its log."""

_SAME_HITS = 0.05


def hit_rate(summary: Mapping[str, Any]) -> float | None:
    """The share of the prompt tokens of a run, or of a part of it, that the cache held; None is not known.

    As the server's counters have it, else its answers, else its log.
    """
    server = summary.get("server") or {}
    cached, prompts = summary.get("total_cached_tokens"), summary.get("total_input_tokens")
    of_answers = cached / prompts if cached is not None and prompts else None
    rates: Iterable[float | None] = (server.get(HIT_RATE), of_answers, server.get(_TOLD))
    return next((rate for rate in rates if rate is not None), None)


def differ(rates: Iterable[float]) -> bool:
    """Whether these count as different."""
    known = list(rates)
    return bool(known) and max(known) - min(known) > _SAME_HITS


def difference(summaries: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str | None:
    """A sentence where the rates of several runs differ."""
    rates = {
        label: rate
        for label, summary in zip(labels, summaries, strict=True)
        if (rate := hit_rate(summary)) is not None
    }
    if not differ(rates.values()):
        return None
    told = listed([f"{rate:.1%} in {label}" for label, rate in rates.items()])
    return f"The server's prefix cache held of the prompt tokens {told}: that is part of what differs."
