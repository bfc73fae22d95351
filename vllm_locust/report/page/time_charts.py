"""A run over time: client and server on one axis, with the phases shaded, and failures by kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.record import OK
from vllm_locust.report.page.charts import Chart, Trace, line, numbers, plain, scale, thinned
from vllm_locust.report.page.words import phase_name
from vllm_locust.results.folder import Results
from vllm_locust.results.timeline import (
    MOST_BINS,
    SERVER_METRICS,
    ClientTimeline,
    ServerTimeline,
    Spread,
    client_timeline,
    read_server_metrics,
    server_timeline,
)

_MOST_PHASES = 60
_MOST_NAMES = 14
_FEWEST_BINS = 40
_ANSWERS_OF_BIN = 5
_OF_FAILURES = ("--bad", "--c4", "--c3", "--c6", "--c7", "--c5")

_DOTS: Mapping[str, Any] = {"mode": "lines+markers", "marker": {"size": 4}}
"""So that a bin between empty ones is seen."""

Floats = NDArray[np.float64]


def time_charts(results: Results, link: str) -> list[Chart]:
    """What is known over time; empty where nothing is. `link` makes them zoom together."""
    client = client_timeline(results.requests, _most_bins(results))
    table = None if _is_nobodys(results) else read_server_metrics(results.folder / SERVER_METRICS)
    server = server_timeline(table) if table else None
    shading = _shading((results.summary or {}).get("phases") or ())
    x = {"ticksuffix": " s", "range": [0, end_of_axis(results)]}
    return [
        Chart(title, look_for, traces, x, y, link=link, layout={**shading, **more})
        for title, look_for, traces, y, more in [
            *(_of_client(client) if client else ()),
            *_of_both(client, server),
            *(_of_server(server) if server else ()),
            *(_failures(client) if client and client.failures else ()),
        ]
    ]


def _is_nobodys(results: Results) -> bool:
    """Whether several servers took turns at one address, or others answered a part: no line is the load's."""
    server = (results.summary or {}).get("server") or {}
    return bool(server.get("several_servers") or server.get("partial"))


def _most_bins(results: Results) -> int:
    """So many that a bin has a few answers where there are enough of them."""
    answers = int(results.requests.is_word("outcome", OK).sum())
    return min(max(answers // _ANSWERS_OF_BIN, _FEWEST_BINS), MOST_BINS)


def end_of_axis(results: Results) -> float:
    """When the last request ended, in s since the start of the run; of a run without any its window's end."""
    known = results.requests["ended_s"][np.isfinite(results.requests["ended_s"])]
    return float(known.max()) if len(known) else float((results.summary or {}).get("end_s") or 1.0)


_Part = tuple[str, str, Sequence[Trace], Mapping[str, Any], Mapping[str, Any]]


def _of_client(client: ClientTimeline) -> Iterator[_Part]:
    x = _middles(client)
    if np.isnan(client.ttft.max_ms).all():
        return
    yield (
        "TTFT",
        "Growing within a phase: a queue, longer prompts or a slower server. By the time of sending.",
        _spread(x, client.ttft),
        scale("ms", client.ttft.p50_ms, client.ttft.max_ms),
        {},
    )
    worst = client.longest_itl_ms
    traces = _spread(x, client.tpot)[:2]
    if np.isfinite(worst).any():
        traces.append(line("longest ITL", x, worst, 3, line={"width": 1.5, "dash": "dot"}))
    yield (
        "TPOT and the longest ITL",
        "Longest ITL far above TPOT: tokens stood still, perhaps for the prefill of somebody else's prompt.",
        traces,
        scale("ms", client.tpot.p50_ms, client.tpot.p99_ms, worst),
        {},
    )


def _spread(x: Floats, spread: Spread) -> list[Trace]:
    return [
        line("median", x, spread.p50_ms, 0, **_DOTS),
        line("p99", x, spread.p99_ms, 1, **_DOTS),
        line("largest", x, spread.max_ms, 3, line={"width": 1, "dash": "dot"}),
    ]


def _of_both(client: ClientTimeline | None, server: ServerTimeline | None) -> Iterator[_Part]:
    tokens: list[Trace] = []
    in_flight: list[Trace] = []
    if client:
        x = _middles(client)
        tokens.append(line("output, client", x, client.output_tokens_per_s, 0))
        in_flight.append(line("in flight, client", x, client.in_flight_mean, 0))
    if server:
        tokens += _looks(server, "output, server", server.generation_tokens_per_s, 1, dash="dash")
        prompts = _looks(server, "prompt, server", server.prompt_tokens_per_s, 2)
        tokens += [trace | {"visible": "legendonly"} for trace in prompts]
        in_flight += _looks(server, "running, server", server.running, 2)
        in_flight += _looks(server, "waiting, server", server.waiting, 1, dash="dash")
    if tokens:
        look_for = "Flat while requests in flight grow: no more comes. Prompt tokens: click the legend."
        yield "Tokens per second", look_for, tokens, {"title": "tokens/s", "rangemode": "tozero"}, {}
        look_for = (
            "Waiting above zero: for memory, a place in the batch, or what else? Not told; see KV cache. "
            "In flight above running + waiting: on the way."
        )
        yield "Requests in flight", look_for, in_flight, {"title": "requests", "rangemode": "tozero"}, {}


def _of_server(server: ServerTimeline) -> Iterator[_Part]:
    traces = [
        *_looks(server, "KV cache", server.kv_cache_usage, 0),
        *_looks(server, "GPU", server.gpu_utilization, 2, dash="dash"),
    ]
    if traces:
        y = {"title": "in use", "tickformat": ".3~p", "rangemode": "tozero"}
        yield "KV cache", "Near 100 % a request may have to wait for memory, or is preempted.", traces, y, {}
    if np.nanmax(np.append(server.preemptions_per_s, 0.0)) > 0:
        more = _looks(server, "preemptions", server.preemptions_per_s, 1)
        y = {"title": "per second", "rangemode": "tozero"}
        yield "Preemptions", "Each one is work thrown away and done again.", more, y, {}


def _looks(server: ServerTimeline, name: str, values: Floats, place: int, dash: str = "solid") -> list[Trace]:
    if not np.isfinite(values).any():
        return []
    return [line(name, *thinned(server.time_s, values), place, line={"shape": "hv", "dash": dash})]


def _failures(client: ClientTimeline) -> Iterator[_Part]:
    width_s = float(client.edges_s[1] - client.edges_s[0])
    traces: list[Trace] = []
    for place, (kind, counts) in enumerate(client.failures.items()):
        some = np.flatnonzero(counts)
        x = client.edges_s[some] + width_s / 2
        colour = {"color": _OF_FAILURES[place % len(_OF_FAILURES)]}
        bars = {"type": "bar", "name": plain(kind), "width": width_s, "marker": colour}
        traces.append({**bars, "x": numbers(x), "y": counts[some].tolist()})
    look_for = "All at one time may be an event, ever more overload, evenly spread a kind of request."
    y = {"title": f"failed per {width_s:g} s", "rangemode": "tozero"}
    yield "Failures by kind", look_for, traces, y, {"barmode": "stack", "showlegend": True}


def _middles(client: ClientTimeline) -> Floats:
    middles: Floats = (client.edges_s[:-1] + client.edges_s[1:]) / 2
    return middles


def _shading(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A rectangle behind each window, every second one darker, with its name where there is room."""
    shapes, names = [], []
    for place, phase in enumerate(phases[:_MOST_PHASES]):
        start_s, end_s = phase.get("start_s"), phase.get("end_s")
        if start_s is None or end_s is None:
            continue
        ends = {"x0": start_s, "x1": end_s, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        shade = {"fillcolor": "--shade-odd" if place % 2 else "--shade-even", "line": {"width": 0}}
        shapes.append({"type": "rect", **ends, **shade})
        where = {
            "x": (start_s + end_s) / 2,
            "y": 1.01,
            "yref": "paper",
            "yanchor": "bottom",
            "showarrow": False,
        }
        names.append({"text": plain(phase_name(phase)), **where, "font": {"size": 10}})
    return {"shapes": shapes, "annotations": names if 1 < len(names) <= _MOST_NAMES else []}
