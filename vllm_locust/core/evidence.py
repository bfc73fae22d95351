"""What the requests of a probe say about its objectives, at whatever time one looks.

Rule: an objective on a percentile is one on a share. `p99_ttft_ms<500` asks that 99 % of the requests stay
inside 500 ms; each request in the window is one trial, and a failed one is a trial outside: who got no answer
got none in time. The objective is `met` when the interval of the true share lies above 99 %, `missed` when
it lies below, else `open`. One may look after every request: the interval holds at all times together, and
counts requests that shared the server's state for what they are worth (see `core.share`). With no request
outside, p90 is met after the worth of 40 independent requests, p95 of 81, p99 of 410; 36, 72 and 368 if one
looked only once. The gaps between the tokens of one stream share its fate: a stream is one trial, by the
share of all gaps that are inside. A gate means the same by the same string: `gates` takes the outcome of
`core.slo`, which looks at answered requests, and counts the failed ones as outside.

Let the server settle before the window of a probe begins, and close the window before cancelling what is in
flight: a request cancelled inside counts as failed.

A maximum allows no exception: the first request outside decides `missed`, and none proves `met`. Counts of
failures likewise only grow. Those, means and throughputs stay open until the probe is over; `conclude` then
decides by the value, as `core.slo` does, and what an interval left open by the share, marked `close`.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.group import Group
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.percentile import Interval, percentile
from vllm_locust.core.record import CANCELLED
from vllm_locust.core.share import design_effect, share_interval
from vllm_locust.core.slo import Judgement, Slo, evaluate

Outcome = Literal["met", "missed", "open"]

HANDFUL = 5
"""Fewer requests prove nothing about a maximum, and are no collapse however they failed."""

# The mixture of an objective that allows no exception: its interval is for the reader, not for the decision.
_MOST_NEEDED = 0.99
_FEW_ENDED = 10
# Statistics that ask for a share of the requests without being called a percentile.
_AS_PERCENTILE = {"median": 50.0, "max": 100.0}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known about one objective."""

    slo: Slo
    outcome: Outcome
    value: float | None
    """As in the summary: of the requests that were answered."""
    trials: int = 0
    """Requests that were counted, failed ones too."""
    worth: float = 0.0
    """How many independent ones these trials are worth."""
    inside: float | None = None
    """How many of them were inside; None for an objective that is judged by its value only."""
    needed: float | None = None
    """The share of requests that must be inside, 1.0 where one outside decides; None as for `inside`."""
    low: float = 0.0
    """The true share of requests inside is at least this, with 95 % confidence."""
    high: float = 1.0
    """The true share of requests inside is at most this, with 95 % confidence."""
    failed: int = 0
    """Requests in the window that failed."""
    close: bool = False
    """The probe ended before the sample could tell; the outcome is the likelier one."""

    @property
    def share(self) -> float | None:
        """Requests inside / requests; None without any."""
        return None if self.inside is None or not self.trials else self.inside / self.trials

    @property
    def final(self) -> bool:
        """A request has broken an objective that allows no exception: more requests cannot mend that."""
        return self.outcome == "missed" and self.needed == 1.0 and not self.close

    @property
    def excess(self) -> float:
        """How many times beyond the objective this is: 1 is just at it, more is worse."""
        if self.value is not None and not self.slo.holds(self.value):
            over, under = (self.slo.bound, self.value) if ">" in self.slo.op else (self.value, self.slo.bound)
            return over / under if under > 0 else math.inf
        if self.share is None or self.needed is None or self.needed >= 1.0:
            return math.inf if self.outcome == "missed" else 1.0
        return (1 - self.share) / (1 - self.needed)

    @property
    def sentence(self) -> str:
        """`p99_ttft_ms<500: 612 ms, 95.2 % of requests inside, 99 % needed`."""
        if self.value is None and not self.trials:
            return f"{self.slo}: no request ended"
        if self.slo.about_failures:
            return f"{self.slo}: {self.failed} of {self.trials} requests failed"
        unit = " ms" if self.slo.key.endswith("_ms") else ""
        parts = ["no value" if self.value is None else f"{self.value:.6g}{unit}"]
        if self.inside is not None and self.needed is not None:
            parts += _shares(self.inside, self.trials, self.needed)
            parts += [f"{self.failed} failed"] if self.failed else []
        return f"{self.slo}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "slo": str(self.slo),
            "outcome": self.outcome,
            "close": self.close,
            "value": self.value,
            "share": self.share,
            "needed": self.needed,
            "low": self.low,
            "high": self.high,
            "trials": self.trials,
            "worth": self.worth,
            "failed": self.failed,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """The findings of one probe, in the order of its objectives."""

    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """`missed` when one objective is, `met` when all are, else `open`."""
        outcomes = {finding.outcome for finding in self.findings}
        return "missed" if "missed" in outcomes else "open" if "open" in outcomes else "met"

    @property
    def close(self) -> bool:
        """True when the outcome hangs on what no interval has decided."""
        decisive = [finding.close for finding in self.findings if finding.outcome == self.outcome]
        return all(decisive) if self.outcome == "missed" else any(decisive)

    @property
    def final(self) -> bool:
        """True when no further request can turn this into `met`."""
        return any(finding.final for finding in self.findings)

    @property
    def missed(self) -> tuple[Finding, ...]:
        """The findings that missed, worst first."""
        missed = [finding for finding in self.findings if finding.outcome == "missed"]
        return tuple(sorted(missed, key=lambda finding: -finding.excess))

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "outcome": self.outcome,
            "close": self.close,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def weigh(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any] | None = None) -> Evidence:
    """What the requests of one probe say so far; `numbers` is their summary, if there is one yet."""
    return Evidence(tuple(_findings(slos, group, numbers)))


def conclude(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any]) -> Evidence:
    """What the requests of a probe that is over say: nothing stays open.

    `numbers` is the summary of the probe, made with `slo.percentiles_of` the objectives.
    """
    findings = _findings(slos, group, numbers)
    return Evidence(tuple(_closed(f, f.needed is None and _doubtful(f.slo, numbers)) for f in findings))


def gates(
    slos: Sequence[Slo],
    group: Group,
    numbers: Mapping[str, Any],
    in_order: Mapping[str, Interval] | None = None,
) -> list[Judgement]:
    """What becomes of the objectives of a run, or of a phase of it: failed requests meet no percentile.

    `numbers` is the summary of the group; `in_order` as for `slo.evaluate`.
    """
    columns = _columns_ms(group)
    judgements = ((evaluate(slo, numbers, in_order), _of_latencies(slo, group, columns)) for slo in slos)
    return [_with_failed(judgement, finding, group.failed_in_window) for judgement, finding in judgements]


def _with_failed(judgement: Judgement, finding: Finding | None, failed: int) -> Judgement:
    """A judgement on answered requests, and what those that failed change about it."""
    slo, value = judgement.slo, judgement.value
    if not failed or slo.family is None:
        return judgement
    if finding is None:
        return replace(judgement, sentence=f"{judgement.sentence}; the {failed} that failed are not in it")
    weighed = _weighed(finding)
    # Too few answers to tell are not enough for a miss either, unless failures leave no doubt.
    decided = weighed if judgement.outcome == "undetermined" else _closed(weighed, doubtful=False)
    if judgement.outcome == "missed" or decided.outcome != "missed":
        return replace(judgement, sentence=f"{judgement.sentence}; the {failed} that failed count as outside")
    answered = "" if value is None else f"{value:.6g} of those answered, but "
    return replace(
        judgement, outcome="missed", sentence=f"{slo} is missed: {answered}{_failures_outside(finding)}"
    )


def _failures_outside(finding: Finding) -> str:
    """Why requests that failed make an objective missed."""
    trials, failed, needed = finding.trials, finding.failed, finding.needed or 1.0
    if needed == 1.0:
        return f"{failed} of {trials} requests failed"
    if failed > (1 - needed) * trials:
        part = failed / trials * 100
        return f"{part:.1f} % of the requests failed, so {100 - part:.1f} % at most were inside"
    shares = ", ".join(_shares(finding.inside or 0.0, trials, needed))
    return f"{failed} of {trials} requests failed: {shares}"


def pool(evidences: Sequence[Evidence]) -> Evidence:
    """Several concluded probes of the same load as one: their trials are counted together.

    Only counts are pooled. The value beside them is the mean of the probes' values by their requests, or the
    largest where no exception is allowed; nothing is decided by it where there are trials.
    """
    return Evidence(tuple(_pooled(same) for same in zip(*(e.findings for e in evidences), strict=True)))


def collapsed(group: Group) -> str | None:
    """A sentence when the server has broken down rather than become slow; None while it has not.

    That is when it only ever failed, `HANDFUL` times, or when of ten requests or more that ended since the
    first failure more than half failed. Being cancelled is our doing, not the server's.
    """
    failures = {kind: failure for kind, failure in group.failures.items() if kind != CANCELLED}
    failed = sum(failure.count for failure in failures.values())
    if failed < HANDFUL:
        return None
    # A request that could not even be sent has no time of its end here; it is one of those that failed.
    unsent = group.planned - group.dropped - len(group.ended_s)
    since_s = min(failure.at_s for failure in failures.values())
    ended = int((np.array(group.ended_s) >= since_s).sum()) + unsent - (group.failed - failed)
    kind = max(failures, key=lambda kind: failures[kind].count)
    example = " ".join(failures[kind].example.split())
    what = f"with {kind} ({example})" if example else f"with {kind}"
    if not group.ok:
        return f"all {failed} requests failed, most {what}"
    if ended >= _FEW_ENDED and 2 * failed > ended:
        return f"{failed} of the last {ended} requests failed, most {what}"
    return None


def _shares(inside: float, trials: int, needed: float) -> list[str]:
    """How many requests were inside, in words."""
    if needed == 1.0:
        return [f"{math.ceil(trials - inside)} of {trials} requests outside"]
    # Cut after two decimals, so that only all of them are 100 %.
    share = math.floor(inside / trials * 1e4 + 1e-6) / 100 if trials else 0.0
    return [f"{share:g} % of requests inside", f"{needed * 100:.6g} % needed"]


def _findings(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What can be said by now; what cannot is open."""
    columns = _columns_ms(group)
    for slo in slos:
        finding = _of_latencies(slo, group, columns) or _of_failures(slo, group)
        yield _weighed(finding) if finding else _of_a_value(slo, group, numbers)


def _of_a_value(slo: Slo, group: Group, numbers: Mapping[str, Any] | None) -> Finding:
    value = None if numbers is None else evaluate(slo, numbers).value
    return Finding(slo, "open", value, trials=group.completed + group.failed_in_window)


def _doubtful(slo: Slo, numbers: Mapping[str, Any]) -> bool:
    """Whether the summary says that its value does not decide an objective."""
    return evaluate(slo, numbers).outcome == "undetermined"


def _weighed(finding: Finding) -> Finding:
    """Decide what can be decided by now."""
    inside, trials, needed = finding.inside, finding.trials, finding.needed
    if inside is None or needed is None or not trials:
        return finding
    low, high = share_interval(inside / trials * finding.worth, finding.worth, min(needed, _MOST_NEEDED))
    outcome: Outcome = "open"
    if needed == 1.0:
        outcome = "missed" if inside < trials else "open"
    elif low > needed:
        outcome = "met"
    elif high < needed:
        outcome = "missed"
    return replace(finding, outcome=outcome, low=low, high=high)


def _closed(finding: Finding, doubtful: bool) -> Finding:
    """Decide what is open: by the share where there is one, else by the value, however doubtful it is."""
    if finding.outcome != "open":
        return finding
    inside, trials, needed = finding.inside, finding.trials, finding.needed
    value_holds = finding.value is not None and finding.slo.holds(finding.value)
    if inside is None or needed is None:
        return replace(finding, outcome="met" if value_holds else "missed", close=doubtful)
    if needed == 1.0:
        return replace(finding, outcome="met" if trials else "missed", close=trials < HANDFUL)
    holds = inside >= trials * (needed - 1e-9) if finding.slo.key != "error_rate" else value_holds
    return replace(finding, outcome="met" if trials and holds else "missed", close=True)


def _pooled(findings: Sequence[Finding]) -> Finding:
    """The same objective in several probes."""
    first = findings[0]
    if any(finding.slo != first.slo for finding in findings):
        raise ValueError("probes with different objectives cannot be pooled")
    if len(findings) == 1:
        return first
    together = Finding(
        first.slo,
        "open",
        _pooled_value(findings),
        trials=sum(finding.trials for finding in findings),
        worth=sum(finding.worth for finding in findings),
        inside=None if first.inside is None else sum(finding.inside or 0.0 for finding in findings),
        needed=first.needed,
        failed=sum(finding.failed for finding in findings),
    )
    return _closed(_weighed(together), doubtful=any(finding.close for finding in findings))


def _pooled_value(findings: Sequence[Finding]) -> float | None:
    known = [(f.value, max(f.trials, 1)) for f in findings if f.value is not None]
    if not known:
        return None
    if findings[0].needed == 1.0:
        return max(value for value, _ in known)
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def _of_latencies(slo: Slo, group: Group, columns: Mapping[str, NDArray[np.float64]]) -> Finding | None:
    """Requests inside and outside the bound of a percentile or a maximum; None for any other objective."""
    family, q = slo.family, slo.percentile or _AS_PERCENTILE.get(slo.key.partition("_")[0])
    if family is None or q is None or slo.op not in ("<", "<="):
        return None
    if family in columns:
        values = columns[family]
        holds = values < slo.bound if slo.op == "<" else values <= slo.bound
        answered, inside = len(values), float(holds.sum())
        value, effect = percentile(values, q), _effect(values, holds)
    elif family in ("itl", "itl_per_token"):
        gaps = group.itl if family == "itl" else group.itl_per_token
        answered, inside = group.streams, group.streams * _share_inside(gaps, slo)
        value_s = gaps.max_s if q == 100 else gaps.percentile(q)
        value = None if value_s is None else value_s * 1000
        # The histogram knows no order of time; the mean gaps of the streams do.
        effect = _effect(columns["tpot"], np.ones(len(columns["tpot"]), np.bool_))
    else:
        return None
    failed = group.failed_in_window
    trials = answered + failed
    return Finding(slo, "open", value, trials, trials / effect, inside, q / 100, failed=failed)


def _effect(values_ms: NDArray[np.float64], inside: NDArray[np.bool_]) -> float:
    """The design effect, where values that differ by less than 1 us are equal, as floats never are."""
    return design_effect(np.round(values_ms, 3), inside)


def _columns_ms(group: Group) -> dict[str, NDArray[np.float64]]:
    """Latencies as `core.summary` defines them, of the successful requests that have them, by time of end."""
    order = np.argsort(group.ok_ended_s, kind="stable")
    ttft, e2el, late, tpot = (
        np.array(column)[order] * 1000
        for column in (group.ttft_s, group.e2el_s, group.late_s, group.tpot_s())
    )
    return {
        "ttft": ttft,
        "e2el": e2el,
        "ttft_from_plan": ttft + late,
        "e2el_from_plan": e2el + late,
        "tpot": tpot[~np.isnan(tpot)],
    }


def _share_inside(histogram: Histogram, slo: Slo) -> float:
    """The share of the gaps that hold the bound, each as `histogram.percentile` values it."""
    ranks = range(histogram.count)
    find = bisect_left if slo.op == "<" else bisect_right
    return find(ranks, slo.bound, key=lambda rank: histogram.value_at_rank(rank) * 1000) / (len(ranks) or 1)


def _of_failures(slo: Slo, group: Group) -> Finding | None:
    """Requests that did not fail and those that did; None for an objective that is not about failures."""
    failed, trials = group.failed_in_window, group.completed + group.failed_in_window
    if slo.key == "requests.failed":
        failed = group.failed
        trials = group.ok + failed
    elif not slo.about_failures:
        return None
    rate = failed / trials if trials else None
    value = rate if slo.key == "error_rate" else float(failed)
    if _allows_none(slo):
        needed = 1.0
    elif slo.key == "error_rate" and slo.op in ("<", "<=") and 0 < slo.bound < 1:
        needed = 1 - slo.bound
    else:
        return _of_a_count(slo, value, trials, failed)
    return Finding(
        slo, "open", value, trials=trials, worth=trials, inside=trials - failed, needed=needed, failed=failed
    )


def _allows_none(slo: Slo) -> bool:
    """Whether a single failure is a miss, and none is not: `failed==0`, `failed<1`, `error_rate<=0`."""
    if slo.op == "<" and slo.key != "error_rate":
        return 0 < slo.bound <= 1
    return slo.op in ("<=", "==") and slo.bound == 0


def _of_a_count(slo: Slo, value: float | None, trials: int, failed: int) -> Finding:
    """An objective such as `failed<5`: missed once the count, which only grows, has reached its bound."""
    grows = slo.key != "error_rate" and slo.op in ("<", "<=")
    broken = grows and value is not None and not slo.holds(value)
    return Finding(slo, "missed" if broken else "open", value, trials=trials, failed=failed)
