"""How many requests per second, over the time of a load: the values of `--request-rate` and `--ladder`.

    RATE   = "inf" | STAGE ("," STAGE)*              spaces are free
    STAGE  = NUMBER [":" TIME]                       constant: 5:30s
           | NUMBER "-" NUMBER ":" TIME              a linear ramp: 1-64:120s
           | NUMBER "^" NUMBER ":" TIME              an exponential ramp: 1^64:120s
    TIME   = NUMBER ["ms" | "s" | "m" | "h"]         seconds unless it says otherwise
    LADDER = NUMBER ("," NUMBER)*

Rule: stages follow one another without a gap. The last one may lack its time, and then has no end; behind
the end of all stages the rate is 0. `inf` is everything at once. A stage of rate 0 is a pause.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vllm_locust.errors import UsageError

_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
_STAGE = re.compile(
    rf"{_NUMBER}\s*(?:([-^])\s*{_NUMBER}\s*)?(?::\s*{_NUMBER}\s*(ms|s|m|h)?)?", re.IGNORECASE | re.ASCII
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

# 4.9/s for 30 s are 147 requests, the last one at 29.8 s: that 147 / 4.9 rounds to a little less than 30
# must not make it 148.
_ROUNDING_S = 1e-9

_ALLOWED = "allowed are stages such as '10', '5:30s', '1-64:120s' or '1^64:120s', or 'inf'"


@dataclass(frozen=True, slots=True)
class Stage:
    """A rate that is constant, or that goes from `first` to `last`, in requests per second."""

    first: float
    last: float
    duration_s: float = math.inf
    exponential: bool = False
    """A ramp that grows by the same factor, not by the same difference, in each second."""

    def rate_at(self, t_s: float) -> float:
        """The rate `t_s` after the stage began."""
        if self.first == self.last:
            return self.first
        if self.exponential:
            return self.first * math.exp(self._growth * t_s)
        return self.first + self._slope * t_s

    def expected(self, t_s: float) -> float:
        """The integral of the rate over the first `t_s` of the stage."""
        if self.first == self.last:
            return self.first * t_s if t_s else 0.0
        if self.exponential:
            return self.first * math.expm1(self._growth * t_s) / self._growth
        return (self.first + self._slope * t_s / 2) * t_s

    def reaches(self, expected: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `expected`, as if the stage went on behind its end; inf for what it never reaches.

        Each time depends on its own value alone, to the last bit: arithmetic and square roots are exact in
        numpy, whatever the length of the array, but its vectorised logarithm is not bound to be.
        """
        if self.first == self.last:
            return expected / self.first if self.first else np.full_like(expected, math.inf)
        if self.exponential:
            grown = (expected * (self._growth / self.first)).tolist()
            return np.array([math.log1p(g) / self._growth if g > -1 else math.inf for g in grown])
        # Not (root - first) / slope, in which all digits cancel where the ramp is flat. A ramp down to 0
        # has no root behind its end; with 0 for it the time is one behind the end, too.
        root = np.sqrt(np.maximum(self.first * self.first + 2 * self._slope * expected, 0.0))
        divisor = self.first + root
        return np.divide(2 * expected, divisor, out=np.zeros_like(expected), where=divisor > 0)

    def rest(self, t_s: float) -> "Stage":
        """What is left of the stage `t_s` after it began."""
        return replace(self, first=self.rate_at(t_s), duration_s=self.duration_s - t_s) if t_s else self

    def scaled(self, scale: float) -> "Stage":
        """The stage with `scale` times the rate."""
        if scale == 0:
            return Stage(0.0, 0.0, self.duration_s)
        return replace(self, first=self.first * scale, last=self.last * scale)

    @property
    def _slope(self) -> float:
        return (self.last - self.first) / self.duration_s

    @property
    def _growth(self) -> float:
        return math.log(self.last / self.first) / self.duration_s

    def __str__(self) -> str:
        ramp = f"{'^' if self.exponential else '-'}{_number(self.last)}" if self.first != self.last else ""
        time = f":{_number(self.duration_s)}s" if self.duration_s < math.inf else ""
        return f"{_number(self.first)}{ramp}{time}"


@dataclass(frozen=True, slots=True)
class Rate:
    """The rate of a load as a function of the time since it began, in requests per second."""

    stages: tuple[Stage, ...]

    @property
    def is_single(self) -> bool:
        """One finite number, and no stages."""
        return len(self.stages) == 1 and self.duration_s == math.inf and not self.is_infinite

    @property
    def duration_s(self) -> float:
        """The time of all stages; inf when the last one has no end."""
        return sum(stage.duration_s for stage in self.stages)

    @property
    def is_infinite(self) -> bool:
        """True when everything is sent at once."""
        return self.stages[0].first == math.inf

    def rate_at(self, t_s: float) -> float:
        """The rate at `t_s`; where two stages meet that of the later one, and 0 behind the last."""
        for stage in self.stages:
            if t_s < stage.duration_s:
                return stage.rate_at(t_s)
            t_s -= stage.duration_s
        return 0.0

    def expected(self, t_s: float) -> float:
        """The integral of the rate from 0 to `t_s`: how many requests are expected until then."""
        total = 0.0
        for stage in self.stages:
            total += stage.expected(min(t_s, stage.duration_s))
            t_s -= stage.duration_s
            if t_s <= 0:
                break
        return total

    def __str__(self) -> str:
        return ",".join(map(str, self.stages))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A span of time in which the rate is one formula."""

    start_s: float
    until_s: float
    """What this piece would let arrive at this time or later, the next one decides."""
    before: float
    """Operational time when the piece begins."""
    stage: Stage


class OperationalTime:
    """How operational time goes by: at rate(t) * scale(t) until the end."""

    def __init__(self, rate: Rate, end_s: float, scale: float) -> None:
        self._rate = rate
        self.end_s = min(end_s, rate.duration_s)
        self._scale = scale
        self._pieces = list(self._from(0.0, 0.0))

    @property
    def stands_still(self) -> bool:
        """True when in the end nothing is reached any more because of the scale."""
        return self._scale == 0

    def scale_from(self, at_s: float, scale: float) -> None:
        """Whatever was said about the time from `at_s` on, the scale is `scale` then."""
        if at_s >= self.end_s:
            return
        first = bisect_left(self._pieces, at_s, key=lambda piece: piece.start_s)
        del self._pieces[first:]
        before = 0.0
        if self._pieces:
            last = self._pieces[-1]
            before = last.before + last.stage.expected(at_s - last.start_s)
            self._pieces[-1] = replace(last, until_s=min(last.until_s, at_s))
        self._scale = scale
        self._pieces.extend(self._from(at_s, before))

    def _from(self, at_s: float, before: float) -> Iterator[_Piece]:
        start_s = 0.0
        for stage in self._rate.stages:
            first_s, last_s = max(start_s, at_s), min(start_s + stage.duration_s, self.end_s)
            if first_s < last_s:
                rest = stage.rest(first_s - start_s).scaled(self._scale)
                yield _Piece(first_s, last_s - _ROUNDING_S, before, rest)
                before += rest.expected(last_s - first_s)
            start_s += stage.duration_s

    def reaches(self, units: NDArray[np.float64]) -> NDArray[np.float64]:
        """The times in seconds at which operational time goes beyond each of `units`, which ascend.

        An arrival is in the first piece that has it before its end, by its time in seconds: an amendment
        then moves nothing that was before it, however the sums of operational time were rounded.
        """
        times = np.full_like(units, math.inf)
        done = 0
        for piece in self._pieces[self._safe_start(float(units[0])) :]:
            since = np.maximum(units[done:] - piece.before, 0.0)
            with np.errstate(over="ignore"):  # at 1e-300 per second it is inf
                reached = piece.start_s + piece.stage.reaches(since)
            late = reached >= piece.until_s
            inside = int(late.argmax()) if late.any() else len(late)
            times[done : done + inside] = reached[:inside]
            done += inside
            if done == len(units):
                break
        return times

    def _safe_start(self, unit: float) -> int:
        """A piece before which `unit` is certainly not reached, so that thousands of them cost nothing."""
        margin = 1e-9 * (1 + unit)
        first = bisect_right(self._pieces, unit - margin, key=lambda piece: piece.before)
        return max(first - 1, 0)


def parse_rate(text: str) -> Rate:
    """The rate that `--request-rate` spells; UsageError says what is wrong with it."""

    def mistake(what: str) -> UsageError:
        return UsageError(f"--request-rate {text!r} {what}")

    words = [word.strip() for word in text.split(",")]
    if words == [""]:
        raise mistake(f"is empty: {_ALLOWED}")
    if any(word.lower().startswith("inf") for word in words):
        if words[1:] or words[0].lower() != "inf":
            raise mistake("has more than 'inf', which sends everything at once and must stand alone")
        return Rate((Stage(math.inf, math.inf),))
    stages = [_stage(word, mistake) for word in words]
    for word, stage in zip(words[:-1], stages, strict=False):
        if stage.duration_s == math.inf:
            raise mistake(
                f"goes on behind the stage {word!r}, which has no end without a time, as in '5:30s'"
            )
    if not any(stage.first or stage.last for stage in stages):
        raise mistake("never sends a request: at least one stage must have a rate of more than 0")
    return Rate(tuple(stages))


def _stage(word: str, mistake: Callable[[str], UsageError]) -> Stage:
    match = _STAGE.fullmatch(word)
    if match is None:
        raise mistake(f"has the stage {word!r}, which is malformed or negative: {_ALLOWED}")
    first = float(match[1])
    last = float(match[3] or match[1])
    if match[4] is None:
        duration_s = math.inf
    elif (match[5] or "s").lower() == "ms":
        duration_s = float(match[4]) / 1000  # not times 0.001: 700 ms are 0.7 s
    else:
        duration_s = float(match[4]) * _SECONDS[(match[5] or "s").lower()]
    if math.inf in (first, last) or (match[4] and duration_s == math.inf):
        raise mistake(f"has the stage {word!r}, in which a number is too large")
    if duration_s == 0:
        raise mistake(f"has the stage {word!r}, whose time must be more than 0")
    if match[2] and not match[4]:
        raise mistake(f"has the ramp {word!r}, which needs a time, as in '1-64:120s'")
    if match[2] == "^" and not (first and last):
        raise mistake(f"has the exponential ramp {word!r}, of which both ends must be more than 0")
    if first == last == 0 and not match[4]:
        raise mistake(f"has the stage {word!r}, a pause, which needs a time, as in '0:10s'")
    return Stage(first, last, duration_s, exponential=match[2] == "^" and first != last)


def parse_levels(text: str, whole: bool = False) -> tuple[float, ...]:
    """The levels that `--ladder` spells, in their order; `whole` refuses fractions, for levels of users."""
    levels: list[float] = []
    for word in text.split(","):
        level = float(word) if re.fullmatch(_NUMBER, word.strip(), re.IGNORECASE | re.ASCII) else 0.0
        if not 0 < level < math.inf or (whole and not level.is_integer()):
            kind = "whole numbers" if whole else "numbers"
            raise UsageError(
                f"--ladder {text!r} has the level {word.strip()!r}: allowed are {kind} of more than 0, "
                "separated by commas, as in '1,2,4,8'"
            )
        levels.append(level)
    return tuple(levels)


def _number(value: float) -> str:
    """The shortest text that reads back as `value`."""
    return repr(value).removesuffix(".0")
