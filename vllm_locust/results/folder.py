"""A results folder, read again: `run.json`, `requests.jsonl` and `summary.json` of one run.

Rule: a run that was killed has no summary and perhaps half a last line, and a file may be lost or broken:
what there is counts, and each thing that is not there is said in one sentence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.results.requests import Requests, read_lines

RUN = "run.json"
REQUESTS = "requests.jsonl"
SUMMARY = "summary.json"

_HINTS = 3


@dataclass(frozen=True, slots=True)
class Results:
    """What a run left behind."""

    folder: Path
    run: Mapping[str, Any] | None
    summary: Mapping[str, Any] | None
    requests: Requests
    problems: Sequence[str]
    """A sentence for each thing that is missing or broken."""

    @property
    def scenario(self) -> str | None:
        """What was asked; None where users asked on their own, and where nothing tells."""
        told = (known["scenario"] for known in (self.summary, self.run) if known and "scenario" in known)
        return next(told, None)


def holds_run(folder: Path) -> bool:
    """Whether at least one file of a run is there."""
    return any((folder / name).is_file() for name in (RUN, REQUESTS, SUMMARY))


def check(folders: Sequence[Path]) -> None:
    """Raise UsageError for all folders that hold no run."""
    problems = [_no_run(folder) for folder in folders if not holds_run(folder)]
    if problems:
        raise UsageError(*problems)


def read_results(folder: Path) -> Results:
    """Read what there is; UsageError when there is nothing."""
    check([folder])
    problems: list[str] = []
    run = _read_object(folder / RUN, "how the run was started is not known", problems)
    summary = _read_object(
        folder / SUMMARY,
        "the run was killed, or goes on still; this is of the requests written so far",
        problems,
    )
    requests = _read_requests(folder / REQUESTS, problems)
    planned = ((summary or {}).get("requests") or {}).get("planned")
    if isinstance(planned, int) and len(requests) < planned:
        problems.append(f"{REQUESTS} holds {len(requests)} of the run's {planned} requests.")
    return Results(folder, run, summary, requests, problems)


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist: name a folder that --results-dir has filled"
    if not folder.is_dir():
        return f"{folder} is no folder: name one that --results-dir has filled"
    inside = sorted(str(one) for one in folder.iterdir() if one.is_dir() and holds_run(one))
    if not inside:
        return f"{folder} holds no run ({RUN}, {REQUESTS} or {SUMMARY})"
    more = f" and {len(inside) - _HINTS} more" if len(inside) > _HINTS else ""
    return f"{folder} holds no run itself, but folders in it do: {', '.join(inside[:_HINTS])}{more}"


def _read_object(path: Path, meaning: str, problems: list[str]) -> Mapping[str, Any] | None:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: {meaning}.")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}.")
    except ValueError as error:
        problems.append(f"{path.name} is broken: {error}.")
    else:
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} is broken: it is no JSON object.")
    return None


def _read_requests(path: Path, problems: list[str]) -> Requests:
    try:
        with path.open("rb") as lines:
            found = read_lines(lines)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        problems.append(f"{path.name} {why}: what was sent is not known.")
        return read_lines(()).requests
    if found.broken:
        lines_are = "1 line is no request" if found.broken == 1 else f"{found.broken} lines are no requests"
        problems.append(f"{path.name}: {lines_are} (the first is line {found.first_broken}), left out.")
    if found.cut_off:
        problems.append(f"{path.name}: the last line is cut off, left out.")
    return found.requests
