"""The same rows from every format, whatever the encoding; and what is wrong with a file, in one sentence."""

import codecs
import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets import file as file_module
from vllm_locust.workloads.datasets import formats
from vllm_locust.workloads.datasets.file import DataFile
from vllm_locust.workloads.datasets.reading import Wanted, encoded, read, text_of

WANTED = Wanted("greetings", "text", "expected are greetings", others=("n",))
ROWS = [
    {"text": "Grüß Gott", "n": "1"},
    {"text": 'a "quoted", word\nand two lines', "n": "2"},
    {"text": "  😀 ", "n": ""},
]


def as_json(rows: list[dict[str, str]]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=1)


def as_json_lines(rows: list[dict[str, str]]) -> str:
    return "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def as_csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


TEXTS: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "a.json": as_json,
    "a.jsonl": as_json_lines,
    "a.csv": as_csv,
    # Told by what they hold.
    "list": as_json,
    "lines.txt": as_json_lines,
    "table.dat": as_csv,
}


def kept_of(path: Path, wanted: Wanted = WANTED) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    kept: list[Mapping[str, Any]] = []

    def keep(row: Mapping[str, Any]) -> bool:
        encoded(text_of(row, wanted.column))
        kept.append(row)
        return True

    return kept, read(path, wanted, keep)


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(params=[1, 3, 1 << 20])
def any_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "_CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("any_chunks")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TEXTS)
def test_the_same_rows_from_every_format_and_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    content = TEXTS[name](ROWS).encode(encoding)
    kept, source = kept_of(write(tmp_path, name, content))
    assert kept == ROWS
    assert source == {
        "path": str(tmp_path / name),
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": 3,
        "kept": 3,
        "filtered": 0,
        "skipped": 0,
    }


def test_parquet_gives_the_same_rows_and_only_the_columns_asked_for(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row | {"other": "x"} for row in ROWS] * 200
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data", row_group_size=70)
    kept, source = kept_of(tmp_path / "data")
    assert kept == ROWS * 200
    content = (tmp_path / "data").read_bytes()
    assert (source["sha256"], source["bytes"]) == (sha256(content).hexdigest(), len(content))

    write(tmp_path, "cut.parquet", content[:-20])
    with pytest.raises(UsageError, match=r"cut\.parquet is no parquet file \("):
        kept_of(tmp_path / "cut.parquet")
    with pytest.raises(UsageError, match="data has no column 'review', its columns are: text, n, other; exp"):
        kept_of(tmp_path / "data", Wanted("reviews", "review", "expected are reviews"))


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.sampled_from([1, 2, 7, 1000]))
def test_csv_is_read_as_it_is_written(rows: list[tuple[str, str]], size: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("text", "n"), *rows])
    content = text.getvalue().encode()

    class InMemory(DataFile):
        def __init__(self) -> None:
            self.path, self.name, self.head, self.encoding = Path("a.csv"), "a.csv", content, "utf-8"
            self.bytes_read = 0

        def chunks(self) -> Any:
            return (content[at : at + size] for at in range(0, len(content), size))

    read_rows = formats.rows_of(InMemory(), ()).rows
    assert [row.value for row in read_rows] == [{"text": a, "n": b} for a, b in rows]


@pytest.mark.usefixtures("any_chunks")
def test_csv_of_windows_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "text,n\r\ncafé – “5 €”,1\r\nthé,2\r\n".encode("cp1252")
    kept, source = kept_of(write(tmp_path, "a.csv", content))
    assert kept == [{"text": "café – “5 €”", "n": "1"}, {"text": "thé", "n": "2"}]
    assert source["sha256"] == sha256(content).hexdigest()
    (warning,) = caplog.messages
    assert "a.csv is not UTF-8 (at byte 11): bytes that are not are read as cp1252" in warning


@pytest.mark.usefixtures("any_chunks")
def test_one_bad_byte_leaves_the_rest_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = codecs.BOM_UTF8 + "text\nGrüße 😀\n".encode() + b"caf\xe9\nna\xc3"
    kept, _ = kept_of(write(tmp_path, "a.csv", content))
    assert [row["text"] for row in kept] == ["Grüße 😀", "café", "naÃ"]
    assert len(caplog.messages) == 1


@pytest.mark.usefixtures("any_chunks")
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_in_another_encoding_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    text = TEXTS[name]([{"text": "Grüße, café", "n": "1"}])
    content = text.encode("cp1252")
    with pytest.raises(UsageError) as caught:
        kept_of(write(tmp_path, name, content))
    position = content.index(b"\xfc")
    assert str(caught.value) == (
        f"{tmp_path / name} is not UTF-8: byte 0xfc at position {position} begins no character; "
        "convert the file, with iconv -f CP1252 -t UTF-8 for instance."
    )


def test_old_and_foreign_ends_of_lines(tmp_path: Path) -> None:
    for content in ("text\rone\rtwo", "text\r\none\r\ntwo\r\n", "\n\ntext\none\n\n\ntwo\n\n"):
        kept, source = kept_of(write(tmp_path, "a.csv", content))
        assert [row["text"] for row in kept] == ["one", "two"]
        assert source["rows"] == 2


def test_a_long_cell_is_no_mistake_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    kept, _ = kept_of(write(tmp_path, "a.csv", f'text\n"{"long " * 100_000}"\n'))
    assert len(kept[0]["text"]) == 500_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", "", r"a\.json is empty"),
        ("a.csv", "\n\n", r"a\.csv is empty"),
        ("a.json", '[{"text": 1', r"a\.json is no valid JSON \(Expecting ',' delimiter: line 1, column 12\)"),
        (
            "a.json",
            "text,n\nhello,1\n",
            r"a\.json is no valid JSON \(a list begins with \[: line 1, column 1\)",
        ),
        (
            "a.json",
            '{\n "text": "x"\n}',
            r"a\.json is no valid JSON: it begins with an object that goes over",
        ),
        ("a.parquet", "text\n", r"a\.parquet is no parquet file: it does not begin with PAR1"),
        ("a.gz", b"\x1f\x8b\x08\0\0\0", r"a\.gz is no text but something binary: unpack it first"),
        ("a.csv", "title;text\nx;y\n", r"a\.csv has no column 'text', its columns are: title;text"),
        ("a.csv", 'text,n\nx,1\ny,2\n"z,3\nx,1\n', r"a\.csv: a quote in the row of line 4 is never closed"),
        ("a.csv", '"text"s,n\n', r"a\.csv: its first row is no row of CSV \(.+\)"),
        (
            "a.jsonl",
            '{"label": 1, "review": 2}',
            r"1 of 1 rows are no greetings \(line 1: no 'text', but 'label', 'review'\)",
        ),
    ],
)
def test_what_is_wrong_in_one_sentence(tmp_path: Path, name: str, content: Any, sentence: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError, match=sentence + r".*; expected are greetings\.$") as caught:
        kept_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("good", "bad", "refused"), [(9, 1, False), (8, 2, True), (99, 11, False), (98, 12, True)]
)
@pytest.mark.parametrize(
    "broken", ['{"text": ', "7", '{"txt": "x"}', '{"text": "\\ud800"}', '{"text": ["x"]}']
)
def test_one_broken_row_in_ten_is_told_once_and_more_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, good: int, bad: int, refused: bool, broken: str
) -> None:
    lines = ['{"text": "x"}'] * good
    lines[3:3] = [broken] * bad
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    place = rf"a\.jsonl: {bad} of {good + bad} rows are no greetings \(line 4: .+\)"
    if refused:
        with pytest.raises(UsageError, match=place):
            kept_of(path)
        return
    kept, source = kept_of(path)
    assert (len(kept), source["kept"], source["skipped"], source["filtered"]) == (good, good, bad, 0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith("; they are left out")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": None}, "'text' is empty"),
        ({"text": " \n"}, "'text' is empty"),
        ({"text": 7}, "'text' is no text .int."),
        ({}, "no 'text', but nothing"),
        ({"text": "\ud83d"}, "half a character"),
    ],
)
def test_why_a_row_is_broken(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(formats.BrokenRow, match=reason):
        encoded(text_of(row, "text"))


def test_broken_rows_of_csv_are_counted_and_the_next_ones_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["fine,1"] * 30
    rows[5] = "one,2,3"
    rows[7] = '"a"b,2'
    rows[9] = '"two\nlines",3'
    kept, source = kept_of(write(tmp_path, "a.csv", "\n".join(["text,n", *rows])))
    assert (len(kept), source["rows"], source["skipped"]) == (28, 30, 2)
    assert {"text": "two\nlines", "n": "3"} in kept
    assert "2 of 30 rows are no greetings (line 7: 3 cells for 2 columns)" in caplog.text


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"other": 1}\n' * 5000)
    with pytest.raises(UsageError, match="1000 of 1000 rows are no greetings"):
        kept_of(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: the data set cannot be read \(No such file"):
        kept_of(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        kept_of(tmp_path)


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = write(tmp_path, "a.parquet", b"PAR1....PAR1")
    sentence = r"^a parquet file needs the package pyarrow: pip install 'vllm-locust\[datasets\]'\.$"
    with pytest.raises(UsageError, match=sentence):
        kept_of(path)


def test_progress_of_a_large_file_every_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_module, "_CHUNK_BYTES", 10)
    path = write(tmp_path, "a.jsonl", orjson.dumps({"text": "x" * 89}))
    now = [0.0]

    def clock() -> float:
        now[0] += 0.6
        return now[0]

    caplog.set_level(logging.INFO)
    assert len(list(DataFile(path, clock=clock).chunks())) == 10
    assert caplog.messages == []
    monkeypatch.setattr(file_module, "_LARGE_BYTES", 99)
    assert len(list(DataFile(path, "hf:a/b", clock=clock).chunks())) == 10
    # The clock is looked at once per piece of 10 %, and once more for a line: 0.6 s each.
    assert caplog.messages == ["reading hf:a/b: 40 %", "reading hf:a/b: 80 %"]
