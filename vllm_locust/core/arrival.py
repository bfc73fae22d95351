"""When requests arrive: drawn from a distribution, or as a trace says.

A renewal process of mean gap 1 counts in operational time u(0) <= u(1) <= ..., and the rate says how fast
operational time goes: arrival i happens as soon as the integral of rate(t) * scale(t) goes beyond u(i). So
the gaps keep their distribution under every ramp, and nothing arrives during a pause. (E. Cinlar,
Introduction to Stochastic Processes, 1975, section 4.7: with exponential gaps this is the nonhomogeneous
Poisson process of that rate.) A trace is the rate 1, its own times being the operational ones.

Rule: when an arrival happens is a function of its number, the seed, the phase and the amendments, and of
nothing else: not of who asks, nor of what it was asked before. Every worker computes the time of every
arrival, bit for bit the same, and leaves to the others what is theirs. So the arrivals of n workers are those
of one: n Poisson processes of their own would be as good, n regular ones would not.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.rate import OperationalTime, Rate, Stage

CHUNK = 512
"""How many arrivals are computed at a time."""

# Two draws from one seed for different things must not be the same.
_PURPOSE = 0xA221_7A15


@dataclass(frozen=True, slots=True)
class Arrival:
    """Request `i` of its phase, due `at_s` seconds after the phase began."""

    i: int
    at_s: float


def unit_arrivals(seed: int, phase: int, burstiness: float) -> Iterator[NDArray[np.float64]]:
    """Operational times without an end, in chunks: gamma gaps of mean 1, `burstiness` being their shape.

    1 is a Poisson process, less is burstier, more is more regular (the variance of a gap is 1 / burstiness),
    as for `vllm bench serve --burstiness`. inf is one arrival per unit, of which the first one is at 0.
    """
    if not burstiness > 0:
        raise ValueError(f"burstiness must be more than 0, not {burstiness}")
    if burstiness == math.inf:
        yield from (np.arange(first, first + CHUNK, dtype=np.float64) for first in count(0, CHUNK))
    # The seed last: it may be longer than the 32 bits of a word, and must not spill into another number.
    rng = np.random.default_rng([_PURPOSE, phase, seed])
    last = 0.0
    while True:
        times = last + np.cumsum(rng.gamma(burstiness, 1 / burstiness, CHUNK))
        last = times[-1]
        yield times


def _turns(trace: NDArray[np.float64], period_s: float | None) -> Iterator[NDArray[np.float64]]:
    """The times of a trace in chunks, once or without an end."""
    begins_s = (0.0,) if period_s is None or not len(trace) else (turn * period_s for turn in count())
    for begin_s in begins_s:
        yield from (begin_s + trace[first : first + CHUNK] for first in range(0, len(trace), CHUNK))


@dataclass(frozen=True, slots=True)
class _Membership:
    """From `from_s` on, the arrivals with i % of == position are mine."""

    from_s: float
    position: int | None
    of: int


class Schedule:
    """The arrivals of a phase, one worker's view. At first it is the only worker: all of them are its own.

    The rate may be scaled and the workers may change while it runs. Both are said for a time in the future,
    and to all workers alike: what lies before does not change. An amendment replaces what earlier ones of
    its kind said about the time from then on. One for a time that is gone holds from the last arrival that
    was popped.
    """

    def __init__(
        self,
        rate: Rate,
        burstiness: float,
        seed: int,
        phase: int,
        *,
        requests: int | None = None,
        seconds: float = math.inf,
        scale: float = 1.0,
    ) -> None:
        """Bounded by a number of requests, by a time, and by the duration of `rate`."""
        self._chunks = unit_arrivals(seed, phase, burstiness)
        self._time = OperationalTime(rate, seconds, scale)
        self._memberships = [_Membership(0.0, 0, 1)]
        self._requests = requests
        self._made = 0
        # Chunks with something that is not popped, by the number of their first arrival: amendments may
        # still make it arrive at another time, or make it mine.
        self._kept: deque[tuple[int, NDArray[np.float64]]] = deque()
        self._popped = 0
        self._popped_s = 0.0
        # What was found in the first chunks of these.
        self._looked = 0
        self._mine: Iterator[Arrival] = iter(())
        self._next: Arrival | None = None
        self._beyond_end = self._all_of_others = False

    @property
    def end_s(self) -> float:
        """Nothing arrives at this time or later, whatever the amendments."""
        return self._time.end_s

    @property
    def out_of_time(self) -> bool:
        """When `peek` is None: more would arrive before `end_s` at a larger scale."""
        return self._beyond_end

    @classmethod
    def of_trace(
        cls,
        times_s: Sequence[float],
        period_s: float | None = None,
        *,
        requests: int | None = None,
        seconds: float = math.inf,
        scale: float = 1.0,
    ) -> Self:
        """The arrivals of a trace, whose times ascend; a scale of 0.5 makes them take twice as long.

        With a period the trace begins again after so long, and again. ValueError where that would be before
        its last arrival.
        """
        trace = np.asarray(times_s, dtype=np.float64)
        if period_s is not None and len(trace):
            span_s = trace[-1] - trace[0]
            if not (period_s > 0 and period_s >= span_s):
                raise ValueError(f"a trace of {span_s:g} s cannot begin again after {period_s} s")
        schedule = cls(Rate((Stage(1.0, 1.0),)), 1.0, 0, 0, requests=requests, seconds=seconds, scale=scale)
        schedule._chunks = _turns(trace, period_s)
        return schedule

    def scale_from(self, at_s: float, scale: float) -> None:
        """From `at_s` on the rate is `scale` times what it was to be."""
        self._time.scale_from(max(at_s, self._popped_s), scale)
        self._look_again()

    def members_from(self, at_s: float, position: int | None, of: int) -> None:
        """From `at_s` on I am worker `position` of `of`; None when no arrival is mine."""
        if position is not None and not 0 <= position < of:
            raise ValueError(f"there is no worker {position} of {of}")
        first = bisect_left(self._memberships, at_s, key=lambda membership: membership.from_s)
        self._memberships[first:] = [_Membership(at_s, position, of)]
        self._look_again()

    def peek(self) -> Arrival | None:
        """My next arrival as things stand; None when there is none.

        Its time is inf when arrivals are to come but none for me: while the scale is 0, or no arrival is
        mine. It is no arrival then, and its number says nothing. None is final when the requests or the
        trace are used up and the workers stay the same; when time is, from `end_s` on: before that, a larger
        scale may bring back what lies behind the end now.
        """
        while self._next is None:
            self._next = next(self._mine, None)
            if self._next is None and not self._look_further():
                return Arrival(self._popped, math.inf) if self._all_of_others else None
        return self._next

    def pop(self) -> Arrival:
        """Take the arrival that `peek` shows; ValueError when there is none, or none yet."""
        arrival = self.peek()
        if arrival is None or arrival.at_s == math.inf:
            raise ValueError("no arrival is due")
        self._next = None
        self._popped = arrival.i + 1
        self._popped_s = max(self._popped_s, arrival.at_s)
        while self._looked and self._kept[0][0] + len(self._kept[0][1]) <= self._popped:
            self._kept.popleft()
            self._looked -= 1
        return arrival

    def _look_again(self) -> None:
        """Forget what was found in the chunks that are kept."""
        self._next = None
        self._mine = iter(())
        self._looked = 0
        self._beyond_end = self._all_of_others = False

    def _look_further(self) -> bool:
        """Find what is mine in one more chunk; False when all that is to come was looked through."""
        if self._beyond_end or self._all_of_others or (self._looked == len(self._kept) and not self._make()):
            return False
        first, units = self._kept[self._looked]
        self._looked += 1
        skipped = max(self._popped - first, 0)
        times = self._time.reaches(units[skipped:])
        numbers = np.arange(first + skipped, first + len(units))
        last = self._memberships[-1]
        there = np.isfinite(times) | self._time.stands_still
        mine = there & self._is_mine(numbers, times)
        self._mine = map(Arrival, numbers[mine].tolist(), times[mine].tolist())
        self._beyond_end = not there[-1]
        self._all_of_others = last.position is None and bool((there & (times >= last.from_s)).any())
        return True

    def _is_mine(self, numbers: NDArray[np.int64], times: NDArray[np.float64]) -> NDArray[np.bool_]:
        """By the time of each arrival: whose it is, is decided when it happens."""
        in_force = bisect_right(self._memberships, times[0], key=lambda membership: membership.from_s) - 1
        mine = np.zeros(len(numbers), dtype=np.bool_)
        for membership in self._memberships[in_force:]:
            behind = times >= membership.from_s
            mine[behind] = False
            if membership.position is not None:
                mine |= behind & (numbers % membership.of == membership.position)
        return mine

    def _make(self) -> bool:
        """Keep one more chunk; False behind the last one."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        if self._requests is not None:
            chunk = chunk[: max(self._requests - self._made, 0)]
        if len(chunk) == 0:
            return False
        self._kept.append((self._made, chunk))
        self._made += len(chunk)
        return True
