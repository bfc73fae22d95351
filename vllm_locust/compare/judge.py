"""Base against new, cell by cell and metric by metric.

Rule: all metrics of all cells are one family: one false alarm among all of them in 20 comparisons. Sides that
have too little are refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vllm_locust.compare.evidence import CellEvidence, Unit, gather
from vllm_locust.compare.metrics import SHARE_TOLERANCE, Metric
from vllm_locust.compare.units import Part
from vllm_locust.core import comparison
from vllm_locust.core.comparison import ALPHA, Array

Verdict = Literal["regression", "worse", "better", "same", "unclear"]

_SEED = 1
_LARGEST = 700.0
"""The logarithm of a ratio that still is a number."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one metric. Changes are relative (0.05: 5 % more), those of a share are differences."""

    key: str
    verdict: Verdict
    base: float | None
    new: float | None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    """The interval of the change; those of all metrics together cover with 95 %."""
    p: float | None = None
    """That there is no difference, corrected for all metrics."""
    detectable: float | None = None
    """The change that would have been seen with a chance of 80 %."""
    needed: int | None = None
    """Of an unclear one: units on each side that would show the tolerance in 4 of 5; None: more than 1000."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of one cell."""

    name: str
    unit: Unit | None
    """None: refused."""
    units: tuple[int, int]
    """How many there are in base and in new."""
    metrics: Sequence[Judged]
    sentences: Sequence[str]


def judge(
    cells: Mapping[str, tuple[Sequence[Part], Sequence[Part]]],
    metrics: Sequence[Metric],
    tolerance: float,
    *,
    named: bool = False,
) -> list[Cell]:
    """The cells of a comparison; `tolerance` is relative (0.05: 5 %).

    Metrics that no run has are left out, unless they were asked for by name (`named`).
    """
    rng = np.random.default_rng(_SEED)
    gathered = {name: gather(base, new, metrics, rng, named) for name, (base, new) in cells.items()}
    family = [cell.evidence for cell in gathered.values() if cell.evidence is not None]
    each = comparison.level(family) if family else ALPHA
    ps = iter(comparison.adjusted(family))
    return [
        _finish(name, cell, next(ps) if cell.evidence is not None else None, each, tolerance, rng)
        for name, cell in gathered.items()
    ]


def _finish(
    name: str,
    cell: CellEvidence,
    p: Array | None,
    each: float,
    tolerance: float,
    rng: np.random.Generator,
) -> Cell:
    """The verdicts of a cell: `each` is how often an interval may miss."""
    judged = [] if p is None else _judge_all(cell, p, each, tolerance, rng)
    without = [Judged(key, "unclear", None, None) for key in cell.without]
    return Cell(name, cell.unit, cell.units, [*judged, *without], cell.sentences)


def _judge_all(
    cell: CellEvidence, p: Array, each: float, tolerance: float, rng: np.random.Generator
) -> list[Judged]:
    assert cell.evidence is not None
    assert cell.shown is not None
    least = np.array([cell.share_error if one.is_share else 0.0 for one in cell.metrics])
    evidence = replace(cell.evidence, error=np.maximum(cell.evidence.error, least))
    half = comparison.half_widths(evidence, each)
    seen = comparison.detectable(evidence, comparison.critical(evidence, p, each), rng)
    judged = []
    for i, metric in enumerate(cell.metrics):
        back = _relative if cell.ratio[i] else float
        change, ends = evidence.change[i], (evidence.change[i] - half[i], evidence.change[i] + half[i])
        bounds = _bounds(metric, tolerance, cell.ratio[i])
        verdict = _verdict(metric, ends, bounds, p[i])
        needed = None
        if verdict == "unclear":
            units = 2 / sum(1 / count for count in cell.units)
            now = comparison.Estimate(float(evidence.error[i]), float(evidence.df[i]), units)
            sides = 1 if cell.unit == "pair" else 2
            needed = comparison.units_needed(now, sides, min(map(abs, bounds)), each, rng)
        judged.append(
            Judged(
                key=metric.key,
                verdict=verdict,
                base=float(cell.shown[0][i]),
                new=float(cell.shown[1][i]),
                change=back(change),
                low=back(ends[0]),
                high=back(ends[1]),
                p=float(p[i]),
                detectable=back(seen[i]),
                needed=needed,
            )
        )
    return judged


def _relative(logarithm: float) -> float:
    return math.expm1(min(logarithm, _LARGEST))


def _bounds(metric: Metric, tolerance: float, ratio: bool) -> tuple[float, float]:
    if metric.is_share:
        least = min(tolerance, SHARE_TOLERANCE)
        return -least, least
    return (math.log1p(-tolerance), math.log1p(tolerance)) if ratio else (-tolerance, tolerance)


def _verdict(metric: Metric, ends: tuple[float, float], bounds: tuple[float, float], p: float) -> Verdict:
    """The interval says it; a difference must also be one that exchanging units does not give."""
    low, high = ends
    if bounds[0] <= low and high <= bounds[1]:
        return "same"
    if metric.better == "higher":
        low, high, bounds = -high, -low, (-bounds[1], -bounds[0])
    if p > ALPHA:
        return "unclear"
    if low > bounds[1]:
        return "regression"
    if low > 0:
        return "worse"
    return "better" if high < 0 else "unclear"
