"""What is to be seen in a plot, before anything is drawn: panels and the curves in them.

    latency           TTFT, TPOT and E2EL over load: mean and p99, a curve for each profile or configuration
    throughput        requests and tokens per second over load, with their knees
    configurations    latencies, throughput, duration and failures, a point for each configuration
    server            KV usage, running and waiting requests, a point for each configuration

Rule: what no row has makes no panel, and a plot without panels is none.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_locust.report.evidence import (
    complete,
    configuration,
    determined,
    factor,
    failed,
    grouped,
    raw,
    steady,
    work,
    work_word,
)
from vllm_locust.results.rows import Row

NAN = float("nan")
VALUE = "value"
"""The name of a curve that is no statistic of several."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one thing; a `y` that is not known is NaN."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    unsure: Sequence[bool] = ()
    """Which points are of a sample that is too small, or in which requests failed."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """What a point may be: of one run the 95 % interval of a percentile, of repeats the smallest and the
    largest; NaN where neither is known."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    unit: str
    along: str
    curves: Sequence[Curve]
    ticks: Sequence[str] | None = None
    """Words at 0, 1, 2, ... instead of numbers."""
    knee: bool = False
    """Whether the knee of each curve is to be marked."""


Plots = Mapping[str, tuple[str, Sequence[Panel]]]
"""Titles and panels by the name of the plot."""

_LATENCIES = {"TTFT": "ttft", "TPOT": "tpot", "E2EL (total)": "e2el"}
_STATISTICS = ("mean", "p99")
_ALONG = {"users": "users", "requests/s": "requests per second asked for"}
_THROUGHPUTS = {
    "Requests": ("requests per second", "request_throughput"),
    "Output tokens": ("tokens per second", "output_throughput"),
}
_FAILED = "failed"
_ROUNDS = {
    "TTFT": ("ms", ("mean_ttft_ms", "p99_ttft_ms")),
    "TPOT": ("ms", ("mean_tpot_ms", "p99_tpot_ms")),
    "ITL": ("ms", ("mean_itl_ms", "p99_itl_ms")),
    "Duration": ("s", ("duration",)),
    "Output throughput": ("tokens per second", ("output_throughput",)),
    "Failed requests": ("requests", (_FAILED,)),
}
_SERVER = {
    "KV cache usage": ("% of the cache, peak at least", ("server.kv_cache_usage_peak",)),
    "Running": ("requests, peak at least", ("server.requests_running_peak",)),
    "Waiting": ("requests, peak at least", ("server.requests_waiting_peak",)),
}


def level_plots(rows: Sequence[Row]) -> Plots:
    """Latency and throughput over load, where something was measured at two loads at least.

    The curves of one configuration are its profiles; of several, the configurations, and each profile has a
    plot of latencies of its own.
    """
    plots: dict[str, tuple[str, Sequence[Panel]]] = {}
    scenarios = grouped(_at_levels(rows), lambda row: (row.unit, _scenario(row)))
    several = len({scenario for _, scenario in scenarios}) > 1
    for (unit, scenario), some in scenarios.items():
        along = _ALONG.get(unit or "", "load")
        suffix = "" if unit != "requests/s" else "_rate"
        for profile, part, name in _families(some):
            what = ", ".join(filter(None, [scenario if several else "", profile]))
            where = f", {what}" if what else ""
            curves = grouped(part, name)
            latency = _latency_panels(curves, along)
            if latency:
                plots[_file(f"latency{suffix}", what)] = (f"Latency over load{where}", latency)
            panels = _throughput_panels(curves, along)
            if panels:
                plots[_file(f"throughput{suffix}", what)] = (f"Throughput over load{where}", panels)
    return plots


def _scenario(row: Row) -> str:
    """What was asked; of a ladder's steps, such as `tiny.ss`, the scenario that they belong to."""
    return str(factor(row, "workload") or row.workload.split(".")[0])


def configuration_plots(rows: Sequence[Row]) -> Plots:
    """Whole runs side by side, for each workload and load that two configurations have at least."""
    plots: dict[str, tuple[str, Sequence[Panel]]] = {}
    groups = grouped(steady(rows), work)
    for some in groups.values():
        cells = grouped(some, configuration)
        if len(cells) < 2:
            continue
        what = work_word(some[0]) if len(groups) > 1 else ""
        where = f", {what}" if what else ""
        for name, title, wanted in (
            ("configurations", "Configurations side by side", _ROUNDS),
            ("server", "The server's side, by configuration", _SERVER),
        ):
            panels = list(_rounds(cells, wanted))
            if panels:
                plots[_file(name, what)] = (title + where, panels)
    return plots


def _at_levels(rows: Sequence[Row]) -> list[Row]:
    """The rows that have a load: the phases of a run, or the whole of one that has none."""
    runs = grouped(rows, lambda row: (row.run, work(row)))
    chosen = []
    for some in runs.values():
        phases = [row for row in some if row.phase is not None]
        chosen += [row for row in phases or some if row.level is not None]
    return chosen


def _families(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[Row], Callable[[Row], str]]]:
    """What a plot is of, its rows, and the name of the curve that each belongs to."""
    profiled = [row for row in rows if row.profile is not None]
    profiles = grouped(profiled, lambda row: str(row.profile))
    if len(grouped(rows, configuration)) == 1 and profiled:
        yield "", profiled, lambda row: str(row.profile)
    elif len(profiles) > 1:
        for profile, some in profiles.items():
            yield profile, some, configuration
    else:
        yield "", rows, configuration


def _latency_panels(curves: Mapping[str, Sequence[Row]], along: str) -> list[Panel]:
    panels = []
    for statistic in _STATISTICS:
        for title, family in _LATENCIES.items():
            drawn = _over_level(curves, f"{statistic}_{family}_ms")
            if drawn:
                panels.append(Panel(f"{title}, {statistic}", "ms", along, drawn))
    return panels


def _throughput_panels(curves: Mapping[str, Sequence[Row]], along: str) -> list[Panel]:
    panels = []
    for title, (unit, key) in _THROUGHPUTS.items():
        drawn = _over_level(curves, key)
        if drawn:
            panels.append(Panel(title, unit, along, drawn, knee=True))
    return panels


def _over_level(curves: Mapping[str, Sequence[Row]], key: str) -> list[Curve]:
    """A curve for each name that knows the number at two levels.

    What a window says in which too few requests ended is not noisy but wrong: it is left out.
    """
    drawn = []
    for name, rows in curves.items():
        levels = grouped(
            [row for row in rows if complete(row) and raw(row, key) is not None], lambda row: row.level or 0.0
        )
        x = sorted(levels)
        if len(x) > 1:
            drawn.append(_curve(name, x, [levels[level] for level in x], key))
    return drawn


def _rounds(
    cells: Mapping[str, Sequence[Row]], wanted: Mapping[str, tuple[str, Sequence[str]]]
) -> Iterator[Panel]:
    """A panel for each number that two configurations know, percent where it is a share of the cache.

    Where requests failed, latencies and durations are those of the others: they are drawn as unsure.
    """
    ticks = list(cells)
    for title, (unit, keys) in wanted.items():
        scale = 100.0 if unit.startswith("%") else 1.0
        curves = [
            _curve(_statistic(key), range(len(cells)), list(cells.values()), key, scale) for key in keys
        ]
        curves = [curve for curve in curves if sum(y == y for y in curve.y) > 1]
        if curves and (keys != (_FAILED,) or any(y > 0 for y in curves[0].y)):
            yield Panel(title, unit, "", curves, ticks)


def _statistic(key: str) -> str:
    return next((one for one in _STATISTICS if key.startswith(f"{one}_")), VALUE)


def _curve(
    name: str, x: Sequence[float], cells: Sequence[Sequence[Row]], key: str, scale: float = 1.0
) -> Curve:
    """Means over the rows of each cell, and what they may be."""
    points = [_point(rows, key) for rows in cells]
    y, low, high = ([scale * point[part] for point in points] for part in range(3))
    unsure = [
        key != _FAILED and any(not determined(row, key) or failed(row) for row in rows) for rows in cells
    ]
    return Curve(name, x, y, unsure, low, high)


def _point(rows: Sequence[Row], key: str) -> tuple[float, float, float]:
    """The mean, and its lowest and highest."""
    known = [(value, row) for row in rows if (value := raw(row, key)) is not None]
    values = [value for value, _ in known]
    if not known:
        return NAN, NAN, NAN
    if len(known) > 1:
        return sum(values) / len(values), min(values), max(values)
    low, high = (known[0][1].numbers.get("intervals") or {}).get(key) or (None, None)
    return values[0], NAN if low is None else low, NAN if high is None else high


def _file(name: str, what: str) -> str:
    return re.sub(r"[^\w.-]+", "_", f"{name}_{what}" if what else name)
