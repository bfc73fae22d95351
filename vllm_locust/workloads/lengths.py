"""How long prompts and answers are: a number of tokens, or a distribution that numbers are drawn from.

    512                   always 512
    512~0.2               uniform within 20 % of 512: from 410 to 614
    100-200               uniform from 100 to 200, both included
    normal:512:64         mean 512, standard deviation 64
    lognormal:512:0.8     median 512; the logarithm has the standard deviation 0.8
    normal:512:64:100-900 the same, cut to that range (without one: from the shortest on that is possible)
    file:lengths.csv      drawn from the numbers in a file, one per line or in the first column of a CSV

Distributions that are cut are renormalised, not clipped: nothing piles up at the ends (inversion of the
distribution function between those of the ends; L. Devroye, Non-Uniform Random Variate Generation, 1986,
section II.2). A length is a pure function of the key it is drawn with.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Self

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import fraction

EXPECTED = (
    "allowed is a number of tokens, 512~0.2 (within 20 %), 100-200, normal:512:64, lognormal:512:0.8 "
    "(both with a range behind, :100-900) or file:lengths.csv"
)

_STANDARD = NormalDist()
# Far enough out for the distribution function to be 0 or 1, near enough for its inverse to exist.
_FAR = 8.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers of at least 1, as `parse` reads it."""

    text: str
    """How it was written."""
    smallest: int
    largest: int | None
    """None where there is no upper end."""
    _quantile: Callable[[float], float]

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """See the top of this module. ValueError, with what is allowed, for anything else."""
        text = str(text).strip()
        kind, colon, rest = text.partition(":")
        try:
            if colon and kind in ("normal", "lognormal"):
                return cls(text, *_cut_normal(kind, rest))
            if colon and kind == "file":
                return cls(text, *_of_file(Path(rest)))
            if not colon:
                return cls(text, *_uniform(text))
        except (ValueError, OverflowError):
            pass
        raise ValueError(f"is no length: {EXPECTED}")

    @classmethod
    def constant(cls, tokens: int) -> Self:
        return cls.parse(tokens)

    def above(self, smallest: int) -> Self:
        """The same; one that was given no range has no length below this one."""
        kind, _, rest = self.text.partition(":")
        if kind not in ("normal", "lognormal") or rest.count(":") > 1 or smallest <= self.smallest:
            return self
        return type(self)(self.text, *_cut_normal(kind, rest, smallest))

    @property
    def is_constant(self) -> bool:
        return self.smallest == self.largest

    def at(self, *key: str | int) -> int:
        """The length that belongs to a key."""
        if self.smallest == self.largest:
            return self.smallest
        drawn = round(self._quantile(fraction(*key, "length")))
        return max(self.smallest, drawn if self.largest is None else min(drawn, self.largest))

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lengths) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


_Parts = tuple[int, int | None, Callable[[float], float]]


def _uniform(text: str) -> _Parts:
    if "~" in text:
        middle, _, ratio = text.partition("~")
        centre, within = _whole(middle), float(ratio)
        if not 0 <= within < 1:
            raise ValueError
        low, high = max(1, round(centre * (1 - within))), round(centre * (1 + within))
    else:
        low, high = _range(text)
    # Each whole number has an interval of width 1 around it.
    return low, high, lambda p: low - 0.5 + p * (high - low + 1)


def _cut_normal(kind: str, text: str, smallest: int = 1) -> _Parts:
    middle, spread, *ends = text.split(":")
    if len(ends) > 1:
        raise ValueError
    low, high = _range(ends[0]) if ends else (smallest, None)
    mu, sigma = float(middle), float(spread)
    if not (0 < mu < math.inf and 0 < sigma < math.inf):
        raise ValueError
    log = kind == "lognormal"
    if log:
        mu = math.log(mu)

    def share_below(value: float) -> float:
        value = math.log(value) if log else value
        return _STANDARD.cdf(max(-_FAR, min(_FAR, (value - mu) / sigma)))

    first = share_below(low - 0.5)
    last = 1.0 if high is None else share_below(high + 0.5)
    if not first < last:
        raise ValueError

    def quantile(p: float) -> float:
        inside = first + p * (last - first)
        deviation = _STANDARD.inv_cdf(inside) if 0 < inside < 1 else (-_FAR, _FAR)[inside >= 1]
        value = mu + sigma * deviation
        return math.exp(value) if log else value

    return low, high, quantile


@lru_cache(maxsize=8)
def _of_file(path: Path) -> _Parts:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
        if cells and not cells[0].isdecimal():
            del cells[0]  # the name of the column
        numbers = sorted(map(_whole, cells))
    except OSError as error:
        raise UsageError(f"lengths file:{path} cannot be read ({error.strerror})") from None
    except ValueError:  # a text of another encoding too
        raise UsageError(f"lengths file:{path} must hold whole numbers of at least 1, one per line") from None
    if not numbers:
        raise UsageError(f"lengths file:{path} holds no numbers")
    return numbers[0], numbers[-1], lambda p: numbers[int(p * len(numbers))]


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first = _whole(low)
    last = _whole(high) if dash else first
    if last < first:
        raise ValueError
    return first, last


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
