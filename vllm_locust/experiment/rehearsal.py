"""The command lines of all runs, looked at by Locust itself before anything is started."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vllm_locust.errors import UsageError
from vllm_locust.experiment.plan import Session

_LIMIT_S = 300.0
_WARMUP = "warmup"


def rehearse(sessions: Sequence[Session]) -> None:
    """Raise UsageError with all that is wrong with the options of any run."""
    asked: dict[Path, dict[tuple[str, ...], str]] = {}
    for session in sessions:
        if session.repeat > 1:  # is asked the same, with other seeds
            continue
        for run in session.runs:
            where = f"workload {run.workload}, load {run.load}"
            asked.setdefault(run.locustfile, {}).setdefault(tuple(run.options), where)
        if session.warmup is not None:
            locustfile, options = session.warmup
            asked.setdefault(locustfile, {}).setdefault(tuple(options), _WARMUP)
    problems = [
        (where, problem)
        for locustfile, lines in asked.items()
        for where, found in zip(lines.values(), _look(locustfile, list(lines)), strict=True)
        for problem in found
    ]
    # The warm-up shares its options with the runs: what is said of those need not be said again.
    said = {problem for where, problem in problems if where != _WARMUP}
    told = [(where, problem) for where, problem in problems if where != _WARMUP or problem not in said]
    if told:
        raise UsageError(*dict.fromkeys(f"{where}: {problem}" for where, problem in told))


def _look(locustfile: Path, lines: Sequence[Sequence[str]]) -> list[list[str]]:
    words = ["--headless", "--host", "http://127.0.0.1", "--exporter-port", "off"]
    looked = subprocess.run(
        [sys.executable, "-P", "-m", "vllm_locust.load.command_lines", str(locustfile)],
        input=json.dumps([[*words, *line] for line in lines]),
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    try:
        found: list[list[str]] = json.loads(looked.stdout)
    except ValueError:
        last = (looked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UsageError(
            f"{locustfile}: Locust could not be asked whether it takes the options: {last}"
        ) from None
    return found
