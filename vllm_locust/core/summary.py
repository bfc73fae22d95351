"""The summary of a recording: the keys and formulas of `vllm bench serve --save-result`, and ours beside.

Rule: what is not known is None, never 0, and every number says over what it was taken: `completed`, `failed`,
`error_rate`, the rates and the latencies are about the window (see `core.recording`), and `duration` is all
that was measured of it; `dropped`, `requests` and `failures` are about the whole recording, so that nothing
vanishes.

Latencies `_from_plan` take in the requests that were dropped in the window, each as the time it had waited:
`unsent_in_from_plan` of their values are lower bounds, and so is what is computed of them but `std`, which
falls as well as rises with them: with any, it is not known.

vLLM's formulas (its `calculate_metrics`): over the successful requests, throughputs are totals / duration,
TPOT is (E2EL - TTFT)/(output tokens - 1) and undefined below two tokens, `std` is numpy's (`ddof=0`),
percentiles are numpy's linear ones, and a request is good when each limited metric is at most its limit,
where the TPOT of one token counts as 0. Three things differ on purpose: `max_output_tokens_per_s` counts
tokens in the second in which they arrived (vLLM counts chunks), `max_concurrent_requests` is exact (vLLM
rounds each request to whole seconds), and TPOT and ITL are undefined for an answer that came in one piece
(for vLLM they are 0).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vllm_locust.core.group import UNKNOWN, Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.latencies import Bounded, Family, Sample, Values, ends_of, families_of
from vllm_locust.core.percentile import Interval, interval, interval_of_histogram
from vllm_locust.core.recording import Recording, Window

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
"""Always in a summary, for every family."""

CURVE = (0.0, 1.0, 5.0, *(10.0 * i for i in range(1, 10)), 75.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 100.0)
"""The percentiles of `itl_curve_ms`."""

FAMILIES = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "itl": "gaps between events that carry tokens",
    "e2el": "end-to-end latency",
    "ttft_from_plan": "time to first token from the intended start",
    "e2el_from_plan": "end-to-end latency from the intended start",
    "itl_per_token": "gaps between tokens, where the server says how many an event carries",
    "connect": "connecting, of requests that had to",
}
"""The latencies of a summary: `mean_`, `median_`, `std_`, `max_` or `pXX_`, a family, `_ms`."""

FROM_PLAN = ("ttft_from_plan", "e2el_from_plan")
"""Those in which requests that were never sent count."""

BETWEEN_TOKENS = {"tpot": "tpot_unknown", "itl": "itl_unknown", "itl_per_token": "itl_unknown"}
"""Those that some answers have and nobody knows, and what counts these among the oddities."""

STATISTICS = ("mean", "median", "std", "max")

COUNTS = (
    "completed",
    "failed",
    "dropped",
    "error_rate",
    "duration",
    "start_s",
    "end_s",
    "total_input_tokens",
    "total_output_tokens",
    "total_cached_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "completed_without_usage",
)
"""The numeric keys of a summary that are no latencies."""

REQUESTS = ("planned", "ok", "failed", "dropped", "outside_window")
"""The keys of a summary's `requests`."""


def percentile_word(q: float) -> str:
    """`p99` for 99, `p99.9` for 99.9, as vLLM writes it."""
    return f"p{int(q) if q == int(q) else q}"


def summarize(
    recording: Recording,
    goodput_ms: Mapping[str, float] | None = None,
    percentiles: Sequence[float] = (),
    phases: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """All numbers of a run, fit for JSON. Latencies in ms, times in s since the origin of the recording.

    `goodput_ms` limits `ttft`, `tpot` and `e2el` of a good request; without it `request_goodput` is None.
    `percentiles` are computed besides `PERCENTILES`.

    The key `phases` holds what `summarize_phase` says of each phase; `phases` describes them by their number.
    """
    wanted = sorted({*PERCENTILES, *percentiles})
    summary = _of_group(recording.total(), recording.window(), goodput_ms, wanted)
    known = phases or {}
    summary["phases"] = [
        summarize_phase(recording, phase, goodput_ms, percentiles, known.get(phase, {}))
        for phase in recording.phases
    ]
    return summary


def summarize_phase(
    recording: Recording,
    phase: int,
    goodput_ms: Mapping[str, float] | None = None,
    percentiles: Sequence[float] = (),
    description: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The same numbers of one phase, behind what the `description` says of it, such as its name or its level.

    `profile` is the phase's only one; of several there is a summary each in `profiles`.
    """
    wanted = sorted({*PERCENTILES, *percentiles})
    window = recording.phase_window(phase)
    profiles = sorted(profile for p, profile in recording.groups if p == phase)
    summary: dict[str, Any] = {
        "phase": phase,
        **(description or {}),
        "profile": profiles[0] if len(profiles) == 1 else None,
        **_of_group(recording.phase(phase), window, goodput_ms, wanted),
    }
    if len(profiles) > 1:
        summary["profiles"] = [
            {"profile": name} | _of_group(recording.groups[phase, name], window, goodput_ms, wanted)
            for name in profiles
        ]
    return summary


def nothing_measured(summary: Mapping[str, Any]) -> str | None:
    """Why there are no latencies and throughputs, in a sentence; None where a request was answered."""
    if summary["completed"]:
        return None
    requests = summary["requests"]
    if not requests["planned"] and (warming_s := summary.get("warming_s")):
        return (
            f"no request was sent: warming the prefix cache took {warming_s:.1f} s of the run's time, so "
            "give it more (-t)"
        )
    counts = {
        "failed": summary["failed"],
        "ended outside it": requests["outside_window"],
        "were never sent": requests["dropped"],
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"no request was answered in the measured window{': ' + told if told else ''}"


def _of_group(
    group: Group, window: Window | None, goodput_ms: Mapping[str, float] | None, percentiles: Sequence[float]
) -> dict[str, Any]:
    families = families_of(group)
    return {
        **_counts(group, window),
        **_rates(group, window, goodput_ms),
        **_latencies(group, families, percentiles),
        "error_bounds": _error_bounds(families, percentiles)
        | {f"std_{name}_ms": [None, None] for name in FROM_PLAN if _is_open(name, group)}
        | _count_bounds(group)
        | _rate_bounds(group, window, goodput_ms)
        | {
            "duration": [window.shortest_s, window.longest_s] if window else [None, None],
            "max_output_tokens_per_s": _peak_bounds(group, window),
            "max_concurrent_requests": _concurrency_bounds(group, window),
        },
        "itl_curve_ms": [[q, _ms(group.itl.percentile(q))] for q in sorted(CURVE)] if group.itl.count else [],
        "requests": {
            "planned": group.planned,
            "ok": group.ok,
            "failed": group.failed,
            "dropped": group.dropped,
            "outside_window": group.outside_window,
        },
        "unsent_in_from_plan": len(group.unsent_wait_s),
        "prompt_lengths": {"promised": group.promised_lengths, "exact": group.kept_lengths},
        "answers": group.oddities.describe(group.completed),
        "failures": {kind: group.failures[kind].count for kind in sorted(group.failures)},
        "failure_examples": {kind: group.failures[kind].example for kind in sorted(group.failures)},
    }


def _counts(group: Group, window: Window | None) -> dict[str, Any]:
    finished = group.completed + group.failed_in_window
    return {
        "completed": group.completed,
        "failed": group.failed_in_window,
        "dropped": group.dropped,
        "error_rate": _ratio(group.failed_in_window, finished),
        "completed_without_usage": group.without_usage,
        "duration": window.duration_s if window else None,
        "start_s": window.start_s if window else None,
        "end_s": window.end_s if window else None,
        **_tokens(group),
        "max_output_tokens_per_s": _peak_tokens_per_s(group.tokens_by_second, window),
        "max_concurrent_requests": _peak_concurrency(group, window),
    }


def _rates(group: Group, window: Window | None, goodput_ms: Mapping[str, float] | None) -> dict[str, Any]:
    duration_s = window.duration_s if window else None
    good = count_good(group, goodput_ms) if goodput_ms else None
    return {name: _ratio(count, duration_s) for name, count in _amounts(group, good).items()}


def _rate_bounds(
    group: Group, window: Window | None, goodput_ms: Mapping[str, float] | None
) -> dict[str, list[float | None]]:
    """Of each rate the ends: what surely ended in the window, in the longest time it may have taken; and what
    perhaps did, in the shortest. Where that is none at all there is no higher end (None).
    """
    least_good, most_good = good_ends(group, goodput_ms) if goodput_ms else (None, None)
    least, most = _amounts(group, least_good), _amounts(group, most_good)
    outside, inside = _amounts_at(group.perhaps_outside), _amounts_at(group.perhaps_inside)
    longest_s, shortest_s = (window.longest_s, window.shortest_s) if window else (None, None)
    return {
        name: [
            _ratio(_less(least[name], outside[name]), longest_s),
            _ratio(_more(most[name], inside[name]), shortest_s),
        ]
        for name in least
    }


def _amounts(group: Group, good: int | None) -> dict[str, int | None]:
    """What each rate is one of; `good` is the number of good requests."""
    prompts, outputs = _total(group.prompt_tokens), _total(group.output_tokens)
    return {
        "request_throughput": group.completed,
        "request_goodput": good,
        "output_throughput": outputs,
        "total_token_throughput": None if prompts is None or outputs is None else prompts + outputs,
    }


def _amounts_at(border: Group | None) -> dict[str, int | None]:
    """The same of requests at a border of the window, all of which may be good."""
    return _amounts(border or Group(), border.completed if border else 0)


def _less(amount: int | None, gone: int | None) -> int | None:
    return None if amount is None or gone is None else max(amount - gone, 0)


def _more(amount: int | None, there: int | None) -> int | None:
    return None if amount is None or there is None else amount + there


def _count_bounds(group: Group) -> dict[str, list[float | None]]:
    """How many ended in the window at least and at most, and what they had; None where nobody counted."""
    gone, there = group.perhaps_outside or Group(), group.perhaps_inside or Group()
    tokens, least, most = _tokens(group), _tokens_at(gone), _tokens_at(there)
    completed = (group.completed - gone.completed, group.completed + there.completed)
    failed = (
        group.failed_in_window - gone.failed_in_window,
        group.failed_in_window + there.failed_in_window,
    )
    rates = [_ratio(failed[0], failed[0] + completed[1]), _ratio(failed[1], failed[1] + completed[0])]
    some = completed[1] + failed[1] > 0
    return {
        "completed": [*completed],
        "failed": [*failed],
        "error_rate": [(rate or 0.0) if some else None for rate in rates],
        "completed_without_usage": [
            group.without_usage - gone.without_usage,
            group.without_usage + there.without_usage,
        ],
        **{name: [_less(total, least[name]), _more(total, most[name])] for name, total in tokens.items()},
    }


def _tokens(group: Group) -> dict[str, int | None]:
    """The totals of a summary."""
    return {
        "total_input_tokens": _total(group.prompt_tokens),
        "total_output_tokens": _total(group.output_tokens),
        "total_cached_tokens": _total_of_known(group.cached_tokens),
    }


def _tokens_at(border: Group) -> dict[str, int | None]:
    """The same of requests at a border of the window: one that says nothing of cached tokens has none."""
    return {**(tokens := _tokens(border)), "total_cached_tokens": tokens["total_cached_tokens"] or 0}


def _latencies(group: Group, families: Mapping[str, Family], percentiles: Sequence[float]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    intervals: dict[str, list[float | None]] = {}
    samples = {name: family.measured for name, family in families.items()}
    for name in FAMILIES:
        sample = samples[name]
        values[f"mean_{name}_ms"] = _ms(sample.mean_s)
        values[f"median_{name}_ms"] = _ms(sample.percentile(50))
        values[f"std_{name}_ms"] = None if _is_open(name, group) else _ms(sample.std_s)
        values[f"max_{name}_ms"] = _ms(sample.max_s)
        for q in percentiles:
            key = f"{percentile_word(q)}_{name}_ms"
            ends = _interval(sample, q, group.streams)
            values[key] = _ms(sample.percentile(q))
            intervals[key] = [_ms(ends.low), _ms(ends.high)]
    return {**values, "intervals": intervals}


def _is_open(name: str, group: Group) -> bool:
    """Whether a family has latencies that nobody knows an end of: of requests that were never sent."""
    return name in FROM_PLAN and bool(group.unsent_wait_s)


def _interval(sample: Sample, q: float, streams: int) -> Interval:
    if isinstance(sample, Histogram):
        return interval_of_histogram(sample, q, streams)
    assert isinstance(sample, Values)
    return interval(sample.ordered_s, q)


def _error_bounds(families: Mapping[str, Family], percentiles: Sequence[float]) -> dict[str, Any]:
    """Of every latency of which the client's error is known, the ends between which it truly lies."""
    return {
        f"{word}_{name}_ms": [None, None] if one is None else [_ms(one.low_s), _ms(one.high_s)]
        for name, family in families.items()
        for word, one in _bounded(family, percentiles)
    }


def _bounded(family: Family, percentiles: Sequence[float]) -> Iterator[tuple[str, Bounded | None]]:
    yield "mean", family.mean
    yield "std", family.std
    yield "max", family.max
    for q in percentiles:
        yield percentile_word(q), family.percentile(q)


def count_good(group: Group, limits_ms: Mapping[str, float]) -> int:
    """How many requests hold all limits, by `ttft`, `tpot` and `e2el`.

    The TPOT of one token or one event counts as 0, as in vLLM; one that is not known holds no limit.
    """
    ends = ends_of(group)
    return _count_good(group, {name: ends[name].measured_s for name in limits_ms}, limits_ms)


def good_ends(group: Group, limits_ms: Mapping[str, float]) -> tuple[int, int]:
    """How many do so at least and at most, by the ends of their latencies.

    An answer in one piece does at most where it was perhaps read late.
    """
    ends = ends_of(group)
    high_s = {name: np.where(np.isnan(of.measured_s), np.nan, of.high_s) for name, of in ends.items()}
    return (
        _count_good(group, {name: high_s[name] for name in limits_ms}, limits_ms),
        _count_good(group, {name: ends[name].low_s for name in limits_ms}, limits_ms),
    )


def _count_good(
    group: Group, latencies_s: Mapping[str, NDArray[np.float64]], limits_ms: Mapping[str, float]
) -> int:
    undefined = np.where(np.asarray(group.later_tokens) != 0, np.inf, 0.0)
    good = [
        np.where(np.isnan(latencies_s[name]), undefined, latencies_s[name]) <= limit_ms / 1000
        for name, limit_ms in limits_ms.items()
    ]
    return int(np.logical_and.reduce(good).sum())


def _total(tokens: Sequence[int]) -> int | None:
    """None when one of them is unknown: a sum of the others would be too small."""
    return None if UNKNOWN in tokens else sum(tokens)


def _total_of_known(tokens: Sequence[int]) -> int | None:
    """Servers leave a count of cached tokens out when it is 0; None when no request has one."""
    known = [count for count in tokens if count != UNKNOWN]
    return sum(known) if known else None


def _peak_bounds(group: Group, window: Window | None) -> list[int | None]:
    """Of the most tokens in a second: without those that may have come in another, and with all that may."""
    claimed, gone, there = group.tokens_by_second, group.tokens_perhaps_elsewhere, group.tokens_perhaps_there
    least = {s: n - gone.get(s, 0) for s, n in claimed.items()}
    most = {s: claimed.get(s, 0) + there.get(s, 0) for s in claimed.keys() | there.keys()}
    return [
        _peak_tokens_per_s(least, window and window.surely),
        _peak_tokens_per_s(most, window and window.widest),
    ]


def _peak_tokens_per_s(tokens: Mapping[int, int], window: Window | None) -> int | None:
    if window is None:
        return None
    return max(
        (
            n
            for part in window.stretches
            for s, n in tokens.items()
            if s + 1 > part.start_s and s <= part.end_s
        ),
        default=0,
    )


def _peak_concurrency(group: Group, window: Window | None) -> int | None:
    """The most requests in flight at one time of the window; of two at the same time the end comes first."""
    return _most_in_flight(group.sent_s, group.ended_s, window)


def _concurrency_bounds(group: Group, window: Window | None) -> list[int | None]:
    """Those that surely were, and those that perhaps were: sent at the earliest, ended at the latest."""
    if window is None:
        return [None, None]
    off_s = window.clock_bound_s
    by_s, since_s = np.add(group.sent_by_s, off_s), np.subtract(group.ended_since_s, off_s)
    sent_s, ended_s = np.subtract(group.sent_s, off_s), np.add(group.ended_s, off_s)
    surely = by_s <= since_s
    return [
        _most_in_flight(by_s[surely], since_s[surely], window.surely),
        _most_in_flight(sent_s, ended_s, window.widest),
    ]


def _most_in_flight(sent_s: ArrayLike, ended_s: ArrayLike, window: Window | None) -> int | None:
    if window is None:
        return None
    sent, ended = np.asarray(sent_s), np.asarray(ended_s)
    return max(_most_at_once(sent, ended, part) for part in window.stretches)


def _most_at_once(sent: NDArray[np.float64], ended: NDArray[np.float64], window: Window) -> int:
    during = (sent <= window.end_s) & (ended >= window.start_s)
    times = np.concatenate([ended[during], np.maximum(sent[during], window.start_s)])
    steps = np.repeat([-1, 1], int(during.sum()))
    in_flight = np.cumsum(steps[np.argsort(times, kind="stable")])
    return int(in_flight.max(initial=0))


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
