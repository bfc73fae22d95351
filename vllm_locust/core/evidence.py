"""What the requests of a probe say about its objectives, at whatever time one looks.

Rule: an objective on a percentile is one on a share. `p99_ttft_ms<500` asks that 99 % of the requests stay
inside 500 ms; each request in the window is one trial, and a failed one is a trial outside: who got no answer
got none in time. The objective is `met` when the interval of the true share lies above 99 %, `missed` when
it lies below, else `open`. One may look after every request: the interval holds at all times together, and
counts requests that shared the server's state for what they are worth (see `core.share`). With no request
outside, p90 is met after the worth of 40 independent requests, p95 of 81, p99 of 410; 36, 72 and 368 if one
looked only once. The gaps between the tokens of one stream share its fate: a stream is one trial, by the
share of all gaps that are inside. A gate means the same by the same string, see `core.gates`.

Let the server settle before the window of a probe begins, and close the window before cancelling what is in
flight: a request cancelled inside counts as failed.

A maximum allows no exception: the first request outside decides `missed`, and none proves `met`. Counts of
failures likewise only grow. Those, means and throughputs stay open until the probe is over; `conclude` then
decides by the value, as `core.slo` does, and what an interval left open by the share, marked `close`.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vllm_locust.core.group import Group
from vllm_locust.core.oddities import Oddities
from vllm_locust.core.share import share_interval, tells
from vllm_locust.core.slo import UNPACED, Slo, evaluate, true_ends
from vllm_locust.core.summary import BETWEEN_TOKENS, FROM_PLAN
from vllm_locust.core.trials import Hiccup, Latencies, latencies_ms, trials_of

Outcome = Literal["met", "missed", "open"]

HANDFUL = 5
"""Fewer requests prove nothing about a maximum, and are no collapse however they failed."""

# The mixture of an objective that allows no exception: its interval is for the reader, not for the decision.
_MOST_NEEDED = 0.99
_ROUNDING = 1e-9
# By these a sample is thought longer, to see how many requests would tell.
_FACTORS = [1.1**k for k in range(1, 73)]


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
    least: float | None = None
    """How many were inside whatever the client's own error was; None when that is `inside`."""
    most: float | None = None
    """How many may have been inside, likewise."""
    astride: bool = False
    """The client's own error leaves it open on which side a value lies that is judged by itself."""
    hiccup: Hiccup | None = None
    """The one stretch of time without which this would not have missed."""
    unpaced: int = 0
    """Answers whose gaps between tokens are not known."""
    unsent: int = 0
    """Requests that were never sent: how long they would have taken, from the plan, is not known."""

    @property
    def share(self) -> float | None:
        """Requests inside / requests; None without any."""
        return None if self.inside is None or not self.trials else self.inside / self.trials

    @property
    def surely(self) -> float:
        """How many were inside at least."""
        return (self.inside or 0.0) if self.least is None else self.least

    @property
    def possibly(self) -> float:
        """How many were inside at most."""
        return (self.inside or 0.0) if self.most is None else self.most

    @property
    def not_seen(self) -> str:
        """What lies between `surely` and `possibly`, in words."""
        error = "the client's own error"
        if not self.unsent:
            return error
        unsent = f"how long {self.unsent} requests that were never sent would have taken"
        return unsent if self.possibly - self.surely <= self.unsent else f"{unsent}, with {error},"

    @property
    def torn(self) -> bool:
        """The client's own error, or what was never sent, leaves both outcomes possible."""
        if self.needed is None or not self.trials:
            return self.astride
        return self.surely < self.trials * (self.needed - _ROUNDING) <= self.possibly

    @property
    def blurred(self) -> bool:
        """That error is larger, too, than what the sample leaves open: more requests would not help."""
        if self.needed is None:
            return self.astride
        return self.torn and 2 * (self.possibly - self.surely) >= (self.high - self.low) * self.trials

    @property
    def few(self) -> bool:
        """Close for want of requests only: none of them was on the other side."""
        one_sided = self.inside is None or self.inside in (0.0, float(self.trials))
        return self.close and one_sided and not self.torn

    @property
    def takes(self) -> int | None:
        """How many requests like these would have told; None where no number that is known would."""
        share, needed = self.share, self.needed
        if not self.close or share is None or needed is None or needed >= 1:
            return None
        place = bisect_left(
            _FACTORS, True, key=lambda factor: tells(share * self.worth * factor, self.worth * factor, needed)
        )
        return math.ceil(self.trials * _FACTORS[place]) if place < len(_FACTORS) else None

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
        parts = ["no value" if self.value is None else f"{self.slo.shown(self.value)}{unit}"]
        if self.inside is not None and self.needed is not None:
            parts += shares(self.inside, self.trials, self.needed)
            parts += [f"{self.failed} failed"] if self.failed else []
            parts += [f"{self.unpaced} {UNPACED}"] if self.unpaced else []
        return f"{self.slo}: {', '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "slo": str(self.slo),
            "outcome": self.outcome,
            "close": self.close,
            "few": self.few,
            "takes": self.takes,
            "value": self.value,
            "share": self.share,
            "needed": self.needed,
            "low": self.low,
            "high": self.high,
            "trials": self.trials,
            "worth": self.worth,
            "failed": self.failed,
            "surely": self.surely if self.inside is not None else None,
            "possibly": self.possibly if self.inside is not None else None,
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
    def few(self) -> bool:
        """Close, and for want of requests only."""
        doubtful = [finding for finding in self.findings if finding.close and finding.outcome == self.outcome]
        return self.close and all(finding.few for finding in doubtful)

    @property
    def blur(self) -> str | None:
        """Why what the client did not see leaves the outcome open, in words; None when it does not."""
        blurred = [finding for finding in self.findings if finding.blurred]
        if not blurred or any(f.outcome == "missed" and not f.blurred for f in self.findings):
            return None
        first = blurred[0]
        text = f"{first.not_seen} leaves it open whether {first.slo} is met"
        if first.needed is None:
            return text
        low, high = (percent(part, first.trials) for part in (first.surely, first.possibly))
        return f"{text}: {low:g} to {high:g} % of requests were inside, {first.needed * 100:.6g} % needed"

    @property
    def hiccup(self) -> str | None:
        """What alone made this miss, where that was one short stretch of time, in words."""
        missed = self.missed
        if any(finding.hiccup is None for finding in missed):
            return None
        return next((f"{finding.hiccup} for {finding.slo}" for finding in missed), None)

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


def pool(evidences: Sequence[Evidence]) -> Evidence:
    """Several concluded probes of the same load as one: their trials are counted together.

    Only counts are pooled. The value beside them is the mean of the probes' values by their requests, or the
    largest where no exception is allowed; nothing is decided by it where there are trials.
    """
    return Evidence(tuple(_pooled(same) for same in zip(*(e.findings for e in evidences), strict=True)))


def shares(inside: float, trials: int, needed: float) -> list[str]:
    """How many requests were inside, in words."""
    if needed == 1.0:
        return [f"{math.ceil(trials - inside)} of {trials} requests outside"]
    return [f"{percent(inside, trials):g} % of requests inside", f"{needed * 100:.6g} % needed"]


def percent(part: float, trials: float) -> float:
    """Cut after two decimals, so that only all of them are 100 %."""
    return math.floor(part / trials * 1e4 + 1e-6) / 100 if trials else 0.0


def _findings(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What can be said by now; what cannot is open."""
    latencies = latencies_ms(group)
    for slo in slos:
        if finding := weigh_latencies(slo, group, latencies):
            yield finding
        elif finding := _of_failures(slo, group):
            yield _weighed(finding)
        else:
            yield _of_a_value(slo, group, numbers)


def _of_a_value(slo: Slo, group: Group, numbers: Mapping[str, Any] | None) -> Finding:
    value = None if numbers is None else evaluate(slo, numbers).value
    trials = group.completed + group.failed_in_window
    possible = () if numbers is None or value is None else (value, *true_ends(slo, value, numbers))
    return Finding(slo, "open", value, trials, astride=len(set(map(slo.holds, possible))) > 1)


def _doubtful(slo: Slo, numbers: Mapping[str, Any]) -> bool:
    """Whether the summary says that its value does not decide an objective."""
    return evaluate(slo, numbers).outcome == "undetermined"


def _weighed(finding: Finding) -> Finding:
    """Decide what can be decided by now, whatever the client's own error was."""
    inside, trials, needed = finding.inside, finding.trials, finding.needed
    if inside is None or needed is None or not trials:
        return finding

    def interval(count: float) -> tuple[float, float]:
        return share_interval(count / trials * finding.worth, finding.worth, min(needed, _MOST_NEEDED))

    low, high = interval(finding.surely)
    if finding.possibly > finding.surely:
        _, high = interval(finding.possibly)
    outcome: Outcome = "open"
    if needed == 1.0:
        outcome = "missed" if finding.possibly < trials else "open"
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
        holds = trials and inside == trials
        return replace(finding, outcome="met" if holds else "missed", close=trials < HANDFUL or finding.torn)
    holds = inside >= trials * (needed - _ROUNDING) if finding.slo.key != "error_rate" else value_holds
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
        least=None if first.least is None else sum(finding.surely for finding in findings),
        most=None if first.most is None else sum(finding.possibly for finding in findings),
        unpaced=sum(finding.unpaced for finding in findings),
        unsent=sum(finding.unsent for finding in findings),
    )
    return _closed(_weighed(together), doubtful=any(finding.close for finding in findings))


def _pooled_value(findings: Sequence[Finding]) -> float | None:
    known = [(f.value, max(f.trials, 1)) for f in findings if f.value is not None]
    if not known:
        return None
    if findings[0].needed == 1.0:
        return max(value for value, _ in known)
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known)


def weigh_latencies(slo: Slo, group: Group, latencies: Mapping[str, Latencies]) -> Finding | None:
    """Requests inside and outside the bound of a percentile or a maximum; None for any other objective.

    `latencies` are the group's `trials.latencies_ms`.
    """
    trials = trials_of(slo, group, latencies)
    if trials is None:
        return None
    finding = Finding(
        slo,
        "open",
        trials.value_ms,
        trials.count,
        trials.worth,
        trials.inside,
        trials.needed,
        failed=trials.failed,
        least=trials.least,
        most=trials.most,
        hiccup=trials.hiccup,
        unsent=len(group.unsent_wait_s) if slo.family in FROM_PLAN else 0,
    )
    return _weighed(_with_unpaced(finding, group.oddities))


def _with_unpaced(finding: Finding, answers: Oddities) -> Finding:
    """With answers whose time between tokens nobody knows: none of them is inside.

    One that was perhaps read late by this client may have been.
    """
    unknown = BETWEEN_TOKENS.get(finding.slo.family or "")
    unpaced = getattr(answers, unknown) if unknown else 0
    if not unpaced:
        return finding
    trials, worth = finding.trials + unpaced, finding.worth + unpaced
    return replace(
        finding,
        trials=trials,
        worth=worth,
        unpaced=unpaced,
        most=finding.possibly + answers.perhaps_read_late,
        hiccup=None,
    )


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
