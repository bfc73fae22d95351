"""What a vLLM server says of itself: gauges, counters and histograms per engine, and a DCGM exporter of GPUs.

Rule: one vocabulary for all versions of vLLM. Where a page has both the old and the new name of the same
(vLLM keeps a renamed metric for a release or two), the new one counts; so does `x_total` where Ray writes it
beside `x`, and `vllm:x` where a gateway writes `vllm_x` or Ray `ray_vllm_x` beside it. What a page does not
have is absent, never 0: a page that only announces vLLM's metrics, or has only Ray's own, is one of a server
that did nothing yet.

Other labels than the engine and the model are summed over (finished requests and rejections by reason).
A series without an engine is about the whole server: it counts with the first engine of its model, so that
sums over engines are right, and makes an engine 0 where there is none (v0, vLLM's first engine, has none).
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from vllm_locust.core.kv_size import Told, blocks_of_each, engine_of

GAUGES = (
    "running",
    "waiting",
    "waiting_deferred",
    "swapped",
    "kv_cache_usage",
    "prefix_cache_hit_ratio",
    "prompt_throughput",
    "generation_throughput",
    "num_gpu_blocks",
    "block_size",
    "kv_cache_size_tokens",
)
"""Requests, ratios 0..1, tokens per second; blocks of the KV cache, tokens of one, and tokens in all.

`waiting_deferred` are those of the waiting that the scheduler passes over: for a slot of a LoRA adapter, a
transfer of KV, a grammar.
"""

COUNTERS = (
    "preemptions",
    "prompt_tokens",
    "generation_tokens",
    "prefix_cache_hits",
    "prefix_cache_queries",
    "requests_finished",
    "admission_rejections",
)
"""Since the server's start."""

HISTOGRAMS = ("ttft", "itl", "tpot", "e2e", "queue", "prefill", "decode", "inference")
"""In seconds, since the server's start."""


@dataclass(frozen=True, slots=True)
class HistogramState:
    """Counts of durations between `bounds`, the upper bounds in seconds without the last, infinite one.

    `counts` are per bucket, not cumulative, and one more than the bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts)

    @property
    def mean_s(self) -> float | None:
        """None when nothing was counted."""
        count = self.count
        return self.sum_s / count if count else None

    def bucket_of(self, quantile: float) -> tuple[float, float | None] | None:
        """The borders in seconds between which a quantile (0..1, by nearest rank) lies.

        That is all a histogram knows of it. The upper border of the last bucket is None: there is none.
        None in all when nothing was counted.
        """
        total = self.count
        if not total:
            return None
        rank = max(math.ceil(quantile * total), 1)
        i = bisect_left(list(accumulate(self.counts)), rank)
        return (self.bounds[i - 1] if i else 0.0), (self.bounds[i] if i < len(self.bounds) else None)


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine of a server at one moment; a name that it does not tell is no key."""

    engine: str
    model_name: str
    gauges: Mapping[str, float] = field(default_factory=dict)
    counters: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, HistogramState] = field(default_factory=dict)
    started_s: float | None = None
    """When its process started, by its own clock: what tells one server from another. None where not told."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU at one moment; None is not known."""

    gpu: str
    utilization_ratio: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None


@dataclass(frozen=True, slots=True)
class ServerSample:
    """What one source said at `at_s`, on this machine's clock."""

    source: str
    at_s: float
    engines: tuple[EngineState, ...] = ()
    gpus: tuple[GpuState, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Exact and fit for MessagePack; `from_dict` makes the same of it."""
        return {
            "source": self.source,
            "at_s": self.at_s,
            "engines": [
                [
                    state.engine,
                    state.model_name,
                    dict(state.gauges),
                    dict(state.counters),
                    {name: [h.bounds, h.counts, h.sum_s] for name, h in state.histograms.items()},
                    state.started_s,
                ]
                for state in self.engines
            ],
            "gpus": [
                [gpu.gpu, gpu.utilization_ratio, gpu.memory_used_bytes, gpu.memory_total_bytes]
                for gpu in self.gpus
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The sample that `to_dict` described."""
        engines = (
            EngineState(
                engine,
                model_name,
                gauges,
                counters,
                {
                    name: HistogramState(tuple(bounds), tuple(counts), sum_s)
                    for name, (bounds, counts, sum_s) in histograms.items()
                },
                started_s,
            )
            for engine, model_name, gauges, counters, histograms, started_s in data["engines"]
        )
        return cls(
            data["source"], data["at_s"], tuple(engines), tuple(GpuState(*gpu) for gpu in data["gpus"])
        )


def kv_cache_usage_of(gpu: float | None, cpu: float | None, swapped: float | None) -> float | None:
    """The CPU's where nothing else can be in it: v0 calls so what a GPU's requests are swapped to as well."""
    return cpu if gpu is None or (gpu == 0 and not swapped and cpu is not None) else gpu


def hit_ratio_of(gpu: float | None, cpu: float | None) -> float | None:
    """Of v0, which looks for a prefix where it is to compute: the other has none."""
    return gpu or (gpu if cpu is None else cpu)


# -- pages ------------------------------------------------------------------------------------------------

# Each reason has a series.
_WAITING_BY_REASON, _DEFERRED = "num_requests_waiting_by_reason", "deferred"

_CPU_USAGE, _CPU_HIT_RATIO = "cpu_kv_cache_usage", "cpu_prefix_cache_hit_ratio"

# Of each its names without `vllm:`, the one that counts first.
_GAUGE_NAMES = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "waiting_deferred": (_WAITING_BY_REASON,),
    "swapped": ("num_requests_swapped",),  # v0
    "kv_cache_usage": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    _CPU_USAGE: ("cpu_cache_usage_perc",),  # v0
    "prefix_cache_hit_ratio": ("gpu_prefix_cache_hit_rate",),  # v0; -1 without prefix caching
    _CPU_HIT_RATIO: ("cpu_prefix_cache_hit_rate",),  # v0
    "prompt_throughput": ("avg_prompt_throughput_toks_per_s",),  # v0
    "generation_throughput": ("avg_generation_throughput_toks_per_s",),  # v0
}
_COUNTER_NAMES = {
    "preemptions": ("num_preemptions",),
    "prompt_tokens": ("prompt_tokens",),
    "generation_tokens": ("generation_tokens",),
    "prefix_cache_hits": ("prefix_cache_hits", "gpu_prefix_cache_hits"),
    "prefix_cache_queries": ("prefix_cache_queries", "gpu_prefix_cache_queries"),
    "requests_finished": ("request_success",),
    "admission_rejections": ("admission_rejections",),
}
_COUNTERS_BY_NAME = {
    ours: tuple(raw + suffix for raw in raws for suffix in ("_total", ""))
    for ours, raws in _COUNTER_NAMES.items()
}
# Of labels: the size of the KV cache is no value of its own.
_CACHE_CONFIG = "cache_config_info"
_HISTOGRAM_NAMES = {
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "tpot": ("request_time_per_output_token_seconds",),
    "e2e": ("e2e_request_latency_seconds",),
    "queue": ("request_queue_time_seconds",),
    "prefill": ("request_prefill_time_seconds",),
    "decode": ("request_decode_time_seconds",),
    "inference": ("request_inference_time_seconds",),
}
# One usage cannot be the sum of two.
_RATIOS = ("kv_cache_usage", _CPU_USAGE, "prefix_cache_hit_ratio", _CPU_HIT_RATIO)

_STARTED = "process_start_time_seconds"
_UTILIZATION, _USED, _FREE = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"
_MIB = 2.0**20

_BUCKET, _SUM = "_bucket", "_sum"


def _raw_names() -> dict[str, str]:
    """What each name of a sample on a page counts for, without its prefix: the name of its family."""
    names = {raw: raw for raws in _GAUGE_NAMES.values() for raw in raws} | {_CACHE_CONFIG: _CACHE_CONFIG}
    names |= {raw: raw for raws in _COUNTERS_BY_NAME.values() for raw in raws}
    for raws in _HISTOGRAM_NAMES.values():
        names |= {raw + suffix: raw for raw in raws for suffix in (_BUCKET, _SUM)}
    return names


_FAMILIES = _raw_names()
# Some scrapers and gateways pass the colon on as an underscore, and Ray adds its own name.
_PREFIXES = ("vllm:", "vllm_", "ray_vllm_", "ray_vllm:")
_PREFIX = re.compile(rf"^[ \t]*({'|'.join(_PREFIXES)})")
_WANTED = re.compile(
    rf"^[ \t]*(?:(?:(?:ray_)?vllm[:_](?:{'|'.join(_FAMILIES)}))|{_STARTED}|{_UTILIZATION}|{_USED}|{_FREE})"
    r"(?=[{ \t])[^\n]*",
    re.MULTILINE,
)
_ANNOUNCED = re.compile(r"^(?:# (?:HELP|TYPE) vllm[:_]|(?:# (?:HELP|TYPE) )?ray_)", re.MULTILINE)
_ANY_SAMPLE = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^\n]*\})?[ \t]+[-+0-9NI]", re.MULTILINE)
# The parser takes time by the square of a line's length.
_LONGEST_LINE = 8192
_LARGEST_COUNT = 2.0**53
_BROKEN = "a line of it is broken"

_Key = tuple[str, str]
_Series = dict[str, dict[_Key, float]]
_Buckets = dict[str, dict[_Key, dict[float, float]]]


def parse_page(page: str) -> tuple[tuple[EngineState, ...], tuple[GpuState, ...]]:
    """The engines and GPUs of a page in Prometheus' text format, in order.

    ValueError with a clause that says what is wrong: no metrics, none that are known here, a line that is
    broken, or half of a page.
    """
    lines = _of_one_prefix(_WANTED.findall(page))
    if all(line.lstrip().startswith(_STARTED) for line in lines) and not _ANNOUNCED.search(page):
        raise ValueError(_why_nothing(page))
    if not page.endswith("\n"):
        raise ValueError("it ends in the middle of a line")
    if max(map(len, lines), default=0) > _LONGEST_LINE:
        raise ValueError(f"it has a line of more than {_LONGEST_LINE} characters")
    vllm, gpus = _Vllm(), _Gpus()
    for sample in _samples(lines):
        if sample.name.startswith("DCGM"):
            gpus.add(sample)
        elif sample.name == _STARTED:
            vllm.starts_s.add(sample.value)
        else:
            vllm.add(sample)
    return tuple(vllm.engines()), tuple(gpus.states())


def _of_one_prefix(lines: Sequence[str]) -> list[str]:
    """The lines without those that say the same once more under another prefix."""
    prefixes = [found[1] if (found := _PREFIX.match(line)) else None for line in lines]
    counts = next((prefix for prefix in _PREFIXES if prefix in prefixes), None)
    return [line for line, prefix in zip(lines, prefixes, strict=True) if prefix in (None, counts)]


def _why_nothing(page: str) -> str:
    if not page.strip():
        return "it is empty"
    if _ANY_SAMPLE.search(page):
        return "its metrics are neither vLLM's nor a DCGM exporter's"
    return "it is no page of metrics"


def _samples(lines: Iterable[str]) -> Iterator[Sample]:
    """Of each line its sample, with a finite value; others, such as NaN, are skipped."""
    try:
        for family in text_string_to_metric_families("\n".join(lines)):
            for sample in family.samples:
                if math.isfinite(sample.value):
                    yield sample
    except (ValueError, IndexError, OverflowError):
        raise ValueError(_BROKEN) from None


class _Vllm:
    """What a page says of vLLM's engines, before it is known which engines there are."""

    def __init__(self) -> None:
        self._values: _Series = {}
        self._sums: _Series = {}
        self._buckets: _Buckets = {}
        self._caches: dict[str, Told] = {}
        """By engine: this metric does not tell the model."""
        self.starts_s: set[float] = set()
        """When the processes started of which the page tells it."""

    def add(self, sample: Sample) -> None:
        name = _PREFIX.sub("", sample.name, count=1)
        family = _FAMILIES.get(name)
        if family is None:
            raise ValueError(_BROKEN)
        key = (engine_of(sample.labels), sample.labels.get("model_name", ""))
        if family == _CACHE_CONFIG:
            self._caches[key[0]] = Told.of_labels(sample.labels)
        elif family == _WAITING_BY_REASON and sample.labels.get("reason") != _DEFERRED:
            pass  # all others wait in turn
        elif family in _GAUGE_FAMILIES:
            self._add_gauge(family, key, sample.value)
        elif sample.value < 0:
            pass  # nothing of the rest can be: better not known than wrong
        elif name.endswith(_BUCKET):
            buckets = self._buckets.setdefault(family, {}).setdefault(key, {})
            bound = _bound(sample.labels.get("le", ""))
            buckets[bound] = buckets.get(bound, 0.0) + sample.value
        else:
            _sum_up(self._sums if name.endswith(_SUM) else self._values, family, key, sample.value)

    def _add_gauge(self, family: str, key: _Key, value: float) -> None:
        if family not in _RATIO_FAMILIES:
            _sum_up(self._values, family, key, value)
        elif value >= 0:
            series = self._values.setdefault(family, {})
            series[key] = max(series.get(key, 0.0), value)

    def engines(self) -> Iterator[EngineState]:
        """The engines in order of their numbers."""
        home = self._homes()
        gauges, counters = self._of_engines(_GAUGE_NAMES, home), self._of_engines(_COUNTERS_BY_NAME, home)
        histograms = self._histograms(home)
        sizes = {engine: told.sizes() for engine, told in blocks_of_each(self._caches).items()}
        # Of a gateway's page that has several, nobody knows which engine is whose.
        started_s = next(iter(self.starts_s)) if len(self.starts_s) == 1 else None
        for key in sorted(set(home.values()), key=_in_order):
            own = sizes.get(key[0], sizes.get("", {}))
            yield EngineState(
                *key,
                {**_of_one_cache(gauges.get(key, {})), **own},
                counters.get(key, {}),
                histograms.get(key, {}),
                started_s,
            )

    def _homes(self) -> dict[_Key, _Key]:
        """To which engine each pair of labels belongs."""
        keys = {
            key
            for series in (self._values, self._sums, self._buckets)
            for by in series.values()
            for key in by
        }
        named = sorted((key for key in keys if key[0]), key=_in_order)
        return {key: key if key[0] else _first_engine(named, key[1]) for key in keys}

    def _of_engines(
        self, names: Mapping[str, tuple[str, ...]], home: Mapping[_Key, _Key]
    ) -> dict[_Key, dict[str, float]]:
        found: dict[_Key, dict[str, float]] = {}
        for ours, raws in names.items():
            for key, value in _preferred(self._values, raws, home).items():
                found.setdefault(key, {})[ours] = value
        return found

    def _histograms(self, home: Mapping[_Key, _Key]) -> dict[_Key, dict[str, HistogramState]]:
        found: dict[_Key, dict[str, HistogramState]] = {}
        for ours, raws in _HISTOGRAM_NAMES.items():
            for raw in reversed(raws):  # the name that counts comes last, and stays
                for key, buckets in self._buckets.get(raw, {}).items():
                    state = _histogram(buckets, self._sums.get(raw, {}).get(key))
                    if state is not None:
                        found.setdefault(home[key], {})[ours] = state
        return found


def _of_one_cache(gauges: Mapping[str, float]) -> dict[str, float]:
    """Of v0's two caches the one that holds its requests."""
    told = dict(gauges)
    usage, hit_ratio = told.pop(_CPU_USAGE, None), told.pop(_CPU_HIT_RATIO, None)
    found = {
        "kv_cache_usage": kv_cache_usage_of(told.get("kv_cache_usage"), usage, told.get("swapped")),
        "prefix_cache_hit_ratio": hit_ratio_of(told.get("prefix_cache_hit_ratio"), hit_ratio),
    }
    return told | {name: value for name, value in found.items() if value is not None}


_GAUGE_FAMILIES = frozenset(raw for raws in _GAUGE_NAMES.values() for raw in raws)
_RATIO_FAMILIES = frozenset(raw for ours in _RATIOS for raw in _GAUGE_NAMES[ours])


def _sum_up(series: _Series, family: str, key: _Key, value: float) -> None:
    by_key = series.setdefault(family, {})
    by_key[key] = by_key.get(key, 0.0) + value


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _in_order(key: _Key) -> tuple[str, int, str]:
    """By model, then 2 before 10."""
    return key[1], len(key[0]), key[0]


def _first_engine(named: Iterable[_Key], model_name: str) -> _Key:
    return next((key for key in named if model_name in ("", key[1])), ("0", model_name))


def _preferred(series: _Series, raws: tuple[str, ...], home: Mapping[_Key, _Key]) -> dict[_Key, float]:
    """Per engine the value of the first name that it has."""
    found: dict[_Key, float] = {}
    for raw in raws:
        here: dict[_Key, float] = {}
        for key, value in series.get(raw, {}).items():
            here[home[key]] = here.get(home[key], 0.0) + value
        found = here | found
    return found


def _histogram(cumulative: Mapping[float, float], sum_s: float | None) -> HistogramState | None:
    """None when a part of it is missing, or it cannot be."""
    bounds = sorted(bound for bound in cumulative if not math.isnan(bound))
    if sum_s is None or len(bounds) != len(cumulative) or bounds[-1] != math.inf or bounds[0] == -math.inf:
        return None
    totals = [0.0, *(cumulative[bound] for bound in bounds)]
    if totals[-1] > _LARGEST_COUNT or any(after < before for before, after in pairwise(totals)):
        return None
    return HistogramState(tuple(bounds[:-1]), tuple(int(b) - int(a) for a, b in pairwise(totals)), sum_s)


class _Gpus:
    """What a page says of GPUs. A part of a GPU (MIG) is one of its own.

    The memory in total is what is used and what is free, without the little that the driver reserves.
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[str, float]] = {}

    def add(self, sample: Sample) -> None:
        labels = sample.labels
        if sample.value < 0:
            return
        gpu = labels.get("gpu") or labels.get("UUID") or "0"
        if labels.get("GPU_I_ID"):
            gpu += f".{labels['GPU_I_ID']}"
        values = self._values.setdefault(gpu, {})
        # Programs that share a GPU may each have a line with the same figures.
        values[sample.name] = max(values.get(sample.name, 0.0), sample.value)

    def states(self) -> Iterator[GpuState]:
        for gpu, values in sorted(self._values.items(), key=lambda item: (len(item[0]), item[0])):
            percent, used, free = (values.get(name) for name in (_UTILIZATION, _USED, _FREE))
            yield GpuState(
                gpu,
                None if percent is None else percent / 100,
                None if used is None else used * _MIB,
                None if used is None or free is None else (used + free) * _MIB,
            )
