"""The arrival times of a recorded trace, read from a file.

A trace is a text file with one time per line, or CSV with a header, or JSON lines, with a column or key of a
name in COLUMNS, in any case. Times are seconds or ISO date-times (those without a zone are UTC), and ascend.
Traces in milliseconds, as Mooncake's are, need `rescale`.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TextIO

import orjson

from vllm_locust.errors import UsageError

COLUMNS = ("timestamp", "arrival_time", "arrived_at", "time")
"""What the times of a trace may be called."""


def read_trace(path: Path, problem_prefix: str = "--arrivals") -> tuple[float, ...]:
    """The arrival times in a file, in seconds since the first one; see the top of this module."""

    def mistake(what: str) -> UsageError:
        return UsageError(f"{problem_prefix} {str(path)!r} {what}")

    first: float | datetime | None = None
    times_s: list[float] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, cell in _cells(file, mistake):
                here = moment(cell)
                first = here if first is None else first
                time_s = difference_s(here, first)
                if time_s is None:
                    like = "a date-time" if isinstance(first, datetime) else "a number of seconds"
                    like = "a number of seconds or an ISO date-time" if first is None else like
                    raise mistake(f"has {cell!r} in line {line}, where {like} is expected")
                if times_s and time_s < times_s[-1]:
                    raise mistake(f"goes back in time in line {line}, with {cell!r}: it must be sorted")
                times_s.append(time_s)
    except OSError as error:
        raise mistake(f"cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise mistake(f"cannot be read as text or CSV ({error})") from None
    if not times_s:
        raise mistake(f"holds no arrivals: {_EXPECTED}")
    return tuple(times_s)


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


def _cells(file: TextIO, mistake: Callable[[str], UsageError]) -> Iterator[tuple[int, object]]:
    """The number of each line that is not blank, and what stands there for the time."""
    first, line = next(((n, line) for n, line in enumerate(file, 1) if line.strip()), (0, ""))
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
