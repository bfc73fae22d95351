"""The results folder refuses what would overwrite, and survives a disk that is full."""

import errno
from pathlib import Path

import orjson
import pytest

from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.errors import UsageError
from vllm_locust.load.results import ResultsFolder, check_free

RECORD = RequestRecord(
    index=41,
    scenario="tiny.ss",
    profile="short_short",
    outcome="timeout",
    intended_s=10.5,
    sent_s=10.75,
    first_token_s=11.0,
    last_token_s=12.0,
    ended_s=13.0,
    output_tokens=5,
    error="late",
)


def test_a_line_per_request_on_the_axis_of_the_run(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path / "new" / "run", {"run": "x"})
    results.add(to_json_line(RECORD, run_start_s=10.0))
    results.flush()
    line = orjson.loads((tmp_path / "new" / "run" / "requests.jsonl").read_bytes())
    assert line["id"] == "req_000042"
    times_s = [line[key] for key in ("intended_s", "sent_s", "first_token_s", "ended_s")]
    assert times_s == [0.5, 0.75, 1.0, 3.0]
    assert (line["ttft_s"], line["total_s"], line["tpot_s"]) == (None, None, None)  # it failed
    results.finish({"completed": 0})
    assert orjson.loads((tmp_path / "new" / "run" / "summary.json").read_bytes()) == {"completed": 0}


@pytest.mark.parametrize("name", ["run.json", "requests.jsonl", "summary.json"])
def test_another_run_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="holds another run"):
        ResultsFolder(tmp_path, {})
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        check_free(tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written"):
        ResultsFolder(tmp_path / "file" / "below", {})


def test_a_full_disk_is_said_once_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    results = ResultsFolder(tmp_path, {})

    class FullDisk:
        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        close = lambda self: self.write(b"")  # noqa: E731

    results._requests.close()
    monkeypatch.setattr(results, "_requests", FullDisk())
    for _ in range(3):
        results.add(to_json_line(RECORD, 0.0))
        results.flush()
    results.finish({"completed": 1})
    assert [record.message for record in caplog.records] == [
        f"Results in {tmp_path} are incomplete: No space left on device."
    ]
    assert (tmp_path / "summary.json").exists()


def test_what_the_server_says_has_a_table_only_when_it_says_something(tmp_path: Path) -> None:
    results = ResultsFolder(tmp_path, {"run": "x"})
    results.flush()
    assert not (tmp_path / "server_metrics.csv").exists()
    results.add_server_metrics(b"time_s,source\n")
    results.add_server_metrics(b"0.1,a\n")
    results.flush()
    results.add_server_metrics(b"1.1,a\n")
    results.finish({})
    assert (tmp_path / "server_metrics.csv").read_bytes() == b"time_s,source\n0.1,a\n1.1,a\n"


def test_no_more_requests_are_kept_than_there_is_room_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = ResultsFolder(tmp_path, {"run": "x"}, most_bytes=10)
    for line in (b"12345\n", b"6789\n", b"0\n"):
        results.add(line)
        results.flush()
    results.finish({"completed": 3})
    assert (tmp_path / "requests.jsonl").read_bytes() == b"12345\n"
    assert caplog.text.count("--results-dir keeps all") == 1
    assert (tmp_path / "summary.json").exists()
