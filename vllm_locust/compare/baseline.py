"""A baseline file: what runs measured, small enough to be checked into a repository.

Rule: one line for each value, in the order of the runs, so that a difference of two versions can be read. A
run that is invalid, or had no answer, is none of them.
"""

from pathlib import Path
from typing import Any

import orjson

from vllm_locust import __version__
from vllm_locust.compare.metrics import DEFAULT
from vllm_locust.compare.units import ALL, ODD_ANSWERS, Part, Side
from vllm_locust.errors import UsageError
from vllm_locust.report.cache_hits import HIT_RATE, hit_rate

FORMAT = "vllm-locust baseline 1"
_COUNTS = ("completed", "failed", "planned", "dropped", "total_input_tokens", "total_output_tokens")


def trusted(side: Side) -> Side:
    """The side without runs that measured nothing, each in a sentence; UsageError if a cell has no other."""
    whys = {name: [(part, _nothing_measured(part)) for part in parts] for name, parts in side.cells.items()}
    left_out = [f"{part.run} {why}." for parts in whys.values() for part, why in parts if why is not None]
    cells = {name: [part for part, why in parts if why is None] for name, parts in whys.items()}
    if empty := [name for name, parts in cells.items() if not parts]:
        where = f" of {', '.join(empty)}" if any(empty) else ""
        raise UsageError(
            f"{side.path} has no valid run with an answer{where}, and others are no baseline", *left_out
        )
    return Side(side.path, cells, [*side.problems, *dict.fromkeys(left_out)])


def _nothing_measured(part: Part) -> str | None:
    """Why a run is left out, in words that follow its name; None: it is not."""
    if part.invalid:
        return f"is invalid and left out: {'. '.join(part.invalid.values())}"
    return None if part.numbers.get("completed") else "is left out: no request of it was answered"


def write_baseline(file: Path, side: Side, keys: tuple[str, ...] = DEFAULT) -> None:
    """Condense the runs of a side; UsageError when the file cannot be written."""
    kept = (*_COUNTS, *dict.fromkeys([*DEFAULT, *keys]))
    cells = {name: [_run(part, kept) for part in parts] for name, parts in side.cells.items()}
    document = {"format": FORMAT, "vllm_locust": __version__, "cells": cells}
    try:
        file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise UsageError(f"--write-baseline {file} cannot be written: {error.strerror}") from None


def read_baseline(file: Path) -> Side:
    """Read one again; UsageError when it is no baseline."""
    try:
        document = orjson.loads(file.read_bytes())
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}")
        cells = {
            name: [
                Part(
                    run["run"],
                    run["start_time"],
                    run["numbers"],
                    _invalid(run["invalid"]),
                    run["what"],
                    of_baseline=True,
                )
                for run in runs
            ]
            for name, runs in document["cells"].items()
        }
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is no baseline that --write-baseline has written ({error})") from None
    return Side(file, cells, [])


def _invalid(why: str | None) -> dict[str, str]:
    """Of earlier versions, which kept invalid runs."""
    return {} if why is None else {ALL: why}


def _run(part: Part, keys: tuple[str, ...]) -> dict[str, Any]:
    return {
        "run": part.run,
        "start_time": part.start_time,
        "invalid": None,
        "what": dict(part.what),
        "numbers": {key: part.numbers.get(key) for key in keys}
        | {"server": {HIT_RATE: hit_rate(part.numbers)}, "answers": _odd_answers(part)},
    }


def _odd_answers(part: Part) -> dict[str, int] | None:
    """The counts, where the summary has them."""
    answers = part.numbers.get("answers")
    return answers and {key: answers.get(key) for key in ODD_ANSWERS}
