"""Runs in Markdown, for a pull request or a step summary of GitHub: what one should know first comes first.

Rule: names and messages come from users and servers, so every character of them that Markdown, HTML or GitHub
could take for markup is written as a character reference.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vllm_locust.report.evidence import by_phase, dropped, failed, odd_answers, planned, whole, work_word
from vllm_locust.report.findings import Finding
from vllm_locust.report.words import counted, digits, listed
from vllm_locust.results.folder import Results
from vllm_locust.results.rows import Row

_MOST_ROWS = 60
_MOST_DOUBTS = 12
_MOST_OF_A_MESSAGE = 160
_LATENCIES = {
    "TTFT mean": "mean_ttft_ms",
    "TTFT p50": "p50_ttft_ms",
    "TTFT p99": "p99_ttft_ms",
    "TPOT mean": "mean_tpot_ms",
    "TPOT p99": "p99_tpot_ms",
    "ITL p99": "p99_itl_ms",
}
_RATES = {"req/s": "request_throughput", "output tok/s": "output_throughput"}
_FACTS = {"scenario": "scenario", "model": "model_id", "host": "host", "started": "date"}
_LEGEND = (
    "Latencies in ms: TTFT to the first token, TPOT per token after it, ITL between tokens. Small: 95 % "
    "interval as if requests were independent. \\* = too few samples for this percentile. n/a = nothing to "
    "measure."
)
_MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])|(?<!\w)#")


def escaped(text: str) -> str:
    """`text` in one line in which nothing is markup: not of a table, not of HTML, and nobody's name."""
    line = " ".join(text.split())
    # A comment after it keeps GitHub from taking `@name` for a person to tell.
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line).replace("@", "@<!-- -->")


def markdown(
    runs: Sequence[Results], rows: Sequence[Row], findings: Sequence[Finding] = (), title: str | None = None
) -> str:
    """Verdict, validity, odd answers, a table of the rows, objectives, failures, findings; ends in a newline.

    `rows` are those of `runs`; a run without a summary has none, and is told of in a sentence.
    """
    blocks = [
        [f"## {escaped(title or 'Load test')}"],
        [f"**{_verdict(whole(rows))}**"],
        _facts(whole(rows)),
        [*_doubts(whole(rows)), *_problems(runs)],
        [*_table(rows)],
        [*_slos(whole(rows))],
        [*_failures(whole(rows))],
        [*_findings(findings)],
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def _verdict(runs: Sequence[Row]) -> str:
    """Whether one can trust it, whether requests failed or were dropped, and the objectives."""
    if not runs:
        return "Nothing was measured to its end."
    outcomes = [str(slo["outcome"]) for row in runs for slo in row.numbers.get("slo") or ()]
    parts = [_measured(Counter(_client(row).get("verdict") or "of unknown validity" for row in runs))]
    bad, unsent = sum(map(failed, runs)), sum(map(dropped, runs))
    all_of_them = counted(sum(map(planned, runs)), "request")
    parts.append(f"{bad} of {all_of_them} failed" if bad else f"{all_of_them}, none failed")
    if unsent:
        parts.append(f"{unsent} dropped, which were planned and never sent")
    if outcomes:
        parts.append(_objectives(Counter(outcomes), len(outcomes)))
    return "; ".join(parts) + "."


def _measured(verdicts: Mapping[str, int]) -> str:
    if len(verdicts) == 1:
        verdict, count = next(iter(verdicts.items()))
        return f"The measurement is {verdict}" if count == 1 else f"All {count} measurements are {verdict}"
    return f"Measurements: {listed([f'{count} {verdict}' for verdict, count in verdicts.items()])}"


def _objectives(outcomes: Mapping[str, int], count: int) -> str:
    if outcomes.get("met") == count:
        return "the objective is met" if count == 1 else f"all {count} objectives are met"
    told = listed([f"{many} {outcome}" for outcome, many in outcomes.items()])
    return f"of {counted(count, 'objective')} {told}"


def _client(row: Row) -> Mapping[str, Any]:
    return row.numbers.get("client") or {}


def _facts(runs: Sequence[Row]) -> list[str]:
    """What is the same of all runs."""
    known = {name: {row.numbers.get(key) for row in runs} for name, key in _FACTS.items()}
    same = {name: str(*values) for name, values in known.items() if len(values) == 1 and None not in values}
    return [", ".join(f"{name} {escaped(value)}" for name, value in same.items())] if same else []


def _doubts(runs: Sequence[Row]) -> list[str]:
    doubts = [
        f"- {_whose(row, runs)}{escaped(str(_client(row)['verdict']))}: {escaped(reason)}"
        for row in runs
        for reason in _client(row).get("reasons") or ()
    ]
    doubts += [
        f"- {_whose(row, runs)}load not as planned: {escaped(reason)}"
        for row in runs
        for reason in (_client(row).get("load") or {}).get("reasons") or ()
    ]
    doubts += [f"- {_whose(row, runs)}{escaped(told)}" for row in runs for told in odd_answers(row)]
    more = len(doubts) - _MOST_DOUBTS
    return [*doubts[:_MOST_DOUBTS], *([f"- and {more} more such sentences"] if more > 0 else [])]


def _problems(runs: Sequence[Results]) -> Iterator[str]:
    for results in runs:
        where = f"{escaped(str(results.folder))}: " if len(runs) > 1 else ""
        yield from (f"- {where}{escaped(problem)}" for problem in results.problems)


def _whose(row: Row, runs: Sequence[Row]) -> str:
    """What leads a sentence about one of several runs."""
    return "" if len(runs) == 1 else f"{escaped(_name(row, runs))}: "


def _name(row: Row, runs: Sequence[Row]) -> str:
    """The run's name, and what was asked where several runs are called so."""
    alone = sum(one.run == row.run for one in runs) == 1
    return row.run if alone else f"{row.run} ({work_word(row)})"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """One line per row; of too many only those of whole runs, and of these the first."""
    some = rows if len(rows) <= _MOST_ROWS else whole(rows)
    some = some[:_MOST_ROWS]
    if not some:
        return
    names = _names(some)
    heads = [*names, "ok", "failed", "dropped", *_RATES, *_LATENCIES]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(names) + "---:|" * (len(heads) - len(names))
    for number, row in enumerate(some):
        cells = [escaped(cells[number]) for cells in names.values()]
        cells += [_plain(row, key) for key in ("completed", "failed", "dropped", *_RATES.values())]
        cells += [_latency(row, key) for key in _LATENCIES.values()]
        yield f"| {' | '.join(cells)} |"
    yield ""
    left_out = (
        f" {len(rows) - len(some)} rows are left out: `--csv` has them." if len(some) < len(rows) else ""
    )
    yield f"<sub>{_LEGEND}{left_out}</sub>"


def _names(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The columns that tell rows apart, and not one that says the same as another."""
    names = {
        head: cells for head, word in _NAMES.items() if len(set(cells := [word(row) for row in rows])) > 1
    }
    if "workload" in names and "profile" in names:
        pairs = set(zip(names["workload"], names["profile"], strict=True))
        if len(pairs) == len(set(names["workload"])) == len(set(names["profile"])):
            del names["workload"]
    return names


def _load(row: Row) -> str:
    if row.level is None:
        return str(row.factors.get("load") or "")
    return "1 user" if (row.level, row.unit) == (1, "users") else f"{row.level:g} {row.unit or ''}".rstrip()


_NAMES: Mapping[str, Callable[[Row], str]] = {
    "run": lambda row: row.run,
    "phase": lambda row: "all" if row.phase is None else str(row.phase + 1),
    "workload": lambda row: row.workload,
    "profile": lambda row: row.profile or "all",
    "load": _load,
}
"""What tells rows apart: a column where they differ in it."""


def _plain(row: Row, key: str) -> str:
    value = row.numbers.get(key)
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else digits(value)


def _latency(row: Row, key: str) -> str:
    value, ends = row.numbers.get(key), (row.numbers.get("intervals") or {}).get(key)
    if value is None or ends is None:
        return _plain(row, key)
    low, high = ends
    if low is None or high is None:
        return f"{digits(value)}\\*"
    return f"{digits(value)} <sub>{digits(low)} .. {digits(high)}</sub>"


def _slos(runs: Sequence[Row]) -> Iterator[str]:
    """Each objective in a sentence, those that were not met first."""
    judged = [
        (row, slo, by_phase(row.numbers, place))
        for row in runs
        for place, slo in enumerate(row.numbers.get("slo") or ())
    ]
    if judged:
        yield "### Objectives\n"
    for row, slo, spread in sorted(judged, key=lambda one: one[1]["outcome"] == "met"):
        phases = f" ({spread})" if spread else ""
        yield f"- **{slo['outcome']}** {_whose(row, runs)}{escaped(slo['sentence'])}{phases}"


def _failures(runs: Sequence[Row]) -> Iterator[str]:
    kinds = [
        (row, kind, count) for row in runs for kind, count in (row.numbers.get("failures") or {}).items()
    ]
    if not kinds:
        return
    yield "### Failed requests\n"
    yield "| run | kind | requests | the first message |"
    yield "|---|---|---:|---|"
    for row, kind, count in kinds:
        message = str((row.numbers.get("failure_examples") or {}).get(kind) or "")
        cut = message if len(message) <= _MOST_OF_A_MESSAGE else message[:_MOST_OF_A_MESSAGE] + "..."
        yield f"| {escaped(_name(row, runs))} | {escaped(kind)} | {count} | {escaped(cut)} |"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if findings:
        yield "### Findings\n"
    for finding in findings:
        yield f"- **{escaped(finding.name)}: {finding.verdict}.** {escaped(finding.sentence)}"
