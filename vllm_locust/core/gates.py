"""What becomes of the objectives of a run, or of a phase: those on percentiles are about all its requests.

Rule: `core.slo` says what the requests do whose latency is known; here those of which it is not known count,
too. A failed request got no answer in time: it is outside. One that was never sent, and an answer in one
piece, whose gaps between tokens nobody knows, may be outside or inside: a percentile or a maximum is met when
enough requests are inside without them, missed when with them there were too few, and else undetermined. A
search (`core.evidence`) means the same by the same string; it has to decide, and takes answers in one piece
for outside, except for those that were perhaps read late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_locust.core.evidence import Finding, percent, shares, weigh_latencies
from vllm_locust.core.group import Group
from vllm_locust.core.percentile import Interval
from vllm_locust.core.slo import (
    UNPACED,
    Judgement,
    Slo,
    buffered,
    evaluate,
    evaluate_known,
    not_known,
    undetermined,
    unsent_of,
)
from vllm_locust.core.trials import latencies_ms
from vllm_locust.core.validity import Validity

_ROUNDING = 1e-9


def gates(
    slos: Sequence[Slo],
    group: Group,
    numbers: Mapping[str, Any],
    in_order: Mapping[str, Interval] | None = None,
    client: Validity | None = None,
) -> list[Judgement]:
    """The judgements on a group; `numbers` is its summary, `in_order` and `client` are as for `core.slo`."""
    latencies = latencies_ms(group)
    judgements = []
    for slo in slos:
        finding = weigh_latencies(slo, group, latencies)
        if finding is None:
            judgements.append(_of_a_value(evaluate(slo, numbers, in_order, client), group.failed_in_window))
        else:
            others = _Others(
                group.failed_in_window,
                unsent_of(slo, numbers),
                not_known(slo, numbers),
                buffered(slo, numbers),
            )
            judgements.append(others.with_them(evaluate_known(slo, numbers, in_order, client), finding))
    return judgements


@dataclass(frozen=True, slots=True)
class _Others:
    """The requests whose latency is not known: failed, never sent, answered nobody knows how fast."""

    failed: int
    unsent: int
    unpaced: int
    buffered: int
    """Those of them that the finding holds for outside, since they were not read late."""

    def with_them(self, known: Judgement, finding: Finding) -> Judgement:
        """A judgement on a percentile or a maximum of the others, and what these change about it."""
        if not (self.failed or self.unsent or self.unpaced):
            return known
        enough = finding.trials * (finding.needed or 1.0) - _ROUNDING
        if known.value is None or known.outcome == "undetermined":
            # Too few answers to tell are not enough for a miss either, unless failures leave no doubt.
            no_doubt = finding.outcome == "missed" and not self.unpaced
            return self._missed(known, finding) if no_doubt else self._noted(known)
        possibly = finding.possibly + self.buffered
        if known.outcome == "missed" and (not self.unpaced or possibly < enough):
            return self._noted(known)
        if known.outcome == "met" and finding.surely >= enough:
            return self._noted(known)
        if possibly < enough:
            return self._missed(known, finding)
        low, high = (percent(n, finding.trials) for n in (finding.surely, possibly))
        needed = f"{(finding.needed or 1.0) * 100:.6g} % needed"
        without = f"{known.slo.shown(known.value)} without {self}"
        return undetermined(known, f"{without}: {low:g} to {high:g} % of requests inside, {needed}")

    def __str__(self) -> str:
        kinds = {
            "that failed": self.failed,
            "that were never sent": self.unsent,
            UNPACED: self.unpaced,
        }
        return ", ".join(f"the {count} {what}" for what, count in kinds.items() if count)

    def _noted(self, known: Judgement) -> Judgement:
        if known.outcome == "missed" and self.unpaced:
            return replace(known, sentence=f"{known.sentence}; {self} would not change that")
        return replace(known, sentence=f"{known.sentence}; {self} count as outside")

    def _missed(self, known: Judgement, finding: Finding) -> Judgement:
        answered = "" if known.value is None else f"{known.slo.shown(known.value)} of those answered, but "
        sentence = f"{known.slo} is missed: {answered}{_too_few_inside(finding)}"
        return replace(known, outcome="missed", sentence=sentence)


def _of_a_value(judgement: Judgement, failed: int) -> Judgement:
    """A judgement on the value of answered requests, which failed ones are no part of."""
    if not failed or judgement.slo.family is None:
        return judgement
    return replace(judgement, sentence=f"{judgement.sentence}; the {failed} that failed are not in it")


def _too_few_inside(finding: Finding) -> str:
    """Why requests that failed, or were never sent, make an objective missed."""
    trials, failed, needed = finding.trials, finding.failed, finding.needed or 1.0
    if failed and needed == 1.0:
        return f"{failed} of {trials} requests failed"
    if failed > (1 - needed) * trials:
        part = failed / trials * 100
        return f"{part:.1f} % of the requests failed, so {100 - part:.1f} % at most were inside"
    failures = f"{failed} of {trials} requests failed: " if failed else ""
    return failures + ", ".join(shares(finding.inside or 0.0, trials, needed))
