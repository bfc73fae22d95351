"""Service level objectives over a summary, and the limits of a good request.

    SLO     = KEY OP NUMBER                    spaces are free
    OP      = "<" | "<=" | ">" | ">=" | "=="
    KEY     = a number of the summary:         completed, failed, error_rate, request_goodput, ...
            | "requests." NAME:                requests.dropped, requests.outside_window, ...
            | STATISTIC "_" FAMILY "_ms"
    STATISTIC = "mean" | "median" | "std" | "max" | "p" PERCENT    any percentile: p50, p99, p99.9
    FAMILY  = "ttft" | "tpot" | "itl" | "e2el" | "ttft_from_plan" | "e2el_from_plan" | ...
    NUMBER  = a finite decimal number

    p99_ttft_ms<500    max_e2el_ms<20000    failed==0    error_rate < 0.01    request_goodput>=10

    GOODPUT = ("ttft" | "tpot" | "e2el") ":" MILLISECONDS          as for vllm bench serve

Rule: an objective is `met` or `missed` when the value and both ends between which it truly lies agree (the
summary's `error_bounds`: what the client itself may have added). It is `undetermined` when they do not, when
there is no value or was nothing to take it of, or when the sample is too small for the percentile's interval
to have both ends (see `core.percentile`). Then it is decided only if the end that is known leaves no doubt:
nine requests never pass a p99, but may fail it. A maximum is that of the requests there were: one beyond the
limit misses it. Where it was the client's fault that the load was not as planned (see `core.validity`), a
throughput or a count says that the server can do so much, and no more: it meets an objective to reach so
much, and is undetermined in any other. Latencies from the plan might have been lower, peaks and times
anything. All this is about answered requests; `core.gates` counts the others as outside.

A 95 % interval stands behind the value where there is one: from long runs of means and percentiles, allowing
for requests that are alike (see `core.batch_means`); else of percentiles as if they were independent, as it
stands in the summary; and of the error rate, as if requests failed independently (C. J. Clopper, E. S.
Pearson, Biometrika 26, 1934). The sentence says which of them assume independence. When it does not exclude
that the truth is on the other side of the bound, and an end that is not known excludes nothing, the sentence
says that the next run may say the opposite; the outcome stays, so that a gate at its bound is not one that is
undetermined most of the time.

Dropped requests are no failures, and `failed==0` says so where there are any. In a latency from the plan they
count as the time that they had waited, a lower bound: such an objective is missed when even that is too much,
and met only when it would be met however long they had taken. Of some answers, such as those that came in one
piece, nobody knows TPOT or ITL: an objective on these is met or missed only when it would be so whatever
theirs were. For those that this client perhaps read late, the ends allow.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.special import betaincinv  # type: ignore[import-untyped]

from vllm_locust.core.percentile import CONFIDENCE, UNDETERMINED, Interval
from vllm_locust.core.summary import (
    BETWEEN_TOKENS,
    COUNTS,
    FAMILIES,
    FROM_PLAN,
    PERCENTILES,
    REQUESTS,
    STATISTICS,
    nothing_measured,
    percentile_word,
)
from vllm_locust.core.validity import INVALID, Validity, lost_sentence, told_apart, without_exponent
from vllm_locust.errors import UsageError

Outcome = Literal["met", "missed", "undetermined"]

UNPACED = "whose time between tokens is not known"

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_EXPRESSION = re.compile(r"\s*([a-z][\w.]*)\s*(<=|>=|==|<|>)\s*([-+.\deE]+)\s*")
_LATENCY = re.compile(
    rf"(?:p(?P<q>\d+(?:\.\d+)?)|{'|'.join(STATISTICS)})_(?P<family>{'|'.join(FAMILIES)})_ms"
)
_FAILURES = ("failed", "error_rate", "requests.failed")
_DROPS = ("dropped", "requests.dropped")
_RATES = (
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
)
_OF_THE_LOAD = (
    "completed",
    "requests.ok",
    "total_input_tokens",
    "total_output_tokens",
    "total_cached_tokens",
    "duration",
    "start_s",
    "end_s",
)
# What a client that catches up sends at once makes these larger, and what it did not send smaller.
_BY_BURSTS = ("max_output_tokens_per_s", "max_concurrent_requests", "duration", "start_s", "end_s")

GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective, for example `p99_ttft_ms<500`."""

    key: str
    op: str
    bound: float
    percentile: float | None = None
    """The percentile that the key asks for, if it asks for one."""
    family: str | None = None
    """The family of latencies that the key asks for a number of, if it asks for one."""

    @property
    def percentile_or_median(self) -> float:
        """What `median_` is called otherwise."""
        return 50.0 if self.percentile is None else self.percentile

    @property
    def about_failures(self) -> bool:
        """Whether this says how many failures are acceptable."""
        return self.key in _FAILURES

    @property
    def about_drops(self) -> bool:
        """Whether this says how many requests may go unsent."""
        return self.key in _DROPS

    def holds(self, value: float) -> bool:
        """Whether `value` is within the bound."""
        return _OPERATORS[self.op](value, self.bound)

    def shown(self, value: float) -> str:
        """A value to stand beside this objective: never like the bound where it differs from it."""
        return told_apart(value, self.bound, digits=6)[0]

    def __str__(self) -> str:
        bound = f"{self.bound:g}"
        return f"{self.key}{self.op}{bound if float(bound) == self.bound else repr(self.bound)}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of an objective, and why in one sentence."""

    slo: Slo
    outcome: Outcome
    value: float | None
    sentence: str
    interval: Interval = UNDETERMINED
    """Of the value, where it has one."""

    def to_dict(self) -> dict[str, Any]:
        """An entry of the `slo` block of a summary."""
        return {
            "slo": str(self.slo),
            "outcome": self.outcome,
            "value": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "sentence": self.sentence,
        }


def parse_slo(text: str) -> Slo:
    """The objective that `text` spells; UsageError when it is malformed or its key does not exist."""
    match = _EXPRESSION.fullmatch(text)
    bound = _number(match[3]) if match else None
    if match is None or bound is None:
        raise UsageError(
            f"--slo {text!r} must be KEY OP NUMBER, OP one of < <= > >= ==, as in 'p99_ttft_ms<500'"
        )
    key, op = match[1], match[2]
    if key in COUNTS or key in [f"requests.{name}" for name in REQUESTS]:
        return Slo(key, op, bound)
    latency = _LATENCY.fullmatch(key)
    if latency is None:
        raise UsageError(_unknown(key))
    if latency["q"] is None:
        return Slo(key, op, bound, family=latency["family"])
    q = float(latency["q"])
    if not 0 < q < 100:
        raise UsageError(
            f"--slo {text!r} asks for the percentile {latency['q']}, which must lie between 0 and 100"
        )
    return Slo(f"{percentile_word(q)}_{latency['family']}_ms", op, bound, q, latency["family"])


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unknown(key: str) -> str:
    words = [*STATISTICS, *map(percentile_word, PERCENTILES)]
    known = [*COUNTS, *(f"requests.{n}" for n in REQUESTS), *(f"{w}_{f}_ms" for w in words for f in FAMILIES)]
    close = difflib.get_close_matches(key, known)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"--slo knows no key {key!r}: {hint}keys are {', '.join(COUNTS)}, requests.NAME, and "
        f"{', '.join(f'{word}_' for word in STATISTICS)} or pXX_ with {', '.join(FAMILIES)} and _ms"
    )


def percentiles_of(slos: Iterable[Slo]) -> tuple[float, ...]:
    """The percentiles that a summary must hold for these objectives."""
    return tuple(sorted({slo.percentile for slo in slos if slo.percentile is not None}))


def evaluate(
    slo: Slo,
    summary: Mapping[str, Any],
    in_order: Mapping[str, Interval] | None = None,
    client: Validity | None = None,
) -> Judgement:
    """Hold a summary against an objective; the summary must have been made with `percentiles_of` it.

    `in_order` has the intervals of `core.batch_means` by key, where they are known; `client` is the verdict
    on who measured.
    """
    known = evaluate_known(slo, summary, in_order, client)
    if known.value is None or (slo.about_failures and known.outcome == "undetermined"):
        return known
    if unsent := unsent_of(slo, summary):
        if slo.about_failures:
            more = f"though {unsent} more were dropped, never sent (to gate them: dropped==0)"
            return replace(known, sentence=f"{known.sentence}, {more}")
        if not _agree(slo, known.value, math.inf):
            return undetermined(known, f"at least {slo.shown(known.value)}, since {never_sent(unsent)}")
    doubt = doubt_of_unpaced(slo, known.value, summary)
    return undetermined(known, doubt) if doubt and known.outcome != "undetermined" else known


def evaluate_known(
    slo: Slo,
    summary: Mapping[str, Any],
    in_order: Mapping[str, Interval] | None = None,
    client: Validity | None = None,
) -> Judgement:
    """The same, as if the requests of which a value is known were all there are."""
    value = value_of(slo, summary)
    doubt = nothing_to_judge(slo, summary) or clients_doubt(slo, value, summary, client)
    if value is None or doubt is not None:
        return Judgement(slo, "undetermined", value, f"{slo} is undetermined: {doubt}")
    outcome: Outcome = "met" if slo.holds(value) else "missed"
    if None in (ends := summary["intervals"].get(_plain(slo.key), ())):
        outcome = _by_one_end(slo, *ends)
    return judged(slo, outcome, summary, in_order)


def judged(
    slo: Slo, outcome: Outcome, summary: Mapping[str, Any], in_order: Mapping[str, Interval] | None = None
) -> Judgement:
    """An outcome, with the value and the interval that stand behind it, where there is a value."""
    value, key = value_of(slo, summary), _plain(slo.key)
    assert value is not None
    interval = (in_order or {}).get(key, UNDETERMINED)
    independent = interval == UNDETERMINED
    if independent and (ends := summary["intervals"].get(key)) is not None:
        interval = Interval(*ends)
    elif slo.key == "error_rate":
        interval = _share(summary["failed"], summary["failed"] + summary["completed"])
    at_least = "at least " if slo.family in FROM_PLAN and unsent_of(slo, summary) else ""
    why = at_least + _why(slo, outcome, value, interval, independent)
    return Judgement(slo, outcome, value, f"{slo} is {outcome}: {why}", interval)


def undetermined(judgement: Judgement, why: str) -> Judgement:
    """The same objective, of which it cannot be told, and why."""
    return replace(judgement, outcome="undetermined", sentence=f"{judgement.slo} is undetermined: {why}")


def not_known(slo: Slo, summary: Mapping[str, Any]) -> int:
    """The answers of which nobody knows whether they hold this objective."""
    unknown = BETWEEN_TOKENS.get(slo.family or "")
    return int(summary["answers"][unknown]) if unknown else 0


def buffered(slo: Slo, summary: Mapping[str, Any]) -> int:
    """Those of them that this client did not read late: its error says nothing about them."""
    return not_known(slo, summary) - (
        int(summary["answers"]["perhaps_read_late"]) if slo.family in BETWEEN_TOKENS else 0
    )


def doubt_of_unpaced(slo: Slo, value: float | None, summary: Mapping[str, Any]) -> str | None:
    """That answers of which nobody knows the time between tokens may put a value on either side."""
    unknown = buffered(slo, summary)
    if value is None or not unknown:
        return None
    if _agree(slo, value, _least_with(unknown, slo, value, summary), math.inf):
        return None
    return f"{slo.shown(value)} without {unknown} answers {UNPACED}"


def _least_with(unknown: int, slo: Slo, value: float, summary: Mapping[str, Any]) -> float:
    """The least that a value may be together with so many that are not known, which may be 0."""
    low, _ = true_ends(slo, value, summary)
    if slo.key.startswith("max_"):
        return low
    if slo.key == "mean_tpot_ms":
        of_several = int(summary["answers"]["of_several_tokens"])
        return low * (of_several - unknown) / of_several
    return 0.0


def true_ends(slo: Slo, value: float, summary: Mapping[str, Any]) -> tuple[float, float]:
    """Between which a value truly lies, for all that the client can vouch for."""
    low, high = summary.get("error_bounds", {}).get(_plain(slo.key), (value, value))
    return 0.0 if low is None else low, math.inf if high is None else high


def own_error(slo: Slo, value: float, summary: Mapping[str, Any], aside: str = "") -> str:
    """How far the client may be off, in words behind the value and what else is to be said of it."""
    low, high = true_ends(slo, value, summary)
    unit, error = " ms" if slo.family else "", max(value - low, high - value)
    size = "of any size" if math.isinf(error) else f"up to {without_exponent(error)}{unit}"
    return f"{slo.shown(value)}{unit}{aside}, but the client's own error may be {size}"


def unsent_of(slo: Slo, summary: Mapping[str, Any]) -> int:
    """The dropped requests that a reader of this objective must know of."""
    if slo.about_failures:
        return int(summary["requests"]["dropped"])
    return int(summary["unsent_in_from_plan"]) if slo.family in FROM_PLAN else 0


def never_sent(unsent: int) -> str:
    """`339 requests were never sent`."""
    return f"{unsent} {'request was' if unsent == 1 else 'requests were'} never sent"


def nothing_to_judge(slo: Slo, summary: Mapping[str, Any]) -> str | None:
    """Why there is nothing to judge; without an answer what is counted may be missed, but is not met."""
    value, nothing = value_of(slo, summary), nothing_measured(summary)
    counts = slo.family is None and slo.key not in _RATES
    if nothing is not None and (value is None or not counts or slo.holds(value)):
        return nothing
    if value is not None:
        return None
    if unsent := unsent_of(slo, summary):
        return f"{slo.key} is not known, since {never_sent(unsent)}"
    unknown = not_known(slo, summary)
    return f"{slo.key} has no value" + (f": there are {unknown} answers {UNPACED}" if unknown else "")


def clients_doubt(
    slo: Slo, value: float | None, summary: Mapping[str, Any], client: Validity | None
) -> str | None:
    """Why a value may be on either side of the bound, for all that the client can vouch for."""
    return lost(slo, value, client) or _astride(slo, value, summary) or fault_of_load(slo, value, client)


def lost(slo: Slo, value: float | None, client: Validity | None) -> str | None:
    """That requests are not accounted for, which may have done anything but not have failed."""
    if value is None or client is None or not client.lost or (slo.about_failures and not slo.holds(value)):
        return None
    return f"{slo.shown(value)}, but {lost_sentence(client.lost)}"


def _astride(slo: Slo, value: float | None, summary: Mapping[str, Any]) -> str | None:
    """That the objective may be met as well as missed, for all that the client can vouch for."""
    if value is None or _agree(slo, value, *true_ends(slo, value, summary)):
        return None
    return f"{own_error(slo, value, summary)}: it may be met or missed"


def fault_of_load(slo: Slo, value: float | None, client: Validity | None) -> str | None:
    """That the value might be on the other side if the client had made the load that was planned."""
    if value is None or client is None or client.load.verdict != INVALID:
        return None
    if _agree(slo, value, *_with_a_better_client(slo)):
        return None
    return (
        f"{slo.shown(value)}, but the load was not as planned, by the client's fault: "
        f"{client.load.reasons[0]}"
    )


def _with_a_better_client(slo: Slo) -> tuple[float, ...]:
    """How far a value might have gone with a client that is never late; none where it makes no difference."""
    if slo.key in _RATES or slo.key in _OF_THE_LOAD:
        at_least = slo.op in (">", ">=") and slo.key not in _BY_BURSTS
        return (math.inf,) if at_least else (0.0, slo.bound, math.inf)
    return (0.0,) if slo.family in FROM_PLAN else ()


def _share(part: int, whole: int) -> Interval:
    """The interval of Clopper and Pearson: of a share that `part` of `whole` trials stand for."""
    tail = (1 - CONFIDENCE) / 2
    return Interval(
        float(betaincinv(part, whole - part + 1, tail)) if part else 0.0,
        float(betaincinv(part + 1, whole - part, 1 - tail)) if part < whole else 1.0,
    )


def _why(slo: Slo, outcome: Outcome, value: float, interval: Interval, independent: bool) -> str:
    shown = slo.shown(value)
    if interval != UNDETERMINED:
        assuming = " if requests were independent" if independent else ""
        shown += f", 95 % interval{assuming} [{_end(slo, interval.low)} .. {_end(slo, interval.high)}]"
    if outcome == "undetermined":
        return f"{shown}, from too few requests (it takes {_fewest(slo)}): run longer"
    if interval != UNDETERMINED and not _excludes_the_other_side(slo, interval):
        return f"{shown}, which does not exclude the bound: too close to call, run longer"
    return shown


def _excludes_the_other_side(slo: Slo, interval: Interval) -> bool:
    """Whether all values that the interval leaves possible agree; an unknown end may be anywhere."""
    low = -math.inf if interval.low is None else interval.low
    high = math.inf if interval.high is None else interval.high
    return slo.holds(low) == slo.holds(high)


def _agree(slo: Slo, *ends: float) -> bool:
    """Whether an objective is met by all the values between these, or by none."""
    low, high = min(ends), max(ends)
    if slo.op == "==":
        return low == high or not low <= slo.bound <= high
    return slo.holds(low) == slo.holds(high)


def _fewest(slo: Slo) -> int:
    """How many values a percentile needs for an interval with both ends, see `core.percentile`."""
    share = slo.percentile_or_median / 100
    return math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(max(share, 1 - share)))


def _end(slo: Slo, value: float | None) -> str:
    return "?" if value is None else slo.shown(value)


def _by_one_end(slo: Slo, low: float | None, high: float | None) -> Outcome:
    """Decide only when all values that the half-open interval leaves possible agree."""
    if slo.op in ("<", "<="):
        if high is not None and slo.holds(high):
            return "met"
        if low is not None and not slo.holds(low):
            return "missed"
    if slo.op in (">", ">="):
        if low is not None and slo.holds(low):
            return "met"
        if high is not None and not slo.holds(high):
            return "missed"
    return "undetermined"


def value_of(slo: Slo, summary: Mapping[str, Any]) -> float | None:
    """The number that an objective is about."""
    block, dot, name = slo.key.partition(".")
    # Only `requests.` is a block: the other dot there is belongs to a percentile, as in p99.9_itl_ms.
    value: float | None = summary[block][name] if dot and block == "requests" else summary[slo.key]
    return value


def _plain(key: str) -> str:
    """The key under which a summary has its ends and intervals."""
    return key.replace("median_", "p50_", 1)


def parse_goodput(limits: Iterable[str]) -> dict[str, float]:
    """`["ttft:500", "tpot:50"]` as {"ttft": 500.0, "tpot": 50.0} in ms; UsageError names every mistake."""
    parsed: dict[str, float] = {}
    problems: list[str] = []
    for text in limits:
        metric, _, limit = text.partition(":")
        limit_ms = _number(limit)
        if metric not in GOODPUT_METRICS or limit_ms is None or limit_ms < 0:
            problems.append(
                f"--goodput {text!r} must be METRIC:MILLISECONDS, METRIC one of {', '.join(GOODPUT_METRICS)}"
            )
        elif metric in parsed:
            problems.append(f"--goodput {text!r} limits {metric} a second time")
        else:
            parsed[metric] = limit_ms
    if problems:
        raise UsageError(*problems)
    return parsed
