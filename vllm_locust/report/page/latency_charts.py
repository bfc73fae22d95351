"""How latencies are spread: an ECDF and a percentile curve for each of TTFT, TPOT, ITL and E2EL."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_locust.report.page.charts import Chart, Trace, band, line
from vllm_locust.report.page.distributions import FAMILIES, ecdf, in_window, itl_curve, percentile_curve
from vllm_locust.results.folder import Results
from vllm_locust.results.requests import Requests

_NAMES = {
    "ttft": "Time to first token (TTFT)",
    "tpot": "Time per output token (TPOT)",
    "itl": "Inter-token latency (ITL)",
    "e2el": "End-to-end latency (E2EL)",
}
_MOST_PROFILES = 7
_NINES = {
    2: "p50",
    10: "p90",
    100: "p99",
    1e3: "p99.9",
    1e4: "p99.99",
    1e5: "p99.999",
    1e6: "p99.9999",
}
_ONE_IN = {
    "type": "log",
    "title": "percentile",
    "tickvals": list(_NINES),
    "ticktext": list(_NINES.values()),
    "tickangle": 0,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One line of each chart."""

    name: str
    requests: Requests
    """In the window."""
    numbers: Mapping[str, Any]
    """Of the summary, for what requests.jsonl does not have."""


def series_of(runs: Sequence[Results], labels: Sequence[str]) -> list[Series]:
    """A line for each run; of a single one with several profiles, one for each of them too."""
    found = [
        Series(label, in_window(run), run.summary or {}) for run, label in zip(runs, labels, strict=True)
    ]
    if len(found) > 1 or not len(found[0].requests):
        return found
    parts = found[0].requests.by_word("profile")
    if not 1 < len(parts) <= _MOST_PROFILES:
        return [Series("all requests", found[0].requests, found[0].numbers)]
    whole = Series("all profiles", found[0].requests, found[0].numbers)
    return [whole, *(Series(profile or "unknown", part, {}) for profile, part in parts)]


def latency_charts(series: Sequence[Series]) -> Iterator[Chart]:
    """Those of which there is something to show."""
    for family, name in _NAMES.items():
        shares, percentiles = _traces(family, series)
        if not shares:
            continue
        yield Chart(
            f"{name}: ECDF",
            f"The share of {'gaps' if family == 'itl' else 'requests'} that took at most so long. "
            "Steep is steady, a step is a group of its own, a long flat end a tail.",
            shares,
            {"type": "log", "title": "ms"},
            {"title": "share", "tickformat": ".0%", "range": [0, 1.02]},
        )
        sure = "; shaded is the 95 % interval as if requests were independent" if family != "itl" else ""
        yield Chart(
            f"{name}: percentiles",
            f"Every step to the right is ten times rarer: where a line turns up, the tail begins{sure}.",
            percentiles,
            _ONE_IN,
            {"type": "log", "title": "ms"},
            layout={"showlegend": len(series) > 1},
        )


def _traces(family: str, series: Sequence[Series]) -> tuple[list[Trace], list[Trace]]:
    shares: list[Trace] = []
    percentiles: list[Trace] = []
    for place, one in enumerate(series):
        if family == "itl":
            curve = itl_curve(one.numbers)
            if curve is None:
                continue
            q, ms = curve
            below = q < 100
            shares.append(line(one.name, ms, q / 100, place))
            percentiles.append(line(one.name, 1 / (1 - q[below] / 100), ms[below], place))
            continue
        values = one.requests[FAMILIES[family]] * 1000
        spread, exact = ecdf(values), percentile_curve(values)
        if spread is None or exact is None:
            continue
        first = np.concatenate([[0.0], spread.share])
        steps = np.concatenate([spread.ms[:1], spread.ms])
        shares.append(line(one.name, steps, first, place, line={"shape": "hv"}))
        percentiles += band(exact.one_in, exact.low_ms, exact.high_ms, place)
        percentiles.append(line(one.name, exact.one_in, exact.ms, place))
    return shares, percentiles
