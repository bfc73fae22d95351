"""Distributions of latencies as few points: those of the requests in the window, and the curve of ITL.

Rule: values are exact, decimation only leaves points out; the smallest and the largest value always stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.percentile import interval
from vllm_locust.core.record import OK
from vllm_locust.results.folder import Results
from vllm_locust.results.requests import Requests

MOST_POINTS = 240
_STEPS = 20
"""Of a percentile curve, from one percentile to that which is ten times rarer."""
FAMILIES = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "total_s"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ecdf:
    """`share[i]` of the values are at most `ms[i]`."""

    ms: Floats
    share: Floats


@dataclass(frozen=True, slots=True)
class PercentileCurve:
    """The `q[i]`-th percentile (0..100) with the ends of its 95 % interval, NaN where not determined."""

    q: Floats
    ms: Floats
    low_ms: Floats
    high_ms: Floats

    @property
    def one_in(self) -> Floats:
        """1 / (1 - p): a request in how many is slower."""
        return 1 / (1 - self.q / 100)


def in_window(results: Results) -> Requests:
    """The answered requests that ended in the window of their phase; without a summary, all answered ones."""
    requests, summary = results.requests, results.summary
    answered = requests.is_word("outcome", OK)
    if summary is None:
        return requests.take(answered)
    ended, inside = requests["ended_s"], np.zeros(len(requests), np.bool_)
    phases = summary.get("phases") or ()
    for part in phases or (summary,):
        start_s, end_s = part.get("start_s"), part.get("end_s")
        if start_s is None or end_s is None:
            continue
        # requests.jsonl has microseconds only.
        mine = (ended >= start_s - 1e-6) & (ended <= end_s + 1e-6)
        inside |= mine & (requests["phase"] == part["phase"]) if phases else mine
    return requests.take(answered & inside)


def ecdf(values_ms: Floats, most_points: int = MOST_POINTS) -> Ecdf | None:
    """The empirical distribution function of values in any order; None of nothing."""
    values = np.sort(values_ms[~np.isnan(values_ms)])
    if not len(values):
        return None
    places = _places(len(values), most_points)
    return Ecdf(values[places], (places + 1) / len(values))


def _places(count: int, most: int) -> NDArray[np.int64]:
    """Which ordered values to show: even steps, and closer ones towards the end, where the tail is."""
    if count <= most:
        return np.arange(count)
    even = np.linspace(0, count - 1, most * 2 // 3)
    tail = count - np.geomspace(1, count, most // 3)
    return np.unique(np.concatenate([even, tail]).round().astype(np.int64))


def percentile_curve(values_ms: Floats) -> PercentileCurve | None:
    """Percentiles from the smallest value to the last one that is not just the largest; None of nothing."""
    values = np.sort(values_ms[~np.isnan(values_ms)])
    if not len(values):
        return None
    rarest = float(np.log10(max(len(values), 2)))
    q = 100 * (1 - 10 ** -np.append(np.arange(0, rarest, 1 / _STEPS), rarest))
    ends = [interval(values, one) for one in q.tolist()]
    return PercentileCurve(
        q,
        np.percentile(values, q),
        np.array([np.nan if one.low is None else one.low for one in ends]),
        np.array([np.nan if one.high is None else one.high for one in ends]),
    )


def itl_curve(numbers: Mapping[str, Any]) -> tuple[Floats, Floats] | None:
    """Percentiles (0..100) of ITL and the ms there, as the summary keeps them; None in an older one."""
    pairs: Sequence[Sequence[float]] = numbers.get("itl_curve_ms") or ()
    if not pairs:
        return None
    points = np.array(pairs, np.float64)
    return points[:, 0], points[:, 1]
