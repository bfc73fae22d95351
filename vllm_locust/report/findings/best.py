"""The best configuration for each goal, and whether it is better than the next by more than chance moves it.

Rule: only configurations without failed requests and with clients that could measure compete. The best is
confirmed when its worst run beats the best one of the next, and when there are runs enough that chance orders
them so in at most one of twenty times: of n and m runs that are alike all of either come before all of the
other with a chance of 2 / (n + m over n), which takes four of each. That is so for each goal on its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb

from vllm_locust.report.evidence import (
    Mean,
    configuration,
    failed,
    grouped,
    larger,
    means,
    steady,
    trusted,
    work,
    work_word,
)
from vllm_locust.report.findings.finding import Finding, Verdict
from vllm_locust.report.words import counted, digits, ms
from vllm_locust.results.rows import Row

_LEAST_ORDERS = 20


@dataclass(frozen=True, slots=True)
class _Goal:
    name: str
    key: str
    most: bool
    word: Callable[[float], str]


_GOALS = (
    _Goal("highest output throughput", "output_throughput", True, lambda value: f"{digits(value)} tok/s"),
    _Goal("lowest p99 TTFT", "p99_ttft_ms", False, ms),
    _Goal("lowest p99 TPOT", "p99_tpot_ms", False, ms),
)


def best(rows: Sequence[Row]) -> list[Finding]:
    """A finding per goal, workload and load."""
    runs = steady(rows)
    groups = grouped(runs, work)
    if not groups:
        return [Finding("best configuration", "cannot tell", "There are no runs.")]
    return [
        finding
        for some in groups.values()
        for finding in _of_group(some, f" ({work_word(some[0])})" if len(groups) > 1 else "")
    ]


def _of_group(rows: Sequence[Row], where: str) -> Iterator[Finding]:
    everybody = grouped(rows, configuration)
    measured = grouped(trusted(rows), configuration)
    able = {name: some for name, some in measured.items() if not any(failed(row) for row in some)}
    left_out = [name for name in everybody if name not in able]
    note = (
        f" Left out for failures or a client that could not measure: {', '.join(left_out)}."
        if left_out
        else ""
    )
    for goal in _GOALS:
        verdict, sentence = _judge(goal, means(able, goal.key))
        yield Finding(f"{goal.name}{where}", verdict, sentence + note)


def _judge(goal: _Goal, values: Mapping[str, Mean]) -> tuple[Verdict, str]:
    if len(values) < 2:
        return "cannot tell", f"{counted(len(values), 'configuration')} to compare."
    sign = -1 if goal.most else 1
    first, second = sorted(values, key=lambda name: sign * values[name].value)[:2]
    one, other = values[first], values[second]
    told = f"{first}, {one.told(goal.word)}, before {second}, {other.told(goal.word)}"
    gap = abs(one.value / other.value - 1) if other.value else 0.0
    if min(one.repeats, other.repeats) == 1:
        differ = larger(max(one.value, other.value), min(one.value, other.value))
        close = "" if differ else ", too little to count"
        return (
            "note",
            f"{told}: {gap:.1%} apart{close}. Of one run each: how far chance moves it is not known.",
        )
    if not (one.low > other.high if goal.most else one.high < other.low):
        return "cannot tell", f"{told}: {gap:.1%} apart, but the runs of the two overlap."
    orders = comb(one.repeats + other.repeats, one.repeats) // 2  # either may come before the other
    by_chance = f"no run of the one is like one of the other, by chance in 1 of {orders} times"
    verdict: Verdict = "confirmed" if orders >= _LEAST_ORDERS else "cannot tell"
    return verdict, f"{told}: {gap:.1%} apart; {by_chance}."
