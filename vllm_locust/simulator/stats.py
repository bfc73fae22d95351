"""What the engine counts: plain numbers, cheap to add to; `exposition` gives them their public names."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

# Upper bounds of vLLM's buckets, in seconds.
TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class Histogram:
    """Counts per bucket; the last bucket is unbounded."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


def _of_tokens() -> Histogram:
    return Histogram(TOKEN_BUCKETS_S)


def _of_requests() -> Histogram:
    return Histogram(REQUEST_BUCKETS_S)


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine was made; histograms are in seconds."""

    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    admission_rejections: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0})
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BUCKETS_S))
    itl: Histogram = field(default_factory=_of_tokens)
    tpot: Histogram = field(default_factory=_of_tokens)
    e2e: Histogram = field(default_factory=_of_requests)
    queue: Histogram = field(default_factory=_of_requests)
    prefill: Histogram = field(default_factory=_of_requests)
    decode: Histogram = field(default_factory=_of_requests)
    inference: Histogram = field(default_factory=_of_requests)
