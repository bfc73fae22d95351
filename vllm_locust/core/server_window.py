"""What a server did in a window of time, and the sums from which that is made.

Rule: sums of windows that do not overlap add up: the window of a run is the sum of its phases'.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Self

from vllm_locust.core.server import HistogramState

Engine = tuple[str, str, str]
"""Source, engine, model name."""


_CACHE_SIZES = ("num_gpu_blocks", "block_size", "kv_cache_size_tokens")


@dataclass(frozen=True, slots=True)
class Level:
    """A gauge over a window: its highest value, and its mean over time."""

    peak: float
    mean: float


@dataclass(slots=True)
class Queue:
    """The looks at an engine at which requests waited: what else was so then."""

    looks: int = 0
    running_least: float = math.inf
    running_most: float = -math.inf
    kv_cache_usage_least: float = math.inf
    kv_cache_usage_most: float = -math.inf

    def add(self, gauges: Mapping[str, float]) -> None:
        """A look at which this was so; what the engine does not tell is not known of any look."""
        self.looks += 1
        running, usage = gauges.get("running", math.nan), gauges.get("kv_cache_usage", math.nan)
        self.running_least = _least(self.running_least, running)
        self.running_most = _most(self.running_most, running)
        self.kv_cache_usage_least = _least(self.kv_cache_usage_least, usage)
        self.kv_cache_usage_most = _most(self.kv_cache_usage_most, usage)

    def merge(self, other: "Queue") -> None:
        self.looks += other.looks
        self.running_least = _least(self.running_least, other.running_least)
        self.running_most = _most(self.running_most, other.running_most)
        self.kv_cache_usage_least = _least(self.kv_cache_usage_least, other.kv_cache_usage_least)
        self.kv_cache_usage_most = _most(self.kv_cache_usage_most, other.kv_cache_usage_most)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON; None is not known."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _least(one: float, other: float) -> float:
    """NaN when one of them is not known."""
    return math.nan if math.isnan(one) or math.isnan(other) else min(one, other)


def _most(one: float, other: float) -> float:
    return -_least(-one, -other)


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """One GPU over a window; None is not known."""

    utilization: Level | None
    memory_used: Level | None
    """Bytes."""
    memory_total_bytes: float | None


@dataclass(frozen=True, slots=True)
class ServerWindow:
    """What all engines of all sources did together in a window; what nobody told is no key."""

    samples: int
    covered_s: float
    """How long something was known of the server's gauges."""
    restarts: int
    """How often a source's counters were found to have begun anew."""
    engines: Mapping[Engine, Mapping[str, Level]]
    """The gauges of each engine."""
    gauges: Mapping[str, Level]
    """Requests and throughputs of all engines together; of ratios the highest, and the mean over engines."""
    counters: Mapping[str, float]
    """By how much they grew."""
    histograms: Mapping[str, HistogramState]
    """What was counted in the window."""
    gpus: Mapping[str, GpuWindow]
    """By source and GPU, `local/0`."""
    queues: Mapping[Engine, Queue] = field(default_factory=dict)
    """Of the engines that were seen with requests waiting."""
    several_servers: bool = False
    """Several took turns at one address: nothing of what they told is anyone's, and nothing of it is here."""
    partial: bool = False
    """Others than who told answered a part of the requests: nothing of it is here."""
    first_look_late_s: float = 0.0
    """How long after the window began its last source was first looked at: with any, nothing that was counted
    is here, as a part of it is not known."""

    def of_several_servers(self) -> Self:
        """The same, with what is worth nothing left out."""
        return replace(self._without_numbers(), restarts=0, several_servers=True)

    def of_a_part(self) -> Self:
        """The same where what was told is of an unknown part of the requests: without it."""
        return replace(self._without_numbers(), partial=True)

    def _without_numbers(self) -> Self:
        nothing: dict[Any, Any] = {}
        return replace(
            self, engines=nothing, gauges=nothing, counters=nothing, histograms=nothing, queues=nothing
        )

    def mean_ms(self, histogram: str) -> float | None:
        """None where nothing was counted."""
        state = self.histograms.get(histogram)
        mean_s = None if state is None else state.mean_s
        return None if mean_s is None else mean_s * 1000

    @property
    def prefix_cache_hit_rate(self) -> float | None:
        """Tokens found in the prefix cache, of those looked up; None when none were."""
        queries = self.counters.get("prefix_cache_queries")
        hits = self.counters.get("prefix_cache_hits")
        return hits / queries if queries and hits is not None else None

    def count(self, counter: str) -> int | None:
        """The growth of a counter; all that vLLM counts is whole."""
        grown = self.counters.get(counter)
        return None if grown is None else round(grown)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON; None is not known."""
        return {
            "samples": self.samples,
            "covered_s": self.covered_s,
            "engines": [
                {
                    "source": source,
                    "engine": engine,
                    "model_name": model_name,
                    **{size: round(gauges[size].peak) for size in _CACHE_SIZES if size in gauges},
                    **_levels("kv_cache_usage", gauges.get("kv_cache_usage")),
                    "requests_running_peak": _levels("running", gauges.get("running"), True)["running_peak"],
                    "when_waiting": None if (queue := self.queues.get(key)) is None else queue.to_dict(),
                }
                for key, gauges in self.engines.items()
                for source, engine, model_name in (key,)
            ],
            "several_servers": self.several_servers,
            "partial": self.partial,
            "restarts": self.restarts,
            "first_look_late_s": self.first_look_late_s,
            **_levels("kv_cache_usage", self.gauges.get("kv_cache_usage")),
            **_levels("requests_running", self.gauges.get("running"), whole=True),
            **_levels("requests_waiting", self.gauges.get("waiting"), whole=True),
            **_levels("requests_waiting_deferred", self.gauges.get("waiting_deferred"), whole=True),
            "preemptions": self.count("preemptions"),
            "prefix_cache_hit_rate": self.prefix_cache_hit_rate,
            **_levels("prefix_cache_hit_rate_told", self.gauges.get("prefix_cache_hit_ratio")),
            "prompt_tokens": self.count("prompt_tokens"),
            "generation_tokens": self.count("generation_tokens"),
            "requests_finished": self.count("requests_finished"),
            "admission_rejections": self.count("admission_rejections"),
            "mean_ttft_ms": self.mean_ms("ttft"),
            "mean_itl_ms": self.mean_ms("itl"),
            "mean_tpot_ms": self.mean_ms("tpot"),
            "mean_e2e_ms": self.mean_ms("e2e"),
            "mean_queue_ms": self.mean_ms("queue"),
            "mean_prefill_ms": self.mean_ms("prefill"),
            "mean_decode_ms": self.mean_ms("decode"),
            "mean_inference_ms": self.mean_ms("inference"),
            "gpus": {
                name: {
                    **_levels("utilization", gpu.utilization),
                    **_levels("memory_used_bytes", gpu.memory_used),
                    "memory_total_bytes": gpu.memory_total_bytes,
                }
                for name, gpu in self.gpus.items()
            },
        }


def _levels(name: str, level: Level | None, whole: bool = False) -> dict[str, float | None]:
    if level is None:
        return {f"{name}_peak": None, f"{name}_mean": None}
    return {f"{name}_peak": round(level.peak) if whole else level.peak, f"{name}_mean": level.mean}


def histogram_sum(one: HistogramState, other: HistogramState) -> HistogramState:
    """Both together, between the bounds that both have: with different bounds coarser, and still exact."""
    if one.bounds == other.bounds:
        counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
        return HistogramState(one.bounds, counts, one.sum_s + other.sum_s)
    bounds = tuple(sorted(set(one.bounds) & set(other.bounds)))
    merged = (a + b for a, b in zip(_counts_at(one, bounds), _counts_at(other, bounds), strict=True))
    return HistogramState(bounds, tuple(merged), one.sum_s + other.sum_s)


def _counts_at(state: HistogramState, bounds: Sequence[float]) -> list[int]:
    """The counts between `bounds`, which are some of the state's own."""
    totals = list(accumulate(state.counts))
    at_bound = dict(zip(state.bounds, totals, strict=False))
    return [after - before for before, after in pairwise([0, *(at_bound[b] for b in bounds), totals[-1]])]


def histogram_growth(earlier: HistogramState, later: HistogramState) -> HistogramState | None:
    """What was counted between two states; None when the later one did not grow from the earlier one."""
    if earlier.bounds != later.bounds or later.count < earlier.count:
        return None
    counts = tuple(b - a for a, b in zip(earlier.counts, later.counts, strict=True))
    sum_s = later.sum_s - earlier.sum_s
    return None if min(counts) < 0 or sum_s < 0 else HistogramState(later.bounds, counts, sum_s)


@dataclass(slots=True)
class LevelSums:
    """A gauge as it is followed: `add` once for each stretch of time over which it had a value."""

    peak: float = -float("inf")
    weighted: float = 0.0
    seconds: float = 0.0
    last: float = 0.0

    def add(self, value: float, seconds: float, highest: float | None = None) -> None:
        """`highest`, if given, is what counts for the peak."""
        self.peak = max(self.peak, value if highest is None else highest)
        self.weighted += value * seconds
        self.seconds += seconds
        self.last = value

    def merge(self, other: "LevelSums") -> None:
        self.peak = max(self.peak, other.peak)
        self.weighted += other.weighted
        self.seconds += other.seconds
        self.last = other.last

    @property
    def level(self) -> Level:
        """A value that was seen just once, at the very end, is its own mean."""
        return Level(self.peak, self.weighted / self.seconds if self.seconds else self.last)


Levels = dict[str, LevelSums]


@dataclass(slots=True)
class WindowSums:
    """All that is known of a window; of flat size, however long it is."""

    samples: int = 0
    covered_s: float = 0.0
    restarts: int = 0
    first_look_late_s: float = 0.0
    engines: dict[Engine, Levels] = field(default_factory=dict)
    queues: dict[Engine, Queue] = field(default_factory=dict)
    gauges: Levels = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, HistogramState] = field(default_factory=dict)
    gpus: dict[str, Levels] = field(default_factory=dict)
    gpu_memory_bytes: dict[str, float] = field(default_factory=dict)

    def grow_counter(self, name: str, growth: float) -> None:
        self.counters[name] = self.counters.get(name, 0.0) + growth

    def grow_histogram(self, name: str, growth: HistogramState) -> None:
        known = self.histograms.get(name)
        self.histograms[name] = growth if known is None else histogram_sum(known, growth)

    def merge(self, other: "WindowSums") -> None:
        """Add another window that does not overlap this one."""
        self.samples += other.samples
        self.covered_s += other.covered_s
        self.restarts += other.restarts
        self.first_look_late_s = max(self.first_look_late_s, other.first_look_late_s)
        _merge_levels(self.gauges, other.gauges)
        for engine, levels in other.engines.items():
            _merge_levels(self.engines.setdefault(engine, {}), levels)
        for engine, queue in other.queues.items():
            self.queues.setdefault(engine, Queue()).merge(queue)
        for gpu, levels in other.gpus.items():
            _merge_levels(self.gpus.setdefault(gpu, {}), levels)
        self.gpu_memory_bytes |= other.gpu_memory_bytes
        for name, growth in other.counters.items():
            self.grow_counter(name, growth)
        for name, state in other.histograms.items():
            self.grow_histogram(name, state)

    def window(self) -> ServerWindow | None:
        """As it stands; None when nothing is known of it."""
        if not (self.samples or self.covered_s or self.counters or self.histograms):
            return None
        late = self.first_look_late_s > 0
        return ServerWindow(
            self.samples,
            self.covered_s,
            self.restarts,
            {engine: _finished(levels) for engine, levels in sorted(self.engines.items())},
            _finished(self.gauges),
            {} if late else dict(self.counters),
            {} if late else dict(self.histograms),
            {name: self._gpu(name, _finished(levels)) for name, levels in sorted(self.gpus.items())},
            dict(self.queues),
            first_look_late_s=self.first_look_late_s,
        )

    def _gpu(self, name: str, levels: Mapping[str, Level]) -> GpuWindow:
        return GpuWindow(
            levels.get("utilization"), levels.get("memory_used"), self.gpu_memory_bytes.get(name)
        )


def _merge_levels(levels: Levels, others: Levels) -> None:
    for name, other in others.items():
        levels.setdefault(name, LevelSums()).merge(other)


def _finished(levels: Levels) -> dict[str, Level]:
    return {name: sums.level for name, sums in levels.items()}
