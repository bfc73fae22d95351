"""The folder of an experiment: finished things stay, broken lines do not matter, nobody shares it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.experiment.made_experiments import a_configuration, an_experiment, journal
from vllm_locust.errors import UsageError
from vllm_locust.experiment.definition import Experiment, Load
from vllm_locust.experiment.plan import plan, runs_of
from vllm_locust.experiment.store import Store, drawn_seed
from vllm_locust.results.experiment import read_experiment

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def opened(folder: Path, experiment: Experiment) -> Store:
    return Store(folder, experiment, plan(experiment))


def finish(folder: Path, experiment: Experiment, count: int = 1) -> None:
    """Record the first runs as ended well."""
    store = opened(folder, experiment)
    for run in list(runs_of(plan(experiment)))[:count]:
        store.record(run, "ok", None, exit_code=0, started=STARTED, seconds=1.5)
    store.close()


def test_what_is_recorded_is_there_the_next_time(tmp_path: Path) -> None:
    experiment = an_experiment(repeats=2)
    finish(tmp_path / "out", experiment)
    assert journal(tmp_path / "out") == [
        {
            "key": "a/w-l/1",
            "outcome": "ok",
            "exit_code": 0,
            "why": None,
            "started": "2026-01-02T00:00:00.000+00:00",
            "seconds": 1.5,
        }
    ]
    store = opened(tmp_path / "out", experiment)
    assert list(store.finished) == ["a/w-l/1"]
    store.close()
    first, second = read_experiment(tmp_path / "out").runs
    assert (first.outcome, second.outcome) == ("ok", None)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    experiment = an_experiment(repeats=3)
    finish(tmp_path, experiment)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"key":"a/w-l/2","outc')
    store = opened(tmp_path, experiment)
    assert list(store.finished) == ["a/w-l/1"]
    store.record(list(runs_of(plan(experiment)))[2], "crashed", "x", exit_code=9, started=STARTED, seconds=1)
    store.close()
    assert [entry["key"] for entry in journal(tmp_path)] == ["a/w-l/1", "a/w-l/3"]


def test_two_do_not_share_a_folder(tmp_path: Path) -> None:
    experiment = an_experiment()
    store = opened(tmp_path, experiment)
    with pytest.raises(UsageError, match=r"is in use by another experiment \(process \d+\)"):
        opened(tmp_path, experiment)
    store.close()
    opened(tmp_path, experiment).close()


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_is_no_place_for_an_experiment(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "file", tmp_path / "folder" / "letter"):
        file.write_text("dear")
    with pytest.raises(UsageError, match=f"--output {tmp_path / place}"):
        opened(tmp_path / place, an_experiment())
    assert (tmp_path / "folder" / "letter").read_text() == "dear"


def test_more_may_be_added(tmp_path: Path) -> None:
    finish(tmp_path, an_experiment())
    more = an_experiment(
        a_configuration(), a_configuration("b"), loads=[Load("l", {"users": 2}), Load("m", {})], repeats=2
    )
    store = opened(tmp_path, more)
    assert list(store.finished) == ["a/w-l/1"]
    store.close()
    assert len(json.loads((tmp_path / "experiment.json").read_text())["runs"]) == 8


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"configurations": (a_configuration("b"),)}, "a/w-l/1 is not in it any more"),
        ({"configurations": (a_configuration(arguments={"x": 1}),)}, "the server of a/w-l/1 is another one"),
        ({"loads": [Load("l", {"users": 3})]}, "a/w-l/1 is asked something else"),
        ({"seed": 1}, "a/w-l/1 is asked something else"),
        ({"repeats": 1}, "a/w-l/2 is not in it any more"),
    ],
)
def test_what_was_measured_stays_as_it_was_asked(tmp_path: Path, changed: dict, reason: str) -> None:
    finish(tmp_path, an_experiment(repeats=2), count=2)
    configurations = changed.pop("configurations", ())
    before = (tmp_path / "experiment.json").read_bytes()
    with pytest.raises(UsageError) as caught:
        opened(tmp_path, an_experiment(*configurations, **{"repeats": 2, **changed}))
    assert reason in str(caught.value)
    assert "choose a new folder" in str(caught.value)
    assert (tmp_path / "experiment.json").read_bytes() == before


def test_a_seed_that_nobody_chose_is_new_in_each_folder_and_stays_with_it(tmp_path: Path) -> None:
    assert len({drawn_seed(tmp_path / "new") for _ in range(20)}) > 1
    opened(tmp_path / "begun", an_experiment(seed=77, seed_is_drawn=True)).close()
    assert drawn_seed(tmp_path / "begun") == 77


def test_what_an_earlier_version_began_goes_on_with_the_seed_that_it_had(tmp_path: Path) -> None:
    experiment = an_experiment(repeats=2)
    finish(tmp_path, experiment)
    file = tmp_path / "experiment.json"
    begun = json.loads(file.read_text())
    del begun["seed"]
    file.write_text(json.dumps(begun))
    opened(tmp_path, an_experiment(repeats=2, seed=drawn_seed(tmp_path), seed_is_drawn=True)).close()


def test_nothing_measured_yet_may_change_in_any_way(tmp_path: Path) -> None:
    opened(tmp_path, an_experiment()).close()
    opened(tmp_path, an_experiment(a_configuration("z"), seed=5)).close()


def test_what_an_unfinished_run_has_left_is_moved_aside(tmp_path: Path) -> None:
    experiment = an_experiment()
    store = opened(tmp_path, experiment)
    (run,) = runs_of(plan(experiment))
    for content in ("first", "second"):
        folder = store.results_folder(run)
        assert not any(folder.iterdir())
        (folder / "requests.jsonl").write_text(content)
    store.results_folder(run)
    store.close()
    assert (tmp_path / "unfinished/a/w-l/1/requests.jsonl").read_text() == "second"


def test_every_start_of_a_server_has_a_log_of_its_own(tmp_path: Path) -> None:
    experiment = an_experiment()
    store = opened(tmp_path, experiment)
    (session,) = plan(experiment)
    for name in ("a-1.log", "a-1-2.log", "a-1-3.log"):
        log = store.server_log(session)
        assert log == tmp_path / "servers" / name
        log.touch()
    store.close()
