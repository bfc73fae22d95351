"""When the run began, on this process's clock: as the master says, in several exchanges.

Rule: the master wrote its answer between our question and the answer's coming here, nobody knows when. Half
of that time is how far we may be off at most, so the shortest exchange counts, as in NTP. While all are long,
since somebody is busy, it is asked again.
"""

import math

_LEAST_EXCHANGES = 8
_MOST_EXCHANGES = 32
_CLOSE_S = 0.0005


class RunClock:
    """The beginning of the run by the best exchange so far."""

    def __init__(self) -> None:
        self.began_s = math.nan
        self.bound_s = math.inf
        """How far `began_s` may be from where the master has it, either way."""
        self._exchanges = 0

    def take_in(self, asked_s: float, elapsed_s: float, heard_s: float) -> None:
        """We asked at `asked_s`; the answer, heard at `heard_s`, was that the run was `elapsed_s` old."""
        self._exchanges += 1
        bound_s = (heard_s - asked_s) / 2
        if bound_s < self.bound_s:
            self.began_s, self.bound_s = asked_s + bound_s - elapsed_s, bound_s

    @property
    def settled(self) -> bool:
        """Whether the bound is as small as it gets; one who asked often enough takes what there is."""
        close = self._exchanges >= _LEAST_EXCHANGES and self.bound_s <= _CLOSE_S
        return close or self._exchanges >= _MOST_EXCHANGES
