"""From a file to its rows, whatever the format: told by the content, and by the name only for CSV.

    parquet     begins with PAR1; needs pyarrow
    CSV         is called .csv, or is none of the others; commas, its first row names the columns
    JSON        begins with [: one list of rows
    JSON lines  begins with {: one object per line

Whatever the format, no more than some rows of it are in memory at a time.
"""

import csv
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.file import LONGEST, DataFile, WrongContent
from vllm_locust.workloads.datasets.json_list import JsonError, elements

_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_MARK = b"PAR1"


class BrokenRow(ValueError):
    """A row that cannot be used; its text says why."""


class Row(NamedTuple):
    """One row: a dict from columns to values where it is as it should be."""

    number: int
    value: Any
    broken: BrokenRow | None = None
    """Why there is no value."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file, once."""

    format: str
    unit: str
    """What rows are numbered in: `line` or `row`, from 1 on."""
    rows: Iterator[Row]
    columns: Sequence[str] | None = None
    """Where the format names them once for all rows."""


def rows_of(file: DataFile, columns: Sequence[str]) -> Rows:
    """The rows of a file; of parquet only these columns. UsageError for what is none of the formats."""
    if file.head.startswith(_MARK):
        return _parquet(file, columns)
    if not file.head:
        raise WrongContent(f"{file.name} is empty")
    suffix = file.path.suffix.lower()
    if suffix == ".parquet":
        raise WrongContent(f"{file.name} is no parquet file: it does not begin with PAR1")
    if "\0" in (head := file.head_text()):
        raise WrongContent(
            f"{file.name} is no text but something binary: unpack it first if it is compressed"
        )
    first = head.lstrip()[:1]
    if suffix == ".csv" or (first not in ("[", "{") and not suffix.startswith(".json")):
        return _csv(file)
    return Rows("JSON lines", "line", _json_lines(file)) if first == "{" else Rows("JSON", "row", _json(file))


def _json(file: DataFile) -> Iterator[Row]:
    try:
        for number, value in enumerate(elements(file.text()), start=1):
            yield Row(number, value)
    except JsonError as error:
        raise WrongContent(f"{file.name} is no valid JSON ({error})") from None


def _json_lines(file: DataFile) -> Iterator[Row]:
    started = False
    for number, line in enumerate(file.lines(), start=1):
        if not (text := line.strip()):
            continue
        try:
            yield Row(number, orjson.loads(text))
        except orjson.JSONDecodeError as error:
            if not started and not text.endswith("}"):
                raise WrongContent(
                    f"{file.name} is no valid JSON: it begins with an object that goes over several lines; "
                    "allowed is a list of rows, or one whole object per line"
                ) from None
            yield Row(number, None, BrokenRow(f"no JSON ({error})"))
        started = True


def _csv(file: DataFile) -> Rows:
    reader = csv.reader(file.lines(tolerant=True), strict=True)
    try:
        header = next((row for row in reader if row), None)
    except csv.Error as error:
        raise WrongContent(f"{file.name}: its first row is no row of CSV ({error})") from None
    if header is None:
        raise WrongContent(f"{file.name} is empty")
    columns = [name.strip() for name in header]
    return Rows("CSV", "line", _csv_rows(file, reader, columns), columns)


def _csv_rows(file: DataFile, reader: Any, columns: Sequence[str]) -> Iterator[Row]:
    usual = csv.field_size_limit(LONGEST)
    try:
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise WrongContent(
                        f"{file.name}: a quote in the row of line {number} is never closed"
                    ) from None
                yield Row(number, None, BrokenRow(f"no row of CSV ({error})"))
                continue
            if cells is None:
                return
            if len(cells) == len(columns):
                yield Row(number, dict(zip(columns, cells, strict=True)))
            elif cells:
                reason = f"{len(cells)} cells for {len(columns)} columns"
                yield Row(number, None, BrokenRow(reason))
    finally:
        csv.field_size_limit(usual)


def _parquet(file: DataFile, wanted: Sequence[str]) -> Rows:
    pyarrow = optional_package("pyarrow", "a parquet file")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        # Read through a buffer: a memory map, or whole columns at once, would fill the memory.
        table = parquet.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (pyarrow.ArrowException, OSError) as error:
        raise WrongContent(f"{file.name} is no parquet file ({_first_line(error)})") from None
    columns = table.schema_arrow.names

    def rows() -> Iterator[Row]:
        for _ in file.chunks():  # for the hash
            pass
        number = 0
        chosen = [name for name in columns if name in wanted]
        try:
            # Without threads: this process may be forked later.
            for batch in table.iter_batches(_BATCH_ROWS, columns=chosen, use_threads=False):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise WrongContent(f"{file.name} is broken behind row {number} ({_first_line(error)})") from None
        finally:
            table.close()

    return Rows("parquet", "row", rows(), columns)


def optional_package(name: str, what: str) -> Any:
    """A package that not everybody needs, or a UsageError that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.replace("_", "-")
        raise UsageError(f"{what} needs the package {package}: pip install 'vllm-locust[datasets]'") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
