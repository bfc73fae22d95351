"""Folders of experiments made by hand: a plan of two configurations with two repeats each."""

from pathlib import Path
from typing import Any

import orjson

from tests.results.made_lines import a_folder, a_line

KEYS = ("on/w-l/1", "on/w-l/2", "off/w-l/1", "off/w-l/2")
PLAN: dict[str, Any] = {
    "name": "S2",
    "question": "Does it pay?",
    "conclusions": None,
    "configurations": [
        {"name": "on", "factors": {"budget": 64}},
        {"name": "off", "factors": {"budget": None}},
    ],
    "runs": [
        {"key": key, "folder": f"runs/{key}", "workload": "w", "load": "l"}
        | {"configuration": key.split("/")[0], "repeat": int(key[-1])}
        for key in KEYS
    ],
}
SUMMARY = {"scenario": "chats", "completed": 1}


def an_experiment(folder: Path, *journal: dict[str, Any], plan: dict[str, Any] = PLAN) -> Path:
    """Plan and journal; the results of runs are to be added."""
    (folder / "experiment.json").write_bytes(orjson.dumps(plan))
    (folder / "journal.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in journal))
    return folder


def ended(key: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    """A line of the journal."""
    return {"key": key, "outcome": outcome, "exit_code": 0, "why": None, "seconds": 2.5} | more


def measured(folder: Path, key: str, summary: dict[str, Any] = SUMMARY) -> None:
    """The results of a run."""
    (folder / "runs" / key).parent.mkdir(parents=True, exist_ok=True)
    a_folder(folder / "runs" / key, a_line(), summary=summary)
