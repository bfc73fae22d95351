"""What the runs of one cell say of its metrics, and of which unit that is: the evidence that is judged.

Rule: the unit is the pair of runs where runs were made in turns (6 pairs at least), else the run (4 on each
side), else a block of time within runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vllm_locust.compare.metrics import Metric
from vllm_locust.compare.requests import requests_of
from vllm_locust.compare.units import Part
from vllm_locust.core import comparison, comparison_blocks
from vllm_locust.core.comparison import Array, Evidence
from vllm_locust.core.comparison_blocks import Blocks, Requests

Unit = Literal["pair", "run", "block"]

FEWEST_RUNS = 4
FEWEST_PAIRS = 6


@dataclass(slots=True)
class CellEvidence:
    """A cell before its family is complete; lists and arrays have an entry for each of `metrics`."""

    unit: Unit | None
    """None: refused."""
    units: tuple[int, int]
    """How many there are in base and in new."""
    sentences: list[str]
    metrics: Sequence[Metric] = ()
    evidence: Evidence | None = None
    shown: tuple[Array, Array] | None = None
    """The numbers of base and new as a reader knows them."""
    ratio: Sequence[bool] = ()
    """Whether the change of each metric is a logarithm."""
    share_error: float = 0.0
    """The error that a share has at least, since failures are counted."""
    without: list[str] = field(default_factory=list)
    """Keys of metrics that have no value in some of the runs, or of those asked for in any."""


def gather(
    base: Sequence[Part],
    new: Sequence[Part],
    metrics: Sequence[Metric],
    rng: np.random.Generator,
    named: bool = False,
) -> CellEvidence:
    """The evidence of the best unit that there is enough of.

    `named` says that each metric was asked for, so that one which no run has must not just be left out.
    """
    if not named:
        metrics = [
            one for one in metrics if any(part.numbers.get(one.key) is not None for part in (*base, *new))
        ]
    if (pairs := _pairs(base, new)) is not None:
        what = f"The unit is the pair of runs: {len(base)} pairs, made in turns."
        return _of_whole_runs("pair", *pairs, metrics, what, rng)
    if min(len(base), len(new)) >= FEWEST_RUNS:
        what = f"The unit is the run: {len(base)} against {len(new)}."
        return _of_whole_runs("run", base, new, metrics, what, rng)
    return _of_blocks(base, new, metrics, rng)


def _of_whole_runs(
    unit: Unit,
    base: Sequence[Part],
    new: Sequence[Part],
    metrics: Sequence[Metric],
    what: str,
    rng: np.random.Generator,
) -> CellEvidence:
    cell = CellEvidence(unit, (len(base), len(new)), [what])
    wanted, cell.without = _with_values(base, new, metrics, cell.sentences)
    if not wanted:
        return cell
    tables = [
        np.array([[part.numbers[one.key] for one in wanted] for part in side], float) for side in (base, new)
    ]
    cell.metrics = wanted
    cell.ratio = [
        not one.is_share and bool(min(side[:, i].min() for side in tables) > 0)
        for i, one in enumerate(wanted)
    ]
    cell.shown = (_middle(tables[0], cell.ratio), _middle(tables[1], cell.ratio))
    scaled = _scale(tables, wanted, cell.ratio)
    of = comparison.of_pairs if unit == "pair" else comparison.of_runs
    cell.evidence = of(scaled[0], scaled[1], rng)
    cell.share_error = _share_error(base, new)
    return cell


def _of_blocks(
    base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric], rng: np.random.Generator
) -> CellEvidence:
    cell = CellEvidence(None, (len(base), len(new)), [])
    few = f"{len(base)} against {len(new)} {'run' if len(new) == 1 else 'runs'}"
    sides = [[found for part in parts if (found := requests_of(part)) is not None] for parts in (base, new)]
    if any(len(found) < len(parts) for found, parts in zip(sides, (base, new), strict=True)):
        cell.sentences.append(
            f"Too little to judge: {few}, and without the requests of each run there are no blocks of time. "
            f"Make {FEWEST_RUNS} runs of each."
        )
        return cell
    present, cell.without = _with_values(base, new, metrics, cell.sentences)
    chosen = _that_blocks_can_tell(sides, present, cell.sentences)
    base_blocks, new_blocks = (comparison_blocks.cut(found, list(chosen.values())) for found in sides)
    if isinstance(base_blocks, str) or isinstance(new_blocks, str):
        whys = {"base": base_blocks, "new": new_blocks}
        why = "; ".join(f"of {side}, {one}" for side, one in whys.items() if isinstance(one, str))
        cell.sentences.append(
            f"Too little to judge: {few}, and {why}. Make {FEWEST_RUNS} runs of each, or longer ones."
        )
        return cell
    cell.unit, cell.units = "block", (base_blocks.count, new_blocks.count)
    lengths = f"{base_blocks.block_s():.2g} s in base and {new_blocks.block_s():.2g} s in new"
    cell.sentences.append(
        f"The unit is a block of time, {lengths}: {few}. This tells whether these runs differ, not whether "
        "the configurations do: the next run of the same may differ as much. "
        f"Make {FEWEST_RUNS} runs of each."
    )
    _compare_blocks(cell, base_blocks, new_blocks, chosen, rng)
    cell.share_error = _share_error(base, new)
    return cell


def _that_blocks_can_tell(
    sides: Sequence[Sequence[Requests]], metrics: Sequence[Metric], sentences: list[str]
) -> dict[Metric, comparison_blocks.Metric]:
    """How each metric is made from requests, and a sentence for those that cannot be."""
    made = {metric: how for metric in metrics if (how := metric.of_blocks()) is not None}
    if unknown := [metric.key for metric in metrics if metric not in made]:
        sentences.append(
            f"Left out, since requests.jsonl does not have it for each block of time: {', '.join(unknown)}."
        )
    enough = {
        metric: how
        for metric, how in made.items()
        if all(comparison_blocks.has_tail(found, how) for found in sides)
    }
    if thin := [metric.key for metric in made if metric not in enough]:
        sentences.append(f"Left out, since less than 20 requests are beyond it: {', '.join(thin)}.")
    return enough


def _compare_blocks(
    cell: CellEvidence,
    base: Blocks,
    new: Blocks,
    chosen: dict[Metric, comparison_blocks.Metric],
    rng: np.random.Generator,
) -> None:
    """A ratio needs both numbers above zero; metrics without are named in `without`."""
    shown = [comparison_blocks.values(blocks, list(chosen.values())) for blocks in (base, new)]
    kept = [
        i for i, how in enumerate(chosen.values()) if not how.log or bool(min(side[i] for side in shown) > 0)
    ]
    metrics, hows = list(chosen), list(chosen.values())
    cell.without += [metric.key for i, metric in enumerate(metrics) if i not in kept]
    if kept:
        cell.metrics = [metrics[i] for i in kept]
        cell.ratio = [hows[i].log for i in kept]
        cell.shown = (shown[0][kept], shown[1][kept])
        cell.evidence = comparison_blocks.of_blocks(base, new, [hows[i] for i in kept], rng)


def _pairs(base: Sequence[Part], new: Sequence[Part]) -> tuple[list[Part], list[Part]] | None:
    """The sides in the order of time, if every two runs that follow each other are one of each."""
    if len(base) != len(new) or len(base) < FEWEST_PAIRS:
        return None
    runs = [(part.start_time, side, part) for side, parts in enumerate((base, new)) for part in parts]
    if any(start is None for start, _, _ in runs):
        return None
    runs.sort(key=lambda run: (str(run[0]), run[1]))
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        if first[1] == second[1]:
            return None
    return [part for _, side, part in runs if side == 0], [part for _, side, part in runs if side == 1]


def _with_values(
    base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric], sentences: list[str]
) -> tuple[list[Metric], list[str]]:
    """The metrics that every run has, and those that some or all do not have."""
    have, without = [], []
    for metric in metrics:
        empty = [part.run for part in (*base, *new) if part.numbers.get(metric.key) is None]
        if not empty:
            have.append(metric)
        else:
            where = ", ".join(empty) if len(empty) < len(base) + len(new) else "any run"
            without.append(metric.key)
            sentences.append(f"{metric.key} has no value in {where}.")
    return have, without


def _middle(table: Array, ratio: Sequence[bool]) -> Array:
    """Geometric means of what is compared as a ratio, else means."""
    logs = np.log(np.where(ratio, table, 1.0)).mean(axis=0)
    middle: Array = np.where(ratio, np.exp(logs), table.mean(axis=0))
    return middle


def _scale(tables: Sequence[Array], metrics: Sequence[Metric], ratio: Sequence[bool]) -> list[Array]:
    """Logarithms; where a value is 0, parts of the base's mean (of all, if that is 0); shares as they are."""
    mean = tables[0].mean(axis=0)
    unit = np.where(mean > 0, mean, np.vstack(tables).mean(axis=0))
    unit = np.where([one.is_share for one in metrics] | (unit <= 0), 1.0, unit)
    return [np.where(ratio, np.log(np.where(ratio, table, 1.0)), table / unit) for table in tables]


def _share_error(base: Sequence[Part], new: Sequence[Part]) -> float:
    """The error of a difference of shares, counted (A. Agresti, B. Caffo, American Statistician 54, 2000)."""
    total = 0.0
    for parts in (base, new):
        failed = sum(part.numbers.get("failed") or 0 for part in parts) + 1
        completed = sum(part.numbers.get("completed") or 0 for part in parts) + 1
        count = failed + completed
        total += failed / count * (1 - failed / count) / count
    return math.sqrt(total)
