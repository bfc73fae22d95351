"""Chunked prefill and max_num_batched_tokens: what a smaller budget of tokens per step costs and brings.

Rule: a round in which requests failed is counted, and its latencies are compared with nothing: they are those
of the requests that the server did not refuse.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vllm_locust.report.evidence import (
    Mean,
    configuration,
    every,
    exceeds,
    factor,
    failed,
    grouped,
    means,
    numeric_factor,
    planned,
    steady,
    sweeps,
    trend,
    trusted,
    work,
    work_word,
)
from vllm_locust.report.findings.finding import Finding, by_chance, confirmed_if
from vllm_locust.report.words import counted, digits, listed, ms
from vllm_locust.results.rows import Row

BUDGET = "max-num-batched-tokens"
CHUNKED = "enable-chunked-prefill"

_LEAST_BUDGETS = 3
_MOVES = 0.10
"""What a latency may differ from that of the largest budget and still not have moved."""
_LATENCIES = {"TTFT": "mean_ttft_ms", "TPOT": "mean_tpot_ms", "ITL": "mean_itl_ms"}

_REFUSAL = re.compile("http.400", re.IGNORECASE)

_Rounds = Mapping[float, Sequence[Row]]
"""Rows by budget, the smallest first."""


def token_budget(rows: Sequence[Row]) -> list[Finding]:
    """TTFT, TPOT and ITL over the budget, where they stop to move, failures, durations; per workload."""
    rounds = [row for row in steady(rows) if numeric_factor(row, BUDGET) is not None]
    if not rounds:
        return [Finding("token budget", "cannot tell", f"No run has a {BUDGET}.")]
    groups = grouped(rounds, work)
    return [
        Finding(
            f"{finding.name} ({work_word(some[0])})" if len(groups) > 1 else finding.name,
            finding.verdict,
            finding.sentence,
        )
        for some in groups.values()
        for finding in _of_group(some)
    ]


def _of_group(rows: Sequence[Row]) -> Iterator[Finding]:
    measured = [row for row in trusted(rows) if not failed(row)]
    compared = [row for row in measured if factor(row, CHUNKED) in (None, True)]
    for others, some in sweeps(compared, BUDGET).items():
        for finding in _of_sweep(some, _left_out(rows)):
            yield replace(finding, name=f"{finding.name}, {others}") if others else finding
    yield _failures(rows)  # of any client: that the server refused a request is no matter of time
    yield from _durations(measured)


def _left_out(rows: Sequence[Row]) -> str:
    """How many rounds with chunked prefill are compared with nothing, and why; empty where none is."""
    chunked = [row for row in rows if factor(row, CHUNKED) in (None, True)]
    able = {id(row) for row in trusted(chunked)}
    unable, failing = len(chunked) - len(able), sum(id(row) in able and failed(row) > 0 for row in chunked)
    parts = [f"in {failing} requests failed"] * bool(failing)
    parts += [f"of {unable} the client could not measure"] * bool(unable)
    return f" Of {counted(len(chunked), 'round')}, {listed(parts)}." if parts else ""


def _of_sweep(rows: Sequence[Row], left_out: str) -> Iterator[Finding]:
    """Of rows that differ in the budget only; `left_out` is told where they are too few."""
    by_budget = grouped(rows, lambda row: numeric_factor(row, BUDGET) or 0.0)
    rounds = {budget: by_budget[budget] for budget in sorted(by_budget)}
    for finding in (
        _longer_ttft(rounds),
        _shorter(rounds, "ITL"),
        _shorter(rounds, "TPOT"),
        _plateau(rounds),
    ):
        few = finding.verdict == "cannot tell" and len(rounds) < _LEAST_BUDGETS
        yield replace(finding, sentence=finding.sentence + left_out) if few else finding


def _too_few(count: int) -> str:
    return f"{counted(count, 'budget')} with chunked prefill to compare: a trend needs {_LEAST_BUDGETS}."


def _longer_ttft(rounds: _Rounds) -> Finding:
    return _over_budget("smaller budget, longer TTFT", means(rounds, _LATENCIES["TTFT"]), "TTFT", up=False)


def _shorter(rounds: _Rounds, latency: str) -> Finding:
    name = f"smaller budget, shorter {latency}"
    return _over_budget(name, means(rounds, _LATENCIES[latency]), latency, up=True)


def _over_budget(name: str, values: Mapping[float, Mean], latency: str, *, up: bool) -> Finding:
    """Whether a mean goes up, or down, with the budget: as a trend, and from the first to the last."""
    if len(values) < _LEAST_BUDGETS:
        return Finding(name, "cannot tell", _too_few(len(values)))
    first, last = values[min(values)], values[max(values)]
    along = trend(list(values.values()))
    goes = every([along.goes(up), exceeds(last, first) if up else exceeds(first, last)])
    return Finding(
        name,
        confirmed_if(goes, values.values()),
        f"Mean {latency} goes from {first.told(ms)} at {min(values):g} tokens to {last.told(ms)} at "
        f"{max(values):g}; {along.told(up)}.",
    )


def _plateau(rounds: _Rounds) -> Finding:
    name = "past which budget nothing moves"
    curves = {latency: means(rounds, key) for latency, key in _LATENCIES.items()}
    curves = {latency: curve for latency, curve in curves.items() if curve}
    budgets = [budget for budget in rounds if all(budget in curve for curve in curves.values())]
    if len(budgets) < _LEAST_BUDGETS or not curves:
        return Finding(name, "cannot tell", _too_few(len(budgets)))
    behind = [curve[budget] for curve in curves.values() for budget in budgets]
    start = budgets[-1]
    for budget in reversed(budgets):
        if any(_moved(curve[budget].value, curve[budgets[-1]].value) for curve in curves.values()):
            break
        start = budget
    if start == budgets[-1]:
        before = budgets[-2]
        moved = [
            f"{latency} {ms(curve[before].value)} and {ms(curve[start].value)}"
            for latency, curve in curves.items()
            if _moved(curve[before].value, curve[start].value)
        ]
        sentence = f"Between {before:g} and {start:g} tokens there is still: {listed(moved)}."
        return Finding(name, confirmed_if(False, behind), sentence)
    told = [
        f"{latency} {ms(curve[start].value)} and {ms(curve[budgets[-1]].value)}"
        for latency, curve in curves.items()
    ]
    return Finding(
        name,
        confirmed_if(True, behind),
        f"From {start:g} tokens on all means stay within {_MOVES:.0%} of those at {budgets[-1]:g}: "
        f"{listed(told)}.",
    )


def _moved(one: float, other: float) -> bool:
    return abs(one - other) > _MOVES * other


def _failures(rows: Sequence[Row]) -> Finding:
    name = "without chunking, requests beyond the budget fail"
    off = [row for row in rows if factor(row, CHUNKED) is False]
    on = [row for row in rows if factor(row, CHUNKED) in (None, True)]
    failing = [row for row in rows if failed(row)]
    told = listed([f"{failed(row)} of {planned(row)} in {row.run}{_kinds(row)}" for row in failing])
    counts = means(grouped(off, configuration), "failed").values()
    if not off:
        why = "No run of a server without chunked prefill."
        return Finding(name, "cannot tell", f"{why} Failed: {told}." if told else why)
    if not any(_refused(row) for row in off):
        also = f" Failed: {told}." if told else ""
        sentence = f"No request was refused in {counted(len(off), 'round')} without chunked prefill.{also}"
        return Finding(name, confirmed_if(None if any(map(failed, off)) else False, counts), sentence)
    limits = [numeric_factor(row, BUDGET) or 0.0 for row in off if _refused(row)]
    held = [numeric_factor(row, BUDGET) or 0.0 for row in off if not failed(row)]
    by_length = _by_length(on, bool(held) and max(limits) >= min(held))
    least = f"; none from {min(held):g} tokens on" if by_length and held else ""
    return Finding(
        name,
        confirmed_if(by_length, counts),
        f"Failed: {told}{least}. Latencies and durations of these rounds are those of the other requests and "
        "must not be compared.",
    )


def _by_length(chunked: Sequence[Row], refused_above: bool) -> bool | None:
    """Whether only servers without chunking refuse, below some budget; None where others failed somehow."""
    if refused_above or any(map(_refused, chunked)):
        return False
    return None if any(map(failed, chunked)) else True


def _refused(row: Row) -> bool:
    """Whether the server refused requests: of a timeout, say, their length is not known to be the cause."""
    return any(_REFUSAL.match(kind) for kind in row.numbers.get("failures") or {})


def _kinds(row: Row) -> str:
    kinds = row.numbers.get("failures") or {}
    return f" ({', '.join(kinds)})" if kinds else ""


def _durations(rows: Sequence[Row]) -> Iterator[Finding]:
    cells = grouped(rows, configuration)
    duration, rate = means(cells, "duration"), means(cells, "request_throughput")
    known = [name for name in duration if name in rate]
    if len(known) > 1:
        order = sorted(known, key=lambda name: duration[name].value)
        best, worst = order[0], order[-1]
        chance = by_chance(duration[name] for name in known)
        if not exceeds(duration[worst], duration[best]):
            yield Finding(
                "duration",
                "note",
                f"Of {len(known)} measured configurations without failures none is known to be quicker than "
                f"another: {duration[best].told()} s to {duration[worst].told()} s.",
            )
            return
        yield Finding(
            "duration",
            "note",
            f"Of {len(known)} measured configurations without failures {best} is the quickest with "
            f"{duration[best].told()} s ({digits(rate[best].value)} req/s), {worst} the slowest with "
            f"{duration[worst].told()} s ({digits(rate[worst].value)} req/s){chance}.",
        )
