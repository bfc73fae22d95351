"""Base against new, cell by cell and metric by metric.

Rule: all metrics of all cells are one family: one false alarm among all of them in 20 comparisons. Sides that
have too little are refused. Where all runs of one side came after those of the other, everything is judged
twice, without a drift and as if it went on through any pause, and what holds both times is said
(`compare.order`). Only of a baseline file, made in another session, a drift that is not seen is not supposed,
and whatever is said has that condition. Where nothing is known of a drift, no difference counts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vllm_locust.compare.evidence import CellEvidence, Unit, gather
from vllm_locust.compare.metrics import SHARE_TOLERANCE, Metric
from vllm_locust.compare.units import Part
from vllm_locust.core import comparison
from vllm_locust.core.comparison import ALPHA, Array, Evidence

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
    """Of an unclear one: units on each side that would show the tolerance in 4 of 5, in turns where these
    were not; None: more than 1000."""
    may_be_drift: bool = False
    """Whether what it is depends on whether a drift went on from side to side: no number of runs made in this
    order would tell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What became of one cell."""

    name: str
    unit: Unit | None
    """None: refused."""
    units: tuple[int, int]
    """How many there are in base and in new."""
    runs: tuple[int, int]
    """How many there are in base and in new."""
    metrics: Sequence[Judged]
    sentences: Sequence[str]
    shortcomings: Sequence[str]
    """Why there is no verdict, in words; empty where there is one."""
    condition: str | None = None
    """What all of it rests on, in words that begin with "if"; None: on what was measured."""
    in_turns: bool = True
    """Whether more runs in the order of these would do: no drift is left open."""


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
    found = list(gathered.values())
    _tell_drift(found)
    judged = _judge_family(found, [cell.evidence for cell in found], tolerance, rng)
    if any(cell.went_on is not None for cell in found):
        otherwise = [cell.evidence if cell.went_on is None else cell.went_on for cell in found]
        again = _judge_family(found, otherwise, tolerance, rng)
        judged = [list(map(_both, *both)) for both in zip(judged, again, strict=True)]
    return [_finish(*one) for one in zip(gathered, found, judged, strict=True)]


def _tell_drift(cells: Sequence[CellEvidence]) -> None:
    """Say where runs drifted, and of a baseline what is assumed where they did not."""
    known = [cell for cell in cells if cell.drift is not None]
    family = [cell.drift for cell in cells if cell.drift is not None]
    for cell, drift, p in zip(known, family, comparison.adjusted(family), strict=True):
        drifted = {
            metric.key: _signed(drift.change[i], cell.ratio[i])
            for i, metric in enumerate(cell.metrics)
            if p[i] <= ALPHA
        }
        cell.drifted = list(drifted)
        if drifted:
            told = ", ".join(f"{key} {change}" for key, change in drifted.items())
            cell.sentences.append(f"The runs drifted, {cell.drift_in}: {told}.")
            cell.pause = None
    for cell in cells:
        if cell.pause is not None:
            cell.went_on = None
            cell.sentences.append(
                f"{cell.pause} lie between the baseline and the new runs. It is assumed that the machine is "
                "as fast as it was: what slowed it meanwhile counts as a change."
            )


def _signed(change: float, ratio: bool) -> str:
    return f"{_relative(change) * 100:+.1f} %" if ratio else f"{change:+.3g}"


def _judge_family(
    cells: Sequence[CellEvidence],
    evidence: Sequence[Evidence | None],
    tolerance: float,
    rng: np.random.Generator,
) -> list[list[Judged]]:
    """The metrics of each cell, by this evidence of it."""
    family = [one for one in evidence if one is not None]
    each = comparison.level(family) if family else ALPHA
    ps = iter(comparison.adjusted(family))
    return [
        [] if one is None else _judge_all(cell, one, next(ps), each, tolerance, rng)
        for cell, one in zip(cells, evidence, strict=True)
    ]


def _finish(name: str, cell: CellEvidence, judged: Sequence[Judged]) -> Cell:
    without = [Judged(key, "unclear", None, None) for key in cell.without]
    shortcomings = list(cell.shortcomings)
    drifted = () if cell.went_on is None else cell.drifted
    if cell.open_to_drift:
        judged = [_left_open(metric) for metric in judged]
    judged = [
        replace(metric, may_be_drift=True)
        if metric.verdict == "unclear" and metric.key in drifted
        else metric
        for metric in judged
    ]
    if unsure := [metric.key for metric in judged if metric.may_be_drift]:
        shortcomings.append(
            f"{', '.join(unsure)} cannot be told from a drift: make the runs in turns, A B, B A and so on"
        )
    judged = [metric if metric.verdict == "unclear" else replace(metric, needed=None) for metric in judged]
    return Cell(
        name,
        cell.unit,
        cell.units,
        cell.runs,
        [*judged, *without],
        cell.sentences,
        shortcomings,
        condition=f"if the machine is as fast as it was {cell.pause} before" if cell.pause else None,
        in_turns=cell.in_turns,
    )


def _left_open(metric: Judged) -> Judged:
    """What a drift of which nothing is known leaves of it."""
    if metric.verdict not in ("regression", "worse", "better"):
        return metric
    return replace(metric, verdict="unclear", may_be_drift=metric.verdict == "regression")


def _both(one: Judged, other: Judged) -> Judged:
    """What is so in either case."""
    verdicts = {one.verdict, other.verdict}
    verdict: Verdict = "unclear"
    if len(verdicts) == 1:
        verdict = one.verdict
    elif verdicts == {"regression", "worse"}:
        verdict = "worse"
    return replace(
        one,
        verdict=verdict,
        low=_farther(min, one.low, other.low),
        high=_farther(max, one.high, other.high),
        p=_farther(max, one.p, other.p),
        detectable=_farther(max, one.detectable, other.detectable),
        may_be_drift=len(verdicts) == 2 and "regression" in verdicts,
    )


def _farther(which: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else which(one, other)


def _judge_all(
    cell: CellEvidence, evidence: Evidence, p: Array, each: float, tolerance: float, rng: np.random.Generator
) -> list[Judged]:
    """`each` is how often an interval may miss."""
    assert cell.shown is not None
    assert cell.least_error is not None
    evidence = replace(evidence, error=np.maximum(evidence.error, cell.least_error))
    half = comparison.half_widths(evidence, each)
    seen = comparison.detectable(evidence, comparison.critical(evidence, p, each), rng)
    judged = []
    for i, metric in enumerate(cell.metrics):
        back = _relative if cell.ratio[i] else float
        change, ends = evidence.change[i], (evidence.change[i] - half[i], evidence.change[i] + half[i])
        bounds = _bounds(metric, tolerance, cell.ratio[i])
        verdict = _verdict(metric, ends, bounds, p[i])
        if verdict == "regression" and cell.unit == "block":
            verdict = "worse"  # than that run: of the configuration nothing is known
        needed = None
        if verdict == "unclear" or not cell.in_turns:  # which may leave it so
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
