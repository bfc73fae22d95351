"""`/metrics` with vLLM's names, types and labels, in the plain text format 0.0.4.

Rule: never OpenMetrics, whose negotiation makes some scrapers rewrite the colons in the names.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vllm_locust.simulator.engine import Engine
from vllm_locust.simulator.stats import EngineStats, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class EngineCollector(Collector):
    """Reads one engine at each scrape."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._labels = ("engine", "model_name")
        self._values = ("0", model)

    def collect(self) -> Iterable[Metric]:
        """All families, gauges first."""
        yield from self._gauges()
        yield from self._counters(self._engine.stats)
        for name, text, histogram in _histograms(self._engine.stats):
            family = HistogramMetricFamily(name, text, labels=self._labels)
            family.add_metric(self._values, _buckets(histogram), histogram.sum)
            yield family
        yield self._cache_config()

    def _gauges(self) -> Iterator[Metric]:
        engine = self._engine
        for name, text, value in (
            ("vllm:num_requests_running", "Requests in the batch.", engine.num_running),
            ("vllm:num_requests_waiting", "Requests waiting to be scheduled.", engine.num_waiting),
            ("vllm:kv_cache_usage_perc", "KV cache in use, 1 means full.", engine.kv_usage),
        ):
            family = GaugeMetricFamily(name, text, labels=self._labels)
            family.add_metric(self._values, value)
            yield family
        family = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason",
            "Waiting requests by reason.",
            labels=(*self._labels, "reason"),
        )
        family.add_metric((*self._values, "capacity"), engine.num_waiting)
        family.add_metric((*self._values, "deferred"), 0)
        yield family

    def _counters(self, stats: EngineStats) -> Iterator[Metric]:
        for name, text, value in (
            ("vllm:num_preemptions", "Preemptions.", stats.preemptions),
            ("vllm:prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
            (
                "vllm:prefix_cache_queries",
                "Tokens looked up in the prefix cache.",
                stats.prefix_cache_queries,
            ),
            ("vllm:prefix_cache_hits", "Tokens found in the prefix cache.", stats.prefix_cache_hits),
        ):
            family = CounterMetricFamily(name, text, labels=self._labels)
            family.add_metric(self._values, value)
            yield family
        family = CounterMetricFamily(
            "vllm:request_success", "Requests completed.", labels=(*self._labels, "finished_reason")
        )
        # A request whose client hung up is not counted under "abort": vLLM does not count it either.
        for reason, count in {**stats.finished, "abort": 0, "error": 0, "repetition": 0}.items():
            family.add_metric((*self._values, reason), count)
        yield family
        family = CounterMetricFamily(
            "vllm:admission_rejections", "Requests refused by a queue limit.", labels=("model_name", "reason")
        )
        family.add_metric((self._model, "max_num_queued_reqs"), stats.admission_rejections)
        family.add_metric((self._model, "max_num_queued_tokens"), 0)
        yield family

    def _cache_config(self) -> Metric:
        limits = self._engine.limits
        info: Mapping[str, object] = {
            "block_size": limits.block_size,
            "cache_dtype": "auto",
            "enable_prefix_caching": limits.enable_prefix_caching,
            "engine": 0,
            "kv_cache_size_tokens": limits.num_gpu_blocks * limits.block_size,
            "num_gpu_blocks": limits.num_gpu_blocks,
        }
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Configuration of the KV cache.", labels=list(info)
        )
        family.add_metric([str(value) for value in info.values()], 1)
        return family


def _histograms(stats: EngineStats) -> Iterator[tuple[str, str, Histogram]]:
    yield "vllm:time_to_first_token_seconds", "Arrival to first token.", stats.ttft
    yield "vllm:inter_token_latency_seconds", "Gaps between tokens.", stats.itl
    yield "vllm:request_time_per_output_token_seconds", "Mean gap of a request.", stats.tpot
    yield "vllm:e2e_request_latency_seconds", "Arrival to last token.", stats.e2e
    yield "vllm:request_queue_time_seconds", "Arrival to first scheduled.", stats.queue
    yield "vllm:request_inference_time_seconds", "First scheduled to last token.", stats.inference
    yield "vllm:request_prefill_time_seconds", "First scheduled to first token.", stats.prefill
    yield "vllm:request_decode_time_seconds", "First to last token.", stats.decode


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


class Exposition:
    """The `/metrics` page of one engine."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine, model))

    def render(self) -> bytes:
        """The page's bytes."""
        return generate_latest(self._registry)
