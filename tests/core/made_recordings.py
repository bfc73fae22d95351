"""Recordings whose requests are known, and what an objective makes of them."""

import numpy as np

from tests.core.made_records import an_error, an_ok
from vllm_locust.core.evidence import conclude, weigh
from vllm_locust.core.finding import Finding
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import parse_slo, percentiles_of
from vllm_locust.core.summary import summarize


def a_recording(ttfts_ms, failed=0, gap_ms=10.0, tokens=3) -> Recording:
    """Requests one after another, each with its TTFT and then gaps; then those that failed."""
    recording = Recording()
    for second, ttft_ms in enumerate(ttfts_ms):
        first_s = second + ttft_ms / 1000
        arrivals_s = [first_s + i * gap_ms / 1000 for i in range(tokens)]
        recording.add(an_ok(float(second), arrivals_s=arrivals_s))
    for i in range(failed):
        recording.add(an_error(len(ttfts_ms) + i + 1.0))
    return recording


def recorded(made: list[RequestRecord], warmup_s: float = 0.0) -> Recording:
    """All of `made`; the phase 0, if it has a warm-up, begins at 0."""
    recording = Recording()
    if warmup_s:
        recording.begin_phase(0, 0.0, warmup_s)
    for record in made:
        recording.add(record)
    return recording


def concluded(text: str, recording: Recording) -> Finding:
    slo = parse_slo(text)
    numbers = summarize(recording, percentiles=percentiles_of([slo]))
    (finding,) = conclude([slo], recording.phase(0), numbers).findings
    return finding


def spread(count: int, outside: int = 0) -> list[float]:
    """TTFTs in no order around 100 ms, `outside` of them at 900 ms, evenly scattered."""
    values = [100 + value for value in np.random.default_rng(1).permutation(count)]
    values = [value / count for value in values]
    for i in range(outside):
        values[(2 * i + 1) * count // (2 * outside)] = 900.0
    return values


def bounded(ttft_ms: float, bound_ms: float, gap_ms: float = 10.0, count: int = 600) -> Recording:
    """Requests alike, of whose every token it is known within `bound_ms` only when it came."""
    recording = Recording()
    for second in range(count):
        arrivals_s = [second + (ttft_ms + i * gap_ms) / 1000 for i in range(3)]
        recording.add(an_ok(float(second), arrivals_s=arrivals_s, bounds_s=[bound_ms / 1000] * 3))
    return recording


def weighed(text: str, recording: Recording) -> Finding:
    """What the requests say of one objective while the probe goes on."""
    (finding,) = weigh([parse_slo(text)], recording.phase(0)).findings
    return finding
