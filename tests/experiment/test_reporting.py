"""The end of an experiment: a report, and with two configurations a comparison."""

from pathlib import Path

import pytest

from tests.results.made_experiments import KEYS, PLAN, an_experiment, ended, measured
from vllm_locust.experiment.command import exit_code
from vllm_locust.experiment.reporting import conclude
from vllm_locust.results.experiment import ExperimentResults, read_experiment


def made(folder: Path, *keys: str) -> ExperimentResults:
    an_experiment(folder, *(ended(key) for key in keys))
    for key in keys:
        measured(folder, key)
    return read_experiment(folder)


def test_two_configurations_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude(made(tmp_path, *KEYS))
    shown = capsys.readouterr().out
    assert f"base {tmp_path}/runs/on\nnew  {tmp_path}/runs/off\n" in shown
    assert "(base) and" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "report.html").is_file()


def test_one_of_two_alone_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conclude(made(tmp_path, "on/w-l/1", "on/w-l/2"))
    assert "2 of 4 runs were made" in capsys.readouterr().out
    assert not (tmp_path / "comparison.md").exists()


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (("ok", "ok"), 0),
        (("ok", "invalid"), 4),
        (("slo_missed", "invalid"), 3),
        (("slo_missed", "server_failed"), 1),
        (("crashed",), 1),
        ((), 0),
    ],
)
def test_the_worst_run_decides_on_the_exit_code(tmp_path: Path, outcomes: tuple[str, ...], code: int) -> None:
    journal = [ended(key, outcome) for key, outcome in zip(KEYS, outcomes, strict=False)]
    assert exit_code(read_experiment(an_experiment(tmp_path, *journal, plan=PLAN))) == code
