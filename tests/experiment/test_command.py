"""`vllm-locust experiment`, as a user types it."""

from pathlib import Path

import pytest

from tests.experiment.made_experiments import SMALL, a_file
from vllm_locust.cli import main
from vllm_locust.experiment import shipped


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
    assert "max-num-seqs=4/ss-few/1: LOCUST_HOST=http://127.0.0.1:{port} locust -f" in shown
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
