"""What Prometheus is told: the run so far as the client measured it, and the server as it was scraped.

Rule: the names and labels are promises, and what is not known has no sample. Making a `Page` copies all it
needs; rendering it takes some ten times as long, and needs nothing of the run any more.

Counts, tokens and latencies of the client are those of `summary.json`: latencies and tokens are of the
successful requests in the window, the counter of requests is about the whole run.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from vllm_locust.core.record import DROPPED, OK
from vllm_locust.core.server import EngineState, GpuState
from vllm_locust.core.validity import DEGRADED, INVALID, VALID
from vllm_locust.observe.live import LiveRun, Phase, PhaseNumbers, Profile
from vllm_locust.observe.status import ServerStatus
from vllm_locust.observe.tally import BOUNDS_S, LATENCIES

_Labels = tuple[str, ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_RUN = ("run", "scenario", "model")
_PROFILE = ("run", "scenario", "profile", "model")
_PHASE = (*_RUN, "phase", "title")
_ENGINE = ("server", "engine", "model_name")

# By family: how Prometheus knows it, and what it is.
_CLIENT_HISTOGRAMS = {
    "ttft": ("ttft", "Time from sending a request to its first token"),
    "itl": ("itl", "Gaps between the events that carry tokens"),
    "tpot": ("tpot", "Time per output token after the first"),
    "e2el": ("e2e", "Time from sending a request to its last token"),
    "lag": ("lag", "How long after their arrival bytes were read: the client's own lateness"),
}
_VALIDITY = {VALID: 0, DEGRADED: 1, INVALID: 2}

_SERVER_GAUGES = {
    "kv_cache_usage": ("kv_cache_usage_ratio", "Part of the KV cache in use"),
    "running": ("requests_running", "Requests in the server's batch"),
    "waiting": ("requests_waiting", "Requests waiting in the server"),
    "waiting_deferred": (
        "requests_waiting_deferred",
        "Those of them that are passed over: for a LoRA slot, a transfer of KV, a grammar",
    ),
    "swapped": ("requests_swapped", "Requests swapped out to the CPU"),
    "prefix_cache_hit_ratio": (
        "prefix_cache_hit_ratio",
        "Part of the prompt tokens found in the prefix cache",
    ),
    "prompt_throughput": ("prompt_throughput", "Prompt tokens per second as the server logs them"),
    "generation_throughput": ("generation_throughput", "Output tokens per second as the server logs them"),
    "num_gpu_blocks": ("kv_cache_blocks", "Blocks of the KV cache"),
    "block_size": ("kv_cache_block_size_tokens", "Tokens of a block of the KV cache"),
    "kv_cache_size_tokens": ("kv_cache_size_tokens", "Tokens that the KV cache holds, as vLLM counts them"),
}
_SERVER_COUNTERS = {
    "preemptions": "Times a request lost its place in the KV cache and was computed again",
    "prompt_tokens": "Prompt tokens",
    "generation_tokens": "Output tokens",
    "prefix_cache_hits": "Prompt tokens found in the prefix cache",
    "prefix_cache_queries": "Prompt tokens looked for in the prefix cache",
    "requests_finished": "Requests that ended",
    "admission_rejections": "Requests that were not let in",
}
_SERVER_HISTOGRAMS = {
    "ttft": "Time to first token",
    "itl": "Gaps between tokens",
    "tpot": "Time per output token after the first",
    "e2e": "Time from a request's arrival to its end",
    "queue": "Time of waiting in the server",
    "prefill": "Time from the first place in the batch to the first token",
    "decode": "Time from the first token to the last",
    "inference": "Time in the batch",
}
_GPU_GAUGES = {
    "utilization_ratio": ("gpu_utilization_ratio", "Part of the time in which the GPU was busy"),
    "memory_used_bytes": ("gpu_memory_used_bytes", "Memory of the GPU in use"),
    "memory_total_bytes": ("gpu_memory_total_bytes", "Memory of the GPU"),
}


class Page(Collector):
    """All metrics of one moment."""

    def __init__(self, run: LiveRun | None, servers: Sequence[ServerStatus]) -> None:
        families = [] if run is None else [*_client(run), *_phases(run)]
        self._families = [family for family in (*families, *_server(servers)) if family.samples]

    def collect(self) -> Iterable[Metric]:
        return self._families

    def render(self) -> bytes:
        """The page in Prometheus' plain text format, of `CONTENT_TYPE`."""
        return generate_latest(self)


def _client(run: LiveRun) -> Iterator[Metric]:
    labels = _labels(run)
    profiles: dict[_Labels, Profile] = {
        (labels[0], labels[1], profile, labels[2]): run.profiles[profile] for profile in sorted(run.profiles)
    }
    yield from _client_histograms(profiles)
    yield from _client_counters(profiles, goodput=run.identity.goodput_ms is not None)
    load, validity = run.load, run.verdict()
    yield _gauge("users", "Locust's users", _RUN, {labels: load.users})
    yield _gauge("inflight_requests", "Requests sent and not ended", _RUN, {labels: load.in_flight})
    yield _gauge(
        "request_rate_target",
        "Requests per second that an open loop is to send now",
        _RUN,
        {labels: load.request_rate_target},
    )
    yield _gauge(
        "validity",
        "Whether the client can be trusted: 0 valid, 1 degraded, 2 invalid",
        _RUN,
        {labels: _VALIDITY[validity.verdict]},
    )
    verdicts = {name: metric.judged.verdict for name, metric in validity.metrics.items()}
    yield _gauge(
        "metric_validity",
        "The same of one metric, and of whether the load was as planned",
        (*_RUN, "metric"),
        {
            (*labels, name): _VALIDITY[one]
            for name, one in {**verdicts, "load": validity.load.verdict}.items()
        },
    )
    yield _gauge(
        "client_cpu_ratio",
        "Share of one core that a process of the client used",
        (*_RUN, "process"),
        {(*labels, process): share for process, share in load.cpu_shares.items()},
    )
    running = int(load.load_state == "running")
    yield _gauge("run_running", "1 while load is on, 0 after", _RUN, {labels: running})


def _client_histograms(profiles: Mapping[_Labels, Profile]) -> Iterator[Metric]:
    for family, (name, text) in _CLIENT_HISTOGRAMS.items():
        metric = HistogramMetricFamily(f"vllm_locust_{name}_seconds", text, labels=_PROFILE)
        for labels, profile in profiles.items():
            counts = profile.buckets.counts[family].tolist()
            sum_s = profile.tally.latency(family).sum_s
            metric.add_metric(labels, _buckets(BOUNDS_S[family].tolist(), counts), sum_s)
        yield metric


def _client_counters(profiles: Mapping[_Labels, Profile], goodput: bool) -> Iterator[Metric]:
    tallies = {labels: profile.tally for labels, profile in profiles.items()}
    yield _counter(
        "requests",
        "Requests of the whole run by what became of them",
        (*_PROFILE, "outcome"),
        {
            (*labels, outcome): count
            for labels, tally in tallies.items()
            for outcome, count in {OK: tally.ok, DROPPED: tally.dropped, **tally.failures}.items()
        },
    )
    yield _counter(
        "prompt_tokens",
        "Prompt tokens of the completed requests",
        _PROFILE,
        {labels: tally.prompt_tokens for labels, tally in tallies.items()},
    )
    yield _counter(
        "output_tokens",
        "Output tokens of the completed requests",
        _PROFILE,
        {labels: tally.output_tokens for labels, tally in tallies.items()},
    )
    yield _counter(
        "received_tokens",
        "Output tokens of all requests of the whole run, counted when a request ends",
        _PROFILE,
        {labels: tally.received_tokens for labels, tally in tallies.items()},
    )
    if goodput:
        yield _counter(
            "goodput_requests",
            "Completed requests within all limits of --goodput",
            _PROFILE,
            {labels: tally.good for labels, tally in tallies.items()},
        )


def _phases(run: LiveRun) -> Iterator[Metric]:
    labels = _labels(run)
    on = run.phase if run.load.load_state != "done" else None
    yield _gauge(
        "phase_info",
        "1 for the phase that is on",
        _PHASE,
        {} if on is None else {(*labels, *_phase_labels(on)): 1},
    )
    phases: dict[_Labels, Phase] = {(*labels, *_phase_labels(phase)): phase for phase in run.last_phases}
    yield _gauge(
        "phase_level",
        "The load that a phase stands for: users, or requests per second",
        (*_PHASE, "unit"),
        {(*which, phase.unit): phase.level for which, phase in phases.items()},
    )
    numbers_of = {which: run.numbers_of(phase) for which, phase in phases.items()}
    for family in LATENCIES:
        name, text = _CLIENT_HISTOGRAMS[family]
        percentiles = _gauge(
            f"phase_{name}_seconds",
            f"{text}: percentiles of a phase so far",
            (*_PHASE, "quantile"),
            _quantiles(family, numbers_of),
        )
        percentiles.type = "summary"  # Prometheus' linter wants the label `quantile` on nothing else
        yield percentiles
    for name, text in {
        "request_throughput": "Completed requests per second of a phase so far",
        "output_throughput": "Output tokens per second of a phase so far",
        "request_goodput": "Requests within all limits of --goodput per second of a phase so far",
        "error_ratio": "Part of the requests of a phase that failed so far",
    }.items():
        values = {which: getattr(numbers, name) for which, numbers in numbers_of.items()}
        yield _gauge(f"phase_{name}", text, _PHASE, values)


def _quantiles(family: str, numbers_of: Mapping[_Labels, PhaseNumbers]) -> dict[_Labels, float | None]:
    return {
        (*which, repr(q / 100)): value
        for which, numbers in numbers_of.items()
        for q, value in numbers.quantiles_s[family].items()
    }


def _server(servers: Sequence[ServerStatus]) -> Iterator[Metric]:
    yield _gauge(
        "server_up",
        "1 when the server's metrics can be had",
        ("server",),
        {(server.source,): int(server.up) for server in servers},
    )
    up = {server.source: sample for server in servers if (sample := server.now) is not None}
    yield _gauge(
        "server_scrape_seconds",
        "How long it took to get the server's metrics",
        ("server",),
        {(server.source,): server.scrape_s for server in servers if server.source in up},
    )
    engines: dict[_Labels, EngineState] = {
        (source, engine.engine, engine.model_name): engine
        for source, sample in up.items()
        for engine in sample.engines
    }
    for key, (name, text) in _SERVER_GAUGES.items():
        values = {labels: engine.gauges.get(key) for labels, engine in engines.items()}
        yield _gauge(f"server_{name}", text, _ENGINE, values)
    for key, text in _SERVER_COUNTERS.items():
        counts = {labels: engine.counters.get(key) for labels, engine in engines.items()}
        yield _counter(f"server_{key}", f"{text}, as the server counts", _ENGINE, counts)
    for key, text in _SERVER_HISTOGRAMS.items():
        metric = HistogramMetricFamily(
            f"vllm_locust_server_{key}_seconds", f"{text}, by the server", labels=_ENGINE
        )
        for labels, engine in engines.items():
            state = engine.histograms.get(key)
            if state is not None:
                metric.add_metric(labels, _buckets(state.bounds, state.counts), state.sum_s)
        yield metric
    gpus: dict[_Labels, GpuState] = {
        (source, gpu.gpu): gpu for source, sample in up.items() for gpu in sample.gpus
    }
    for key, (name, text) in _GPU_GAUGES.items():
        sizes = {labels: getattr(gpu, key) for labels, gpu in gpus.items()}
        yield _gauge(f"server_{name}", text, ("server", "gpu"), sizes)


def _labels(run: LiveRun) -> tuple[str, str, str]:
    return run.identity.run, run.identity.scenario, run.identity.model


def _phase_labels(phase: Phase) -> tuple[str, str]:
    return str(phase.number + 1), phase.title


def _buckets(bounds: Iterable[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[_Labels, float | None]) -> Metric:
    metric = GaugeMetricFamily(f"vllm_locust_{name}", text, labels=labels)
    for which, value in values.items():
        if value is not None:
            metric.add_metric(which, value)
    return metric


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[_Labels, float | None]) -> Metric:
    metric = CounterMetricFamily(f"vllm_locust_{name}", text, labels=labels)
    for which, value in values.items():
        if value is not None:
            metric.add_metric(which, value)
    return metric
