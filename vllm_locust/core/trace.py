"""The arrival times of a recorded trace, read from a file.

A trace is a text file with one time per line, or CSV with a header, or JSON lines, with a column or key of a
name in COLUMNS, in any case. Times are numbers or ISO date-times (those without a zone are UTC), and ascend.

Numbers are in one of UNITS. The format tells which (see FORMATS); of no format they are seconds. Those that
are dates of this century in a unit since 1970 are in that, of any format. What is inferred so, but for dates
in seconds, is held against the mean rate that it comes to: where another unit is as likely, the user is
asked. So are those who take a calm part of a trace in seconds, since it looks as a busy one in milliseconds
does.
"""

import csv
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

import orjson

from vllm_locust.errors import UsageError

COLUMNS = ("timestamp", "arrival_time", "arrived_at", "time")
"""What the times of a trace may be called."""

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of each unit that numbers may be in."""


class Format(NamedTuple):
    """A published format of traces."""

    name: str
    columns: Collection[str]
    """What tells it apart, in lower case."""
    unit: str
    """What its times are in."""
    whole: bool = False
    """Whether they are whole numbers of it."""


FORMATS = (
    Format("Bailian", ("chat_id", "input_length", "output_length"), "s"),
    Format("Mooncake", ("input_length", "output_length"), "ms"),
    Format("BurstGPT", ("request tokens", "response tokens"), "s", whole=True),
)
PLAIN = Format("plain", (), "s")

# Requests/s on average: few traces have more than the first, and hardly any more than the last.
_MOST_RATE, _HIGHEST_RATE = 100.0, 1000.0
# Of fewer, seconds may be milliseconds at a rate that is usual, and whole ones at any.
_LEAST_RATE, _LEAST_RATE_WHOLE = _MOST_RATE * 1e-3, _HIGHEST_RATE * 1e-3
# So far beyond is doubtful of few requests, too, and of dates.
_FEWEST, _SLACK = 10, 10.0
# 2000 and 2100, in seconds since 1970.
_CENTURY_S = (946_684_800.0, 4_102_444_800.0)


def format_of(names: Collection[str]) -> Format:
    """The format with these columns or keys, in lower case; PLAIN for any other."""
    return next((known for known in FORMATS if set(known.columns) <= set(names)), PLAIN)


def unit_of(known: Format, numbers: Sequence[float], flag: str) -> str:
    """The unit of numbers that ascend; ValueError, the end of a sentence, where it is in doubt.

    `flag` and a unit are what the user writes to say it.
    """
    first, last = numbers[0], numbers[-1]
    dated = _unit_of_dates(first, last)
    unit = dated or known.unit
    if last == first or dated == "s":
        return unit
    rates = {unit: (len(numbers) - 1) / ((last - first) * size_s) for unit, size_s in UNITS.items()}
    others = [other for other in UNITS if other != unit and _LEAST_RATE <= rates[other] <= _HIGHEST_RATE]
    if not others or not _is_doubtful(known, rates[unit], numbers, dated=dated is not None):
        return unit
    raise ValueError(
        f"does not tell the unit of its times: in {unit} they are {rates[unit]:.4g} requests/s on average, "
        + ", ".join(f"in {other} {rates[other]:.4g}" for other in others)
        + f"; say which with {' or '.join(flag + each for each in (unit, *others))}"
    )


def _unit_of_dates(first: float, last: float) -> str | None:
    """The unit in which both numbers are dates of this century."""
    since_s, until_s = _CENTURY_S
    return next((u for u in UNITS if since_s <= first * UNITS[u] and last * UNITS[u] < until_s), None)


def _is_doubtful(known: Format, rate: float, numbers: Sequence[float], *, dated: bool) -> bool:
    few = len(numbers) < _FEWEST
    slack = _SLACK if few or dated else 1.0
    if known.unit != "s" and not dated:
        return rate > _MOST_RATE * slack
    looks_finer = not (known.whole or few or dated) and all(map(float.is_integer, numbers))
    return rate < (_LEAST_RATE_WHOLE if looks_finer else _LEAST_RATE) / slack


class Times(NamedTuple):
    """The times of a trace."""

    times_s: tuple[float, ...]
    """Since the first one."""
    unit: str
    """What they were written in: one of UNITS, or `date-times`."""


def read_trace(path: Path, unit: str | None = None) -> Times:
    """The arrival times in a file, whose numbers are in `unit` where one is given; see above."""

    def mistake(what: str) -> UsageError:
        return UsageError(f"--arrivals {str(path)!r} {what}")

    first: float | datetime | None = None
    times_s: list[float] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            number, line = next(((n, line) for n, line in enumerate(file, 1) if line.strip()), (0, ""))
            known = _format(line)
            for here_line, cell in _cells(number, line, file, mistake):
                here = moment(cell)
                first = here if first is None else first
                time_s = difference_s(here, first)
                if time_s is None:
                    like = "a date-time" if isinstance(first, datetime) else "a number of seconds"
                    like = "a number of seconds or an ISO date-time" if first is None else like
                    raise mistake(f"has {cell!r} in line {here_line}, where {like} is expected")
                if times_s and time_s < times_s[-1]:
                    raise mistake(f"goes back in time in line {here_line}, with {cell!r}: it must be sorted")
                times_s.append(time_s)
    except OSError as error:
        raise mistake(f"cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise mistake(f"cannot be read as text or CSV ({error})") from None
    if not times_s:
        raise mistake(f"holds no arrivals: {_EXPECTED}")
    if not isinstance(first, float):
        return Times(tuple(times_s), "date-times")
    try:
        unit = unit or unit_of(known, [first + time for time in times_s], f"--arrivals {path}:")
    except ValueError as doubt:
        raise mistake(f"{doubt}") from None
    return Times(tuple(time * UNITS[unit] for time in times_s), unit)


def rescale(times_s: Sequence[float], rate: float) -> tuple[float, ...]:
    """The trace, stretched so that from its first to its last arrival `rate` arrive per second."""
    span_s = times_s[-1] - times_s[0]
    if span_s == 0:
        raise UsageError(
            "--request-rate cannot stretch a trace whose arrivals all come at the same time: leave it out"
        )
    stretch = (len(times_s) - 1) / span_s / rate
    return tuple((time_s - times_s[0]) * stretch for time_s in times_s)


_EXPECTED = f"expected is one time per line, or CSV or JSON lines with one of {', '.join(COLUMNS)}"


def _format(line: str) -> Format:
    """By the first line of a file."""
    if not line.lstrip().startswith("{"):
        return format_of([name.strip(' "\r\n').lower() for name in line.split(",")])
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:  # told when it is read
        return PLAIN
    return format_of([name.lower() for name in row])


def _cells(
    first: int, line: str, file: TextIO, mistake: Callable[[str], UsageError]
) -> Iterator[tuple[int, object]]:
    """The number of each line that is not blank, and what stands there for the time; `line` is the first."""
    lines = enumerate(chain([line], file), first)
    if line.lstrip().startswith("{"):
        yield from ((n, _value(n, line, mistake)) for n, line in lines if line.strip())
    elif not line or moment(line.strip()) is not None:
        yield from ((n, line.strip()) for n, line in lines if line.strip())
    else:
        rows = csv.reader(line for _, line in lines)
        names = [name.strip().lower() for name in next(rows)]
        column = next((names.index(name) for name in COLUMNS if name in names), None)
        if column is None:
            raise mistake(f"begins with {line.strip()[:80]!r}: {_EXPECTED}")
        for row in rows:
            if row:
                yield first - 1 + rows.line_num, row[column].strip() if column < len(row) else ""


def _value(number: int, line: str, mistake: Callable[[str], UsageError]) -> object:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise mistake(f"has no JSON object in line {number} ({error})") from None
    values = {key.lower(): value for key, value in row.items()} if isinstance(row, dict) else {}
    name = next((name for name in COLUMNS if name in values), None)
    if name is None:
        raise mistake(f"has none of the keys {', '.join(COLUMNS)} in line {number}")
    return values[name]


def moment(cell: object) -> float | datetime | None:
    """What a trace says about a time; None when it says none."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell)
    if not isinstance(cell, str):
        return None
    try:
        number = float(cell)
        return number if math.isfinite(number) else None
    except ValueError:
        pass
    try:
        date = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def difference_s(later: float | datetime | None, earlier: float | datetime | None) -> float | None:
    """The seconds between; None unless both are of one kind."""
    if isinstance(later, datetime) and isinstance(earlier, datetime):
        return (later - earlier).total_seconds()
    if isinstance(later, float) and isinstance(earlier, float):
        return later - earlier
    return None
