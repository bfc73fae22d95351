"""A whole comparison: `compare_folders(base, new)`, what it says and its exit code."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_locust.compare.baseline import read_baseline
from vllm_locust.compare.judge import Cell, judge
from vllm_locust.compare.metrics import parse
from vllm_locust.compare.outcome import outcome
from vllm_locust.compare.units import (
    Part,
    Side,
    cache_hits,
    differences,
    lengths,
    odd_answers,
    read_side,
    runs_of,
    unsent,
)
from vllm_locust.compare.usable import invalid_runs
from vllm_locust.errors import UsageError
from vllm_locust.report.junit import Case, junit_xml

TOLERANCE = 0.05

_OUTCOMES: Mapping[str, Any] = {"regression": "failed", "unclear": "skipped"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base against new."""

    base: Path
    new: Path
    tolerance: float
    strict: bool
    """Whether an unclear metric is too little evidence."""
    cells: Sequence[Cell]
    invalid: Sequence[str]
    """A sentence for each run that is invalid in something."""
    sentences: Sequence[str]

    @property
    def exit_code(self) -> int:
        """0, `EXIT_REGRESSION` or `EXIT_NOT_CONCLUSIVE`."""
        return self._outcome[0]

    @property
    def conclusion(self) -> str:
        """One sentence for all, which says why the exit code is what it is."""
        return self._outcome[1]

    @property
    def _outcome(self) -> tuple[int, str]:
        return outcome(self.cells, self.tolerance, self.strict)

    def text(self) -> str:
        """For a terminal."""
        from vllm_locust.compare.text import render

        return render(self)

    def markdown(self) -> str:
        """For a pull request."""
        from vllm_locust.compare.markdown import render

        return render(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "base": str(self.base),
            "new": str(self.new),
            "tolerance": self.tolerance,
            "strict": self.strict,
            "exit_code": self.exit_code,
            "conclusion": self.conclusion,
            "invalid": list(self.invalid),
            "sentences": list(self.sentences),
            "cells": [asdict(cell) for cell in self.cells],
        }

    def junit(self) -> bytes:
        """A document with a case for each metric, and one for each cell that was refused."""
        return junit_xml("vllm-locust compare", list(self._cases()))

    def _cases(self) -> Iterator[Case]:
        from vllm_locust.compare.text import in_words

        if not self.cells:
            yield Case("there is something to compare", "error", " ".join(self.sentences))
        for cell in self.cells:
            if cell.shortcomings:
                yield Case(f"{cell.name} can be judged".strip(), "error", "; ".join(cell.shortcomings))
            for metric in cell.metrics:
                outcome = _OUTCOMES.get(metric.verdict, "passed")
                if self.strict and outcome == "skipped":
                    outcome = "error"
                yield Case(f"{cell.name} {metric.key}".strip(), outcome, in_words(metric, cell.condition))


def compare_folders(
    base: Path,
    new: Path,
    *,
    tolerance: float = TOLERANCE,
    metrics: Sequence[str] | None = None,
    strict: bool = False,
) -> Comparison:
    """Compare what two folders hold (`base` may be a baseline file); UsageError for what is no such thing.

    `tolerance` is relative: 0.05 is 5 %.
    """
    chosen = parse(metrics)
    sides = _read(base, new)
    both = runs_of(sides[0])
    if twice := sorted(folder for run, folder in runs_of(sides[1]).items() if run in both):
        raise UsageError(
            f"{', '.join(map(str, twice))} is in BASE and in NEW: a run cannot be compared with itself"
        )
    sentences = [problem for side in sides for problem in side.problems]
    cells = _shared(sides[0], sides[1], sentences)
    # One sentence for what all cells have in common.
    sentences += dict.fromkeys(told for one in cells.values() for told in differences(*one))
    sentences += [
        f"{name}: {told}" if name else told
        for name, one in cells.items()
        for told in (*lengths(*one), *cache_hits(*one), *unsent(*one), *odd_answers(*one))
    ]
    parts = [part for both in cells.values() for side in both for part in side]
    if any(part.what.get("request_rate") is not None for part in parts):
        sentences.append(
            "Requests were sent at a rate that was planned: as long as the server keeps up, the plan sets "
            "the throughput, and latencies tell the difference."
        )
    invalid = dict.fromkeys(told for both in cells.values() for told in invalid_runs(*both))
    judged = judge(cells, chosen, tolerance, named=metrics is not None)
    return Comparison(base, new, tolerance, strict, judged, list(invalid), sentences)


def _read(base: Path, new: Path) -> list[Side]:
    """Both sides; UsageError with the mistakes of both."""
    sides: list[Side] = []
    problems: list[str] = []
    for path, read in ((base, read_baseline if base.is_file() else read_side), (new, read_side)):
        try:
            sides.append(read(path))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(*problems)
    return sides


def _shared(base: Side, new: Side, sentences: list[str]) -> dict[str, tuple[Sequence[Part], Sequence[Part]]]:
    if len(base.cells) == len(new.cells) == 1:
        (name, of_base), (other, of_new) = *base.cells.items(), *new.cells.items()
        return {name if name == other else "": (of_base, of_new)}
    for side, other_side, word in ((base, new, "base"), (new, base, "new")):
        if alone := [name or "all" for name in side.cells if name not in other_side.cells]:
            sentences.append(f"Only {word} has {', '.join(alone)}: left out.")
    shared = {name: (parts, new.cells[name]) for name, parts in base.cells.items() if name in new.cells}
    if not shared and base.cells and new.cells:
        raise UsageError(
            f"{base.path} and {new.path} have no workload and load in common. {' '.join(sentences)}"
        )
    return shared
