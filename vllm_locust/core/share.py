"""How large a share is, told at any time of a running measurement, from trials that are not independent.

Rule: an interval that holds at all times together, since one looks again and again, and no more trials in it
than the measured ones are worth.

At all times. For trials X1, X2, ... of 0 or 1, each 1 with probability m whatever came before, and
S = X1 + ... + Xn,

    M_n(m) = B(a + S, b + n - S) / B(a, b) / (m^S (1 - m)^(n - S))            B: the beta function

is a nonnegative martingale that begins at 1: the likelihood ratio of a Beta(a, b) mixture to m. By Ville's
inequality it ever reaches 1/alpha with probability alpha at most, so the interval {m: M_n(m) < 1/alpha}
covers the true share for all n at once with the confidence 1 - alpha. (H. Robbins, Statistical methods
related to the law of the iterated logarithm, Ann. Math. Stat. 41, 1970; S. R. Howard, A. Ramdas,
J. McAuliffe, J. Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences, Ann. Stat. 49,
2021.) Any a and b are right; here the mixture has the mean that is asked for and 1/2 as the smaller of the
two, which is sharp where the question is. It stays a supermartingale for X that are any numbers in [0, 1] of
mean m, because (p/m)^x ((1-p)/(1-m))^(1-x) is convex in x: S and n need not be whole.

Not independent. Requests that a server works on at the same time share its state: eighty in a row that were
quick may be one lucky moment. Cut into k stretches of b = n / k in the order of time, n values are worth

    n / max(1, D),   D = b * variance of the stretches' means / variance of the values

independent ones: D is the design effect (L. Kish, Survey Sampling, 1965), estimated by batch means, for which
10 to 30 batches are enough (B. Schmeiser, Batch size effects in the analysis of simulation output, Operations
Research 30, 1982). The larger of two D counts: that of being inside or not, which is what the share is made
of, and that of the values' ranks, which tells also while nothing was outside yet. It is an estimate, so
with it the confidence is no longer a theorem; the tests hold it against a simulated server.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln  # type: ignore[import-untyped]

from vllm_locust.core.percentile import CONFIDENCE

STRETCHES = 16
FEWEST = 16
"""Fewer values than these, two in each of eight stretches, do not tell what they are worth."""

_SMALLER_PARAMETER = 0.5


def share_interval(
    inside: float, trials: float, needed: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Where the true share lies when `inside` of `trials` were inside; `needed` is where it is sharpest."""
    if not trials:
        return 0.0, 1.0
    excluded = _excluded(inside, trials, needed, confidence)
    share = inside / trials
    return (
        _edge(excluded, 0.0, share) if inside else 0.0,
        _edge(excluded, 1.0, share) if inside < trials else 1.0,
    )


def tells(inside: float, trials: float, needed: float, confidence: float = CONFIDENCE) -> bool:
    """Whether the interval leaves no doubt on which side of `needed` the true share lies."""
    return bool(trials) and _excluded(inside, trials, needed, confidence)(needed)


def _excluded(inside: float, trials: float, needed: float, confidence: float) -> Callable[[float], bool]:
    """Whether a share lies outside of the interval: M_n of the module's docstring has reached 1/alpha."""
    outside = trials - inside
    scale = _SMALLER_PARAMETER / min(needed, 1 - needed)
    a, b = scale * needed, scale * (1 - needed)
    mixture = float(betaln(a + inside, b + outside) - betaln(a, b))
    threshold = -math.log(1 - confidence)
    return lambda m: mixture - _times_log(inside, m) - _times_log(outside, 1 - m) >= threshold


def design_effect(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> float:
    """How many of these values, in the order of time, are worth one independent one: 1 or more.

    All of them when they are too few to tell.
    """
    if len(values) < FEWEST:
        return float(max(len(values), 1))
    return max(1.0, _by_batch_means(_ranks(values)), _by_batch_means(inside.astype(np.float64)))


def _by_batch_means(values: NDArray[np.float64]) -> float:
    """D of the module's docstring; what is left over by the stretches is the oldest."""
    stretches = min(STRETCHES, len(values) // 2)
    length = len(values) // stretches
    recent = values[len(values) - stretches * length :].reshape(stretches, length)
    spread = recent.var()
    return float(length * recent.mean(axis=1).var(ddof=1) / spread) if spread > 0 else 1.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks: else the order of time would show in them."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _times_log(factor: float, x: float) -> float:
    """factor * ln(x), where 0 * ln(0) is 0 and any other ln(0) is minus infinity."""
    if not factor:
        return 0.0
    return factor * math.log(x) if x > 0 else -math.inf


def _edge(excluded: Callable[[float], bool], far: float, near: float) -> float:
    """The border between `far`, which is excluded, and `near`, which is not; rounded to the far side."""
    for _ in range(60):
        middle = (far + near) / 2
        if excluded(middle):
            far = middle
        else:
            near = middle
    return far
