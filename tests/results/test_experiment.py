"""An experiment's folder, read again: finished, going on, killed, and what is none."""

from pathlib import Path

import pytest

from tests.results.made_experiments import PLAN, an_experiment, ended, measured
from vllm_locust.errors import UsageError
from vllm_locust.results.experiment import holds_experiment, read_experiment


def test_runs_come_as_planned_with_what_became_of_them(tmp_path: Path) -> None:
    why = "the server ended"
    an_experiment(tmp_path, ended("off/w-l/1", "server_failed", why=why), ended("on/w-l/2"))
    measured(tmp_path, "on/w-l/2")
    experiment = read_experiment(tmp_path)
    assert (experiment.name, experiment.question, experiment.conclusions) == ("S2", "Does it pay?", None)
    assert [(run.planned.key, run.outcome, run.why) for run in experiment.runs] == [
        ("on/w-l/1", None, None),
        ("on/w-l/2", "ok", None),
        ("off/w-l/1", "server_failed", why),
        ("off/w-l/2", None, None),
    ]
    assert [run.results is not None for run in experiment.runs] == [False, True, False, False]
    assert (experiment.runs[1].exit_code, experiment.runs[1].seconds) == (0, 2.5)


def test_rows_know_where_they_stand_in_the_experiment(tmp_path: Path) -> None:
    an_experiment(tmp_path, ended("on/w-l/1"), ended("on/w-l/2", "slo_missed"))
    for repeat in (1, 2):
        measured(tmp_path, f"on/w-l/{repeat}")
    first, second = read_experiment(tmp_path).rows()
    assert (first.run, second.run) == ("on", "on#2")
    assert first.workload == "chats"
    place = {"budget": 64, "workload": "w", "load": "l", "repeat": 1}
    assert place.items() <= first.factors.items()
    assert second.factors["repeat"] == 2


@pytest.mark.parametrize("outcome", ["refused", "server_failed", "crashed"])
def test_a_run_that_did_not_come_to_its_end_has_no_rows(tmp_path: Path, outcome: str) -> None:
    an_experiment(tmp_path, ended("on/w-l/1", outcome))
    measured(tmp_path, "on/w-l/1")
    experiment = read_experiment(tmp_path)
    assert experiment.runs[0].results is not None
    assert experiment.rows() == []


def test_what_goes_on_has_no_results_yet(tmp_path: Path) -> None:
    """Its folder is being filled: without a line in the journal it is nobody's result."""
    an_experiment(tmp_path)
    measured(tmp_path, "on/w-l/1")
    (tmp_path / "journal.jsonl").unlink()
    assert all(run.outcome is None and run.results is None for run in read_experiment(tmp_path).runs)


def test_broken_lines_of_the_journal_are_none_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    an_experiment(tmp_path, ended("on/w-l/1", "crashed"), ended("on/w-l/1"), ended("on/w-l/2", "fine"))
    with (tmp_path / "journal.jsonl").open("ab") as journal:
        journal.write(b'[]\n5\n\n{"key":"off/w-l/1","outc')
    outcomes = [run.outcome for run in read_experiment(tmp_path).runs]
    assert outcomes == ["ok", None, None, None]


@pytest.mark.parametrize("missing", ["name", "question", "conclusions", "configurations", "runs"])
def test_a_plan_of_another_version(tmp_path: Path, missing: str) -> None:
    an_experiment(tmp_path, plan={key: value for key, value in PLAN.items() if key != missing})
    with pytest.raises(UsageError, match=r"experiment\.json is not as this version writes it"):
        read_experiment(tmp_path)


def test_a_plan_with_a_run_of_no_configuration(tmp_path: Path) -> None:
    an_experiment(tmp_path, plan=PLAN | {"configurations": []})
    with pytest.raises(UsageError, match="is not as this version writes it"):
        read_experiment(tmp_path)


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    assert not holds_experiment(tmp_path)
    with pytest.raises(UsageError, match="holds no experiment"):
        read_experiment(tmp_path)
