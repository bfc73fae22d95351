"""The two sides of a comparison: runs found in folders or in a baseline file, cut into cells.

    FOLDER                           a results folder: one run
    FOLDER/RUN/                      several runs of the same
    FOLDER/WORKLOAD-LOAD/REPEAT/     of an experiment: runs/CONFIGURATION

Rule: only what is of one kind is compared: a cell is one workload under one load, and of a run that has
several phases (a ladder), one phase.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.core.validity import INVALID
from vllm_locust.errors import UsageError
from vllm_locust.results.folder import Results, holds_run, read_results
from vllm_locust.results.rows import rows_of

_OPTIONS = (
    "num_prompts",
    "max_concurrency",
    "burstiness",
    "arrivals",
    "max_tokens",
    "input_len",
    "parameters",
    "variations",
    "adapters",
    "prefix_cache",
    "ignore_eos",
    "temperature",
    "dataset_path",
    "extra_body",
    "warmup_s",
)

_SAME_LENGTH = 0.02
"""How much the mean length of prompts or answers may differ by chance."""


@dataclass(frozen=True, slots=True)
class Part:
    """One run's part in one cell."""

    run: str
    """What the run is called."""
    start_time: str | None
    numbers: Mapping[str, Any]
    """The keys of a summary, or of a baseline those that it kept."""
    invalid: str | None
    """Why its numbers say nothing, if its client could not keep up."""
    what: Mapping[str, Any]
    """What was asked, and of which server."""
    results: Results | None = None
    """None: of a baseline file, which has no requests."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two arguments names."""

    path: Path
    cells: Mapping[str, Sequence[Part]]
    problems: Sequence[str]
    """A sentence for each thing that is missing or broken."""


def read_side(folder: Path) -> Side:
    """The runs in a folder; UsageError when there are none."""
    found = dict(_find(folder))
    if not found:
        raise UsageError(_nothing(folder))
    cells: dict[str, list[Part]] = {}
    problems: list[str] = []
    for name, runs in found.items():
        for run in runs:
            results = read_results(run)
            if results.summary is None:
                problems.append(f"{run} has no summary, so the run did not end: left out.")
                continue
            problems += [f"{run}: {problem}" for problem in results.problems]
            for key, parts in _by_cell(results).items():
                cells.setdefault(" ".join(filter(None, (name, key))), []).append(_largest(parts))
                if len(parts) > 1:
                    problems.append(
                        f"{run} was {len(parts)} times {key}: the time with the most requests counts, "
                        "since a run is one unit."
                    )
    return Side(folder, cells, problems)


def runs_of(side: Side) -> list[Path]:
    """The results folders of a side, none of a baseline."""
    parts = [part for parts in side.cells.values() for part in parts]
    return list(dict.fromkeys(part.results.folder.resolve() for part in parts if part.results is not None))


def differences(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """What was not asked alike, in sentences."""
    sides = [[part.what for part in parts] for parts in (base, new)]
    names = dict.fromkeys(name for side in sides for what in side for name in what)
    for name in names:
        told = [list(dict.fromkeys(_show(what.get(name)) for what in side)) for side in sides]
        if sorted(told[0]) != sorted(told[1]):
            yield f"They differ in {name}: {', '.join(told[0])} in base, {', '.join(told[1])} in new."


def lengths(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """Whether prompts or answers were of different lengths on average, in sentences."""
    sides = [list(base), list(new)]
    for key, what in (("total_input_tokens", "Prompts"), ("total_output_tokens", "Answers")):
        means = [_mean_length(parts, key) for parts in sides]
        if min(means) > 0 and max(means) > (1 + _SAME_LENGTH) * min(means):
            yield f"{what} had {means[0]:.4g} tokens on average in base and {means[1]:.4g} in new."


def _mean_length(parts: Iterable[Part], key: str) -> float:
    """0 where it is not known."""
    counts = [(part.numbers.get(key) or 0, part.numbers.get("completed") or 0) for part in parts]
    requests = sum(completed for _, completed in counts)
    return sum(tokens for tokens, _ in counts) / requests if requests else 0.0


def _find(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    if not folder.is_dir():
        return
    if holds_run(folder):
        yield "", [folder]
        return
    inside = sorted(one for one in folder.iterdir() if one.is_dir())
    if runs := [one for one in inside if holds_run(one)]:
        yield "", runs
        return
    for cell in inside:
        if runs := sorted(one for one in cell.iterdir() if one.is_dir() and holds_run(one)):
            yield cell.name, runs


def _nothing(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist: name a results folder, a folder of them, or as BASE a baseline file"
    if not folder.is_dir():
        return f"{folder} is no folder: only BASE may be a baseline file"
    if (folder / "experiment.json").is_file():
        return f"{folder} is a whole experiment: name two configurations in it, as in {folder}/runs/NAME"
    return f"{folder} holds no run, nor does a folder in it: name a folder that --results-dir has filled"


def _by_cell(results: Results) -> dict[str, list[Part]]:
    """The parts of a run; a search tries the loads that decide more than once."""
    cells: dict[str, list[Part]] = {}
    for key, part in _parts(results):
        cells.setdefault(key, []).append(part)
    return cells


def _largest(parts: Sequence[Part]) -> Part:
    """The one with the most requests, the first of equals."""
    return max(parts, key=lambda part: part.numbers.get("completed") or 0)


def _parts(results: Results) -> Iterator[tuple[str, Part]]:
    """The whole run, or each phase where there are several."""
    summary, run = results.summary or {}, results.run or {}
    client = summary.get("client") or {}
    invalid = (
        ". ".join(client.get("reasons") or ["no reason given"]) if client.get("verdict") == INVALID else None
    )
    rows = [row for row in rows_of(results) if row.profile is None or row.phase is not None]
    phases = [row for row in rows if row.phase is not None and "phase" in row.numbers]
    several = len(summary.get("phases") or ()) > 1
    for row in phases if several else rows[:1]:
        level = "" if row.level is None else f" at {row.level:g} {row.unit}"
        options = run.get("options") or {}
        what = {
            "scenario": row.workload,
            "model": summary.get("model_id"),
            "server": run.get("server_version"),
            "load": level.removeprefix(" at ") or None,
            "request_rate": summary.get("request_rate"),
            **{name: options.get(name) for name in _OPTIONS},
        }
        key = f"{row.workload}{level}" if several else ""
        name = "/".join(results.folder.parts[-2:])
        yield key, Part(name, run.get("start_time"), row.numbers, invalid, what, results)


def _show(value: Any) -> str:
    return "none" if value is None else str(value)
