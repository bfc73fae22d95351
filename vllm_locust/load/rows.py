"""Rows TTFT, TPOT and ITL in Locust's own statistics, beside one ordinary row per profile.

Written to their entries directly: `events.request` would count each of them as a request of its own in
Aggregated. Locust's rounding to two digits is replaced, so that its tables, CSV files and charts show
percentiles that are within 0.5 % of the truth.
"""

import math
import time

import locust.stats
import numpy as np
from locust.env import Environment
from locust.stats import StatsEntry
from numpy.typing import NDArray

from vllm_locust.core.record import OK, TIMEOUT, RequestRecord

REQUEST_TYPE = "POST"

# Folding costs some 30 ns a gap in bulk, and this many are no long work for the event loop.
_GAPS_AT_ONCE = 4000


class RequestFailed(Exception):
    """How a failed request shows up in Locust's failures table: one line per kind and message."""


def _cause(record: RequestRecord) -> str | None:
    """What went wrong, without how far an answer had come when time ran out: no row is for that."""
    text = record.error
    return text.partition("; ")[0] if text is not None and record.outcome == TIMEOUT else text


def bucket_ms(value_ms: float) -> float:
    """Round to three significant digits, half of 1 % at worst."""
    if value_ms <= 0:
        return 0
    if value_ms >= 100:
        scale: int = 10 ** (math.floor(math.log10(value_ms)) - 2)
        return round(value_ms / scale) * scale
    return round(value_ms, 2 if value_ms < 10 else 1)


def use_fine_buckets() -> None:
    """Make Locust keep three digits of every response time in this process."""
    locust.stats.bucket_response_time = bucket_ms  # type: ignore[assignment]


class Rows:
    """Shows records in `environment`'s statistics. Gaps come in by the thousand and go out in bulk."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._gaps: dict[str, list[NDArray[np.float64]]] = {}
        self._gaps_waiting = 0

    def add(self, record: RequestRecord) -> None:
        """Fire Locust's request event for `record`, once, and fill the rows of its profile."""
        started_s = record.sent_s if record.sent_s is not None else record.intended_s
        total_s = record.e2el_s if record.outcome == OK else record.ended_s - started_s
        self._environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=record.profile,
            response_time=(total_s or 0.0) * 1000,
            response_length=0,  # Locust shows it as bytes, which nobody counted
            exception=None if record.outcome == OK else RequestFailed(f"{record.outcome}: {_cause(record)}"),
            context={},
        )
        if record.outcome != OK or record.ttft_s is None:
            return
        self._entry(record.profile, "TTFT").log(record.ttft_s * 1000, 0)  # type: ignore[arg-type]
        if record.tpot_s is not None:
            self._entry(record.profile, "TPOT").log(record.tpot_s * 1000, 0)  # type: ignore[arg-type]
        if record.has_gaps:
            self._gaps.setdefault(record.profile, []).append(np.diff(record.arrivals_s))
            self._gaps_waiting += len(record.arrivals_s) - 1
            if self._gaps_waiting >= _GAPS_AT_ONCE:
                self.flush()

    def flush(self) -> None:
        """Show the gaps that are waiting; to be called before anybody looks."""
        for profile, gaps in self._gaps.items():
            _log_many(self._entry(profile, "ITL"), np.concatenate(gaps) * 1000)
        self._gaps.clear()
        self._gaps_waiting = 0

    def _entry(self, profile: str, row: str) -> StatsEntry:
        # Looked up each time: Locust replaces its entries when statistics are reset.
        return self._environment.stats.entries[(profile, row)]


def _log_many(entry: StatsEntry, values_ms: NDArray[np.float64]) -> None:
    """What `entry.log` does for one value, for all of `values_ms`, which are many, as of now."""
    now = time.time()
    second = int(now)
    if entry.use_response_times_cache and second > int(entry.last_request_timestamp or now):
        entry._cache_response_times(second - 1)
    for bucket, count in zip(*np.unique(buckets_ms(values_ms), return_counts=True), strict=True):
        entry.response_times[bucket.item()] += count.item()
    entry.num_requests += len(values_ms)
    entry.num_reqs_per_sec[second] += len(values_ms)
    entry.last_request_timestamp = now
    entry.total_response_time += values_ms.sum().item()
    smallest, largest = values_ms.min().item(), values_ms.max().item()
    if entry.min_response_time is None or smallest < entry.min_response_time:
        entry.min_response_time = smallest
    entry.max_response_time = max(entry.max_response_time, largest)


def buckets_ms(values_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """`bucket_ms` of each value."""
    decades = np.floor(np.log10(np.maximum(values_ms, 1.0)))
    scale = 10.0 ** np.where(decades < 2, np.minimum(decades, 1) - 2, decades - 2)
    return np.round(np.round(values_ms / scale) * scale, 2)
