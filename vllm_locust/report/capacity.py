"""What a capacity search says: a line for each probe when it is done, a table of all and the answer in words.

Rule: one line a probe, 110 columns at most for the table and the words; a value that missed is marked, and
so is one that the sample could not tell. What is left out for want of room is said to be. No load that was
not probed is spoken of as if it had been, and where the largest one cannot be told the last line says why.
"""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from vllm_locust.core.search import Answer, Probe
from vllm_locust.report.words import listed

WIDTH = 110

_NOT_KNOWN = "n/a"
_OUTCOMES = {"invalid": "unknown"}
_LEGEND = "x = missed, ~ = close, ? = too few requests: the likelier outcome counts."
_FULL_ENDS = ("narrowed", "limit", "none")


def render_probe(probe: Probe | Mapping[str, Any], unit: str) -> str:
    """One line about a probe that is done; `unit` is "users" or "requests/s"."""
    data = probe.to_dict() if isinstance(probe, Probe) else probe
    unsent = f", {data['dropped']} never sent" if data.get("dropped") else ""
    effort = f"{data['requests']} requests in {data['seconds']:.1f} s{unsent}"
    level = _amount(data["level"], unit)
    if data["outcome"] == "invalid":
        return f"{level}: says nothing about the server: {data['cannot_tell']} ({effort})"
    if data["outcome"] == "collapsed":
        return f"{level}: the server broke down: {data['collapsed']} ({effort})"
    outcome = data["outcome"] + _doubt_word(data)
    client = ", client degraded" if data["client"] == "degraded" else ""
    values = ", ".join(f"{f['slo']}: {_cell(f)}".rstrip() for f in data["findings"])
    hiccup = f"; {data['hiccup']}: once more" if data["hiccup"] else ""
    return f"{level}: {outcome} ({effort}{client}); {values}{hiccup}"


def _doubt_word(data: Mapping[str, Any]) -> str:
    return (", but of too few requests" if data["few"] else ", but close") if data["close"] else ""


def _doubt_mark(data: Mapping[str, Any]) -> str:
    return ("?" if data["few"] else "~") if data["close"] else ""


def render_answer(answer: Answer | Mapping[str, Any], unit: str) -> str:
    """The table of all probes and what the search found; ends with a newline."""
    data = answer.to_dict() if isinstance(answer, Answer) else answer
    parts = ["\n".join(_table(data["probes"], unit))] if data["probes"] else []
    parts += [fill(sentence, WIDTH) for sentence in _sentences(data, unit)]
    return "\n".join(parts) + "\n"


def _table(probes: Sequence[Mapping[str, Any]], unit: str) -> Iterator[str]:
    unsent = ["dropped"] if any(probe.get("dropped") for probe in probes) else []
    heads = ["probe", unit, "requests", "failed", *unsent, "seconds", "req/s", "outcome"]
    rows = [[str(number), *_cells(probe, unsent)] for number, probe in enumerate(probes, 1)]
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


def _cells(probe: Mapping[str, Any], unsent: Sequence[str]) -> list[str]:
    numbers = probe["numbers"]
    rate = numbers.get("request_throughput")
    outcome = _OUTCOMES.get(probe["outcome"], probe["outcome"])
    mark = _doubt_mark(probe) if probe["outcome"] in ("met", "missed") else ""
    return [
        _level(probe["level"]),
        str(probe["requests"]),
        str(max((finding["failed"] for finding in probe["findings"]), default=0)),
        *(str(probe.get(key, 0)) for key in unsent),
        f"{probe['seconds']:.1f}",
        _NOT_KNOWN if rate is None else f"{rate:.2f}",
        f"{outcome} {mark}".rstrip(),
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
    marks = ("x" if finding["outcome"] == "missed" else "") + _doubt_mark(finding)
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
    yield from _not_probed(answer, unit)
    yield from _islands(answer, unit)
    yield from _hiccups(answer, unit)
    yield from _unproved(answer, unit)
    yield from _doubts(answer, unit)
    if answer["undecided"] is not None:
        yield f"So it cannot be told what the largest load is: {answer['undecided']}."


def _headline(answer: Mapping[str, Any], unit: str) -> str:
    level, missed_at = answer["level"], answer["missed_at"]
    missed = "" if missed_at is None else f"{_amount(missed_at, unit)} {_missed(answer)}"
    if not answer["levels"]:
        return "No probe came to its end."
    if level is None and missed_at is None:
        return "Of no load can it be told whether it met all objectives."
    if level is None:
        return f"No load met all objectives: even {missed}." if answer["ended"] == "none" else f"{missed}."
    if answer["ended"] not in _FULL_ENDS:
        text = f"{_amount(level, unit)} met all objectives"
        return f"{text}; {missed}." if missed else f"{text}; whether a larger load does was not found out."
    sure = answer["undecided"] is None
    if answer["ended"] == "limit" and not sure:
        return f"{_amount(level, unit)}, the limit of the search, met all objectives as far as could be told."
    text = (
        f"{'Largest' if sure else 'Likely the largest'} load that met all objectives: {_amount(level, unit)}"
    )
    if answer["ended"] == "limit":
        return f"{text}, the limit of the search; no load missed them, so the server can take at least that."
    certain = answer["certain"]
    held = f", {_level(certain)} for certain" if certain is not None and certain < level else ""
    return f"{text}{held} ({missed})."


def _not_probed(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    """What the answer does not rest on."""
    level, missed_at = answer["level"], answer["missed_at"]
    if level is not None and missed_at is not None and not _adjacent(level, missed_at, unit):
        yield f"What lies between {_level(level)} and {_amount(missed_at, unit)} was not probed."
    if level is None and missed_at is not None and answer["ended"] not in (*_FULL_ENDS, "running"):
        yield (
            "Smaller loads were not probed." if not _lowest(missed_at, unit) else "There is no smaller load."
        )
    below = [other["level"] for other in answer["levels"] if level is not None and other["level"] < level]
    if below:
        them = listed([*map(_level, below[:-1]), _amount(below[-1], unit)])
        yield f"Below it {them} met, too; others were not probed."


def _islands(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    missed_at = answer["missed_at"]
    if missed_at is None:
        return
    above = [one for one in answer["levels"] if one["level"] > missed_at and one["outcome"] == "met"]
    if above:
        again = listed([_level(one["level"]) for one in above])
        sure = not any(one["close"] for one in answer["levels"] if one in above or one["level"] == missed_at)
        so = "not all lower loads hold" if sure else "either may be chance, or not all lower loads hold"
        yield f"{_amount(missed_at, unit)} missed, though above it {again} met: {so}."
    known = {one["level"] for one in above}
    certain = {one["level"] for one in answer["probes"] if one["outcome"] == "met" and not one["close"]}
    turned = sorted(level for level in certain - known if level > missed_at)
    if turned:
        probed = listed([_level(level) for level in turned])
        yield (
            f"{_amount(missed_at, unit)} missed, though a probe of {probed} had met for certain: probes "
            "contradict each other, so the server or the machine may have changed meanwhile."
        )


def _hiccups(answer: Mapping[str, Any], unit: str) -> Iterator[str]:
    for level in answer["levels"]:
        for sentence in level["hiccups"]:
            where = _amount(level["level"], unit)
            yield f"A hiccup at {where} was set aside, since another probe there had none: {sentence}."


def _missed(answer: Mapping[str, Any]) -> str:
    """Why the smallest load that missed did so."""
    if answer["collapsed"]:
        return f"broke the server down: {answer['collapsed']}"
    worst = answer["broke_first"][:1]
    return f"missed: {worst[0]['sentence']}" if worst else "missed"


def _adjacent(level: float, missed_at: float, unit: str) -> bool:
    return unit == "users" and missed_at - level <= 1


def _lowest(level: float, unit: str) -> bool:
    return unit == "users" and level == 1


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
        doubts = [_doubt(finding, level["seconds"]) for finding in findings]
        what = "comes from too few requests" if level["few"] else "is close"
        how = "; ".join(doubts) or f"its {level['probes']} probes do not agree"
        yield f"That {_amount(level['level'], unit)} {level['outcome']} {what}: {how}."


def _doubt(finding: Mapping[str, Any], seconds: float) -> str:
    if finding["blur"]:
        return str(finding["blur"])
    if finding["needed"] is None:
        return f"its value does not decide {finding['slo']}"
    trials, worth, takes = finding["trials"], finding["worth"], finding["takes"]
    alike = (
        f", worth {worth:.0f} independent ones" if finding["worth_known"] and worth < 0.95 * trials else ""
    )
    text = (
        f"for {finding['slo']} {finding['low'] * 100:.4g} to {finding['high'] * 100:.4g} % of requests may "
        f"be inside, {finding['needed'] * 100:.6g} % are needed ({trials} requests{alike})"
    )
    if takes is None or not seconds:
        return text
    some = "some" if finding["worth_known"] else "at least"
    return f"{text}; {some} {takes} like these would tell, {seconds * takes / trials:.0f} s of this load"


def _amount(level: float, unit: str) -> str:
    """`24 users`, `1 user`, `2.5 requests/s`."""
    return f"{_level(level)} {'user' if level == 1 and unit == 'users' else unit}"


def _level(level: float) -> str:
    return f"{level:.6g}"
