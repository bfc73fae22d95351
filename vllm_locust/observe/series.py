"""The time line of a run for its charts, in at most 600 bins however long it gets.

Rule: bins are 1 s wide; whenever more are needed than there are, each two neighbours become one:
counts add up, histograms merge, users and the server's gauges are means over time (the KV cache: its peak).

A request counts when it ended, its gaps between tokens where the requests ended that came with them, output
tokens in the second of their arrival. That becomes known when their request ends, so earlier bins still fill.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.server import ServerSample
from vllm_locust.observe.status import ServerStatus, growth

BINS = 600
# Bins that change again and again; a histogram that is not packed has some 140 kB.
_OPEN = 6

_COUNTS = {
    "output_tokens": "output_tokens_per_s",
    "requests": "requests_per_s",
    "failed": "failed_per_s",
}
_MEANS = ("users", "in_flight", "server_running", "server_waiting", "server_generation_tokens_per_s")
_PEAK = "server_kv_usage"


class Series:
    """The bins of one run. All times are seconds since it began."""

    def __init__(self) -> None:
        self.bin_s = 1.0
        self._counts = {name: np.zeros(BINS) for name in _COUNTS}
        self._sums = {name: np.zeros(BINS) for name in _MEANS}
        self._numbers = {name: np.zeros(BINS) for name in _MEANS}
        self._peak = np.full(BINS, np.nan)
        self._ttft = _Histograms()
        self._itl = _Histograms()
        self._last_of_source: dict[str, tuple[ServerSample, float | None]] = {}

    def add(self, group: Group) -> None:
        """Requests that ended, in the window or not; only those in the window have latencies."""
        self._reach(_latest_s(group))
        self._count_requests(group)
        if len(group.ok_ended_s):
            ended_s = np.asarray(group.ok_ended_s)
            self._add_first_tokens(ended_s, np.asarray(group.ttft_s))
            if group.itl.count:
                self._itl.at(self._bin(float(np.median(ended_s)))).merge(group.itl)
        if group.tokens_by_second:
            seconds = np.fromiter(group.tokens_by_second, np.float64)
            tokens = np.fromiter(group.tokens_by_second.values(), np.float64)
            np.add.at(self._counts["output_tokens"], self._bins(seconds), tokens)

    def add_load(self, at_s: float, users: float, in_flight: float) -> None:
        """How many there are now."""
        self._reach(at_s)
        i = self._bin(at_s)
        self._observe(i, "users", users)
        self._observe(i, "in_flight", in_flight)

    def add_servers(self, at_s: float, servers: Sequence[ServerStatus]) -> None:
        """What all sources of the server say now, together."""
        self._reach(at_s)
        i = self._bin(at_s)
        samples = [sample for server in servers if (sample := server.now) is not None]
        self._observe(i, "server_running", _total(gauges(samples, "running")))
        self._observe(i, "server_waiting", _total(gauges(samples, "waiting")))
        rates = [self._generation_rate(sample) for sample in samples]
        known = [rate for rate in rates if rate is not None]
        self._observe(i, "server_generation_tokens_per_s", _total(known))
        usage = max(gauges(samples, "kv_cache_usage"), default=math.nan)
        self._peak[i] = np.fmax(self._peak[i], usage)

    def columns(self, until_s: float, *, over: bool = False, settling_s: float = 0.0) -> dict[str, Any]:
        """The charts' columns by name, all of one length, until this time; None where nothing is known.

        A bin that is not over yet is left out, unless the run is. Output tokens of the last `settling_s` are
        not known: most of them belong to requests that have not ended.
        """
        bins = until_s / self.bin_s
        count = min(math.ceil(bins) if over else math.floor(bins), BINS)
        columns: dict[str, Any] = {
            "bin_s": self.bin_s,
            "t_s": [(i + 1) * self.bin_s for i in range(count)],
        }
        for name, histograms in (("ttft", self._ttft), ("itl", self._itl)):
            medians, tails = histograms.percentiles_ms()
            columns[f"{name}_p50_ms"], columns[f"{name}_p99_ms"] = medians[:count], tails[:count]
        for name, title in _COUNTS.items():
            columns[title] = (self._counts[name][:count] / self.bin_s).tolist()
        settled = max(math.floor((until_s - settling_s) / self.bin_s), 0)
        tokens = columns["output_tokens_per_s"]
        tokens[settled:] = [None] * len(tokens[settled:])
        for name in _MEANS:
            numbers = self._numbers[name][:count]
            means = self._sums[name][:count] / np.where(numbers > 0, numbers, np.nan)
            columns[name] = _without_nan(means)
        columns[_PEAK] = _without_nan(self._peak[:count])
        return columns

    def _count_requests(self, group: Group) -> None:
        np.add.at(self._counts["requests"], self._bins(np.asarray(group.ended_s)), 1)
        for failure in group.failures.values():
            self._counts["failed"][self._bin(failure.at_s)] += failure.count
        # Failed before anything was sent: these have no place in `ended_s`.
        unsent = group.planned - group.dropped - len(group.ended_s)
        if unsent > 0 and group.failures:
            first_s = min(failure.at_s for failure in group.failures.values())
            self._counts["requests"][self._bin(first_s)] += unsent

    def _add_first_tokens(self, ended_s: NDArray[np.float64], ttft_s: NDArray[np.float64]) -> None:
        bins = self._bins(ended_s)
        for i in np.unique(bins).tolist():
            self._ttft.at(i).record_many(ttft_s[bins == i])

    def _generation_rate(self, sample: ServerSample) -> float | None:
        """Output tokens per second: by the counter since the sample before, else as the server says."""
        before, rate = self._last_of_source.get(sample.source, (None, None))
        if before is not None and before.at_s == sample.at_s:
            return rate
        told = gauges([sample], "generation_throughput")
        rate = _total(told) if told else None
        if before is not None and sample.at_s > before.at_s:
            grown = growth("generation_tokens", sample, before)
            rate = rate if grown is None else grown / (sample.at_s - before.at_s)
        self._last_of_source[sample.source] = (sample, rate)
        return rate

    def _observe(self, i: int, name: str, value: float) -> None:
        if not math.isnan(value):
            self._sums[name][i] += value
            self._numbers[name][i] += 1

    def _bin(self, at_s: float) -> int:
        return int(self._bins(np.array([at_s]))[0])

    def _bins(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        bins: NDArray[np.int64] = (np.maximum(times_s, 0.0) // self.bin_s).astype(np.int64)
        return bins

    def _reach(self, at_s: float) -> None:
        """Have a bin for this time."""
        while at_s >= BINS * self.bin_s:
            self._double()

    def _double(self) -> None:
        self.bin_s *= 2
        for columns in (self._counts, self._sums, self._numbers):
            for name, column in columns.items():
                columns[name] = np.concatenate([column.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
        peaks = np.fmax(self._peak[::2], self._peak[1::2])
        self._peak = np.concatenate([peaks, np.full(BINS // 2, np.nan)])
        self._ttft.double()
        self._itl.double()


class _Histograms:
    """A histogram for each bin, packed unless it has changed lately, with the percentiles of all."""

    def __init__(self) -> None:
        self._packed: list[Mapping[str, Any] | None] = [None] * BINS
        self._open: dict[int, Histogram] = {}
        self._stale: set[int] = set()
        self._medians_ms: list[float | None] = [None] * BINS
        self._tails_ms: list[float | None] = [None] * BINS

    def at(self, i: int) -> Histogram:
        """The histogram of a bin, to be added to before anything else is asked for."""
        histogram = self._open.pop(i, None)
        if histogram is None:
            histogram = self._unpacked(i)
        self._open[i] = histogram  # at the end: changed last
        self._stale.add(i)
        if len(self._open) > _OPEN:
            self._pack(next(iter(self._open)))
        return histogram

    def percentiles_ms(self) -> tuple[list[float | None], list[float | None]]:
        """The p50 and the p99 of each bin, None where it is empty."""
        for i in self._stale:
            histogram = self._open[i] if i in self._open else self._unpacked(i)
            self._medians_ms[i] = _ms(histogram.percentile(50))
            self._tails_ms[i] = _ms(histogram.percentile(99))
        self._stale.clear()
        return self._medians_ms, self._tails_ms

    def double(self) -> None:
        """Merge each two neighbours."""
        for i in list(self._open):
            self._pack(i)
        self._packed = [_merged(*self._packed[i : i + 2]) for i in range(0, BINS, 2)] + [None] * (BINS // 2)
        self._medians_ms, self._tails_ms = [None] * BINS, [None] * BINS
        self._stale = {i for i, packed in enumerate(self._packed) if packed is not None}

    def _unpacked(self, i: int) -> Histogram:
        packed = self._packed[i]
        return Histogram() if packed is None else Histogram.from_dict(packed)

    def _pack(self, i: int) -> None:
        self._packed[i] = self._open.pop(i).to_dict()


def gauges(samples: Iterable[ServerSample], name: str) -> list[float]:
    """What every engine that has this gauge says, NaN left out."""
    values = (e.gauges[name] for sample in samples for e in sample.engines if name in e.gauges)
    return [value for value in values if not math.isnan(value)]


def _latest_s(group: Group) -> float:
    """The latest time that a group tells of."""
    ends_s = max(group.ended_s, default=0.0)
    failed_s = max((failure.at_s for failure in group.failures.values()), default=0.0)
    return max(ends_s, failed_s, max(group.tokens_by_second, default=0))


def _merged(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if a is None or b is None:
        return b if a is None else a
    both = Histogram.from_dict(a)
    both.merge(Histogram.from_dict(b))
    return both.to_dict()


def _total(values: Sequence[float]) -> float:
    """NaN, not 0, of nothing."""
    return sum(values) if values else math.nan


def _without_nan(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
