"""From the rows of a data set to what is kept of them: broken rows are counted and told once, not guessed at.

More than a tenth of broken rows (half of them, where there are fewer than ten rows) is no accident but
another kind of file, and refused.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.file import DataFile, WrongContent
from vllm_locust.workloads.datasets.formats import BrokenRow, Row, Rows, rows_of
from vllm_locust.workloads.datasets.hub import local_file

logger = logging.getLogger(__name__)

_HOPELESS_ROWS = 1000
_FEW_ROWS = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a scenario needs the rows of a data set to be."""

    plural: str
    """What a good row is called, many of them: `conversations`."""
    column: str
    """The one that every row must have."""
    expected: str
    """The end of a sentence: `expected is ...`."""
    others: Sequence[str] = ()
    """Columns that rows may have."""
    tables: bool = True
    """Whether CSV can hold such rows."""


def read(path: Path, wanted: Wanted, keep: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """Hand each row to `keep`, and return what run.json says of the data set.

    `keep` stores the row and returns True, leaves it out and returns False, or raises BrokenRow. UsageError
    for a file that cannot be read, is of another kind, or has too many broken rows.
    """
    try:
        file = DataFile(local_file(path), str(path))
        rows = rows_of(file, (wanted.column, *wanted.others))
        _check_columns(file, rows, wanted)
        counts = _Counts(path, wanted, rows.unit)
        for row in rows.rows:
            counts.add(row, keep)
        counts.finish()
    except WrongContent as error:
        raise UsageError(*(f"{one.removesuffix('.')}; {wanted.expected}" for one in error.problems)) from None
    return {
        "path": str(path),
        "bytes": file.bytes_read,
        "sha256": file.sha256,
        "rows": counts.rows,
        "kept": counts.kept,
        "filtered": counts.rows - counts.kept - counts.skipped,
        "skipped": counts.skipped,
    }


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The text in a column, as it is. BrokenRow where there is none, or nothing but space."""
    if column not in row:
        raise BrokenRow(f"no {column!r}, but {', '.join(map(repr, row)) or 'nothing'}")
    text = "" if row[column] is None else row[column]
    if not isinstance(text, str):
        raise BrokenRow(f"{column!r} is no text ({type(text).__name__})")
    if not text.strip():
        raise BrokenRow(f"{column!r} is empty")
    return text


def encoded(text: str) -> bytes:
    """The text for a spool. BrokenRow for one that cannot be sent either."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BrokenRow("half a character (a lone surrogate)") from None


def _check_columns(file: DataFile, rows: Rows, wanted: Wanted) -> None:
    if rows.format == "CSV" and not wanted.tables:
        what = "a CSV file, not JSON" if file.path.suffix.lower() == ".csv" else "no valid JSON"
        raise WrongContent(f"{file.name} is {what}")
    if rows.columns is not None and wanted.column not in rows.columns:
        there = ", ".join(rows.columns)
        raise WrongContent(f"{file.name} has no column {wanted.column!r}, its columns are: {there}")


class _Counts:
    """How many rows there were, and of which kinds."""

    def __init__(self, path: Path, wanted: Wanted, unit: str) -> None:
        self.rows = 0
        self.kept = 0
        self.skipped = 0
        self._path = path
        self._wanted = wanted
        self._unit = unit
        self._first = ""

    def add(self, row: Row, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        self.rows += 1
        try:
            if row.broken is not None:
                raise row.broken
            if not isinstance(row.value, dict):
                raise BrokenRow(f"no object ({type(row.value).__name__})")
            self.kept += keep(row.value)
        except BrokenRow as error:
            self._first = self._first or f"{self._unit} {row.number}: {error}"
            self.skipped += 1
            if self.skipped == self.rows == _HOPELESS_ROWS:
                raise WrongContent(self._complaint()) from None

    def finish(self) -> None:
        if self.skipped * (10 if self.rows >= _FEW_ROWS else 2) > self.rows:
            raise WrongContent(self._complaint())
        if self.skipped:
            logger.warning("%s; they are left out", self._complaint())

    def _complaint(self) -> str:
        return (
            f"{self._path}: {self.skipped} of {self.rows} rows are no {self._wanted.plural} ({self._first})"
        )
