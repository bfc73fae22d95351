"""Which metrics can be compared: those that every run has, and measured validly.

Rule: a run that is invalid in one thing is so in what rests on it alone. A load that was not as planned says
nothing against a latency from the moment of sending.
"""

from collections.abc import Iterator, Mapping, Sequence

from vllm_locust.compare.metrics import Metric
from vllm_locust.compare.units import ALL, Part

_NAMES = {"load": "its load", "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}


def usable(
    base: Sequence[Part], new: Sequence[Part], metrics: Sequence[Metric]
) -> tuple[list[Metric], Mapping[str, str]]:
    """The metrics that can be, and why those cannot be by the key of each, in words that follow a comma."""
    whys = {metric: _obstacle(base, new, metric) for metric in metrics}
    without = {metric.key: why for metric, why in whys.items() if why is not None}
    return [metric for metric in metrics if metric.key not in without], without


def invalid_runs(base: Sequence[Part], new: Sequence[Part]) -> Iterator[str]:
    """A sentence for each run that is invalid, and in what."""
    for word, part in _named(base, new):
        for what, reason in part.invalid.items():
            where = "" if what == ALL else f" as to {_NAMES.get(what, what)}"
            yield f"{part.run} of {word} is invalid{where}: {reason}."


def told(without: Mapping[str, str]) -> Iterator[str]:
    """What cannot be compared, and why: a sentence for each reason, without its full stop."""
    for why in dict.fromkeys(without.values()):
        keys = ", ".join(key for key, other in without.items() if other == why)
        yield f"{keys} cannot be compared, {why}"


def _obstacle(base: Sequence[Part], new: Sequence[Part], metric: Metric) -> str | None:
    invalid = [
        f"{part.run} of {word} is invalid: {part.invalid[what]}"
        for word, part in _named(base, new)
        for what in (ALL, *metric.rests_on)
        if what in part.invalid
    ]
    if invalid:
        more = f" (and {len(invalid) - 1} more such)" if len(invalid) > 1 else ""
        return f"since {invalid[0]}{more}"
    empty = [
        f"{part.run} of {word}" for word, part in _named(base, new) if part.numbers.get(metric.key) is None
    ]
    if not empty:
        return None
    return f"without a value in {', '.join(empty) if len(empty) < len(base) + len(new) else 'any run'}"


def _named(base: Sequence[Part], new: Sequence[Part]) -> Iterator[tuple[str, Part]]:
    yield from (("base", part) for part in base)
    yield from (("new", part) for part in new)
