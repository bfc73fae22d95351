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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm_locust.core.finding import Evidence, Finding, Outcome
from vllm_locust.core.group import Group
from vllm_locust.core.oddities import Oddities
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo, clients_doubt, doubt_of_unpaced, evaluate, fault_of_load
from vllm_locust.core.summary import BETWEEN_TOKENS, FROM_PLAN
from vllm_locust.core.trials import (
    Latencies,
    hiccup_of_failures,
    latencies_ms,
    perhaps_gone,
    perhaps_there,
    trials_of,
)
from vllm_locust.core.validity import Validity

HANDFUL = 5
"""Fewer requests prove nothing about a maximum, and are no collapse however they failed."""

# The mixture of an objective that allows no exception: its interval is for the reader, not for the decision.
_MOST_NEEDED = 0.99


def weigh(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any] | None = None) -> Evidence:
    """What the requests of one probe say so far; `numbers` is their summary, if there is one yet."""
    return Evidence(tuple(_findings(slos, group, numbers)))


def conclude(
    slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any], client: Validity | None = None
) -> Evidence:
    """What the requests of a probe that is over say: nothing stays open.

    `numbers` is the summary of the probe, made with `slo.percentiles_of` the objectives; `client` is the
    verdict on who measured.
    """
    findings = _findings(slos, group, numbers, client)
    return Evidence(tuple(_closed(f, f.needed is None and _doubtful(f.slo, numbers)) for f in findings))


def pool(evidences: Sequence[Evidence]) -> Evidence:
    """Several concluded probes of the same load as one: their trials are counted together.

    An objective that is judged by its value is what it was in most of them, in doubt missed.
    """
    return Evidence(tuple(_pooled(same) for same in zip(*(e.findings for e in evidences), strict=True)))


def _findings(
    slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any] | None, client: Validity | None = None
) -> Iterator[Finding]:
    """What can be said by now; what cannot is open."""
    latencies = latencies_ms(group)
    for slo in slos:
        if finding := weigh_latencies(slo, group, latencies):
            late = slo.family in FROM_PLAN and finding.outcome != "met"
            yield replace(finding, fault=fault_of_load(slo, finding.value, client) if late else None)
        elif finding := _of_failures(slo, group):
            yield _weighed(finding)
        else:
            yield _of_a_value(slo, group, numbers, client)


def _of_a_value(
    slo: Slo, group: Group, numbers: Mapping[str, Any] | None, client: Validity | None
) -> Finding:
    trials = group.completed + group.failed_in_window
    if numbers is None:
        return Finding(slo, "open", None, trials)
    value = evaluate(slo, numbers).value
    fault = clients_doubt(slo, value, numbers, client) or doubt_of_unpaced(slo, value, numbers)
    return Finding(slo, "open", value, trials, fault=fault)


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
    holds = inside >= finding.asked if finding.slo.key != "error_rate" else value_holds
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
        fault=next((finding.fault for finding in findings if finding.fault), None),
        unpaced=sum(finding.unpaced for finding in findings),
        unsent=sum(finding.unsent for finding in findings),
        worth_known=all(finding.worth_known for finding in findings),
        values=tuple(finding.value for finding in findings if finding.value is not None),
    )
    if together.inside is not None:
        return _closed(_weighed(together), doubtful=False)
    missed = sum(finding.outcome == "missed" for finding in findings)
    close = any(finding.close for finding in findings) or 0 < missed < len(findings)
    return replace(together, outcome="missed" if 2 * missed >= len(findings) else "met", close=close)


def _pooled_value(findings: Sequence[Finding]) -> float | None:
    """Where it follows from the probes' counts and values: that of a percentile or a mean does not."""
    known = [finding.value for finding in findings if finding.value is not None]
    if findings[0].slo.key == "error_rate" and known:
        return sum(finding.failed for finding in findings) / sum(finding.trials for finding in findings)
    return max(known) if known and findings[0].slo.key.startswith("max_") else None


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
        worth_known=trials.worth_known,
        unsent=len(group.unsent_wait_s) if slo.family in FROM_PLAN else 0,
    )
    return _weighed(_with_unpaced(finding, group.oddities))


def _with_unpaced(finding: Finding, answers: Oddities) -> Finding:
    """With answers whose time between tokens nobody knows: none of them is inside for certain."""
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
        most=finding.possibly + unpaced,
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
    counts_window = slo.key != "requests.failed"
    rate = failed / trials if trials else None
    value = rate if slo.key == "error_rate" else float(failed)
    if _allows_none(slo):
        needed = 1.0
    elif slo.key == "error_rate" and slo.op in ("<", "<=") and 0 < slo.bound < 1:
        needed = 1 - slo.bound
    else:
        surely = failed - (
            group.perhaps_outside.failed_in_window if counts_window and group.perhaps_outside else 0
        )
        return _of_a_count(slo, value, trials, failed, surely)
    least, most = _at_borders(group, needed) if counts_window else (0.0, 0.0)
    return Finding(
        slo,
        "open",
        value,
        trials=trials,
        worth=trials,
        inside=trials - failed,
        needed=needed,
        failed=failed,
        least=trials - failed - least,
        most=trials - failed + most,
        hiccup=hiccup_of_failures(group, needed) if failed == group.failed_in_window else None,
    )


def _allows_none(slo: Slo) -> bool:
    """Whether a single failure is a miss, and none is not: `failed==0`, `failed<1`, `error_rate<=0`."""
    if slo.op == "<" and slo.key != "error_rate":
        return 0 < slo.bound <= 1
    return slo.op in ("<=", "==") and slo.bound == 0


def _at_borders(group: Group, needed: float) -> tuple[float, float]:
    """How many fewer and more did not fail, by requests that perhaps ended beyond a border of the window."""
    down = up = 0.0
    for border, move in ((group.perhaps_inside, perhaps_there), (group.perhaps_outside, perhaps_gone)):
        if border is not None:
            held, count = border.completed, border.completed + border.failed_in_window
            fewer, more = move(held, held, count, needed)
            down, up = down + fewer, up + more
    return down, up


def _of_a_count(slo: Slo, value: float | None, trials: int, failed: int, surely: int) -> Finding:
    """An objective such as `failed<5`: missed once the count, which only grows, has reached its bound."""
    grows = slo.key != "error_rate" and slo.op in ("<", "<=")
    broken = grows and value is not None and not slo.holds(surely)
    return Finding(slo, "missed" if broken else "open", value, trials=trials, failed=failed)
