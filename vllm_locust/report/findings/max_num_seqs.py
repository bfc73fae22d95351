"""max_num_seqs: what a larger batch brings and costs, and which concurrency a latency budget allows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from vllm_locust.report.evidence import (
    configuration,
    exceeds,
    failed,
    grouped,
    means,
    numeric_factor,
    steady,
    sweeps,
    trend,
    trusted,
    work,
    work_word,
)
from vllm_locust.report.findings.finding import Finding, by_chance, confirmed_if
from vllm_locust.report.words import counted, listed, ms
from vllm_locust.results.rows import Row

SEQS = "max-num-seqs"
_LEAST = 3

Asked = TypeVar("Asked")
_Levels = Mapping[float, Sequence[Row]]
"""Rows by max_num_seqs, the smallest first."""


def max_num_seqs(rows: Sequence[Row]) -> list[Finding]:
    """KV cache and throughput over it, latency where concurrency equals it, and the latency budget."""
    good = [row for row in trusted(rows) if not failed(row)]
    runs = [row for row in steady(good) if numeric_factor(row, SEQS) is not None]
    fixed = _swept(grouped(runs, lambda row: (*work(row), row.level)))
    found = [
        finding
        for ((asked, load, _), others), levels in fixed.items()
        for finding in _at_fixed_load(
            levels, _brackets(asked, load or "same load", others) if len(fixed) > 1 else ""
        )
    ]
    closed = _swept(grouped([row for row in runs if _closed(row)], lambda row: work(row)[0]))
    found += [
        _closed_loop(levels, _brackets(asked, others) if len(closed) > 1 else "")
        for (asked, others), levels in closed.items()
    ]
    found += _within_budget(good, [row for row in rows if not failed(row)])
    if not found:
        why = f"No two runs of clients that could measure differ in {SEQS}, and none has a latency budget."
        return [Finding(SEQS, "cannot tell", why)]
    return found


def _closed(row: Row) -> bool:
    """As many users as the server takes into a batch."""
    return row.unit == "users" and row.level == numeric_factor(row, SEQS)


def _swept(groups: Mapping[Asked, Sequence[Row]]) -> dict[tuple[Asked, str], _Levels]:
    """Of what differs in max_num_seqs only: by what was asked, and the other factors in words."""
    apart = {
        (asked, others): _levels(some)
        for asked, rows in groups.items()
        for others, some in sweeps(rows, SEQS).items()
    }
    return {key: levels for key, levels in apart.items() if len(levels) > 1}


def _brackets(*parts: str) -> str:
    return f" ({', '.join(part for part in parts if part)})"


def _levels(rows: Sequence[Row]) -> _Levels:
    levels = grouped(rows, lambda row: numeric_factor(row, SEQS) or 0.0)
    return {level: levels[level] for level in sorted(levels)}


def _at_fixed_load(levels: _Levels, where: str) -> Iterator[Finding]:
    yield _kv_goes_on(levels, where)
    latency = means(levels, "mean_e2el_ms")
    if len(latency) > 1:
        least = min(latency, key=lambda level: latency[level].value)
        as_good = [f"{level:g}" for level in latency if not exceeds(latency[level], latency[least])]
        told = listed([f"{value.told(ms)} at {level:g}" for level, value in latency.items()])
        word = (
            f"least at {least:g}"
            if len(as_good) == 1
            else f"least, and hardly different, at {listed(as_good)}"
        )
        chance = by_chance(latency.values())
        yield Finding(f"latency over {SEQS}{where}", "note", f"Mean E2EL is {told}: {word}{chance}.")


def _kv_goes_on(levels: _Levels, where: str) -> Finding:
    """Whether throughput stops growing while the KV cache goes on filling."""
    name = f"throughput stops growing, KV usage goes on{where}"
    rate, kv = means(levels, "request_throughput"), means(levels, "server.kv_cache_usage_peak")
    known = [level for level in levels if level in rate and level in kv]
    if len(known) < _LEAST:
        return Finding(
            name,
            "cannot tell",
            f"{counted(len(known), 'value')} of {SEQS} with throughput and KV usage: needed are {_LEAST}.",
        )
    told = listed(
        [f"{rate[one].told()} req/s, KV peak at least {kv[one].told(_share)} at {one:g}" for one in known]
    )
    *before, last = known
    start = next((level for level in before if exceeds(rate[last], rate[level]) is False), None)
    if start is None:
        grows = exceeds(rate[last], rate[before[-1]])
        word = "still grows" if grows else "may still grow"
        verdict = confirmed_if(False if grows else None, rate.values())
        return Finding(name, verdict, f"Throughput {word} at the largest: {told}.")
    goes_on = exceeds(kv[last], kv[start])
    word = {True: "grows on", False: "does not grow either", None: "may grow on"}[goes_on]
    return Finding(
        name,
        confirmed_if(goes_on, [*rate.values(), *kv.values()]),
        f"From {start:g} to {last:g} throughput changes by {rate[last].value / rate[start].value - 1:+.1%}, "
        f"while the KV peak as seen {word}: {told}.",
    )


def _share(value: float) -> str:
    return f"{value:.1%}"


def _closed_loop(levels: _Levels, where: str) -> Finding:
    name = f"concurrency = {SEQS}: latency grows with it{where}"
    latency, rate = means(levels, "mean_e2el_ms"), means(levels, "request_throughput")
    known = [level for level in levels if level in latency and level in rate]
    if len(known) < _LEAST:
        return Finding(
            name, "cannot tell", f"{counted(len(known), 'level')} with latencies: needed are {_LEAST}."
        )
    along = trend([latency[level] for level in known])
    told = [f"{latency[one].told(ms)} and {rate[one].told()} req/s at {one:g}" for one in known]
    return Finding(
        name,
        confirmed_if(along.goes(up=True), latency.values()),
        f"Mean E2EL is {listed(told)}; {along.told(up=True)}.",
    )


def _within_budget(rows: Sequence[Row], searches: Sequence[Row]) -> Iterator[Finding]:
    """The largest load that met objectives: of searches what they answered, of ladders what was measured.

    A search ends where its client cannot measure any more, and answers from the loads below.
    """
    for some in grouped([row for row in searches if row.numbers.get("capacity")], work).values():
        answers = [f"{row.run} {_answer(row.numbers['capacity'])}" for row in some]
        slos = listed(_slos(some[0].numbers["capacity"]))
        yield Finding(f"largest load with {slos} ({work_word(some[0])})", "note", f"{'; '.join(answers)}.")
    judged = [
        (slo["slo"], row) for row in rows if row.level is not None for slo in row.numbers.get("slo") or ()
    ]
    ladders = grouped(judged, lambda one: (str(one[0]), configuration(one[1]), work(one[1]), one[1].unit))
    asked = {one[2] for one in ladders}
    for (slo, run, _, _), pairs in ladders.items():
        levels = grouped((row for _, row in pairs), lambda row: row.level or 0.0)
        if len(levels) > 1:
            sentence = _of_ladder(dict(sorted(levels.items())), slo)
            what = work_word(pairs[0][1]) if len(asked) > 1 else ""
            yield Finding(f"largest load with {slo}{_brackets(run, what)}", "note", sentence)


def _answer(capacity: Mapping[str, Any]) -> str:
    """Where the search ended."""
    doubt = capacity.get("undecided")  # which runs of old do not have
    if capacity["level"] is None:
        return f"holds it at no load ({doubt or capacity['reason']})"
    missed = capacity["missed_at"]
    above = f" ({doubt or capacity['reason']})" if doubt or missed is None else f", {missed:g} miss it"
    return f"holds it at {capacity['level']:g} {capacity['unit']}{above}"


def _slos(capacity: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(found["slo"] for level in capacity["levels"] for found in level["findings"]))


def _of_ladder(levels: _Levels, slo: str) -> str:
    """The largest level below the first that did not meet it."""
    failing = [
        level for level, rows in levels.items() if not all(_outcome(row, slo) == "met" for row in rows)
    ]
    held = [level for level in levels if not failing or level < failing[0]]
    told = [f"{_outcome(row, slo)} at {level:g}" for level, rows in levels.items() for row in rows]
    most = f"Loads up to {held[-1]:g} met it" if held else f"Already {failing[0]:g} did not meet it"
    return f"{most}: {listed(told)}."


def _outcome(row: Row, slo: str) -> str:
    return next(str(one["outcome"]) for one in row.numbers["slo"] if one["slo"] == slo)
