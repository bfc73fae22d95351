"""The table of an experiment for a terminal: by workload and load a line for each configuration.

Repeats are averaged.

Rule: numbers of runs that failed in part stand beside the count of failures, and are marked: latencies of the
requests that a server has not refused must not be compared with those of one that took all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from vllm_locust.report.evidence import odd_answers
from vllm_locust.results.experiment import ExperimentResults, ExperimentRun, rows_of_run
from vllm_locust.results.rows import Row

WIDTH = 110
_NOT_KNOWN = "n/a"
_FAILURES = "!"
_MOST_ODD = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One of the table's columns."""

    heading: str
    decimals: int
    value: Callable[[Row], float | None]
    is_count: bool = False
    """A whole number, unless it is the mean of repeats."""
    only_if_any: bool = False
    """Left out where no row has any."""


def _key(name: str, scale: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        number = row.numbers.get(name)
        return None if number is None else number * scale

    return value


def _kv_percent(row: Row) -> float | None:
    peak = row.server.get("kv_cache_usage_peak")
    return None if peak is None else peak * 100


COLUMNS = (
    Column("ok", 0, _key("completed"), is_count=True),
    Column("failed", 0, _key("failed"), is_count=True),
    Column("dropped", 0, _key("dropped"), is_count=True, only_if_any=True),
    Column("dur s", 1, _key("duration")),
    Column("req/s", 2, _key("request_throughput")),
    Column("out tok/s", 0, _key("output_throughput")),
    Column("TTFT", 0, _key("mean_ttft_ms")),
    Column("p99", 0, _key("p99_ttft_ms")),
    Column("TPOT", 1, _key("mean_tpot_ms")),
    Column("ITL p99", 0, _key("p99_itl_ms")),
    Column("E2EL", 0, _key("mean_e2el_ms")),
    Column("KV %", 0, _kv_percent),
)


def render(results: ExperimentResults) -> str:
    """All of it, at most 110 columns wide; ends with a newline."""
    groups = _groups(results)
    blocks = [_table(groups), _legend(results)] if groups else []
    blocks += [_capacities(results), _odd_answers(results), _troubles(results)]
    return "\n".join(block for block in blocks if block)


def _groups(results: ExperimentResults) -> Mapping[str, Mapping[str, Sequence[Row]]]:
    """By what was asked, and how much, and then by configuration."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for run in results.runs:
        planned = run.planned
        for row in _leaves(rows_of_run(run)):
            phase = "" if row.phase is None else f" {row.workload}{_level(row)}"
            group = groups.setdefault(f"{planned.workload} {planned.load}{phase}", {})
            group.setdefault(planned.configuration, []).append(row)
    return groups


def _table(groups: Mapping[str, Mapping[str, Sequence[Row]]]) -> str:
    """With a heading above each group, unless there is only one, or only one configuration in all of them."""
    every = [row for group in groups.values() for rows in group.values() for row in rows]
    columns = [one for one in COLUMNS if not one.only_if_any or any(one.value(row) for row in every)]
    alone = len(groups) > 1 and len({name for group in groups.values() for name in group}) == 1
    lines = [
        [what if alone else name, *(_number(column, rows) for column in columns)]
        for what, group in groups.items()
        for name, rows in group.items()
    ]
    first = "workload, load" if alone else "configuration"
    heading, *aligned = _aligned([[first, *(column.heading for column in columns)], *lines])
    if alone or len(groups) == 1:
        return "".join([heading, *aligned])
    shown = [heading]
    for what, group in groups.items():
        shown += [f"\n{what}\n", *(aligned.pop(0) for _ in group)]
    return "".join(shown)


def _leaves(rows: Sequence[Row]) -> Sequence[Row]:
    """The phases of a run that has several, else the whole of it."""
    phases: dict[int, Row] = {}
    for row in rows[1:]:
        if row.phase is not None:
            phases.setdefault(row.phase, row)
    if len(phases) < 2 or "capacity" in rows[0].numbers:
        return rows[:1]
    return list(phases.values())


def _level(row: Row) -> str:
    return "" if row.level is None else f" {_load(row.level, row.unit)}"


def _load(level: float, unit: str | None) -> str:
    return "1 user" if (level, unit) == (1, "users") else f"{level:g} {unit}"


def _number(column: Column, rows: Sequence[Row]) -> str:
    values = [value for row in rows if (value := column.value(row)) is not None]
    if not values:
        return _NOT_KNOWN
    mean = sum(values) / len(values)
    if column.is_count:
        mark = _FAILURES if column.heading == "failed" and mean else ""
        return f"{mean:.1f}".removesuffix(".0") + mark
    return f"{mean:.{column.decimals}f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as what is in them; the first one is cut when all are too wide together."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first = min(widths[0], WIDTH - sum(width + 2 for width in widths[1:]))
    return [
        "  ".join([_cut(name, first), *map(str.rjust, numbers, widths[1:])]) + "\n"
        for name, *numbers in lines
    ]


def _cut(word: str, width: int) -> str:
    return f"{word:<{width}}" if len(word) <= width else f"{word[: width - 2]}.."


def _legend(results: ExperimentResults) -> str:
    repeats = max((run.planned.repeat for run in results.runs), default=1)
    mean = f" Means of {repeats} repeats." if repeats > 1 else ""
    failed = any(run.outcome == "failed_requests" for run in results.runs)
    warning = (
        f" {_FAILURES} = latencies and throughput are of the others: not to be compared with those of all."
        if failed
        else ""
    )
    return _folded(
        "Latencies in ms: TTFT mean and p99, TPOT mean, E2EL mean; KV % is the peak of the cache, at least."
        f"{mean}{warning}"
    )


def _capacities(results: ExperimentResults) -> str:
    """What searches found."""
    lines = []
    for run in results.runs:
        answer = _capacity(run)
        if answer is not None:
            level = "none" if answer["level"] is None else _load(answer["level"], answer["unit"])
            # Where no load missed them, it was something else that ended the search.
            doubt = answer.get("undecided") or (answer["reason"] if answer["missed_at"] is None else None)
            why = f" ({doubt})" if doubt else ""
            lines.append(_folded(f"  {run.planned.key}: {level}{why}", "    "))
    return "".join(["Largest load within the objectives:\n", *lines]) if lines else ""


def _capacity(run: ExperimentRun) -> Mapping[str, Any] | None:
    summary = run.results.summary if run.results is not None else None
    return (summary or {}).get("capacity")


def _odd_answers(results: ExperimentResults) -> str:
    """What is not as it looks in the table, run by run."""
    told = [
        f"  {run.planned.key}: {sentence}"
        for run in results.runs
        for row in rows_of_run(run)[:1]
        for sentence in odd_answers(row)
    ]
    lines = [_folded(line, "    ") for line in told[:_MOST_ODD]]
    if len(told) > _MOST_ODD:
        lines.append(f"  and {len(told) - _MOST_ODD} more such sentences\n")
    return "".join(["Odd answers:\n", *lines]) if lines else ""


def _troubles(results: ExperimentResults) -> str:
    """What went wrong, once for all runs of which the same is to be said."""
    said: dict[tuple[str, str], list[str]] = {}
    for run in results.runs:
        if run.outcome not in (None, "ok"):
            said.setdefault((str(run.outcome), run.why or "it is not known why"), []).append(run.planned.key)
    lines = [
        _folded(
            f"  {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}: {outcome}: {why}", "    "
        )
        for (outcome, why), keys in said.items()
    ]
    return "".join(["Not all went well:\n", *lines]) if lines else ""


def _folded(text: str, indent: str = "") -> str:
    return (
        fill(
            " ".join(text.split()),
            WIDTH,
            initial_indent=text[: len(text) - len(text.lstrip())],
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
        + "\n"
    )
