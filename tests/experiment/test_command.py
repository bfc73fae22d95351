"""`vllm-locust experiment`, as a user types it; one is made from start to end on the simulator."""

from pathlib import Path

import pytest

from tests.experiment.made_experiments import journal
from vllm_locust.cli import main
from vllm_locust.experiment import shipped

SMALL = """\
question: Does it work?
server: {start: simulate}
matrix: {max-num-seqs: [1, 4]}
workloads: [ss]
loads: [{name: few, options: {num-prompts: 4, users: "{max-num-seqs}"}}]
warmup: false
"""


def a_file(folder: Path, text: str = SMALL) -> str:
    path = folder / "small.yaml"
    path.write_text(text)
    return str(path)


def test_what_is_shipped_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == shipped.names()
    assert main(["experiment", "--show", "ab"]) == 0
    assert capsys.readouterr().out == shipped.path_of("ab").read_text()


def test_a_dry_run_shows_all_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["experiment", a_file(tmp_path), "--dry-run", "--only", "max-num-seqs=4"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Does it work?\n1 run in 1 session,")
    assert "simulate --host 127.0.0.1 --port {port} --max-num-seqs 4\n" in shown
    assert "max-num-seqs=4/ss-few/1: locust -f" in shown
    assert "--num-prompts 4 --users 4" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say which experiment: a FILE.yaml, or a name that --list shows."),
        (["FILE", "--repeats", "0"], "--repeats 0 is not a whole number of at least 1."),
        (["FILE", "--only", "x"], "--only x: there are max-num-seqs=1, max-num-seqs=4."),
        (["gone.yaml"], "there is no file gone.yaml."),
    ],
)
def test_wrong_usage(
    tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_file(tmp_path)
    assert main(["experiment", *(file if word == "FILE" else word for word in words)]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"


def test_options_that_locust_would_not_take_are_told_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = a_file(tmp_path, SMALL.replace("num-prompts: 4", "num-promts: 4, scenario: sss"))
    assert main(["experiment", file, "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "workload ss, load few: There is no option --num-promts (did you mean --num-prompts?)." in told
    assert "sss" in told
    assert not (tmp_path / "out").exists()


def test_an_experiment_on_the_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    # 4: on a busy machine the client may be too slow.
    assert main(["experiment", a_file(tmp_path), "--output", str(out)]) in (0, 4)
    shown = capsys.readouterr().out
    assert [entry["key"] for entry in journal(out)] == ["max-num-seqs=1/ss-few/1", "max-num-seqs=4/ss-few/1"]
    assert "[2/2] max-num-seqs=4 ss few #1 ... " in shown
    assert "2 of 2 runs were made." in shown
    assert f"base {out}/runs/max-num-seqs=1\n" in shown
    for name in ("table.csv", "report.md", "report.html", "comparison.md"):
        assert (out / name).is_file()
