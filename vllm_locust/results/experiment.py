"""An experiment's folder, read again: what was planned, what became of each run, and the results folders.

Rule: the folder may be of an experiment that goes on, was stopped or was killed: a run that the journal does
not have is one that has not been made yet, and a torn last line of the journal is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.results.folder import Results, holds_run, read_results
from vllm_locust.results.rows import Factor, Row, rows_of

EXPERIMENT = "experiment.json"
JOURNAL = "journal.jsonl"

OUTCOMES = ("ok", "failed_requests", "slo_missed", "invalid", "refused", "server_failed", "crashed")
MEASURED = ("ok", "failed_requests", "slo_missed", "invalid")
"""Outcomes of runs that went on to their end: what they measured says something, and what it is worth."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of an experiment."""

    key: str
    """CONFIGURATION/WORKLOAD-LOAD/REPEAT, which is also where its results are below `runs`."""
    configuration: str
    factors: Mapping[str, Factor]
    """What sets the configuration apart from the others."""
    workload: str
    load: str
    repeat: int
    """From 1."""
    folder: Path


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """What became of it."""

    planned: PlannedRun
    outcome: str | None
    """One of `OUTCOMES`; None: it was not made yet."""
    why: str | None
    results: Results | None
    """None where it left nothing behind."""
    exit_code: int | None = None
    """Locust's."""
    seconds: float | None = None
    """How long it took, Locust's start and end included."""


@dataclass(frozen=True, slots=True)
class ExperimentResults:
    """All of it."""

    folder: Path
    name: str
    question: str
    conclusions: str | None
    """The findings that the data are asked for, by name."""
    runs: Sequence[ExperimentRun]

    def rows(self) -> list[Row]:
        """The rows of all runs that measured something, in the order of the plan.

        `Row.run` is the configuration (`on-64`, of the second repeat `on-64#2`); `Row.workload` stays the
        scenario that was asked; to the configuration's factors come `workload`, `load` and `repeat`.
        """
        return [row for run in self.runs for row in rows_of_run(run)]


def rows_of_run(run: ExperimentRun) -> list[Row]:
    """The rows of one run, none where it measured nothing."""
    if run.results is None or run.outcome not in MEASURED:
        return []
    planned = run.planned
    name = planned.configuration if planned.repeat == 1 else f"{planned.configuration}#{planned.repeat}"
    place: dict[str, Factor] = {
        "workload": planned.workload,
        "load": planned.load,
        "repeat": planned.repeat,
    }
    options = (run.results.run or {}).get("options") or {}
    parameters = options.get("parameters") or {}  # of the scenario, such as the reviews of a prompt
    return rows_of(run.results, name, {**parameters, **planned.factors, **place})


def holds_experiment(folder: Path) -> bool:
    """Whether an experiment was begun there."""
    return (folder / EXPERIMENT).is_file()


def read_experiment(folder: Path) -> ExperimentResults:
    """Read all that there is; UsageError when no experiment is there, or its plan cannot be read."""
    plan = read_plan(folder)
    journal = read_journal(folder)
    factors = {one["name"]: one["factors"] for one in plan["configurations"]}
    runs = []
    for run in plan["runs"]:
        planned = PlannedRun(
            key=run["key"],
            configuration=run["configuration"],
            factors=factors[run["configuration"]],
            workload=run["workload"],
            load=run["load"],
            repeat=run["repeat"],
            folder=folder / run["folder"],
        )
        entry = journal.get(planned.key, {})
        results = read_results(planned.folder) if entry and holds_run(planned.folder) else None
        runs.append(
            ExperimentRun(
                planned,
                entry.get("outcome"),
                entry.get("why"),
                results,
                entry.get("exit_code"),
                entry.get("seconds"),
            )
        )
    return ExperimentResults(folder, plan["name"], plan["question"], plan["conclusions"], runs)


def read_plan(folder: Path) -> Mapping[str, Any]:
    """The content of experiment.json, as far as `read_experiment` needs it checked."""
    path = folder / EXPERIMENT
    try:
        plan = orjson.loads(path.read_bytes())
        names = {one["name"] for one in plan["configurations"] if isinstance(one["factors"], dict)}
        plan["name"], plan["question"], plan["conclusions"]
        for run in plan["runs"]:
            run["key"], run["workload"], run["load"], run["repeat"], run["folder"]
            if run["configuration"] not in names:
                raise KeyError(run["configuration"])
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no experiment ({EXPERIMENT})") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not as this version writes it ({error!r})") from None
    return plan  # type: ignore[no-any-return]


def read_journal(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The last line of each key of journal.jsonl; empty when there is no journal yet."""
    try:
        content = (folder / JOURNAL).read_bytes()
    except FileNotFoundError:
        return {}
    return {entry["key"]: entry for entry in _entries(content)}


def _entries(content: bytes) -> Iterator[Mapping[str, Any]]:
    for line in content.splitlines():
        try:
            entry = orjson.loads(line)
            if isinstance(entry["key"], str) and entry["outcome"] in OUTCOMES:
                yield entry
        except (ValueError, KeyError, TypeError):
            continue  # torn by the end of its process: what it was about is made again
