"""`vllm-locust report`: whole runs, killed runs, broken files and folders that hold no run."""

import json
from pathlib import Path

import orjson
import pytest

from tests.core.made_records import an_ok
from tests.results.made_lines import RUN, a_failed, a_folder, a_line
from vllm_locust.cli import main
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.report import plots
from vllm_locust.report.text import render, render_phases


def summary_of(*phases: int, **more) -> dict:
    """A summary of requests that took 0.5 s to the first token, one in each of `phases`."""
    recording = Recording()
    for phase in phases:
        recording.add(an_ok(sent_s=1.0, phase=phase))
    return summarize(recording) | {"client": CLIENT} | more


CLIENT = {
    "verdict": "degraded",
    "reasons": ["the client was late"],
    "stamps": "kernel",
    "ttft_bound_mean_ms": 0.1,
    "ttft_bound_p99_ms": 0.2,
    "itl_bound_p99_ms": 0.3,
    "lag_p99_ms": 0.4,
    "send_lateness_p99_ms": 0.5,
    "cpu_shares": {"client": 0.05},
}

HEAD = """\
Run in {folder}
{line}
  scenario     prompts
  model        base
  host         http://gpu:8000 (vLLM 0.32.0)
  started      2026-11-26 07:23:22 UTC
  duration     {duration}
  measurement  {verdict}
"""
PLAN = """\
What was sent
-------------
  scenario     prompts, seed 11
  parameters   order=random n=40
  data set     questions.jsonl
               5120 bytes; sha256 0123456789ab...; 50 rows, 40 kept, 7 filtered, 3 skipped

requests   """


def head(folder: Path, duration: str, verdict: str) -> str:
    line = "=" * len(f"Run in {folder}")
    return HEAD.format(folder=folder, line=line, duration=duration, verdict=verdict)


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(0)
    folder = a_folder(tmp_path / "r", a_line(), summary=summary)
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(head(folder, "1.0 s were measured", "degraded") + "\n" + render(summary) + "\n")
    assert "\n\n" + PLAN in shown
    assert "phase" not in shown
    assert "  - summary.json" not in shown
    assert "hit rate (from" not in shown


def test_phases_and_the_servers_hit_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = {"sources": [], "prefix_cache_hit_rate": 0.375}
    summary = summary_of(0, 1, server=server)
    folder = a_folder(tmp_path / "r", a_line() + a_line(), summary=summary)
    main(["report", str(folder)])
    shown = capsys.readouterr().out
    assert render_phases(summary["phases"]) in shown
    assert "The server's own prefix cache hit rate" in shown
    assert "whoever asked): 37.5 %." in shown


def test_a_killed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = a_line(1.0) + a_line(2.0) + a_line(3.0)
    folder = a_folder(tmp_path / "r", lines[:-50])
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        head(folder, "the last request that was recorded ended after 2.1 s", "n/a")
        + "  - summary.json is missing: the run was killed, or goes on still; this is of the requests "
        "written so far.\n"
        "  - requests.jsonl: the last line is cut off, left out.\n\n" + PLAN
    )
    assert "Serving Benchmark Result" not in shown
    assert "  a                           2        0     2" in shown


def test_a_broken_line_in_the_middle_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = a_line()
    main(["report", str(a_folder(tmp_path / "one", good + b"\x00\x00\n" + good))])
    assert (
        "- requests.jsonl: 1 line is no request (the first is line 2), left out." in capsys.readouterr().out
    )
    main(["report", str(a_folder(tmp_path / "two", good + good + b"x\n" + good + b"y\n"))])
    assert (
        "- requests.jsonl: 2 lines are no requests (the first is line 3), left out."
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"lines": None}, "requests.jsonl is missing: what was sent is not known."),
        ({"lines": b"", "run": None}, "run.json is missing: how the run was started is not known."),
        ({"lines": b"", "run": b'{"host": '}, "run.json is broken: "),
        ({"lines": b"", "run": b"[]"}, "run.json is broken: it is no JSON object."),
        ({"lines": b"", "summary": b"{"}, "summary.json is broken: "),
        (
            {"lines": a_line(), "summary": {"requests": {"planned": 5}}},
            "requests.jsonl holds 1 of the run's 5 requests.",
        ),
        (
            {"lines": a_line(), "summary": {"completed": 5}},
            "summary.json is not as this version writes it (KeyError('failed')): its numbers are not shown.",
        ),
    ],
)
def test_what_is_missing_or_broken_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict, said: str
) -> None:
    folder = a_folder(tmp_path / "r", **files)
    assert main(["report", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert "What was sent" in shown


def test_the_cache_of_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = {"engine": "0", "num_gpu_blocks": 100, "block_size": 16, "kv_cache_usage_peak": 0.5}
    summary = summary_of(0)
    summary["server"] = {"sources": [], "engines": [engine]}
    main(
        ["report", str(a_folder(tmp_path / "r", a_line(prompt_tokens=20, output_tokens=8), summary=summary))]
    )
    shown = capsys.readouterr().out
    assert (
        "  engine 0     1584 tokens, 100 blocks of 16, one of them vLLM's own\n"
        "  peak         at least 792 tokens (50.0 %)\n"
    ) in shown
    assert (
        shown.index("Serving Benchmark Result") < shown.index("KV cache\n---") < shown.index("What was sent")
    )


def test_the_summary_knows_the_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"scenario": "ll", "model_id": "m", "host": "http://h", "date": "2026-01-02T03:04:05.000+00:00"}
    folder = a_folder(tmp_path / "r", a_line(), run=None, summary=summary_of(0) | known)
    main(["report", str(folder)])
    words = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[2:6]]
    assert words == ["ll", "m", "http://h", "2026-01-02 03:04:05 UTC"]


def test_several_runs_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [str(a_folder(tmp_path / name, a_line())) for name in ("a", "b")]
    assert main(["report", *folders]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Run in {folders[0]}\n")
    assert f"\n\n\nRun in {folders[1]}\n" in shown


def test_folders_without_a_run_are_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = a_folder(tmp_path / "good", a_line())
    (empty := tmp_path / "empty").mkdir()
    (file := tmp_path / "file").write_text("")
    gone = tmp_path / "gone"
    assert main(["report", *map(str, (good, empty, file, gone, tmp_path))]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"{empty} holds no run (run.json, requests.jsonl or summary.json).",
        f"{file} is no folder: name one that --results-dir has filled.",
        f"{gone} does not exist: name a folder that --results-dir has filled.",
        f"{tmp_path} holds no run itself, but folders in it do: {good}.",
    ]


def test_many_runs_inside_are_not_all_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(a_folder(tmp_path / str(number), b"")) for number in range(5)]
    assert main(["report", str(tmp_path)]) == 2
    assert f"{names[0]}, {names[1]}, {names[2]} and 2 more." in capsys.readouterr().err


def test_json_has_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(0)
    whole = a_folder(tmp_path / "whole", a_line(prompt_tokens=12), summary=summary)
    lines = a_line(profile="x", prompt_hash="a1", session=3, turn=1) + a_failed("timeout", profile="y")
    killed = a_folder(tmp_path / "killed", lines, run=None)
    assert main(["report", "--json", str(whole), str(killed)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["folder"] == str(whole)
    assert (first["run"], first["summary"]) == (RUN, orjson.loads(orjson.dumps(summary)))
    assert (first["verdict"], first["duration_s"], first["problems"]) == ("degraded", 1.0, [])
    assert first["sent"]["total"]["prompt_tokens"]["total"] == 12
    assert first["sent"]["total"]["arrivals"]["rate"] is None
    assert (second["run"], second["summary"], second["verdict"]) == (None, None, None)
    assert len(second["problems"]) == 2
    assert [one["profile"] for one in second["sent"]["profiles"]] == ["x", "y"]
    assert second["sent"]["total"]["failures"] == {"timeout": 1}
    assert second["sent"]["total"]["prompts"]["distinct"] == 1
    assert second["sent"]["conversations"][0]["turns"][0]["turn"] == "1"


def test_the_page_is_in_the_folder_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path / "r", a_line(), summary=summary_of(0))
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"The page: {folder}/report.html"
    page = (folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "Plotly" in page


def test_the_page_of_several_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "write_plots", lambda *_: [])
    folders = [str(a_folder(tmp_path / name, a_line(), summary=summary_of(0))) for name in "ab"]
    assert main(["report", *folders]) == 0
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (tmp_path / "a" / "report.html").exists()
    assert capsys.readouterr().out.splitlines()[-1].startswith("The page: report/report.html")
    assert main(["report", *folders, "--output", "beside"]) == 0
    assert (tmp_path / "beside" / "report.html").is_file()


def test_an_experiment_has_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    a_folder(tmp_path / "runs" / "on", a_line(), summary=summary_of(0))
    run = {"key": "on/s-1/1", "configuration": "on", "workload": "s", "load": "1", "repeat": 1}
    plan = {
        "name": "S2",
        "question": "Does chunking help?",
        "conclusions": "best",
        "configurations": [{"name": "on", "factors": {"chunked": True}}],
        "runs": [run | {"folder": "runs/on"}, run | {"key": "on/s-1/2", "repeat": 2, "folder": "runs/off"}],
    }
    (tmp_path / "experiment.json").write_bytes(orjson.dumps(plan))
    (tmp_path / "journal.jsonl").write_bytes(orjson.dumps({"key": "on/s-1/1", "outcome": "ok"}) + b"\n")
    assert main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("S2: Does chunking help?\n1 of 2 runs were made.\n")
    assert "<h1>S2: Does chunking help?</h1>" in (tmp_path / "report.html").read_text()
    assert main(["report", str(tmp_path), str(tmp_path / "runs" / "on")]) == 2


def test_nothing_is_written_beside_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_folder(tmp_path / "r", a_line(), summary=summary_of(0))
    main(["report", "--json", str(folder)])
    assert not (folder / "report.html").exists()
    assert main(["report", "--json", "--output", "x", str(folder)]) == 2
    assert "--output is for the page" in capsys.readouterr().err
