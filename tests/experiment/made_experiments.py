"""Experiments made for tests: files, definitions, and a folder with a fake server and a fake Locust."""

import json
import sys
from pathlib import Path
from typing import Any

from vllm_locust.experiment.definition import Configuration, Experiment, Load, Timing, Workload

FAKES = Path(__file__).parent / "fakes.py"
TIMING = Timing(ready_timeout_s=10.0, ready_path="/health", stop_timeout_s=2.0, pause_s=0.0)

SMALL = """\
question: Does it work?
server: {start: simulate}
matrix: {max-num-seqs: [1, 4]}
workloads: [ss]
loads: [{name: few, options: {num-prompts: 4, users: "{max-num-seqs}"}}]
warmup: false
"""
"""The text of a file: two servers, a run each."""


def fake_server(kind: str) -> list[str]:
    """The words of a command: see `fakes`."""
    return [sys.executable, "-S", str(FAKES), "server", kind, "{port}", "{arguments}"]


def a_configuration(name: str = "a", kind: str = "good", **fields: Any) -> Configuration:
    known: dict[str, Any] = {
        "start": fake_server(kind),
        "url": None,
        "arguments": {},
        "environment": {},
        "factors": {},
    }
    return Configuration(name=name, **known | fields)


def an_experiment(*configurations: Configuration, **fields: Any) -> Experiment:
    """With one workload and one load, no warm-up, one repeat, unless `fields` say otherwise."""
    known: dict[str, Any] = {
        "name": "e",
        "question": "Which one?",
        "configurations": configurations or (a_configuration(),),
        "workloads": [Workload("w", {"scenario": "ss"})],
        "loads": [Load("l", {"users": 2})],
        "locustfile": Path("chat.py"),
        "options": {},
        "warmup": None,
        "timing": TIMING,
        "repeats": 1,
        "order": "fixed",
        "seed": 0,
        "seed_is_drawn": False,
        "conclusions": None,
    }
    return Experiment(**known | fields)


def journal(folder: Path) -> list[dict[str, Any]]:
    """Its lines."""
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def a_file(folder: Path, text: str = SMALL) -> str:
    """Its path."""
    path = folder / "small.yaml"
    path.write_text(text)
    return str(path)
