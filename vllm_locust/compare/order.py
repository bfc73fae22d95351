"""In which order runs were made, and so what can be told of a drift.

A machine gets warmer, a cache fuller, a neighbour busier: runs of the same drift with time. What that does to
a comparison depends on the order of the runs alone:

A B, B A, ...    in pairs, both orders in every four runs: a drift that is slow against four runs cancels, and
                 a step hits one pair. The unit is the pair.
other turns      side and time can be told apart: a steady drift is taken out by a regression on time.
A A A, B B B     all that is known of a drift is how the runs of each side went. Nothing tells whether that
                 went on from one side to the other (one machine that gets warmer) or began anew (a server for
                 each side), so a change must stand both ways. Then it stands as well if the drift rested for
                 a part of the pause: what an interval leaves of a change is concave in that part.

Rule: an order is known from start times alone, and a pause is as long as it was. A step between two sides is
never told from a change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from vllm_locust.compare.units import Part
from vllm_locust.core.comparison import Array

FEWEST_PAIRS = 6


@dataclass(frozen=True, slots=True)
class Order:
    """When the runs of both sides began, in seconds of one clock."""

    base_s: Array
    new_s: Array

    @classmethod
    def of(cls, base: Sequence[Part], new: Sequence[Part]) -> "Order | None":
        """None where it is not known, or where all runs have one time."""
        sides = [[_seconds(part.start_time) for part in parts] for parts in (base, new)]
        if any(start is None for side in sides for start in side):
            return None
        order = cls(*(np.array(side, float) for side in sides))
        return order if np.ptp(order._times_s) > 0 else None

    @property
    def _times_s(self) -> Array:
        """Of each run, base first."""
        return np.concatenate([self.base_s, self.new_s])

    @property
    def side(self) -> Array:
        """0 for each run of base, then 1 for each of new."""
        return np.repeat([0.0, 1.0], [len(self.base_s), len(self.new_s)])

    @property
    def last(self) -> str | None:
        """The side whose runs all came after those of the other one; None: they were made in turns."""
        if self.base_s.max() < self.new_s.min():
            return "new"
        return "base" if self.new_s.max() < self.base_s.min() else None

    @property
    def pause_s(self) -> float:
        """Between the sides; below 0 where they overlap."""
        return float(max(self.new_s.min() - self.base_s.max(), self.base_s.min() - self.new_s.max()))

    @property
    def apart(self) -> bool:
        """Whether between the sides there was more time than both took: sessions of their own."""
        return bool(self.pause_s > np.ptp(self.base_s) + np.ptp(self.new_s))

    @property
    def at_once(self) -> bool:
        """Whether all runs of each side began at one time, so that nothing is known of a drift."""
        return bool(max(np.ptp(self.base_s), np.ptp(self.new_s)) == 0)

    @property
    def time(self) -> Array:
        """Of each run, base first: 0 at the first of all; 1 is as long as the runs of both sides went on.

        That is from the first to the last, but of sides one after the other the longer one: what happened in
        a pause nobody saw.
        """
        times_s = self._times_s
        seen = (times_s,) if self.last is None else (self.base_s, self.new_s)
        shown: Array = (times_s - times_s.min()) / max(map(np.ptp, seen))
        return shown

    def pairs(self) -> tuple[list[int], list[int]] | None:
        """The runs of each side in the order of time, if they alternate: every four have both orders."""
        count = len(self.base_s)
        if count != len(self.new_s) or count < FEWEST_PAIRS:
            return None
        places = np.lexsort((self.side, self._times_s))
        first, second = (self.side[places[start::2]] for start in (0, 1))
        every_other = count // 2 * 2
        if (first == second).any() or (first[:every_other:2] == first[1:every_other:2]).any():
            return None
        base, new = np.argsort(self.base_s, kind="stable"), np.argsort(self.new_s, kind="stable")
        return base.tolist(), new.tolist()


def _seconds(start_time: str | None) -> float | None:
    try:
        return datetime.fromisoformat(start_time or "").timestamp()
    except ValueError:
        return None
