"""How sure one may be of means and percentiles of latencies that are not independent of each other.

Rule: no interval rather than a wrong one. Requests that a server works on at the same time share its state,
so that `std / sqrt(n)` makes intervals that are far too small. Cut into 16 stretches in the order of time,
the means of the stretches are nearly independent and nearly normal, and

    mean +- t * std of the stretches' means / sqrt(16),   t of 15 degrees of freedom

covers the true mean as often as it says (B. Schmeiser, Batch size effects in the analysis of simulation
output, Operations Research 30, 1982). For that a stretch must be long against what requests share: here 20
values and three times those that run at once, at least. Where stretches still resemble the one before (their
autocorrelation is above 0.3), as when the run drifts, there is no interval either.

A percentile x has the share p of the values up to it. That share is a mean, of zeros and ones, and its
interval [p - h, p + h] leads back to one of x: the values below which p - h and p + h of all lie (R. S.
Woodruff, Confidence intervals for medians and other position measures, JASA 47, 1952).
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

from vllm_locust.core.group import Group
from vllm_locust.core.percentile import CONFIDENCE, UNDETERMINED, Interval, interval
from vllm_locust.core.summary import percentile_word

STRETCHES = 16
_SHORTEST = 20
_TIMES_AT_ONCE = 3
_MOST_ALIKE = 0.3


def mean_interval(values: NDArray[np.float64], at_once: int = 1, confidence: float = CONFIDENCE) -> Interval:
    """The interval of the mean of `values` in the order of time, of requests that ran `at_once` at most.

    Undetermined where none would be honest.
    """
    length = len(values) // STRETCHES
    if length < max(_SHORTEST, _TIMES_AT_ONCE * at_once):
        return UNDETERMINED
    means = values[len(values) - STRETCHES * length :].reshape(STRETCHES, length).mean(axis=1)
    if _autocorrelation(means) > _MOST_ALIKE:
        return UNDETERMINED
    t = float(stdtrit(STRETCHES - 1, (1 + confidence) / 2))
    half = t * float(means.std(ddof=1)) / math.sqrt(STRETCHES)
    mean = float(values.mean())
    return Interval(mean - half, mean + half)


def percentile_interval(values: NDArray[np.float64], q: float, at_once: int = 1) -> Interval:
    """The interval of the `q`-th percentile (0..100) of such `values`.

    Never narrower than that of independent ones. An end is None where it lies beyond the sample, and both are
    where none would be honest.
    """
    if not len(values):
        return UNDETERMINED
    ordered = np.sort(values)
    share = mean_interval((values <= np.percentile(ordered, q)).astype(np.float64), at_once)
    if share.low is None or share.high is None:
        return UNDETERMINED
    half = 100 * (share.high - share.low) / 2
    least = interval(ordered, q)

    def wider(side: Callable[[float, float], float], at: float, end: float | None) -> float | None:
        return side(float(np.percentile(ordered, at)), end) if end is not None and 0 <= at <= 100 else None

    return Interval(wider(min, q - half, least.low), wider(max, q + half, least.high))


def intervals_in_order(group: Group, at_once: int, percentiles: Iterable[float]) -> Mapping[str, Interval]:
    """Those of one phase's requests, in ms, by the summary's key: of TTFT, TPOT and E2EL, also from the plan.

    Of gaps between tokens no order in time is kept, so ITL has none.
    """
    order = np.argsort(np.asarray(group.ok_ended_s), kind="stable")
    ttft, e2el = np.asarray(group.ttft_s)[order], np.asarray(group.e2el_s)[order]
    tpot = np.asarray(group.tpot_s)[order]
    with_unsent = np.argsort(np.concatenate([group.ok_ended_s, group.unsent_ended_s]), kind="stable")
    families = {
        "ttft": ttft,
        "tpot": tpot[~np.isnan(tpot)],
        "e2el": e2el,
        "ttft_from_plan": group.ttft_from_plan_s()[with_unsent],
        "e2el_from_plan": group.e2el_from_plan_s()[with_unsent],
    }
    known: dict[str, Interval] = {}
    for family, values_s in families.items():
        known[f"mean_{family}_ms"] = mean_interval(values_s * 1000, at_once)
        for q in percentiles:
            known[f"{percentile_word(q)}_{family}_ms"] = percentile_interval(values_s * 1000, q, at_once)
    return known


def _autocorrelation(values: NDArray[np.float64]) -> float:
    """Of each value with the one before it; 0 when all are the same."""
    centred = values - values.mean()
    spread = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / spread if spread > 0 else 0.0
