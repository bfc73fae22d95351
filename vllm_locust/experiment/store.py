"""An experiment's folder while it is filled: the plan, the journal, one experiment at a time.

Rule: what the journal has is finished and stays as it is. A line is on the disk before anything else happens,
so that the same command goes on where the last one was ended, however that was.
"""

import fcntl
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from shutil import rmtree
from typing import Any

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.experiment.definition import Experiment
from vllm_locust.experiment.plan import SEEDS, Run, Session, runs_of
from vllm_locust.results.experiment import EXPERIMENT, JOURNAL, holds_experiment, read_journal, read_plan

SERVERS = "servers"
UNFINISHED = "unfinished"
"""Beside `runs`, where nobody takes what is there for a run."""
_LOCK = ".lock"
_HINTS = 3
_EARLIER_SEED = 0
"""Of experiments begun by versions that did not draw one."""


def drawn_seed(folder: Path) -> int:
    """The seed for an experiment whose file has none: a new one, or that with which the folder was begun."""
    if not holds_experiment(folder):
        return secrets.randbelow(SEEDS)
    seed: int = read_plan(folder).get("seed", _EARLIER_SEED)
    return seed


class Store:
    """Holds the folder's lock until it is closed."""

    def __init__(self, folder: Path, experiment: Experiment, sessions: Sequence[Session]) -> None:
        """Begin an experiment in `folder`, or go on with it; UsageError when it is another one, or in use."""
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--output {folder} is a file, not a folder")
        if not holds_experiment(folder) and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"--output {folder} holds other things: choose a new folder")
        try:
            (folder / SERVERS).mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except OSError as error:
            raise UsageError(f"--output {folder} cannot be written: {error.strerror}") from None
        try:
            self.finished: dict[str, Mapping[str, Any]] = read_journal(folder)
            plan = _plan(experiment, sessions)
            if holds_experiment(folder):
                _check_same(folder, plan, self.finished)
            _write(folder / EXPERIMENT, orjson.dumps(plan, option=orjson.OPT_INDENT_2))
            self._journal = _whole_lines(folder / JOURNAL)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let others have the folder."""
        self._journal.close()
        self._lock.close()

    def was_begun(self, run: Run) -> bool:
        """Whether something of the run was asked before, at least perhaps."""
        return (self.folder / run.folder).exists()

    def results_folder(self, run: Run) -> Path:
        """A new folder for the results of a run; what an unfinished one has left is moved aside."""
        folder = self.folder / run.folder
        if folder.exists():
            aside = self.folder / UNFINISHED / run.key
            rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(aside)
        folder.mkdir(parents=True)
        return folder

    def server_log(self, session: Session) -> Path:
        """A new file for each start."""
        number = 1
        while (path := self.folder / SERVERS / f"{session.name}{f'-{number}' * (number > 1)}.log").exists():
            number += 1
        return path

    def record(
        self,
        run: Run,
        outcome: str,
        why: str | None,
        *,
        exit_code: int | None,
        started: datetime,
        seconds: float,
    ) -> None:
        """Note what became of a run, for good."""
        entry = {
            "key": run.key,
            "outcome": outcome,
            "exit_code": exit_code,
            "why": why,
            "started": started.astimezone(UTC).isoformat(timespec="milliseconds"),
            "seconds": round(seconds, 3),
        }
        self._journal.write(orjson.dumps(entry) + b"\n")
        os.fsync(self._journal.fileno())
        self.finished[run.key] = entry


def _plan(experiment: Experiment, sessions: Sequence[Session]) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "question": experiment.question,
        "conclusions": experiment.conclusions,
        "order": experiment.order,
        "seed": experiment.seed,
        "configurations": [
            {"name": one.name, "factors": dict(one.factors)} for one in experiment.configurations
        ],
        "runs": [
            {
                "key": run.key,
                "configuration": run.configuration.name,
                "workload": run.workload,
                "load": run.load,
                "repeat": run.repeat,
                "folder": run.folder,
                "asks": run.asks,
                "server": run.server,
            }
            for run in _sorted(experiment, sessions)
        ],
    }


def _sorted(experiment: Experiment, sessions: Sequence[Session]) -> list[Run]:
    """In the order of the file, whichever they are made in."""
    configurations = [one.name for one in experiment.configurations]
    workloads = [one.name for one in experiment.workloads]
    loads = [one.name for one in experiment.loads]
    return sorted(
        runs_of(sessions),
        key=lambda run: (
            configurations.index(run.configuration.name),
            workloads.index(run.workload),
            loads.index(run.load),
            run.repeat,
        ),
    )


def _check_same(folder: Path, plan: Mapping[str, Any], finished: Mapping[str, Any]) -> None:
    """What was measured before must be a part of this plan, asked in the same way."""
    before = {run["key"]: run for run in read_plan(folder)["runs"]}
    now = {run["key"]: run for run in plan["runs"]}
    reasons = []
    for key in finished:
        if key in before and key not in now:
            reasons.append(f"{key} is not in it any more")
        elif key in before and before[key].get("server") != now[key]["server"]:
            reasons.append(f"the server of {key} is another one")
        elif key in before and before[key].get("asks") != now[key]["asks"]:
            reasons.append(f"{key} is asked something else")
    if reasons:
        more = f" and {len(reasons) - _HINTS} more" if len(reasons) > _HINTS else ""
        raise UsageError(
            f"--output {folder} holds results of an experiment that was different: "
            f"{'; '.join(reasons[:_HINTS])}{more}. More of everything may be added to it, but what is "
            "measured already must stay: choose a new folder"
        )


def _locked(folder: Path) -> FileIO:
    lock = FileIO(folder / _LOCK, "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().decode(errors="replace").strip()
        lock.close()
        raise UsageError(
            f"--output {folder} is in use by another experiment (process {owner or 'unknown'})"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())
    return lock


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _whole_lines(path: Path) -> FileIO:
    """The journal, opened to append; half a last line is cut off."""
    journal = FileIO(path, "a+")
    journal.seek(0)
    content = journal.read()
    journal.truncate(content.rfind(b"\n") + 1)
    return journal
