"""Numbers of rows as evidence: which may be used, means over repeats, and trends.

Rule: a number that its sample does not determine is no evidence. A percentile is determined when its
interval has both ends, a mean when the median's has (six requests), and those of a summary without intervals
always. In a closed loop no number is determined of a window in which fewer requests ended than there were
users: it has only the quick ones, and too few. Two numbers differ when they are more than 5 % apart and no
repeat of the one is like one of the other.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

from vllm_locust.report.words import counted, digits, listed
from vllm_locust.results.rows import Factor, Row

SAME = 0.05
"""Numbers that differ by less, as a share of the smaller, are the same."""

_LATENCY = re.compile(r"(?:mean|median|std|max)_(\w+_ms)")
_SERVER = "server."

Key = TypeVar("Key", bound=Hashable)
Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Mean:
    """A number over the repeats of a thing."""

    value: float
    low: float
    high: float
    repeats: int

    def scaled(self, by: float) -> "Mean":
        return Mean(by * self.value, by * self.low, by * self.high, self.repeats)

    def told(self, word: Callable[[float], str] = digits) -> str:
        """The mean; of several repeats also the smallest and the largest."""
        if self.repeats == 1:
            return word(self.value)
        return f"{word(self.value)} ({word(self.low)} to {word(self.high)} in {self.repeats} repeats)"


def factor(row: Row, name: str) -> Factor:
    """A factor by its name, whether it was written with dashes or underscores; None when the row has none."""
    wanted = _plain(name)
    return next((value for key, value in row.factors.items() if _plain(key) == wanted), None)


def numeric_factor(row: Row, name: str) -> float | None:
    """A factor that is a number, or a word that is one, as parameters of scenarios are."""
    value = factor(row, name)
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except ValueError:
        return None


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def configuration(row: Row) -> str:
    """The run's name without the number of the repeat."""
    return row.run.removesuffix(f"#{factor(row, 'repeat')}")


def work(row: Row) -> tuple[str, str]:
    """What was asked, and how much of it: rows that differ in it are not compared."""
    return str(factor(row, "workload") or row.workload), str(factor(row, "load") or "")


def work_word(row: Row) -> str:
    return ", ".join(part for part in work(row) if part)


def grouped(rows: Iterable[Thing], by: Callable[[Thing], Key]) -> dict[Key, list[Thing]]:
    """Rows, or other things, by what `by` says of each, in the order in which they come."""
    groups: dict[Key, list[Thing]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return groups


_OF_THE_PLAN = frozenset(("workload", "load", "repeat"))


def sweeps(rows: Sequence[Row], *swept: str) -> dict[str, list[Row]]:
    """Rows apart by their other factors, in words, where one value of the swept has several configurations.

    For those are no repeats of each other. Else nothing is apart, and there are no words.
    """
    values = grouped(rows, lambda row: tuple(factor(row, name) for name in swept))
    if all(len({configuration(row) for row in some}) == 1 for some in values.values()):
        return {"": list(rows)}
    left_out = _OF_THE_PLAN.union(map(_plain, swept))
    names = [name for row in rows for name in row.factors if _plain(name) not in left_out]
    differ = [name for name in dict.fromkeys(names) if len({row.factors.get(name) for row in rows}) > 1]
    return grouped(rows, lambda row: ", ".join(f"{name}={row.factors.get(name)}" for name in differ))


def trusted(rows: Sequence[Row]) -> list[Row]:
    """Those of runs whose client could measure; phases follow their run, which has the verdict."""
    invalid = {_run(row) for row in rows if (row.numbers.get("client") or {}).get("verdict") == "invalid"}
    return [row for row in rows if _run(row) not in invalid]


def _run(row: Row) -> Hashable:
    return row.run, tuple(sorted((key, str(value)) for key, value in row.factors.items()))


def whole(rows: Iterable[Row]) -> list[Row]:
    """Whole runs, not their phases."""
    return [row for row in rows if row.phase is None]


def steady(rows: Iterable[Row]) -> list[Row]:
    """Whole runs under one load: what a ladder or a search says as a whole is of no load."""
    return [row for row in whole(rows) if len({_load(one) for one in row.numbers.get("phases") or ()}) < 2]


def _load(phase: Mapping[str, Any]) -> Hashable:
    return phase.get("users"), phase.get("request_rate")


def complete(row: Row) -> bool:
    """Whether in a closed loop at least as many requests ended as there were users."""
    completed = row.numbers.get("completed")
    return row.unit != "users" or completed is None or completed >= (row.level or 0)


def failed(row: Row) -> int:
    """Failed requests in the window, or anywhere in the run."""
    return max(row.numbers.get("failed") or 0, (row.numbers.get("requests") or {}).get("failed") or 0)


def dropped(row: Row) -> int:
    """Requests that were planned and never sent."""
    return (row.numbers.get("requests") or {}).get("dropped") or 0


def planned(row: Row) -> int:
    """All requests that `failed` and `dropped` are a part of."""
    finished = (row.numbers.get("completed") or 0) + (row.numbers.get("failed") or 0)
    return max(finished, (row.numbers.get("requests") or {}).get("planned") or 0)


def odd_answers(row: Row) -> Sequence[str]:
    """What is odd about answers that are ok, in sentences."""
    return (row.numbers.get("answers") or {}).get("sentences") or ()


def raw(row: Row, key: str) -> float | None:
    """A number of the summary, or `server.` something; None where it is not known."""
    numbers = row.server if key.startswith(_SERVER) else row.numbers
    value = numbers.get(key.removeprefix(_SERVER))
    return float(value) if isinstance(value, int | float) else None


def determined(row: Row, key: str) -> bool:
    """Whether the sample is large enough for this number."""
    if not complete(row):
        return False
    latency = _LATENCY.fullmatch(key)
    bounds = (row.numbers.get("intervals") or {}).get(f"p50_{latency[1]}" if latency else key)
    return bounds is None or None not in bounds


def number(row: Row, key: str) -> float | None:
    """What `raw` says, as far as it is determined."""
    return raw(row, key) if determined(row, key) else None


def mean(rows: Iterable[Row], key: str) -> Mean | None:
    """Of the rows that know it; None when none does."""
    values = [value for row in rows if (value := number(row, key)) is not None]
    return Mean(sum(values) / len(values), min(values), max(values), len(values)) if values else None


def means(cells: Mapping[Key, Sequence[Row]], key: str) -> dict[Key, Mean]:
    """The mean of each cell that has one."""
    return {cell: value for cell, rows in cells.items() if (value := mean(rows, key)) is not None}


def larger(one: float, other: float) -> bool:
    """Whether `one` is larger than `other` by more than `SAME`."""
    return one > other * (1 + SAME)


def exceeds(one: Mean, other: Mean) -> bool | None:
    """Whether `one` is larger by more than `SAME`; None when some repeats say so and some do not."""
    if not larger(one.high, other.low):
        return False
    return True if larger(one.value, other.value) and one.low > other.high else None


def every(truths: Iterable[bool | None]) -> bool | None:
    """Whether all hold; None when it hangs on one that cannot be told."""
    known = set(truths)
    return False if False in known else None if None in known else True


def times(one: float, other: float) -> str:
    """`x3.20`."""
    return f"x{digits(one / other)}" if other else "n/a"


@dataclass(frozen=True, slots=True)
class Trend:
    """Pairs of points, by whether the one that is further along is larger, smaller, the same or unclear.

    (agree - against) / pairs is Kendall's tau-a: M. G. Kendall, A new measure of rank correlation,
    Biometrika 30, 1938.
    """

    up: int
    down: int
    same: int
    unclear: int = 0
    """Some repeats differ, and some do not."""

    @property
    def pairs(self) -> int:
        return self.up + self.down + self.same + self.unclear

    def goes(self, up: bool) -> bool | None:
        """Whether at least four of five of the pairs that differ go so; None when it hangs on the unclear."""
        agree, against = (self.up, self.down) if up else (self.down, self.up)
        if agree and agree >= 4 * (against + self.unclear):
            return True
        return None if self.unclear and agree + self.unclear >= 4 * against else False

    def told(self, up: bool) -> str:
        """In how many pairs it goes the way it should."""
        agree, against = (self.up, self.down) if up else (self.down, self.up)
        parts = [f"{agree} of {counted(self.pairs, 'pair')} agree{'s' * (agree == 1)}"]
        parts += [f"{against} disagree{'s' * (against == 1)}"] if against else []
        parts += [f"{self.same} differ{'s' * (self.same == 1)} by less than {SAME:.0%}"] if self.same else []
        parts += [f"of {self.unclear} the repeats overlap"] if self.unclear else []
        return f"{listed(parts)}; rank correlation {(agree - against) / self.pairs:.2f}"


def trend(values: Sequence[Mean]) -> Trend:
    """Of values in the order of what may drive them."""
    pairs = list(combinations(values, 2))
    ways = [(exceeds(later, earlier), exceeds(earlier, later)) for earlier, later in pairs]
    up, down, same = ways.count((True, False)), ways.count((False, True)), ways.count((False, False))
    return Trend(up, down, same, len(pairs) - up - down - same)


def by_phase(numbers: Mapping[str, Any], place: int) -> str | None:
    """`by phase: met in 1, 2, 3; missed in 4` of an objective of several phases, counted from 1."""
    phases: dict[str, list[str]] = {}
    for number, phase in enumerate(numbers.get("phases") or (), 1):
        if judged := phase.get("slo"):
            phases.setdefault(judged[place]["outcome"], []).append(str(number))
    told = "; ".join(f"{outcome} in {', '.join(those)}" for outcome, those in phases.items())
    return f"by phase: {told}" if told else None
