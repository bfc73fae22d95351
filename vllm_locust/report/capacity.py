"""What a capacity search says: a line for each probe when it is done, a table of all and the answer in words.

Rule: one line a probe, 110 columns at most for the table and the words; a value that missed is marked, and
so is one that the sample could not tell. What is left out for want of room is said to be.
"""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from vllm_locust.core.search import Answer, Probe

WIDTH = 110

_NOT_KNOWN = "n/a"
_OUTCOMES = {"invalid": "client"}
_LEGEND = "x = missed, ~ = the sample could not tell: the likelier outcome counts."
_ENDS = {
    "client": "The search ended at the limit of the client, not of the server",
    "collapsed": "The search ended early",
    "probes": "The search ended early",
}


def render_probe(probe: Probe | Mapping[str, Any], unit: str) -> str:
    """One line about a probe that is done; `unit` is "users" or "requests/s"."""
    data = probe.to_dict() if isinstance(probe, Probe) else probe
    effort = f"{data['requests']} requests in {data['seconds']:.1f} s"
    level = _amount(data["level"], unit)
    if data["outcome"] == "invalid":
        reasons = "; ".join(data["client_reasons"]) or "no reason was given"
        return f"{level}: says nothing about the server, the client could not measure: {reasons} ({effort})"
    if data["outcome"] == "collapsed":
        return f"{level}: the server broke down: {data['collapsed']} ({effort})"
    outcome = data["outcome"] + (", but close" if data["close"] else "")
    client = ", client degraded" if data["client"] == "degraded" else ""
    values = ", ".join(f"{f['slo']}: {_cell(f)}".rstrip() for f in data["findings"])
    return f"{level}: {outcome} ({effort}{client}); {values}"


def render_answer(answer: Answer | Mapping[str, Any], unit: str) -> str:
    """The table of all probes and what the search found; ends with a newline."""
    data = answer.to_dict() if isinstance(answer, Answer) else answer
    parts = ["\n".join(_table(data["probes"], unit))] if data["probes"] else []
    parts += [fill(sentence, WIDTH) for sentence in _sentences(data, unit)]
    return "\n".join(parts) + "\n"


def _table(probes: Sequence[Mapping[str, Any]], unit: str) -> Iterator[str]:
    heads = ["probe", unit, "requests", "failed", "seconds", "req/s", "outcome"]
    rows = [[str(number), *_cells(probe)] for number, probe in enumerate(probes, 1)]
    columns, notes = _objectives(probes, room=WIDTH - sum(_widths([heads, *rows])))
    for slo, name in columns.items():
        heads.append(name)
        for probe, row in zip(probes, rows, strict=True):
            row.append(_objective(probe, slo))
    widths = _widths([heads, *rows])
    for row in [heads, *rows]:
        yield "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    yield _LEGEND
    for note in notes:
        yield fill(note, WIDTH)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Each column is as wide as its widest cell, and two spaces apart from the one before."""
    return [
        max(map(len, column)) + (2 if index else 0) for index, column in enumerate(zip(*rows, strict=True))
    ]


def _cells(probe: Mapping[str, Any]) -> list[str]:
    numbers = probe["numbers"]
    rate = numbers.get("request_throughput")
    outcome = _OUTCOMES.get(probe["outcome"], probe["outcome"])
    close = probe["close"] and probe["outcome"] in ("met", "missed")
    return [
        _level(probe["level"]),
        str(probe["requests"]),
        str(max((finding["failed"] for finding in probe["findings"]), default=0)),
        f"{probe['seconds']:.1f}",
        _NOT_KNOWN if rate is None else f"{rate:.2f}",
        outcome + (" ~" if close else ""),
    ]


def _objectives(probes: Sequence[Mapping[str, Any]], room: int) -> tuple[dict[str, str], list[str]]:
    """The objectives that get a column, each with the head of it, and what is to be said about the heads.

    Heads are the objectives themselves where that fits, else letters. Those that were missed come first when
    not all have room.
    """
    slos = list(dict.fromkeys(finding["slo"] for probe in probes for finding in probe["findings"]))
    cells = {slo: max(len(_objective(probe, slo)) for probe in probes) + 2 for slo in slos}
    if sum(max(cells[slo], len(slo) + 2) for slo in slos) <= room:
        return {slo: slo for slo in slos}, []
    if sum(cells.values()) > room:
        missed = {f["slo"] for probe in probes for f in probe["findings"] if f["outcome"] == "missed"}
        slos.sort(key=lambda slo: slo not in missed)
    columns: dict[str, str] = {}
    for letter, slo in zip("ABCDEFGHIJ", slos, strict=False):
        room -= cells[slo]
        if room < 0:
            break
        columns[slo] = letter
    notes = ["; ".join(f"{letter} = {slo}" for slo, letter in columns.items()) + "."]
    if len(columns) < len(slos):
        notes.append("Without a column here: " + ", ".join(slo for slo in slos if slo not in columns) + ".")
    return columns, notes


def _objective(probe: Mapping[str, Any], slo: str) -> str:
    finding = next((finding for finding in probe["findings"] if finding["slo"] == slo), None)
    return f"{_NOT_KNOWN}   " if finding is None else _cell(finding)


def _cell(finding: Mapping[str, Any]) -> str:
    """A value and, in three columns, its marks."""
    marks = ("x" if finding["outcome"] == "missed" else "") + ("~" if finding["close"] else "")
    return f"{_value(finding['slo'], finding['value'])} {marks:<2}"


def _value(slo: str, value: float | None) -> str:
    if value is None:
        return _NOT_KNOWN
    if "_ms" not in slo and value == int(value):
        return str(int(value))  # a count
    decimals = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:.{decimals}f}"


def _sentences(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    yield _headline(answer, unit)
    for finding in answer["broke_first"][1:]:
        yield f"{_amount(answer['missed_at'], unit)} also missed {finding['sentence']}."
    if answer["ended"] in _ENDS:
        yield f"{_ENDS[answer['ended']]}: {answer['reason']}."
    elif answer["ended"] == "running":
        yield "The search was broken off before its end."
    level, missed_at = answer["level"], answer["missed_at"]
    if level is not None and missed_at is not None and not _adjacent(level, missed_at, unit):
        yield f"What lies between {_level(level)} and {_amount(missed_at, unit)} was not probed."
    yield from _unproved(answer, unit)
    yield from _doubts(answer, unit)


def _headline(answer: Mapping[str, Any], unit: str) -> str:
    level, missed_at = answer["level"], answer["missed_at"]
    if level is None:
        what = "No load met all objectives"
        return (
            f"{what}." if missed_at is None else f"{what}: even {_amount(missed_at, unit)} {_missed(answer)}."
        )
    text = f"Largest load that met all objectives: {_amount(level, unit)}"
    if missed_at is not None:
        return f"{text} ({_level(missed_at)} {_missed(answer)})."
    limit = ", the limit of the search" if answer["ended"] == "limit" else ""
    return f"{text}{limit}; no load missed them, so the server can take at least that."


def _missed(answer: Mapping[str, Any]) -> str:
    """Why the smallest load that missed did so."""
    if answer["collapsed"]:
        return f"broke the server down: {answer['collapsed']}"
    worst = answer["broke_first"][:1]
    return f"missed: {worst[0]['sentence']}" if worst else "missed"


def _adjacent(level: float, missed_at: float, unit: str) -> bool:
    return unit == "users" and missed_at - level <= 1


def _unproved(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What no sample can prove: that there will be no exception."""
    for level in answer["levels"]:
        for finding in level["findings"] if level["level"] == answer["level"] else ():
            if finding["slo"].startswith("max_"):
                yield (
                    f"At {_amount(level['level'], unit)} none of {finding['trials']} requests broke "
                    f"{finding['slo']}, but up to {(1 - finding['low']) * 100:.2g} % may in a longer run."
                )


def _doubts(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What the sample could not tell at the two levels that the answer rests on."""
    for level in answer["levels"]:
        if not level["close"] or level["level"] not in (answer["level"], answer["missed_at"]):
            continue
        findings = [f for f in level["findings"] if f["close"] and f["outcome"] == level["outcome"]]
        doubts = [_doubt(finding) for finding in findings if finding["needed"] is not None]
        what = f"That {_amount(level['level'], unit)} {level['outcome']} is close: "
        yield what + ("; ".join(doubts) or f"its {level['probes']} probes do not agree") + "."


def _doubt(finding: Mapping[str, Any]) -> str:
    trials, worth = finding["trials"], finding["worth"]
    alike = f", worth {worth:.0f} independent ones" if worth < 0.95 * trials else ""
    return (
        f"for {finding['slo']} {finding['low'] * 100:.4g} to {finding['high'] * 100:.4g} % of requests may "
        f"be inside, {finding['needed'] * 100:.6g} % are needed ({trials} requests{alike})"
    )


def _amount(level: float, unit: str) -> str:
    """`24 users`, `1 user`, `2.5 requests/s`."""
    return f"{_level(level)} {'user' if level == 1 and unit == 'users' else unit}"


def _level(level: float) -> str:
    return f"{level:.6g}"
