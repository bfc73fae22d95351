"""A finding: what became of a hypothesis, in a sentence."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["confirmed", "refuted", "cannot tell", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a hypothesis; a note where there was none to test."""

    name: str
    verdict: Verdict
    sentence: str


def confirmed_if(truth: bool | None) -> Verdict:
    """None: the data cannot tell."""
    return "cannot tell" if truth is None else "confirmed" if truth else "refuted"
