"""A finding: what became of a hypothesis, in a sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vllm_locust.report.evidence import Mean

Verdict = Literal["confirmed", "refuted", "confirmed once", "refuted once", "cannot tell", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a hypothesis; a note where there was none to test."""

    name: str
    verdict: Verdict
    sentence: str


def confirmed_if(truth: bool | None, means: Iterable[Mean] = ()) -> Verdict:
    """None: the data cannot tell. Of one run nobody knows how far chance moves the means behind it."""
    if truth is None:
        return "cannot tell"
    if truth:
        return "confirmed once" if _once(means) else "confirmed"
    return "refuted once" if _once(means) else "refuted"


def by_chance(means: Iterable[Mean]) -> str:
    """What a note on an order says where one run stands behind a mean."""
    return " (seen once: chance may have made the order)" if _once(means) else ""


def _once(means: Iterable[Mean]) -> bool:
    return any(mean.repeats == 1 for mean in means)
