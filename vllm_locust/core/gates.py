"""What becomes of the objectives of a run, or of a phase: those on percentiles are about all its requests.

Rule: `p99_ttft_ms<500` asks that 99 % of the requests stay inside 500 ms, and is met or missed by their
number, as in a search (`core.evidence`, which counts them). The value beside it is numpy's percentile, which
lies between two requests and may be on the other side of the bound; the sentence says so then. A failed
request got no answer in time: it is outside. One that was never sent, an answer whose time between
tokens nobody knows, and one whose latency is not known well enough may be outside or inside: the objective is
met when enough requests are inside without them, missed when with them there were too few, and else
undetermined.

A percentile of fewer requests than its interval needs for both ends (`core.percentile`) is undetermined,
unless the end that is known leaves no doubt: nine requests never pass a p99, but may fail it.

All other objectives are judged by their values (`core.slo`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_locust.core.evidence import weigh_latencies
from vllm_locust.core.finding import Finding, percent, shares
from vllm_locust.core.group import Group
from vllm_locust.core.percentile import Interval, ranks
from vllm_locust.core.slo import (
    UNPACED,
    Judgement,
    Outcome,
    Slo,
    evaluate,
    fault_of_load,
    judged,
    lost,
    never_sent,
    not_known,
    nothing_to_judge,
    own_error,
    undetermined,
    unsent_of,
    value_of,
)
from vllm_locust.core.summary import FROM_PLAN
from vllm_locust.core.trials import latencies_ms
from vllm_locust.core.validity import Validity


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
            judgements.append(_of_a_share(_Share.of(finding, numbers), numbers, in_order, client))
    return judgements


@dataclass(frozen=True, slots=True)
class _Share:
    """The requests that an objective is about, as a gate counts them."""

    finding: Finding
    unsent: int
    unpaced: int

    @classmethod
    def of(cls, finding: Finding, numbers: Mapping[str, Any]) -> "_Share":
        slo = finding.slo
        return cls(
            finding,
            unsent_of(slo, numbers),
            not_known(slo, numbers),
        )

    @property
    def outcome(self) -> Outcome:
        """By all the requests there are, however few."""
        if self.finding.surely >= self.finding.asked:
            return "met"
        return "missed" if self.finding.possibly < self.finding.asked else "undetermined"

    @property
    def outcome_of_few(self) -> Outcome | None:
        """By the end of the percentile's interval that is known; None where they are enough for both."""
        if self.finding.needed == 1.0:
            return None
        low, high = ranks(self.finding.trials, self.finding.slo.percentile_or_median)
        if low is not None and high is not None:
            return None
        if low is not None and self.finding.possibly < low:
            return "missed"
        return "met" if high is not None and self.finding.surely >= high else "undetermined"

    @property
    def not_known(self) -> str:
        """The requests whose latency nobody knows, in words."""
        kinds = {"that were never sent": self.unsent, UNPACED: self.unpaced}
        return " and ".join(f"the {count} {what}" for what, count in kinds.items() if count)

    @property
    def between(self) -> str:
        """How many were inside at least and at most, in words."""
        trials, needed = self.finding.trials, self.finding.needed or 1.0
        low, high = (percent(count, trials) for count in (self.finding.surely, self.finding.possibly))
        return f"{low:g} to {high:g} % of requests inside, {needed * 100:.6g} % needed"

    @property
    def noted(self) -> str:
        """What a reader must know of a decision beside the value."""
        failed = f"; the {self.finding.failed} that failed count as outside" if self.finding.failed else ""
        return failed + (f"; {self.not_known} would not change that" if self.not_known else "")


def _of_a_share(
    share: _Share,
    numbers: Mapping[str, Any],
    in_order: Mapping[str, Interval] | None,
    client: Validity | None,
) -> Judgement:
    slo = share.finding.slo
    value = value_of(slo, numbers)
    if (fault := lost(slo, value, client)) is not None:
        return _not_decided(slo, value, fault)
    outcome = share.outcome_of_few or share.outcome
    if value is None and outcome != "missed":
        return _not_decided(slo, value, f"{nothing_to_judge(slo, numbers)}{share.noted}")
    if value is None:
        return Judgement(slo, outcome, value, f"{slo} is missed: {_too_few_inside(share.finding)}")
    if outcome != "met" and slo.family in FROM_PLAN and (fault := fault_of_load(slo, value, client)):
        return _not_decided(slo, value, fault)
    known = judged(slo, outcome, numbers, in_order)
    if outcome == "undetermined":
        few = share.outcome_of_few is not None
        noted = f"{known.sentence}{share.noted}"
        return replace(known, sentence=noted) if few else undetermined(known, _torn(share, value, numbers))
    if slo.holds(value) == (outcome == "met"):
        return replace(known, sentence=f"{known.sentence}{share.noted}")
    why = _against_the_value(share.finding, outcome, value)
    return replace(known, sentence=f"{slo} is {outcome}: {why}{share.noted if outcome == 'met' else ''}")


def _not_decided(slo: Slo, value: float | None, why: str) -> Judgement:
    return undetermined(Judgement(slo, "undetermined", value, ""), why)


def _torn(share: _Share, value: float, numbers: Mapping[str, Any]) -> str:
    """Why the objective may be met as well as missed."""
    slo = share.finding.slo
    error = share.finding.possibly - share.finding.surely > share.unsent + share.unpaced
    aside = f" without the {share.unpaced} answers {UNPACED}" if share.unpaced else ""
    if share.unsent:
        aside = f", since {never_sent(share.unsent)}"
    shown = own_error(slo, value, numbers, aside) if error else f"{slo.shown(value)}{aside}"
    return f"{'at least ' if share.unsent else ''}{shown}: {share.between}"


def _against_the_value(finding: Finding, outcome: Outcome, value: float) -> str:
    """Why a number of requests decides otherwise than the percentile of those that were answered."""
    shown = finding.slo.shown(value)
    if outcome == "missed" and finding.failed:
        return f"{shown} of those answered, but {_too_few_inside(finding)}"
    inside = ", ".join(shares(finding.inside or 0.0, finding.trials, finding.needed or 1.0))
    return f"{inside}, though {finding.slo.key}, between two of them, is {shown}"


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
        inside = percent(trials - failed, trials)
        return f"{round(100 - inside, 2):g} % of the requests failed, so {inside:g} % at most were inside"
    failures = f"{failed} of {trials} requests failed: " if failed else ""
    return failures + ", ".join(shares(finding.inside or 0.0, trials, needed))
