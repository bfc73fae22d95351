"""What is kept of requests in memory that does not grow with their number: counts and histograms.

Rule: the tally of some groups says what the one group of all their requests would, its percentiles within
0.1 %. The buckets for Prometheus count what is at most their bound: exactly for TTFT, TPOT and E2EL. A gap
between tokens or a lag up to 0.2 % below a bound may count as above it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import UNKNOWN, Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.latencies import Family, ends_of, itl_family, lateness_family
from vllm_locust.core.percentile import ranks
from vllm_locust.core.summary import count_good
from vllm_locust.core.validity import Measured, numbers_of

LATENCIES = ("ttft", "tpot", "itl", "e2el")

# Bounds that vLLM has are among them, so that both sides can be compared.
BOUNDS_S: Mapping[str, NDArray[np.float64]] = {
    family: np.array([float(bound) for bound in bounds.split()])
    for family, bounds in {
        "ttft": "0.001 0.002 0.005 0.01 0.02 0.03 0.04 0.06 0.08 0.1 0.15 0.25 0.35 0.5 0.75 1 1.5 2.5 5 7.5 "
        "10 20 40 80 160",
        "itl": "0.0005 0.001 0.0025 0.005 0.0075 0.01 0.0125 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 0.15 "
        "0.2 0.3 0.4 0.5 0.75 1 2.5 5 10",
        "tpot": "0.0005 0.001 0.0025 0.005 0.0075 0.01 0.0125 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 0.15 "
        "0.2 0.3 0.4 0.5 0.75 1 2.5 5 10",
        "e2el": "0.001 0.005 0.01 0.025 0.05 0.1 0.15 0.2 0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 60 80 120 "
        "160",
        "lag": "0.00001 0.00002 0.00005 0.0001 0.0002 0.0003 0.0005 0.00075 0.001 0.0015 0.002 0.003 0.005 "
        "0.0075 0.01 0.015 0.02 0.03 0.05 0.1 0.2 0.5 1 5 10",
    }.items()
}
"""Upper bounds of the buckets of each family; one more has what is above."""

_FOLDED = ("itl", "itl_low", "itl_high", "itl_bound", "itl_unknown", "lag", "lateness", "lateness_high")
_COUNTED = ("ttft", "ttft_low", "ttft_bound", "tpot", "tpot_low", "tpot_high", "e2el", "e2el_low")
_HISTOGRAMS = (*_COUNTED, *_FOLDED)
_COUNTERS = (
    "planned",
    "ok",
    "dropped",
    "outside_window",
    "failed_in_window",
    "completed",
    "streams",
    "good",
    "received_tokens",
    "contradictions",
    "first_bounds_s",
    "last_bounds_s",
)


class Tally:
    """The fold of some groups, see `core.group` for what the counts mean."""

    __slots__ = (*_COUNTERS, *_HISTOGRAMS, "failures", "output_tokens", "prompt_tokens")

    def __init__(self) -> None:
        self.planned = 0
        self.ok = 0
        self.dropped = 0
        self.outside_window = 0
        self.failed_in_window = 0
        self.completed = 0
        self.streams = 0
        self.good = 0
        """Requests within all limits."""
        self.received_tokens = 0
        """Output tokens of all requests, in the window or not, whatever became of them."""
        self.contradictions = 0
        self.first_bounds_s = self.last_bounds_s = 0.0
        """The sums of those of a group."""
        self.failures: dict[str, int] = {}
        self.output_tokens: int | None = 0
        """Of the completed requests; None when one of them did not tell."""
        self.prompt_tokens: int | None = 0
        self.ttft = Histogram()
        self.ttft_low = Histogram()
        """The least that each may truly be, see `core.latencies`; likewise of the others."""
        self.ttft_bound = Histogram()
        self.tpot = Histogram()
        self.tpot_low = Histogram()
        self.tpot_high = Histogram()
        self.e2el = Histogram()
        self.e2el_low = Histogram()
        self.itl = Histogram()
        self.itl_low = Histogram()
        self.itl_high = Histogram()
        self.itl_bound = Histogram()
        self.itl_unknown = Histogram()
        self.lag = Histogram()
        self.lateness = Histogram()
        self.lateness_high = Histogram()

    @property
    def failed(self) -> int:
        """Failed requests, in the window or not."""
        return sum(self.failures.values())

    def add(self, group: Group, limits_ms: Mapping[str, float] | None) -> None:
        """Fold a group; `limits_ms` say what a good request is, see `core.summary`."""
        self.planned += group.planned
        self.ok += group.ok
        self.dropped += group.dropped
        self.outside_window += group.outside_window
        self.failed_in_window += group.failed_in_window
        self.completed += group.completed
        self.streams += group.streams
        self.contradictions += group.contradictions
        self.first_bounds_s += sum(group.first_bound_s)
        self.last_bounds_s += sum(group.last_bound_s)
        self.good += count_good(group, limits_ms) if limits_ms else 0
        self.received_tokens += sum(group.tokens_by_second.values())
        self._add_failures({kind: failure.count for kind, failure in group.failures.items()})
        self.output_tokens = _sum(self.output_tokens, _total(group.output_tokens))
        self.prompt_tokens = _sum(self.prompt_tokens, _total(group.prompt_tokens))
        ends = ends_of(group)
        self.ttft.record_many(ends["ttft"].measured_s)
        self.ttft_low.record_many(ends["ttft"].low_s)
        self.ttft_bound.record_many(group.ttft_bound_s())
        self.e2el.record_many(ends["e2el"].measured_s)
        self.e2el_low.record_many(ends["e2el"].low_s)
        self.tpot.record_many(_defined(ends["tpot"].measured_s))
        self.tpot_low.record_many(_defined(ends["tpot"].low_s))
        self.tpot_high.record_many(_defined(ends["tpot"].high_s))
        for name in _FOLDED:
            theirs: Histogram = getattr(group, name)
            if theirs.count:
                getattr(self, name).merge(theirs)

    def merge(self, other: "Tally") -> None:
        """Add all that `other` has folded; `other` stays as it is."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._add_failures(other.failures)
        self.output_tokens = _sum(self.output_tokens, other.output_tokens)
        self.prompt_tokens = _sum(self.prompt_tokens, other.prompt_tokens)
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))

    def _add_failures(self, failures: Mapping[str, int]) -> None:
        for kind, count in failures.items():
            self.failures[kind] = self.failures.get(kind, 0) + count

    def latency(self, family: str) -> Histogram:
        """The histogram of one of `LATENCIES`, or of `lag`."""
        histogram: Histogram = getattr(self, family)
        return histogram

    def uncertain(self, family: str, q: float) -> bool:
        """Whether there are some values, but too few for this percentile, see `core.percentile`."""
        count = self.latency(family).count
        # The gaps of one request share its fate.
        effective = min(count, self.streams) if family == "itl" else count
        return count > 0 and None in ranks(effective, q)

    def measured(self) -> Measured:
        """What a verdict is made of."""
        families = {
            "ttft": Family(self.ttft, self.ttft_low, self.ttft),
            "tpot": Family(self.tpot, self.tpot_low, self.tpot_high),
            "e2el": Family(self.e2el, self.e2el_low, self.e2el),
            "itl": itl_family(
                self.itl,
                self.itl_low,
                self.itl_high,
                self.itl_bound,
                self.itl_unknown,
                first_bounds_s=self.first_bounds_s,
                last_bounds_s=self.last_bounds_s,
            ),
        }
        return Measured(
            **numbers_of(families),
            ttft_bound_mean_s=self.ttft_bound.mean_s,
            ttft_bound_p99_s=self.ttft_bound.percentile(99),
            itl_bound_mean_s=self.itl_bound.mean_s,
            itl_bound_p99_s=self.itl_bound.percentile(99),
            lag_p99_s=self.lag.percentile(99),
            lateness_p99=lateness_family(self.lateness, self.lateness_high).percentile(99),
            planned=self.planned,
            dropped=self.dropped,
            contradictions=self.contradictions,
        )


class Buckets:
    """How many values of each family are in each bucket of `BOUNDS_S`, not cumulated."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = {family: np.zeros(len(bounds) + 1, np.int64) for family, bounds in BOUNDS_S.items()}

    def add(self, group: Group) -> None:
        """Count the values of a group."""
        self._count("ttft", np.asarray(group.ttft_s))
        self._count("e2el", np.asarray(group.e2el_s))
        self._count("tpot", _defined(np.asarray(group.tpot_s)))
        for family in ("itl", "lag"):
            histogram: Histogram = getattr(group, family)
            if histogram.count:
                edges, counts = zip(*histogram.buckets(), strict=True)
                self._count(family, np.array(edges), np.array(counts))

    def _count(self, family: str, values_s: NDArray[Any], counts: NDArray[Any] | None = None) -> None:
        bounds, known = BOUNDS_S[family], self.counts[family]
        added = np.bincount(np.searchsorted(bounds, values_s), counts, len(known))
        known += added.astype(np.int64)


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _total(tokens: Any) -> int | None:
    """As in `core.summary`: a sum of the known ones would be too small."""
    return None if UNKNOWN in tokens else sum(tokens)


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
