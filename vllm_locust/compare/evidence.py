"""What the runs of one cell say of its metrics, and of which unit that is: the evidence that is judged.

Rule: the unit is the pair of runs where runs were made in turns (6 pairs at least), else the run (4 on each
side), else a block of time within runs, which decides nothing about configurations. What the order of the
runs leaves open of a drift is allowed for (`compare.order`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vllm_locust.compare.metrics import DROP_RATE, Metric
from vllm_locust.compare.order import FEWEST_PAIRS, Order
from vllm_locust.compare.requests import requests_of
from vllm_locust.compare.units import Part
from vllm_locust.compare.usable import told, usable
from vllm_locust.core import comparison, comparison_blocks
from vllm_locust.core.comparison import Array, Evidence
from vllm_locust.core.comparison_blocks import Blocks, Requests

Unit = Literal["pair", "run", "block"]

FEWEST_RUNS = 4


@dataclass(slots=True)
class CellEvidence:
    """A cell before its family is complete; lists and arrays have an entry for each of `metrics`."""

    unit: Unit | None
    """None: refused."""
    units: tuple[int, int]
    """How many there are in base and in new."""
    sentences: list[str]
    runs: tuple[int, int]
    """How many there are in base and in new."""
    shortcomings: list[str] = field(default_factory=list)
    """Why this cannot show that there is no regression, in words that follow "no verdict:"."""
    metrics: Sequence[Metric] = ()
    evidence: Evidence | None = None
    went_on: Evidence | None = None
    """The same if a drift within the sides went on from one to the other; None where that is no question."""
    drift: Evidence | None = None
    """How the runs changed from the first to the last; None where their order is not known."""
    drifted: Sequence[str] = ()
    """Keys of the metrics that did, as far as that can be told."""
    drift_in: str = ""
    """What `drift` is over, in words."""
    pause: str | None = None
    """How long ago a baseline was that had a session of its own: where no drift is seen, none is supposed."""
    open_to_drift: bool = False
    """Whether nothing is known of a drift, and any difference of the sides may be one."""
    shown: tuple[Array, Array] | None = None
    """The numbers of base and new as a reader knows them."""
    ratio: Sequence[bool] = ()
    """Whether the change of each metric is a logarithm."""
    least_error: Array | None = None
    """The error that each metric has at least: of shares, since failures are counted."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Why metrics cannot be compared, by their keys."""

    @property
    def in_turns(self) -> bool:
        """Whether more runs in the order of these would do: no drift is left open."""
        return self.went_on is None and not self.open_to_drift


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
        metrics = [one for one in metrics if _is_told(one, (*base, *new))]
    few = min(len(base), len(new)) < FEWEST_RUNS
    cell = _of_blocks(base, new, metrics, rng) if few else _of_whole_runs(base, new, metrics, rng)
    if few:
        cell.shortcomings.append(
            f"runs are the unit, and {len(base)} of base and {len(new)} of new are too few: "
            f"make {FEWEST_RUNS} of each"
        )
    cell.shortcomings += [
        f"no request of {word} was answered"
        for word, parts in (("base", base), ("new", new))
        if not sum(part.numbers.get("completed") or 0 for part in parts)
    ]
    if cell.metrics or few:
        cell.shortcomings += told(cell.without)
        cell.sentences += [f"{one}." for one in told(cell.without)]
    else:
        whys = "; ".join(dict.fromkeys(cell.without.values())) or "since no run has any"
        cell.shortcomings.append(f"no metric can be compared, {whys}")
    return cell


def _is_told(metric: Metric, parts: Sequence[Part]) -> bool:
    """Whether some run has it; of dropped requests, whether there were any."""
    values = [part.numbers.get(metric.key) for part in parts]
    return any(values) if metric.key == DROP_RATE else any(value is not None for value in values)


def _of_whole_runs(
    base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric], rng: np.random.Generator
) -> CellEvidence:
    order = Order.of(base, new)
    counts = len(base), len(new)
    pairs = None if order is None else order.pairs()
    cell = CellEvidence("run" if pairs is None else "pair", counts, [], counts)
    cell.sentences.append(
        f"The unit is the run: {counts[0]} against {counts[1]}."
        if pairs is None
        else f"The unit is the pair of runs: {counts[0]} pairs, made in turns."
    )
    wanted, cell.without = usable(base, new, metrics)
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
    cell.least_error = _least_error(base, new, wanted)
    scaled = _scale(tables, wanted, cell.ratio)
    if pairs is not None:
        cell.evidence = comparison.of_pairs(scaled[0][pairs[0]], scaled[1][pairs[1]], rng)
    else:
        cell.evidence = comparison.of_runs(scaled[0], scaled[1], rng)
    if order is not None and not order.at_once:
        cell.drift = comparison.of_effect(np.vstack(scaled), order.time, order.side, rng)
        cell.drift_in = "from the first to the last" + ("" if order.last is None else " of a side")
    if pairs is None:
        _allow_for_drift(cell, order, np.vstack(scaled), rng)
        if order is not None and order.apart and all(part.of_baseline for part in base):
            cell.open_to_drift = False
            cell.pause = _long(order.pause_s)
    return cell


def _allow_for_drift(
    cell: CellEvidence, order: Order | None, values: Array, rng: np.random.Generator
) -> None:
    """What the order of runs that are no pairs leaves open, and a sentence on it."""
    if order is None:
        cell.open_to_drift = True
        cell.sentences.append(
            "In which order the runs were made is not known: a drift of the machine cannot be told from a "
            "change."
        )
        return
    if order.last is not None:
        first = "base" if order.last == "new" else "new"
        cell.sentences.append(
            f"All runs of {order.last} were made after those of {first}: whatever else changed between them "
            "counts as a change."
        )
    if order.at_once:
        cell.open_to_drift = True
        cell.sentences.append("The runs of each side all began at one time, so nothing is known of a drift.")
        return
    of_side = comparison.of_effect(values, order.side, order.time, rng)
    if order.last is None:
        cell.evidence = of_side
        cell.sentences.append(
            f"A steady drift is taken out; {FEWEST_PAIRS} pairs or more, made A B, B A and so on, cancel one "
            "of any shape."
        )
    else:
        cell.went_on = of_side


def _long(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _of_blocks(
    base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric], rng: np.random.Generator
) -> CellEvidence:
    counts = len(base), len(new)
    cell = CellEvidence(None, counts, [], counts)
    few = f"{len(base)} against {len(new)} {'run' if len(new) == 1 else 'runs'}"
    sides = [[found for part in parts if (found := requests_of(part)) is not None] for parts in (base, new)]
    if any(len(found) < len(parts) for found, parts in zip(sides, (base, new), strict=True)):
        cell.sentences.append(
            f"Too little to judge: {few}, and without the requests of each run there are no blocks of time. "
            f"Make {FEWEST_RUNS} runs of each."
        )
        return cell
    present, cell.without = usable(base, new, metrics)
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
    cell.least_error = _least_error(base, new, cell.metrics)
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
    cell.without = {**cell.without} | {
        metric.key: "without a value above zero on both sides"
        for i, metric in enumerate(metrics)
        if i not in kept
    }
    if kept:
        cell.metrics = [metrics[i] for i in kept]
        cell.ratio = [hows[i].log for i in kept]
        cell.shown = (shown[0][kept], shown[1][kept])
        cell.evidence = comparison_blocks.of_blocks(base, new, [hows[i] for i in kept], rng)


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


def _least_error(base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric]) -> Array:
    """The error of a difference of shares, counted (A. Agresti, B. Caffo, American Statistician 54, 2000)."""
    sides = (base, new)
    return np.array([_share_error(sides, one.key) if one.is_share else 0.0 for one in metrics])


def _share_error(sides: Sequence[Sequence[Part]], key: str) -> float:
    total = 0.0
    for parts in sides:
        bad, count = _counted(parts, key)
        share = (bad + 1) / (count + 2)
        total += share * (1 - share) / (count + 2)
    return math.sqrt(total)


def _counted(parts: Sequence[Part], key: str) -> tuple[int, int]:
    """How many a share is about, the bad ones first."""
    of = {"error_rate": ("failed", "completed"), DROP_RATE: ("dropped", "planned")}[key]
    bad, others = (sum(part.numbers.get(name) or 0 for part in parts) for name in of)
    return bad, others + bad if key == "error_rate" else others
