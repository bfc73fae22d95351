"""A run over time: what the server said of itself, and the client's side folded from its requests.

Rule: both share the axis of `requests.jsonl`, seconds since the run began. Where nothing is known there is
NaN, never 0, and the largest value of a bin stays the largest however wide the bin is.

Of a request only its first and its last token are known, so its other tokens count as spread evenly between.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.record import DROPPED, OK
from vllm_locust.results.requests import Requests

SERVER_METRICS = "server_metrics.csv"

MOST_BINS = 160
_WIDTHS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_AT_ONCE_S = 1e-4
"""Tokens that take no longer than this came at one time."""
_PATIENCE = 3.5
"""What a server said holds until its next answer, but no longer than so many usual intervals."""
_WORDS = ("source", "engine", "model_name", "gpu")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """A latency in each bin: its median, 99th percentile (numpy's linear ones) and largest value, in ms."""

    p50_ms: Floats
    p99_ms: Floats
    max_ms: Floats


@dataclass(frozen=True, slots=True)
class ClientTimeline:
    """The client's side: an entry for each bin."""

    edges_s: Floats
    """Of the bins, one more than there are."""
    ttft: Spread
    """Of requests by the time at which they were sent."""
    tpot: Spread
    """Of requests by the time of their last token."""
    longest_itl_ms: Floats
    """The largest gap between tokens of a request, by the time of its last token."""
    output_tokens_per_s: Floats
    in_flight_mean: Floats
    in_flight_max: Floats
    """Requests that were sent and had not ended."""
    answered_per_s: Floats
    failures: Mapping[str, NDArray[np.int64]]
    """How many requests failed, by outcome; `dropped` is one of them here."""


@dataclass(frozen=True, slots=True)
class ServerTimeline:
    """The server's side: an entry for each look at it, all engines together."""

    time_s: Floats
    running: Floats
    waiting: Floats
    kv_cache_usage: Floats
    """Of the fullest engine, 0 to 1."""
    generation_tokens_per_s: Floats
    prompt_tokens_per_s: Floats
    preemptions_per_s: Floats
    gpu_utilization: Floats
    """Of the GPUs on average, 0 to 1."""


def read_server_metrics(path: Path) -> dict[str, NDArray[np.float64] | NDArray[np.str_]] | None:
    """The columns of `server_metrics.csv`: numbers, NaN in empty cells, and words; None without the file.

    A last line that was cut off, and whatever else is no row of the table, is left out.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as text:
            lines = csv.reader(text)
            names = next(lines, [])
            rows = [row for row in lines if len(row) == len(names)]
    except OSError:
        return None
    cells = list(zip(*rows, strict=True)) or [()] * len(names)
    return {
        name: np.array(column, np.str_) if name in _WORDS else _numbers(column)
        for name, column in zip(names, cells, strict=True)
    }


def _numbers(cells: Sequence[str]) -> Floats:
    return np.array([_number(cell) for cell in cells], np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def server_timeline(table: Mapping[str, NDArray[np.float64] | NDArray[np.str_]]) -> ServerTimeline | None:
    """The server's side of a table as `read_server_metrics` reads it; None when nothing was seen."""
    if "time_s" not in table or not len(table["time_s"]):
        return None
    engines = list(_parts(table, "engine"))
    gpus = list(_parts(table, "gpu"))
    times = _times([part["time_s"] for part in engines or gpus])

    def held(parts: Sequence[Mapping[str, Floats]], name: str, rate: bool = False) -> Floats:
        values = [_growth(part["time_s"], part[name]) if rate else part[name] for part in parts]
        series = [_hold(times, part["time_s"], one) for part, one in zip(parts, values, strict=True)]
        return np.array(series) if series else np.full((1, len(times)), np.nan)

    told = _total(held(engines, "generation_throughput"))
    counted = _total(held(engines, "generation_tokens_total", rate=True))
    return ServerTimeline(
        time_s=times,
        running=_total(held(engines, "running")),
        waiting=_total(held(engines, "waiting")),
        kv_cache_usage=np.fmax.reduce(held(engines, "kv_cache_usage")),
        generation_tokens_per_s=np.where(np.isnan(counted), told, counted),
        prompt_tokens_per_s=_total(held(engines, "prompt_tokens_total", rate=True)),
        preemptions_per_s=_total(held(engines, "preemptions_total", rate=True)),
        gpu_utilization=_mean(held(gpus, "gpu_utilization")),
    )


def _parts(
    table: Mapping[str, NDArray[np.float64] | NDArray[np.str_]], unit: str
) -> Iterator[dict[str, Floats]]:
    """The rows of each engine, or of each GPU; columns that an older file lacks are unknown."""
    count = len(table["time_s"])
    empty = np.full(count, "", np.str_)
    sources, units = (np.asarray(table.get(name, empty), np.str_) for name in ("source", unit))
    keys = np.char.add(np.char.add(sources, "\n"), units)
    is_unit: NDArray[np.bool_] = units != ""
    for key in np.unique(keys[is_unit]):
        mine = is_unit & (keys == key) & ~np.isnan(table["time_s"])
        order = np.argsort(table["time_s"][mine], kind="stable")
        columns = {name: values[mine][order] for name, values in table.items() if name not in _WORDS}
        yield _Unknown(columns, len(order))


class _Unknown(dict[str, Floats]):
    """Columns of which those that are not there are unknown."""

    def __init__(self, columns: Mapping[str, Floats], count: int) -> None:
        super().__init__(columns)
        self._count = count

    def __missing__(self, name: str) -> Floats:
        return np.full(self._count, np.nan)


def _patience_s(times: Floats) -> float:
    steps = np.diff(times)
    return _PATIENCE * float(np.median(steps)) if len(steps) else np.inf


def _times(looks: Sequence[Floats]) -> Floats:
    """Every time at which something was said, and those at which it stopped being true."""
    ends = [_until(times)[:-1][times[1:] > _until(times)[:-1]] for times in looks]
    return np.unique(np.concatenate([*looks, *ends]))


def _until(times: Floats) -> Floats:
    """Until when each look holds, where no other follows."""
    return times + _patience_s(times)


def _hold(at: Floats, times: Floats, values: Floats) -> Floats:
    """The last value before or at each time; NaN before the first one, and when it is too old."""
    place = np.searchsorted(times, at, "right") - 1
    known = place >= 0
    held = np.where(known, values[np.maximum(place, 0)], np.nan)
    held[known & (at >= _until(times)[np.maximum(place, 0)])] = np.nan  # the very sums that are among `at`
    return held


def _growth(times: Floats, counter: Floats) -> Floats:
    """Growth per second since the look before; NaN for the first one, and over a restart."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.diff(counter, prepend=np.nan) / np.diff(times, prepend=np.nan)
    return np.where(np.isfinite(rate) & (rate >= 0), rate, np.nan)


def _total(series: Floats) -> Floats:
    return np.where(np.isnan(series).all(axis=0), np.nan, np.nansum(series, axis=0))


def _mean(series: Floats) -> Floats:
    known = (~np.isnan(series)).sum(axis=0)
    return np.where(known == 0, np.nan, np.nansum(series, axis=0) / np.maximum(known, 1))


def client_timeline(requests: Requests, most_bins: int = MOST_BINS) -> ClientTimeline | None:
    """The client's side of these requests in bins of equal width from 0 on; None when nothing ever ended."""
    sent_s, ended_s = requests["sent_s"], requests["ended_s"]
    if not np.isfinite(ended_s).any():
        return None
    edges = _edges(float(np.nanmax(ended_s)), most_bins)
    width_s, count = edges[1] - edges[0], len(edges) - 1
    ok = requests.is_word("outcome", OK)
    was_sent = np.isfinite(sent_s) & np.isfinite(ended_s)
    first_s, last_s = requests["first_token_s"][ok], requests["last_token_s"][ok]
    tokens = np.maximum(requests["output_tokens"][ok], 1).astype(np.float64)
    in_flight = amounts(sent_s[was_sent], ended_s[was_sent], np.ones(int(was_sent.sum())), edges) / width_s
    arrived = amounts(first_s, last_s, tokens - 1, edges, per_s=False)
    arrived += np.bincount(_bins(first_s, edges), minlength=count)
    return ClientTimeline(
        edges_s=edges,
        ttft=_spread(_bins(sent_s[ok], edges), requests["ttft_s"][ok] * 1000, count),
        tpot=_spread(_bins(last_s, edges), requests["tpot_s"][ok] * 1000, count),
        longest_itl_ms=_largest(_bins(last_s, edges), requests["max_itl_s"][ok] * 1000, count),
        output_tokens_per_s=arrived / width_s,
        in_flight_mean=in_flight,
        in_flight_max=_most_at_once(sent_s[was_sent], ended_s[was_sent], edges),
        answered_per_s=np.bincount(_bins(ended_s[ok], edges), minlength=count) / width_s,
        failures=_failures(requests, edges),
    )


def _edges(end_s: float, most_bins: int) -> Floats:
    widths = [width for width in _WIDTHS_S if end_s / width <= most_bins]
    width_s = widths[0] if widths else end_s / most_bins
    return np.arange(max(1, int(np.floor(end_s / width_s)) + 1) + 1, dtype=np.float64) * width_s


def _bins(times: Floats, edges: Floats) -> NDArray[np.int64]:
    """The bin of each time; NaN and what lies outside goes into the nearest one."""
    places = np.nan_to_num(times, nan=0.0) / (edges[1] - edges[0])
    inside: NDArray[np.int64] = np.clip(places.astype(np.int64), 0, len(edges) - 2)
    return inside


def amounts(start: Floats, end: Floats, weight: Floats, edges: Floats, per_s: bool = True) -> Floats:
    """How much falls into each bin of what is spread evenly from `start` to `end`.

    `weight` is the amount per second, or all of it together when not `per_s`; what takes no time at all is
    then where it starts.
    """
    width_s, count = edges[1] - edges[0], len(edges) - 1
    lasts = end - start > _AT_ONCE_S
    at_once = (
        np.bincount(_bins(start[~lasts], edges), weight[~lasts], count) if not per_s else np.zeros(count)
    )
    start, end, weight = start[lasts], end[lasts], weight[lasts]
    rate = weight if per_s else weight / (end - start)
    first, last = _bins(start, edges), _bins(end, edges)
    going = np.cumsum(np.bincount(first, rate, count) - np.bincount(last, rate, count))
    before = np.bincount(first, rate * (start - edges[first]), count)
    behind = np.bincount(last, rate * (end - edges[last]), count)
    # Rounding may leave a little less than nothing.
    spread: Floats = np.maximum(going * width_s - before + behind, 0.0)
    return spread + at_once


def _most_at_once(sent: Floats, ended: Floats, edges: Floats) -> Floats:
    """The most requests in flight in each bin; of an end and a start at the same time the end comes first."""
    times = np.concatenate([ended, sent])
    order = np.argsort(times, kind="stable")
    level = np.cumsum(np.repeat([-1, 1], [len(ended), len(sent)])[order])
    bins = _bins(times[order], edges)
    most = np.zeros(len(edges) - 1)
    np.maximum.at(most, bins, level)
    # What a bin begins with is what the last event before it left.
    place = np.searchsorted(bins, np.arange(len(most)), "left") - 1
    return np.maximum(most, np.where(place >= 0, level[np.maximum(place, 0)], 0))


def _spread(bins: NDArray[np.int64], values: Floats, count: int) -> Spread:
    """Percentiles of the values in each of `count` bins; a NaN is no value."""
    known = ~np.isnan(values)
    bins, values = bins[known], values[known]
    values = values[np.lexsort((values, bins))]
    sizes = np.bincount(bins, minlength=count)
    starts = np.cumsum(sizes) - sizes

    def at(q: float) -> Floats:
        if not len(values):
            return np.full(count, np.nan)
        place = np.maximum(sizes - 1, 0) * q
        low = np.minimum(starts + np.floor(place).astype(np.int64), len(values) - 1)
        high = np.minimum(starts + np.ceil(place).astype(np.int64), len(values) - 1)
        between = values[low] + (values[high] - values[low]) * (place - np.floor(place))
        return np.where(sizes > 0, between, np.nan)

    return Spread(at(0.5), at(0.99), at(1.0))


def _largest(bins: NDArray[np.int64], values: Floats, count: int) -> Floats:
    largest = np.full(count, np.nan)
    np.fmax.at(largest, bins, values)
    return largest


def _failures(requests: Requests, edges: Floats) -> dict[str, NDArray[np.int64]]:
    """By the end of a request; one that was never sent has its intended start where it has no end."""
    when = np.where(np.isnan(requests["ended_s"]), requests["intended_s"], requests["ended_s"])
    counts = {}
    for outcome in requests.count_words("outcome"):
        if outcome not in (OK, None):
            mine = requests.is_word("outcome", outcome)
            counts[outcome] = np.bincount(_bins(when[mine], edges), minlength=len(edges) - 1)
    return {outcome: counts[outcome] for outcome in sorted(counts, key=lambda one: (one == DROPPED, one))}
