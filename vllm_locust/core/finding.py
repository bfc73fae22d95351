"""What is known about an objective, and about all objectives of a probe.

Rule: a finding on a percentile, a maximum or a share of failures is a count of requests inside and outside;
any other is a value. Several probes of one load are one finding with their counts summed; a percentile of all
their requests together is not known, so the values of the probes stand beside it as what they are.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal

from vllm_locust.core.share import tells
from vllm_locust.core.slo import UNPACED, Slo
from vllm_locust.core.trials import Hiccup

Outcome = Literal["met", "missed", "open"]

_ROUNDING = 1e-9
# By these a sample is thought longer, to see how many requests would tell.
_FACTORS = [1.1**k for k in range(1, 121)]
_MOST_TO_TAKE = 100_000


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known about one objective."""

    slo: Slo
    outcome: Outcome
    value: float | None
    """As in the summary: of the requests that were answered; None where several probes are counted."""
    trials: int = 0
    """Requests that were counted, failed ones too."""
    worth: float = 0.0
    """How many independent ones these trials are worth at least."""
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
    fault: str | None = None
    """Why the client leaves it open on which side the value lies, in words; None where it does not."""
    hiccup: Hiccup | None = None
    """The one stretch of time without which this would not have missed."""
    unpaced: int = 0
    """Answers whose time between tokens is not known."""
    unsent: int = 0
    """Requests that were never sent: how long they would have taken, from the plan, is not known."""
    worth_known: bool = True
    """Whether there were enough to tell what they are worth."""
    values: tuple[float, ...] = ()
    """Of each of several probes."""

    @property
    def share(self) -> float | None:
        """Requests inside / requests; None without any."""
        return None if self.inside is None or not self.trials else self.inside / self.trials

    @property
    def asked(self) -> float:
        """How many requests must be inside, less what is lost in rounding."""
        return self.trials * ((self.needed or 0.0) - _ROUNDING)

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
        if self.unsent:
            unknown = f"how long {self.unsent} requests that were never sent would have taken"
        elif self.unpaced:
            unknown = f"the time between tokens, which is not known of {self.unpaced} answers,"
        else:
            return error
        if self.possibly - self.surely <= self.unsent + self.unpaced:
            return unknown
        return f"{unknown.removesuffix(',')}, with {error},"

    @property
    def torn(self) -> bool:
        """The client's own error, or what is not known of requests, leaves both outcomes possible."""
        if self.fault or self.needed is None:
            return self.fault is not None
        return bool(self.trials) and self.surely < self.asked <= self.possibly

    @property
    def blur(self) -> str | None:
        """Why both outcomes are possible, in words; None when they are not."""
        if not self.torn:
            return None
        if self.fault:
            return f"it cannot be told whether {self.slo} is met: {self.fault}"
        low, high = (percent(part, self.trials) for part in (self.surely, self.possibly))
        needed = (self.needed or 1.0) * 100
        inside = f"{low:g} to {high:g} % of requests were inside, {needed:.6g} % needed"
        return f"{self.not_seen} leaves it open whether {self.slo} is met: {inside}"

    @property
    def few(self) -> bool:
        """Close for want of requests only: none of them was on the other side."""
        one_sided = self.inside is None or self.inside in (0.0, float(self.trials))
        return self.close and one_sided and not self.torn

    @property
    def takes(self) -> int | None:
        """How many requests like these would have told; None where no number that one would send would.

        At least so many where it is not known what they are worth: then as if they were independent.
        """
        share, needed, worth = self.share, self.needed, self.worth if self.worth_known else self.trials
        if not self.close or self.torn or share is None or needed is None or needed >= 1:
            return None
        place = bisect_left(
            _FACTORS, True, key=lambda factor: tells(share * worth * factor, worth * factor, needed)
        )
        takes = math.ceil(self.trials * _FACTORS[place]) if place < len(_FACTORS) else math.inf
        return int(takes) if takes <= _MOST_TO_TAKE else None

    @property
    def final(self) -> bool:
        """A request has broken an objective that allows no exception: more requests cannot mend that."""
        return self.outcome == "missed" and self.needed == 1.0 and not self.close

    @property
    def excess(self) -> float:
        """How many times beyond the objective this is: 1 is just at it, more is worse."""
        beyond = [self._times_beyond(value) for value in self._known if not self.slo.holds(value)]
        if beyond:
            return max(beyond)
        if self.share is None or self.needed is None or self.needed >= 1.0:
            return math.inf if self.outcome == "missed" else 1.0
        return (1 - self.share) / (1 - self.needed)

    def _times_beyond(self, value: float) -> float:
        over, under = (self.slo.bound, value) if ">" in self.slo.op else (value, self.slo.bound)
        return over / under if under > 0 else math.inf

    @property
    def _known(self) -> tuple[float, ...]:
        return self.values or (() if self.value is None else (self.value,))

    @property
    def of_nothing(self) -> bool:
        """No request has what the objective is about."""
        return not self._known and (self.inside is None or not self.trials)

    @property
    def sentence(self) -> str:
        """`p99_ttft_ms<500: 612 ms, 95.2 % of requests inside, 99 % needed`."""
        if self.of_nothing:
            return f"{self.slo}: no request has a value for it"
        if self.slo.about_failures:
            return f"{self.slo}: {self.failed} of {self.trials} requests failed"
        parts = [self._shown]
        if self.inside is not None and self.needed is not None:
            parts += shares(self.inside, self.trials, self.needed)
            parts += [f"{self.failed} failed"] if self.failed else []
            parts += [f"{self.unpaced} {UNPACED}"] if self.unpaced else []
        return f"{self.slo}: {', '.join(parts)}"

    @property
    def _shown(self) -> str:
        """The value, or between which those of several probes lay."""
        unit = " ms" if self.slo.key.endswith("_ms") else ""
        shown = list(dict.fromkeys(self.slo.shown(value) for value in sorted(self._known)))
        if len(shown) < 2:
            return f"{shown[0]}{unit}" if shown else "no value"
        return f"{shown[0]} to {shown[-1]}{unit} in {len(self.values)} probes"

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "slo": str(self.slo),
            "outcome": self.outcome,
            "close": self.close,
            "few": self.few,
            "takes": self.takes,
            "blur": self.blur,
            "value": self.value,
            "values": list(self.values),
            "share": self.share,
            "needed": self.needed,
            "low": self.low,
            "high": self.high,
            "trials": self.trials,
            "worth": self.worth,
            "worth_known": self.worth_known,
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
        torn = [finding for finding in self.findings if finding.torn]
        if not torn or any(f.outcome == "missed" and not f.torn for f in self.findings):
            return None
        return torn[0].blur

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


def shares(inside: float, trials: int, needed: float) -> list[str]:
    """How many requests were inside, in words."""
    if needed == 1.0:
        return [f"{math.ceil(trials - inside)} of {trials} requests outside"]
    return [f"{percent(inside, trials):g} % of requests inside", f"{needed * 100:.6g} % needed"]


def percent(part: float, trials: float) -> float:
    """Cut after two decimals, so that only all of them are 100 %."""
    return math.floor(part / trials * 1e4 + 1e-6) / 100 if trials else 0.0
