"""The report of an experiment: what it prints, the files that it leaves, and what has no numbers."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.core.made_records import an_ok
from tests.results.made_experiments import KEYS, PLAN, an_experiment, ended, measured
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.errors import UsageError
from vllm_locust.report.experiment import as_markdown, findings_of, report
from vllm_locust.report.experiment_table import render
from vllm_locust.results.experiment import read_experiment

WHY = "the server ended with exit code 1: max_num_batched_tokens (512) is smaller than max_model_len (4096)."


def summary_of(ttft_s: float, failed: int = 0) -> dict[str, Any]:
    """A summary of one answered request."""
    recording = Recording()
    recording.add(an_ok(arrivals_s=[ttft_s, ttft_s + 0.1]))
    summary = summarize(recording)
    client = {"verdict": "valid", "reasons": []}
    return summary | {"failed": failed, "client": client, "scenario": "chats"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two repeats of one configuration, of the other one that did not start, and one to be made."""
    off = ended("off/w-l/1", "server_failed", why=WHY)
    an_experiment(tmp_path, ended("on/w-l/1"), ended("on/w-l/2", "failed_requests", why="1 of 2"), off)
    measured(tmp_path, "on/w-l/1", summary_of(0.1))
    measured(tmp_path, "on/w-l/2", summary_of(0.3, failed=1))
    return tmp_path


def test_the_table_has_the_means_of_repeats_and_all_that_went_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(read_experiment(folder))
    shown = capsys.readouterr().out
    assert shown.startswith("S2: Does it pay?\n3 of 4 runs were made.\n")
    on = next(line.split() for line in shown.splitlines() if line.startswith("on "))
    ttft, _p99, tpot, *_ = on[-6:]
    assert (on[1], on[2], ttft, tpot) == ("1", "0.5!", "200", "100.0")
    assert "! = latencies and throughput are of the others" in " ".join(shown.split())
    assert "  off/w-l/1: server_failed: the server ended with exit code 1" in shown
    assert "without a server: note. off: the server ended with exit code 1: max_num_batched" in shown


def test_what_was_asked_is_a_heading_or_where_there_is_one_configuration_its_own_column(folder: Path) -> None:
    runs = [run | {"workload": workload} for run, workload in zip(PLAN["runs"], "vwww", strict=True)]
    an_experiment(folder, ended("on/w-l/1"), ended("on/w-l/2"), plan=PLAN | {"runs": runs})
    lines = [line.split() for line in render(read_experiment(folder)).splitlines()]
    assert [words[:2] for words in lines[:3]] == [["workload,", "load"], ["v", "l"], ["w", "l"]]
    measured(folder, "off/w-l/1", summary_of(0.2))
    ends = [ended("on/w-l/1"), ended("on/w-l/2"), ended("off/w-l/1")]
    an_experiment(folder, *ends, plan=PLAN | {"runs": runs})
    lines = [line.split() for line in render(read_experiment(folder)).splitlines() if line]
    assert [words[0] for words in lines[:6]] == ["configuration", "v", "on", "w", "on", "off"]


def test_a_search_tells_what_ended_it_unless_a_load_missed(tmp_path: Path) -> None:
    answer = {"level": 1, "unit": "users", "missed_at": None, "reason": "the client was too slow"}
    measured(tmp_path, "on/w-l/1", summary_of(0.1) | {"capacity": answer})
    measured(tmp_path, "on/w-l/2", summary_of(0.1) | {"capacity": answer | {"level": 8, "missed_at": 16}})
    an_experiment(tmp_path, ended("on/w-l/1"), ended("on/w-l/2"))
    shown = render(read_experiment(tmp_path))
    assert "  on/w-l/1: 1 user (the client was too slow)\n  on/w-l/2: 8 users\n" in shown


def test_the_files(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere"
    report(read_experiment(folder), output)
    assert {one.name for one in output.iterdir()} >= {"table.csv", "report.md", "report.html"}
    with (output / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["budget"], row["repeat"], row["mean_ttft_ms"]) for row in rows] == [
        ("on", "64", "1", "100.0"),
        ("on#2", "64", "2", "300.0"),
    ]
    assert "<h1>S2: Does it pay?</h1>" in (output / "report.html").read_text()
    markdown = (output / "report.md").read_text()
    assert markdown == as_markdown(read_experiment(folder))
    assert markdown.startswith("## S2: Does it pay?\n")
    assert "without a server" in markdown
    assert not (folder / "report.html").exists()


def test_configurations_without_numbers_for_the_same_reason_are_told_of_once(tmp_path: Path) -> None:
    an_experiment(tmp_path, *(ended(key, "server_failed", why="no memory") for key in KEYS))
    (finding,) = findings_of(read_experiment(tmp_path))
    assert (finding.name, finding.verdict) == ("without a server", "note")
    assert finding.sentence == "on and off: no memory."


def test_conclusions_come_first(folder: Path) -> None:
    an_experiment(folder, ended("off/w-l/1", "crashed"), plan=PLAN | {"conclusions": "best"})
    names = [finding.name for finding in findings_of(read_experiment(folder))]
    assert names == ["best configuration", "ended before its time"]


def test_an_experiment_of_which_nothing_was_measured_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(read_experiment(an_experiment(tmp_path)))
    assert "0 of 4 runs were made." in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file()


def test_what_cannot_be_written_is_said(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        report(read_experiment(folder), folder / "file")
