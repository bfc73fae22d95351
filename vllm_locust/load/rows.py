"""Rows TTFT, TPOT and ITL in Locust's own statistics, beside one ordinary row per profile.

Written to their entries directly: `events.request` would count each of them as a request of its own in
Aggregated. Locust's rounding to two digits is replaced, so that its tables, CSV files and charts show
percentiles that are within 0.5 % of the truth.
"""

import math
import time
from collections.abc import Sequence

import locust.stats
from locust.env import Environment

from vllm_locust.core.record import OK, RequestRecord

REQUEST_TYPE = "POST"


class RequestFailed(Exception):
    """How a failed request shows up in Locust's failures table: one line per kind and message."""


def bucket_ms(value_ms: float) -> float:
    """Round to three significant digits, half of 1 % at worst."""
    if value_ms <= 0:
        return 0
    if value_ms >= 100:
        scale = 10 ** (math.floor(math.log10(value_ms)) - 2)
        return round(value_ms / scale) * scale
    return round(value_ms, 2 if value_ms < 10 else 1)


def use_fine_buckets() -> None:
    """Make Locust keep three digits of every response time in this process."""
    locust.stats.bucket_response_time = bucket_ms


def log_record(environment: Environment, record: RequestRecord) -> None:
    """Fire Locust's request event for `record`, once, and fill the rows of its profile."""
    started_s = record.sent_s if record.sent_s is not None else record.intended_s
    total_s = record.e2el_s if record.outcome == OK else record.ended_s - started_s
    environment.events.request.fire(
        request_type=REQUEST_TYPE,
        name=record.profile,
        response_time=(total_s or 0.0) * 1000,
        response_length=record.output_tokens or 0,
        exception=None if record.outcome == OK else RequestFailed(f"{record.outcome}: {record.error}"),
        context={},
    )
    if record.outcome != OK or record.ttft_s is None:
        return
    entries = environment.stats.entries
    entries[(record.profile, "TTFT")].log(record.ttft_s * 1000, 0)  # type: ignore[arg-type]
    if record.tpot_s is not None:
        entries[(record.profile, "TPOT")].log(record.tpot_s * 1000, 0)  # type: ignore[arg-type]
    if len(record.arrivals_s) > 1:
        _log_gaps(entries[(record.profile, "ITL")], record.arrivals_s)


def _log_gaps(entry: locust.stats.StatsEntry, arrivals_s: Sequence[float]) -> None:
    """Add all gaps between arrivals at once: a `log` per token would cost more than reading the token."""
    gaps_ms = [(after - before) * 1000 for before, after in zip(arrivals_s, arrivals_s[1:], strict=False)]
    counts = entry.response_times
    for gap_ms in gaps_ms:
        # Two decimals below 10 ms and one below 100 are what bucket_ms does, without the call.
        key = round(gap_ms, 2) if gap_ms < 10 else round(gap_ms, 1) if gap_ms < 100 else bucket_ms(gap_ms)
        counts[key] += 1  # type: ignore[index]
    now = time.time()
    second = int(now)
    if entry.use_response_times_cache and entry.last_request_timestamp and second > int(entry.last_request_timestamp):
        entry._cache_response_times(second - 1)
    entry.num_requests += len(gaps_ms)
    entry.num_reqs_per_sec[second] += len(gaps_ms)
    entry.last_request_timestamp = now
    entry.total_response_time += sum(gaps_ms)  # type: ignore[assignment]
    smallest = min(gaps_ms)
    entry.min_response_time = (  # type: ignore[assignment]
        smallest if entry.min_response_time is None else min(entry.min_response_time, smallest)
    )
    entry.max_response_time = max(entry.max_response_time, max(gaps_ms))  # type: ignore[assignment]
