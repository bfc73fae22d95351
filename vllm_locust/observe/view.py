"""The live view: what the web UI's tab draws of the run and of the server, as JSON.

Rule: what is not known is null; latencies are in ms; times are seconds since the run began. Numbers say what
the summary would say now, percentiles within 0.1 %.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from vllm_locust.core.server import GpuState, ServerSample
from vllm_locust.core.validity import Validity
from vllm_locust.observe.live import QUANTILES, LiveRun, rates
from vllm_locust.observe.series import Series, gauges
from vllm_locust.observe.status import ServerStatus, growth
from vllm_locust.observe.tally import LATENCIES, Tally

# A worker reports once a second, and a view is made once a second.
_REPORTED_AFTER_S = 2.0


def live_view(
    run: LiveRun | None, servers: Sequence[ServerStatus], exporter: str | None, clock_s: float
) -> bytes:
    """The view at a time of this machine's clock; `exporter` is the address of its page, if there is one."""
    view = _nothing() if run is None else _of_run(run, clock_s)
    view["server"] = [_server(server) for server in servers]
    view["exporter"] = exporter
    view["problem"] = None
    return orjson.dumps(view)  # what is no number, such as a NaN of the server's, becomes null


def with_problem(view: bytes | None, problem: str) -> bytes:
    """A view that is the last one, since nobody makes others any more, nor an exporter's page."""
    last = orjson.loads(live_view(None, (), None, 0.0) if view is None else view)
    return orjson.dumps({**last, "exporter": None, "problem": problem})


def _nothing() -> dict[str, Any]:
    return {
        "run": None,
        "verdict": None,
        "load": {"users": 0, "in_flight": 0, "request_rate_target": None, "phase": None},
        "requests": _requests(Tally()),
        "rates": rates(Tally(), None, None),
        "table": [],
        "series": Series().columns(0.0),
        "phases": [],
    }


def _of_run(run: LiveRun, clock_s: float) -> dict[str, Any]:
    identity, load, total = run.identity, run.load, run.total()
    over = run.ended_s is not None
    elapsed_s = identity.since_begin_s(clock_s) if run.ended_s is None else run.ended_s
    return {
        "run": {
            "id": identity.run,
            "scenario": identity.scenario,
            "model": identity.model,
            "host": identity.host,
            "state": load.load_state,
            "elapsed_s": elapsed_s,
        },
        "verdict": _verdict(run.verdict()),
        "load": {
            "users": load.users,
            "in_flight": load.in_flight,
            "request_rate_target": load.request_rate_target,
            "phase": _phase(run),
        },
        "requests": _requests(total),
        "rates": rates(total, run.window(), identity.goodput_ms),
        "table": _table(run),
        "series": run.series.columns(elapsed_s, over=over, settling_s=0.0 if over else _settling_s(total)),
        "phases": [
            {"number": phase.number + 1, "title": phase.title, "at_s": phase.began_s}
            for phase in run.last_phases
            if phase.began_s is not None
        ],
    }


def _settling_s(total: Tally) -> float:
    """How long ago a second must be for nearly all requests that had tokens in it to be reported."""
    return (total.e2el.percentile(99) or 0.0) + _REPORTED_AFTER_S


def _verdict(validity: Validity) -> dict[str, Any]:
    keys = ("verdict", "ttft_bound_p99_ms", "itl_bound_p99_ms", "lag_p99_ms", "send_lateness_p99_ms")
    return {
        **{key: getattr(validity, key) for key in keys},
        "reasons": list(validity.reasons),
        "metrics": {name: metric.judged.verdict for name, metric in validity.metrics.items()},
        "load": validity.load.to_dict(),
        "remarks": list(validity.remarks),
        "cpu_shares": dict(validity.cpu_shares),
    }


def _phase(run: LiveRun) -> dict[str, Any] | None:
    if run.phase is None:
        return None
    return {"number": run.phase.number + 1, "of": run.phases_planned, "title": run.phase.title}


def _requests(tally: Tally) -> dict[str, Any]:
    return {
        "ok": tally.ok,
        "failed": tally.failed,
        "dropped": tally.dropped,
        "outside_window": tally.outside_window,
        "failures": dict(sorted(tally.failures.items())),
    }


def _table(run: LiveRun) -> list[dict[str, Any]]:
    tallies = ((name, run.profiles[name].tally) for name in sorted(run.profiles))
    rows = [(name, tally) for name, tally in tallies if tally.planned]
    if len(rows) > 1:
        rows.insert(0, ("all", run.total()))
    return [
        {
            "profile": name,
            "completed": tally.completed,
            "failed": tally.failed_in_window,
            **{family: _statistics(tally, family) for family in LATENCIES},
        }
        for name, tally in rows
    ]


def _statistics(tally: Tally, family: str) -> dict[str, Any]:
    histogram = tally.latency(family)
    return {
        "count": histogram.count,
        "mean_ms": _ms(histogram.mean_s),
        **{f"p{q:.0f}_ms": _ms(histogram.percentile(q)) for q in QUANTILES},
        "uncertain": [f"p{q:.0f}" for q in QUANTILES if tally.uncertain(family, q)],
    }


def _server(server: ServerStatus) -> dict[str, Any]:
    sample = server.now
    row: dict[str, Any] = {"source": server.source, "up": server.up, "problem": server.problem}
    if sample is None:
        names = ("running", "waiting", "kv_cache_usage", "preemptions", "prefix_cache_hit_ratio")
        return {**row, "engines": 0, **dict.fromkeys(names), "gpus": []}
    running, waiting = gauges([sample], "running"), gauges([sample], "waiting")
    return {
        **row,
        "engines": len(sample.engines),
        "running": sum(running) if running else None,
        "waiting": sum(waiting) if waiting else None,
        "kv_cache_usage": max(gauges([sample], "kv_cache_usage"), default=None),
        "preemptions": None if server.baseline is None else growth("preemptions", sample, server.baseline),
        "prefix_cache_hit_ratio": _hit_ratio(sample, server.baseline),
        "gpus": [_gpu(gpu) for gpu in sample.gpus],
    }


def _hit_ratio(sample: ServerSample, baseline: ServerSample | None) -> float | None:
    """Since the run began, by the counters; without them what the server says of itself."""
    if baseline is not None:
        hits = growth("prefix_cache_hits", sample, baseline)
        queries = growth("prefix_cache_queries", sample, baseline)
        if hits is not None and queries is not None:
            return hits / queries if queries else None
    told = gauges([sample], "prefix_cache_hit_ratio")
    return sum(told) / len(told) if told else None


def _gpu(gpu: GpuState) -> Mapping[str, Any]:
    return {
        "gpu": gpu.gpu,
        "utilization_ratio": gpu.utilization_ratio,
        "memory_used_bytes": gpu.memory_used_bytes,
        "memory_total_bytes": gpu.memory_total_bytes,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
