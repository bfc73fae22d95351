"""Recorded traffic in the formats it is published in: when requests came, and how long they were.

    Mooncake    JSON lines, {"timestamp": ms, "input_length": ..., "output_length": ..., "hash_ids": [...]};
                a hash id stands for a block of so many tokens, and equal ones for equal blocks
    BurstGPT    CSV with Timestamp (s), Request tokens, Response tokens, and other columns
    Azure       CSV with TIMESTAMP (a date-time), ContextTokens, GeneratedTokens

Which one a file is, its first line says. A line is a row, and a row that is broken spoils no other one.
Traces have millions of them: they are read as they come, and kept as arrays of numbers.
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

from vllm_locust.core.trace import difference_s, moment
from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.file import DataFile
from vllm_locust.workloads.datasets.hub import local_file

EXPECTED = (
    "known are Mooncake's JSON lines (timestamp in ms, input_length, output_length, hash_ids), BurstGPT's "
    "CSV (Timestamp, Request tokens, Response tokens) and Azure's (TIMESTAMP, ContextTokens, GeneratedTokens)"
)

_CSV_COLUMNS = (
    ("timestamp", "request tokens", "response tokens"),
    ("timestamp", "contexttokens", "generatedtokens"),
)
_MOST_TOKENS = 1 << 30
# One broken row in ten is too many, as soon as there are ten.
_FEWEST_ROWS = 10


class Row(NamedTuple):
    """What a line of a trace says."""

    at: float | datetime
    """Seconds, or a date-time."""
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
def read_trace(path: Path, block: int) -> Trace:
    """Read a trace whose hash ids stand for `block` tokens each. UsageError where it is none."""
    file = DataFile(local_file(path), name=str(path))
    columns = _Columns()
    columns.read(file.name, file.lines(tolerant=True), block)
    if not columns.times_s:
        raise UsageError(f"{path} holds no requests; {EXPECTED}")
    return columns.in_order(file.bytes_read, file.sha256)


class _Columns:
    """A trace that is being read."""

    def __init__(self) -> None:
        self.times_s = array("d")
        self.input_tokens, self.output_tokens = array("i"), array("i")
        self.hash_ids, self.ends = array("Q"), array("q")
        self.failed = self.broken = 0
        self._first: float | datetime | None = None
        self._first_problem = ""

    def read(self, name: str, lines: Iterable[str], block: int) -> None:
        parse: _Parse | None = None
        rows = 0
        for number, line in enumerate(lines, 1):
            if not (line := line.strip()):
                continue
            if parse is None:
                parse, is_header = _parser(name, line, block)
                if is_header:
                    continue
            rows += 1
            try:
                self._add(parse(line))
            except ValueError as error:
                self.broken += 1
                self._first_problem = self._first_problem or f"line {number}, which {error}"
        if self.broken and (not self.times_s or (rows >= _FEWEST_ROWS and self.broken * 10 > rows)):
            raise UsageError(
                f"{name}: {self.broken} of {rows} rows are broken, the first of them {self._first_problem}; "
                f"{EXPECTED}"
            )

    def _add(self, row: Row) -> None:
        self._first = row.at if self._first is None else self._first
        time_s = difference_s(row.at, self._first)
        if time_s is None:
            raise ValueError(f"has a time of another kind than the first row: {row.at}")
        if not row.output_tokens:
            self.failed += 1
            return
        if not row.input_tokens:
            raise ValueError("has an answer to no input tokens")
        self.times_s.append(time_s)
        self.input_tokens.append(row.input_tokens)
        self.output_tokens.append(row.output_tokens)
        self.hash_ids.extend(row.hash_ids)
        self.ends.append(len(self.hash_ids))

    def in_order(self, size: int, sha256: str) -> Trace:
        """The trace; a few rows are out of order in some of them."""
        times_s, ids, ends = self.times_s, self.hash_ids, self.ends
        order: Sequence[int] = range(len(times_s))
        if any(later < earlier for earlier, later in pairwise(times_s)):
            order = sorted(order, key=times_s.__getitem__)
            ids, ends = array("Q"), array("q")
            for row in order:
                ids.extend(self.hash_ids[self.ends[row - 1] if row else 0 : self.ends[row]])
                ends.append(len(ids))
        first_s = times_s[order[0]]
        return Trace(
            times_s=array("d", (times_s[row] - first_s for row in order)),
            input_tokens=array("i", map(self.input_tokens.__getitem__, order)),
            output_tokens=array("i", map(self.output_tokens.__getitem__, order)),
            hash_ids=ids,
            ends=ends,
            size=size,
            sha256=sha256,
            failed=self.failed,
            broken=self.broken,
        )


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
        time_ms, tokens, output_tokens = row["timestamp"], row["input_length"], row["output_length"]
        hash_ids = row.get("hash_ids")
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from None
    except (KeyError, TypeError):
        raise ValueError("lacks timestamp, input_length or output_length") from None
    at = None if isinstance(time_ms, str) else moment(time_ms)
    if not isinstance(at, float):
        raise ValueError(f"has no time in ms but {time_ms!r}")
    tokens = _tokens(tokens)
    if hash_ids is None:
        return Row(at / 1000, tokens, _tokens(output_tokens))
    blocks = -(-tokens // block)
    if not isinstance(hash_ids, list) or len(hash_ids) != blocks:
        found = f"{len(hash_ids)} hash ids" if isinstance(hash_ids, list) else "no list of hash ids"
        raise ValueError(
            f"has {found} for {tokens} tokens, where {blocks} blocks of {block} tokens are expected "
            "(--set block=N sets another size)"
        )
    try:
        return Row(at / 1000, tokens, _tokens(output_tokens), array("Q", hash_ids))
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
