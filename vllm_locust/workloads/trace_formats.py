"""Recorded traffic in the formats it is published in: when requests came, and how long they were.

    Mooncake    JSON lines, {"timestamp": ms, "input_length": ..., "output_length": ..., "hash_ids": [...]};
                a hash id stands for a block of so many tokens (512), and equal ones for equal blocks
    Bailian     the same with timestamp in s, "chat_id" and other keys, and blocks of 16 tokens
    BurstGPT    CSV with Timestamp (s), Request tokens, Response tokens, and other columns
    Azure       CSV with TIMESTAMP (a date-time), ContextTokens, GeneratedTokens

Which one a file is, its first line says; what the unit of its times is, `core.trace`. A line is a row, and a
row that is broken spoils no other one. Traces have millions of them: they are read as they come, and kept as
arrays of numbers.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from vllm_locust.core.trace import PLAIN, UNITS, Format, difference_s, format_of, moment, unit_of
from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.file import DataFile
from vllm_locust.workloads.datasets.hub import local_file

EXPECTED = (
    "known are Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids), Bailian's "
    "(the same with chat_id, and in s), BurstGPT's CSV (Timestamp, Request tokens, Response tokens) and "
    "Azure's (TIMESTAMP, ContextTokens, GeneratedTokens)"
)

_CSV_COLUMNS = (
    ("timestamp", "request tokens", "response tokens"),
    ("timestamp", "contexttokens", "generatedtokens"),
)
_BLOCKS = {"Bailian": 16}
_USUAL_BLOCK = 512
_MOST_TOKENS = 1 << 30
# One broken row in ten is too many, as soon as there are ten.
_FEWEST_ROWS = 10


class Row(NamedTuple):
    """What a line of a trace says."""

    at: float | datetime
    """In the trace's unit, or a date-time."""
    input_tokens: int
    output_tokens: int
    hash_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A trace by columns, in the order of time."""

    times_s: "array[float]"
    """Since the first request."""
    input_tokens: "array[int]"
    output_tokens: "array[int]"
    hash_ids: "array[int]"
    """Those of all requests, one behind the other."""
    ends: "array[int]"
    """For each request, where its hash ids end."""
    size: int
    """Bytes of the file."""
    sha256: str
    failed: int
    """Rows without an output: requests that the recorded service did not answer."""
    broken: int
    """Rows that are no request at all."""
    block: int
    """Tokens that a hash id stands for."""
    unit: str
    """What its times were written in, see `core.trace.Times`."""

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def rows(self) -> int:
        """Rows of the file, without a header."""
        return len(self) + self.failed + self.broken

    def hash_ids_of(self, position: int) -> Sequence[int]:
        """The hash ids of a request; none where the trace tells none."""
        return self.hash_ids[self.ends[position - 1] if position else 0 : self.ends[position]]


_Parse = Callable[[str], Row]
"""From a line to a row; ValueError, a sentence without its subject, where it is broken."""


@lru_cache(maxsize=2)
def read_trace(path: Path, block: int | None = None, unit: str | None = None) -> Trace:
    """Read a trace whose hash ids stand for `block` tokens each, and whose times are in `unit`.

    Neither has to be given: the format tells. UsageError where it is no trace, or the unit is doubtful.
    """
    file = DataFile(local_file(path), name=str(path))
    columns = _Columns(block)
    columns.read(file.name, file.lines(tolerant=True))
    if not columns.times:
        raise UsageError(f"{path} holds no requests; {EXPECTED}")
    return columns.in_order(str(path), unit, file.bytes_read, file.sha256)


class _Columns:
    """A trace that is being read."""

    def __init__(self, block: int | None) -> None:
        self.times = array("d")
        """Since the first row, in the trace's unit; seconds between date-times."""
        self.input_tokens, self.output_tokens = array("i"), array("i")
        self.hash_ids, self.ends = array("Q"), array("q")
        self.failed = self.broken = 0
        self._format = PLAIN
        self._block = block or _USUAL_BLOCK
        self._is_given = block is not None
        self._first: float | datetime | None = None
        self._first_problem = ""

    def read(self, name: str, lines: Iterable[str]) -> None:
        parse: _Parse | None = None
        rows = 0
        for number, line in enumerate(lines, 1):
            if not (line := line.strip()):
                continue
            if parse is None:
                self._format = _format(line)
                if not self._is_given:
                    self._block = _BLOCKS.get(self._format.name, _USUAL_BLOCK)
                parse, is_header = _parser(name, line, self._block)
                if is_header:
                    continue
            rows += 1
            try:
                self._add(parse(line))
            except ValueError as error:
                self.broken += 1
                self._first_problem = self._first_problem or f"line {number}, which {error}"
        if self.broken and (not self.times or (rows >= _FEWEST_ROWS and self.broken * 10 > rows)):
            raise UsageError(
                f"{name}: {self.broken} of {rows} rows are broken, the first of them {self._first_problem}; "
                f"{EXPECTED}"
            )

    def _add(self, row: Row) -> None:
        self._first = row.at if self._first is None else self._first
        time = difference_s(row.at, self._first)
        if time is None:
            raise ValueError(f"has a time of another kind than the first row: {row.at}")
        if not row.output_tokens:
            self.failed += 1
            return
        if not row.input_tokens:
            raise ValueError("has an answer to no input tokens")
        self.times.append(time)
        self.input_tokens.append(row.input_tokens)
        self.output_tokens.append(row.output_tokens)
        self.hash_ids.extend(row.hash_ids)
        self.ends.append(len(self.hash_ids))

    def in_order(self, path: str, unit: str | None, size: int, sha256: str) -> Trace:
        """The trace; a few rows are out of order in some of them."""
        times, ids, ends = self.times, self.hash_ids, self.ends
        order: Sequence[int] = range(len(times))
        if any(later < earlier for earlier, later in pairwise(times)):
            order = sorted(order, key=times.__getitem__)
            ids, ends = array("Q"), array("q")
            for row in order:
                ids.extend(self.hash_ids[self.ends[row - 1] if row else 0 : self.ends[row]])
                ends.append(len(ids))
        first = times[order[0]]
        unit = self._unit(path, unit, order)
        scale = UNITS.get(unit, 1.0)
        return Trace(
            times_s=array("d", ((times[row] - first) * scale for row in order)),
            input_tokens=array("i", map(self.input_tokens.__getitem__, order)),
            output_tokens=array("i", map(self.output_tokens.__getitem__, order)),
            hash_ids=ids,
            ends=ends,
            size=size,
            sha256=sha256,
            failed=self.failed,
            broken=self.broken,
            block=self._block,
            unit=unit,
        )

    def _unit(self, path: str, given: str | None, order: Sequence[int]) -> str:
        if not isinstance(self._first, float):
            return "date-times"
        numbers = array("d", (self._first + self.times[row] for row in order))
        try:
            return given or unit_of(self._format, numbers, "--set unit=")
        except ValueError as doubt:
            raise UsageError(f"{path} {doubt}") from None


def _format(first_line: str) -> Format:
    if not first_line.startswith("{"):
        return format_of([_bare(cell).lower() for cell in first_line.split(",")])
    try:
        return format_of(orjson.loads(first_line))
    except orjson.JSONDecodeError:  # a broken row like any other
        return format_of(("input_length", "output_length"))


def _parser(name: str, first_line: str, block: int) -> tuple[_Parse, bool]:
    """How the lines of a file are read, and whether its first one is only a header."""
    if first_line.startswith("{"):
        return partial(_mooncake, block=block), False
    names = [_bare(cell).lower() for cell in first_line.split(",")]
    for columns in _CSV_COLUMNS:
        if set(columns) <= set(names):
            time, inputs, outputs = map(names.index, columns)
            return partial(_csv, time=time, inputs=inputs, outputs=outputs), True
    raise UsageError(f"{name} begins with {first_line[:60]!r}, which is no trace; {EXPECTED}")


def _csv(line: str, *, time: int, inputs: int, outputs: int) -> Row:
    # None that matters holds a comma, and a quote that is not closed must swallow no other row.
    cells = line.split(",")
    if len(cells) <= max(time, inputs, outputs):
        raise ValueError(f"has {len(cells)} columns")
    at = moment(_bare(cells[time]))
    if at is None:
        raise ValueError(f"has no time but {_bare(cells[time])!r}")
    return Row(at, _tokens_in(cells[inputs]), _tokens_in(cells[outputs]))


def _mooncake(line: str, *, block: int) -> Row:
    try:
        row = orjson.loads(line)
        time, tokens, output_tokens = row["timestamp"], row["input_length"], row["output_length"]
        hash_ids = row.get("hash_ids")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from None
    except (KeyError, TypeError):
        raise ValueError("lacks timestamp, input_length or output_length") from None
    at = None if isinstance(time, str) else moment(time)
    if not isinstance(at, float):
        raise ValueError(f"has no time in s or ms but {time!r}")
    tokens = _tokens(tokens)
    if hash_ids is None:
        return Row(at, tokens, _tokens(output_tokens))
    blocks = -(-tokens // block)
    if not isinstance(hash_ids, list) or len(hash_ids) != blocks:
        found = f"{len(hash_ids)} hash ids" if isinstance(hash_ids, list) else "no list of hash ids"
        raise ValueError(
            f"has {found} for {tokens} tokens, where {blocks} blocks of {block} tokens are expected "
            "(--set block=N sets another size)"
        )
    try:
        return Row(at, tokens, _tokens(output_tokens), array("Q", hash_ids))
    except (TypeError, OverflowError):
        raise ValueError("has hash ids that are no whole numbers from 0 on") from None


def _bare(cell: str) -> str:
    return cell.strip(' "')


def _tokens_in(cell: str) -> int:
    if len(cell) < 10 and cell.isdecimal():  # nearly all are, and there are millions
        return int(cell)
    try:
        return _tokens(float(_bare(cell)))
    except (ValueError, OverflowError):
        raise ValueError(f"has no number of tokens but {_bare(cell)!r}") from None


def _tokens(value: Any) -> int:
    """A number of tokens; 472.0 is what a table that knows empty cells makes of 472."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < _MOST_TOKENS or value != int(value):
        raise ValueError(f"has no number of tokens but {value!r}")
    return int(value)
