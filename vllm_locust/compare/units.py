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

from vllm_locust.compare.metrics import DROP_RATE
from vllm_locust.core.validity import INVALID
from vllm_locust.errors import UsageError
from vllm_locust.report.cache_hits import differ, hit_rate
from vllm_locust.results.folder import Results, holds_run, read_results
from vllm_locust.results.rows import rows_of

_OPTIONS = (
    "endpoint_type",
    "num_prompts",
    "max_concurrency",
    "burstiness",
    "arrivals",
    "max_tokens",
    "input_len",
    "parameters",
    "variations",
    "adapters",
    "adapter_order",
    "prefix_cache",
    "routing",
    "ignore_eos",
    "temperature",
    "dataset_path",
    "extra_body",
    "warmup_s",
    "request_timeout_s",
)

_SAME_LENGTH = 0.02
"""How much the mean length of prompts or answers may differ by chance."""
ALL = "all"
"""Stands for everything that a run measured."""
_BY_RUN = ("host", "seed")
"""What may be new in each run: said only of sides that kept to one."""


@dataclass(frozen=True, slots=True)
class Part:
    """One run's part in one cell."""

    run: str
    """What the run is called."""
    start_time: str | None
    numbers: Mapping[str, Any]
    """The keys of a summary, or of a baseline those that it kept."""
    invalid: Mapping[str, str]
    """Why numbers of it say nothing: by what is wrong (`ttft`, ..., `load`), or of `ALL`."""
    what: Mapping[str, Any]
    """What was asked, and of which server."""
    results: Results | None = None
    """None: of a baseline file, which has no requests."""
    of_baseline: bool = False
    """Whether it is of a baseline file, which its user takes for what the machine does now."""


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
    known: dict[str, Path] = {}
    for name, runs in found.items():
        for run in runs:
            results = read_results(run)
            if results.summary is None:
                problems.append(f"{run} has no summary, so the run did not end: left out.")
                continue
            if (first := known.setdefault(_id_of(results), run)) != run:
                problems.append(f"{run} is a copy of {first}: left out.")
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


def runs_of(side: Side) -> Mapping[str, Path]:
    """The results folders of a side by what identifies a run, none of a baseline."""
    parts = [part for parts in side.cells.values() for part in parts]
    return {_id_of(part.results): part.results.folder for part in parts if part.results is not None}


def _id_of(results: Results) -> str:
    """What a copy of a run has, too; a run that does not tell is known by its place."""
    told = (results.summary or {}).get("run") or (results.run or {}).get("run")
    return str(told or results.folder.resolve())


def differences(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """What was not asked alike, in sentences."""
    sides = [[part.what for part in parts] for parts in (base, new)]
    # A baseline of an earlier version knows fewer names.
    known = [dict.fromkeys(name for what in side for name in what) for side in sides]
    for name in filter(known[1].__contains__, known[0]):
        if name in _BY_RUN and not any(_repeats(side, name) for side in sides):
            continue
        told = [list(dict.fromkeys(_show(what.get(name)) for what in side)) for side in sides]
        if sorted(told[0]) != sorted(told[1]):
            yield f"They differ in {name}: {', '.join(told[0])} in base, {', '.join(told[1])} in new."


def _repeats(side: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [what.get(name) for what in side]
    return len(set(values)) < len(values)


def lengths(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """Whether prompts or answers were of different lengths on average, in sentences."""
    sides = [list(base), list(new)]
    for key, what in (("total_input_tokens", "Prompts"), ("total_output_tokens", "Answers")):
        means = [_mean_length(parts, key) for parts in sides]
        if min(means) > 0 and max(means) > (1 + _SAME_LENGTH) * min(means):
            yield f"{what} had {means[0]:.4g} tokens on average in base and {means[1]:.4g} in new."


def cache_hits(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """Whether the prefix cache of the server helped some runs more than others, in a sentence."""
    sides = [
        [rate for part in parts if (rate := hit_rate(part.numbers)) is not None] for parts in (base, new)
    ]
    if differ([*sides[0], *sides[1]]):
        told = [_ends(rates) if rates else "an unknown part" for rates in sides]
        yield (
            f"The server's prefix cache held {told[0]} of the prompt tokens in base and {told[1]} in new: "
            "what that saves is part of the change."
        )


def unsent(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """Whether requests were dropped, in a sentence."""
    told = []
    for parts in (list(base), list(new)):
        dropped, planned = (
            sum(part.numbers.get(key) or 0 for part in parts) for key in ("dropped", "planned")
        )
        told.append((dropped, f"{dropped} of {planned} requests"))
    if any(dropped for dropped, _ in told):
        yield (
            f"Never sent (dropped): {told[0][1]} in base, {told[1][1]} in new. Error rates, and latencies "
            "from the moment of sending, do not show them."
        )


ODD_ANSWERS = {
    "in_one_piece": "in one piece, or perhaps so (without TPOT and ITL)",
    "in_few_pieces": "in a few pieces (without TPOT and ITL)",
    "of_several_choices": "of several choices (without TPOT and ITL)",
    "with_hidden_reasoning": "whose usage counts reasoning that is not shown (without TPOT)",
    "shorter_than_asked": "shorter than asked, although ignore_eos was sent",
    "perhaps_shorter": "that may be shorter than asked, although ignore_eos was sent",
    "usage_below_stream": "whose usage counts fewer tokens than there were events with output",
    "usage_above_asked": "whose usage counts more tokens than were asked for (without TPOT)",
}


def odd_answers(base: Iterable[Part], new: Iterable[Part]) -> Iterator[str]:
    """What is odd about answers that are ok, in sentences."""
    sides = [list(base), list(new)]
    for key, what in ODD_ANSWERS.items():
        counts = [_count_of_odd(parts, key) for parts in sides]
        if any(counts):
            told = [
                f"{'an unknown number' if count is None else count} of {_completed(parts)} in {side}"
                for count, parts, side in zip(counts, sides, ("base", "new"), strict=True)
            ]
            yield f"Answers {what}: {', '.join(told)}."


def _count_of_odd(parts: Sequence[Part], key: str) -> int | None:
    """None where a run does not say."""
    counts: list[Any] = [(part.numbers.get("answers") or {}).get(key) for part in parts]
    return None if None in counts else sum(counts)


def _completed(parts: Sequence[Part]) -> int:
    return sum(part.numbers.get("completed") or 0 for part in parts)


def _ends(rates: Sequence[float]) -> str:
    ends = dict.fromkeys(f"{rate * 100:.1f} %" for rate in (min(rates), max(rates)))
    return " to ".join(ends)


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
    invalid = _invalid(summary.get("client") or {})
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
            "host": run.get("host"),
            "machine": _machine(run),
            "engine arguments": run.get("engine_arguments"),
            "version of vllm-locust": (run.get("versions") or {}).get("vllm-locust"),
            "seed": run.get("seed"),
            "data sets": [f"{one['path']} ({one['sha256']:.8})" for one in run.get("datasets") or ()] or None,
            "load": level.removeprefix(" at ") or None,
            "request_rate": summary.get("request_rate"),
            **{name: options.get(name) for name in _OPTIONS},
        }
        key = f"{row.workload}{level}" if several else ""
        name = "/".join(results.folder.parts[-2:])
        yield key, Part(name, run.get("start_time"), _with_drops(row.numbers), invalid, what, results)


def _invalid(client: Mapping[str, Any]) -> Mapping[str, str]:
    """By metric; where no metric is to blame, or requests were lost, all are invalid."""
    judged = client.get("metrics") or {}
    found = {name: _reasons(one) for name, one in judged.items() if one["verdict"] == INVALID}
    if client.get("verdict") == INVALID and (client.get("lost") or not found):
        return {ALL: _reasons(client)}
    load = client.get("load") or {}
    return found | ({"load": _reasons(load)} if load.get("verdict") == INVALID else {})


def _reasons(judged: Mapping[str, Any]) -> str:
    return ". ".join(judged.get("reasons") or ["no reason given"])


def _with_drops(numbers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers, and those of requests that were never sent beside those that failed."""
    requests = numbers.get("requests") or {}
    planned, dropped = requests.get("planned"), requests.get("dropped")
    rate = dropped / planned if planned and dropped is not None else None
    return {**numbers, "planned": planned, "dropped": dropped, DROP_RATE: rate}


def _machine(run: Mapping[str, Any]) -> str | None:
    machine = run.get("machine")
    return f"{machine['platform']} with {machine['cpus']} CPUs" if machine else None


def _show(value: Any) -> str:
    return "none" if value is None else str(value)
