"""The knee of a curve of throughput over load: past it more load brings little more throughput.

Kneedle (V. Satopaa, J. Albrecht, D. Irwin, B. Raghavan, Finding a "Kneedle" in a haystack: detecting knee
points in system behavior, ICDCS workshops 2011): scale both axes to 0..1; the knee is where the curve stands
highest above the diagonal, provided that it falls from there by the mean distance between two loads (their
sensitivity S = 1). Curves here have a dozen points at most, so nothing is smoothed, the highest point of all
local maxima is taken, and two things must hold besides, so that noise makes no knee:

- the curve stands at least `_LEAST_BEND` above the diagonal;
- beyond the knee a unit of load brings at most `_WORTH_HAVING` of what it brought before it.

A curve that has its whole throughput from its first load on, within `_FLAT`, has its knee there.
"""

from collections.abc import Sequence

import numpy as np

_LEAST_POINTS = 3
_LEAST_BEND = 0.15
_WORTH_HAVING = 1 / 3
_FLAT = 0.05


def find_knee(loads: Sequence[float], throughputs: Sequence[float]) -> float | None:
    """The load of the knee, one of `loads`; None when there is none, or fewer than three different loads.

    The order does not matter, and of a load that was measured several times the mean counts. ValueError when
    the two are not equally long.
    """
    if len(loads) != len(throughputs):
        raise ValueError(f"{len(loads)} loads, but {len(throughputs)} throughputs")
    load, place = np.unique(np.asarray(loads, float), return_inverse=True)
    if len(load) < _LEAST_POINTS:
        return None
    throughput = np.bincount(place, np.asarray(throughputs, float)) / np.bincount(place)
    top, first = throughput.max(), throughput[0]
    if top <= first * (1 + _FLAT):
        return float(load[0]) if top > 0 else None
    x = (load - load[0]) / (load[-1] - load[0])
    y = (throughput - throughput.min()) / (top - throughput.min())
    above = y - x
    knee = int(above.argmax())
    fall = float(above[knee] - above[knee:].min())
    if knee in (0, len(load) - 1) or above[knee] < _LEAST_BEND or fall < 1 / (len(load) - 1):
        return None
    before, after = (y[knee] - y[0]) / x[knee], (y[-1] - y[knee]) / (1 - x[knee])
    return float(load[knee]) if after <= _WORTH_HAVING * before else None
