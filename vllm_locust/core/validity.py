"""Whether the measurement can be trusted: what the client itself may have added to the numbers, in words.

Rule: the verdict is about the client, never about the server. Many failures or few requests are results, not
faults of the measurement. Each metric is judged for itself, by how far its mean and its p99 may be off (see
`core.latencies`): one may be right where another is useless. `valid` up to the first limit, `degraded` up to
the second, `invalid` above; the larger of a time and of a share of the number, since 1 ms on 200 ms is
nothing:

    mean TTFT, TPOT, ITL, E2EL          1 ms or 2 %       5 ms or 10 %
    p99 TTFT, E2EL                      2 ms or 2 %      10 ms or 10 %
    p99 TPOT, ITL                       1 ms or 2 %       5 ms or 10 %

The verdict on the measurement is the worst of these, and of what concerns them all:

    requests not accounted for         none              none
    processes lost on the way          none              any
    stamps                             the kernel's      those of reading

The load is judged apart. Where it was not as planned, throughputs and latencies from the plan are not those
of that plan, while a TTFT is right that counts from when its request was sent:

    lateness of sending, p99, at most  10 ms or 2 %     100 ms or 10 %     of the mean E2EL; in an open loop
    CPU of a process                   80 % of a core   95 % of a core
    requests not sent                  none              1 % of those planned
    clocks of the processes, at most   as late as requests may be sent; in an open loop

In a closed loop the next request waits for the answer, and for a place where places are capped: that it was
sent late is a remark. So is that answers were read late, since the kernel's stamps are not moved by that, and
that the time of the measurement may have been shorter by 2 %, which concerns throughputs alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from vllm_locust.core.group import Group
from vllm_locust.core.latencies import Bounded, Family, families_of, lateness_of
from vllm_locust.core.percentile import percentile
from vllm_locust.core.recording import Window

Verdict = Literal["valid", "degraded", "invalid"]
Stamps = Literal["kernel", "read"]
Loop = Literal["open", "closed", "capped"]
"""Who decides when a request is sent: the plan; the answer before; the plan, but only so many at a time."""

VALID: Verdict = "valid"
DEGRADED: Verdict = "degraded"
INVALID: Verdict = "invalid"
_SEVERITY: dict[Verdict, int] = {VALID: 0, DEGRADED: 1, INVALID: 2}

METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}
"""What is judged by its errors, and how it is called."""

_P99_LIMITS_MS = {"ttft": (2.0, 10.0), "tpot": (1.0, 5.0), "itl": (1.0, 5.0), "e2el": (2.0, 10.0)}
_MEAN_LIMITS_MS = (1.0, 5.0)
_DELAY_LIMITS_MS = (10.0, 100.0)
_SHARES = (0.02, 0.10)
_CPU_LIMITS = (0.80, 0.95)
_DROPPED_LIMIT = 0.01
_LATE: Mapping[Loop, str] = {
    "open": "so that throughputs and latencies from the plan are not those of the plan",
    "closed": "which is how long users paused before they asked again",
    "capped": "since they waited for one of the places that the cap leaves",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What is judged of some requests, None where there was nothing to measure: numbers, and no requests."""

    means: Mapping[str, Bounded | None]
    """Of each of `METRICS`."""
    p99s: Mapping[str, Bounded | None]
    ttft_bound_mean_s: float | None
    ttft_bound_p99_s: float | None
    itl_bound_mean_s: float | None
    itl_bound_p99_s: float | None
    lag_p99_s: float | None
    lateness_p99: Bounded | None
    planned: int
    dropped: int
    contradictions: int
    clock_bound_s: float = 0.0
    """See `core.recording`."""

    @classmethod
    def of(cls, group: Group, clock_bound_s: float = 0.0) -> Self:
        """Of the requests of a group."""
        families, first_bounds_s = families_of(group), group.ttft_bound_s()
        return cls(
            **numbers_of(families),
            ttft_bound_mean_s=float(first_bounds_s.mean()) if len(first_bounds_s) else None,
            ttft_bound_p99_s=percentile(first_bounds_s, 99),
            itl_bound_mean_s=group.itl_bound.mean_s,
            itl_bound_p99_s=group.itl_bound.percentile(99),
            lag_p99_s=group.lag.percentile(99),
            lateness_p99=lateness_of(group).percentile(99),
            planned=group.planned,
            dropped=group.dropped,
            contradictions=group.contradictions,
            clock_bound_s=clock_bound_s,
        )


def numbers_of(families: Mapping[str, Family]) -> dict[str, Any]:
    """The `means` and `p99s` of what was measured."""
    return {
        "means": {name: families[name].mean for name in METRICS},
        "p99s": {name: families[name].percentile(99) for name in METRICS},
    }


def named_parts(parts: Mapping[tuple[int, str], Measured]) -> dict[str, Measured]:
    """What was measured by (phase, profile), in order, by the name that a reader knows it by."""
    several = len({phase for phase, _ in parts}) > 1
    return {
        f"phase {phase + 1}, {profile}" if several else profile: part
        for (phase, profile), part in sorted(parts.items(), key=lambda item: item[0])
    }


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and a sentence for each of its reasons."""

    verdict: Verdict
    faults: tuple["_Finding", ...]
    """What is not valid and why, the worst first."""

    @classmethod
    def by(cls, findings: Iterable["_Finding"]) -> Self:
        """The worst of them decides."""
        faults = [finding for finding in findings if finding[0] != VALID]
        faults.sort(key=lambda fault: -_SEVERITY[fault[0]])
        return cls(worst(*(verdict for verdict, _ in faults)), tuple(faults))

    @property
    def reasons(self) -> tuple[str, ...]:
        """In words, the worst first."""
        return tuple(reason for _, reason in self.faults)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


def worst(*verdicts: Verdict) -> Verdict:
    """Of several verdicts; `valid` of none."""
    return max(verdicts, key=_SEVERITY.__getitem__, default=VALID)


@dataclass(frozen=True, slots=True)
class Metric:
    """How far one metric can be trusted."""

    judged: Judged
    mean_error_ms: float | None
    """How far the mean of all requests may be off; None where nothing was measured."""
    p99_error_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.judged.to_dict(),
            "mean_error_ms": self.mean_error_ms,
            "p99_error_ms": self.p99_error_ms,
        }


@dataclass(frozen=True, slots=True)
class Validity:
    """The verdicts, their reasons, and the numbers behind them; None where there was nothing to measure."""

    verdict: Verdict
    """On the measurement: the worst of all metrics and of `general`."""
    metrics: Mapping[str, Metric]
    """By `METRICS`."""
    general: Judged
    """What concerns all metrics."""
    load: Judged
    """Whether the load was as planned."""
    remarks: tuple[str, ...]
    """What one should know and is no fault."""
    stamps: Stamps
    ttft_bound_mean_ms: float | None
    """The mean TTFT is too large by this at most."""
    ttft_bound_p99_ms: float | None
    """99 % of the TTFTs are too large by this at most."""
    itl_bound_mean_ms: float | None
    """The mean of the largest error that a gap between tokens may have, either way."""
    itl_bound_p99_ms: float | None
    lag_p99_ms: float | None
    """How long after their arrival bytes were read."""
    send_lateness_p99_ms: float | None
    """How long after their intended start requests were sent, ..."""
    send_lateness_p99_high_ms: float | None
    """... and how long that may truly be, at most."""
    cpu_shares: Mapping[str, float]
    """By process, 1.0 is all of one core."""
    dropped: int
    contradictions: int
    """Reads whose stamp was not to be trusted: the moment of the read was taken, with a wider bound."""
    lost: int
    """Requests that were begun and are not accounted for."""
    clock_bound_ms: float
    """How far the times of a process may be from those of the master; 0 of one process."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Of the verdict, the worst first."""
        of_metrics = (fault for metric in self.metrics.values() for fault in metric.judged.faults)
        return Judged.by([*self.general.faults, *of_metrics]).reasons

    @property
    def valid_metrics(self) -> frozenset[str]:
        """Those of `METRICS` that could be measured well."""
        verdicts = {
            name: worst(self.general.verdict, one.judged.verdict) for name, one in self.metrics.items()
        }
        return frozenset(name for name, verdict in verdicts.items() if verdict == VALID)

    def to_dict(self) -> dict[str, Any]:
        """The `client` block of a summary."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "load": self.load.to_dict(),
            "remarks": list(self.remarks),
            "stamps": self.stamps,
            "ttft_bound_mean_ms": self.ttft_bound_mean_ms,
            "ttft_bound_p99_ms": self.ttft_bound_p99_ms,
            "itl_bound_mean_ms": self.itl_bound_mean_ms,
            "itl_bound_p99_ms": self.itl_bound_p99_ms,
            "lag_p99_ms": self.lag_p99_ms,
            "send_lateness_p99_ms": self.send_lateness_p99_ms,
            "send_lateness_p99_high_ms": self.send_lateness_p99_high_ms,
            "cpu_shares": dict(self.cpu_shares),
            "dropped": self.dropped,
            "contradictions": self.contradictions,
            "lost": self.lost,
            "clock_bound_ms": self.clock_bound_ms,
        }


_Finding = tuple[Verdict, str]


def judge(
    measured: Measured,
    cpu_shares: Mapping[str, float],
    stamps: Stamps,
    *,
    loop: Loop = "open",
    parts: Mapping[str, Measured] | None = None,
    lost: int = 0,
    lost_workers: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Validity:
    """Judge the client by all that was `measured`.

    `parts` are what is reported by itself, see `named_parts`: each must hold for itself, since an error that
    is nothing to long answers may be all there is to short ones. `lost` requests were handed out and not
    accounted for. `lost_workers` are sentences, one per process that was lost before it had told all; what is
    missing of theirs is no part of `lost`. `remarks` are what else is known, and no fault of the measurement.

    `cpu_shares` holds, by a name that a reader understands ("client", "worker 2", "simulator"), the share of
    one core that a process used during the load.
    """
    by_part = parts if parts is not None and len(parts) > 1 else {"": measured}
    metrics = {
        name: Metric(
            Judged.by(_errors(name, by_part)),
            mean_error_ms=_error_ms(measured.means[name]),
            p99_error_ms=_error_ms(measured.p99s[name]),
        )
        for name in METRICS
    }
    general = Judged.by(
        [*_judge_lost(lost), *((DEGRADED, sentence) for sentence in lost_workers), *_judge_stamps(stamps)]
    )
    late, lags = list(_lateness(by_part, loop)), _lags(by_part)
    lateness = measured.lateness_p99
    planned = [
        *(late if loop == "open" else ()),
        *(() if loop == "closed" else _judge_clocks(measured)),
        *_judge_dropped(measured, loop),
    ]
    return Validity(
        worst(general.verdict, *(metric.judged.verdict for metric in metrics.values())),
        metrics,
        general,
        load=Judged.by([*planned, *_judge_cpu(cpu_shares)]),
        remarks=(
            *Judged.by([*(() if loop == "open" else late), *lags]).reasons,
            *_contradicted(measured.contradictions),
            *remarks,
        ),
        stamps=stamps,
        ttft_bound_mean_ms=_ms(measured.ttft_bound_mean_s),
        ttft_bound_p99_ms=_ms(measured.ttft_bound_p99_s),
        itl_bound_mean_ms=_ms(measured.itl_bound_mean_s),
        itl_bound_p99_ms=_ms(measured.itl_bound_p99_s),
        lag_p99_ms=_ms(measured.lag_p99_s),
        send_lateness_p99_ms=_ms(lateness.value_s if lateness else None),
        send_lateness_p99_high_ms=_ms(lateness.high_s if lateness else None),
        cpu_shares=cpu_shares,
        dropped=measured.dropped,
        contradictions=measured.contradictions,
        lost=lost,
        clock_bound_ms=measured.clock_bound_s * 1000,
    )


def _errors(name: str, parts: Mapping[str, Measured]) -> Iterator[_Finding]:
    """How far the mean and the p99 of a metric may be off, in each part."""
    for part, measured in parts.items():
        for word, numbers, limits_ms in (
            ("mean", measured.means, _MEAN_LIMITS_MS),
            ("p99", measured.p99s, _P99_LIMITS_MS[name]),
        ):
            if (number := numbers[name]) is not None:
                verdict, valid_ms = _held_against(number.error_s, limits_ms, number.value_s)
                error, limit = told_apart(number.error_s * 1000, valid_ms)
                yield (
                    verdict,
                    f"{_lead(part)}the {word} {METRICS[name]} may be {error} ms off, beyond the {limit} ms "
                    "of a valid measurement",
                )


def _lateness(parts: Mapping[str, Measured], loop: Loop) -> Iterator[_Finding]:
    for part, measured in parts.items():
        what = f"{_lead(part)}the p99 of how late requests were sent"
        yield from _delay(what, measured.lateness_p99, measured, _LATE[loop])


def _lags(parts: Mapping[str, Measured]) -> Iterator[_Finding]:
    for part, measured in parts.items():
        what = f"{_lead(part)}the p99 of the lag between arrival and reading"
        lag_s = measured.lag_p99_s
        certain = None if lag_s is None else Bounded(lag_s, lag_s, lag_s)
        yield from _delay(what, certain, measured, "which moves no stamp")


def _contradicted(count: int) -> Iterator[str]:
    if count:
        yield (
            f"{count} reads had a stamp that is not to be trusted, since it contradicts what was known or "
            "packets came out of order: the moment of the read counts, and the possible errors are as much "
            "larger"
        )


def _delay(what: str, delay: Bounded | None, measured: Measured, so: str) -> Iterator[_Finding]:
    if delay is None:
        return
    verdict, valid_ms = _delayed(delay.high_s, measured)
    certain = _delayed(delay.value_s, measured)[0] == verdict
    is_so, delay_s = ("is", delay.value_s) if certain else ("may be", delay.high_s)
    shown, limit = told_apart(delay_s * 1000, valid_ms)
    yield verdict, f"{what} {is_so} {shown} ms, beyond {limit} ms, {so}"


def _judge_clocks(measured: Measured) -> Iterator[_Finding]:
    verdict, valid_ms = _delayed(measured.clock_bound_s, measured)
    shown, limit = told_apart(measured.clock_bound_s * 1000, valid_ms)
    yield (
        verdict,
        f"the clocks of the processes may be {shown} ms off, beyond {limit} ms, "
        "and so may their parts of the schedule",
    )


def _delayed(delay_s: float, measured: Measured) -> tuple[Verdict, float]:
    """See `_held_against`."""
    e2el = measured.means["e2el"]
    return _held_against(delay_s, _DELAY_LIMITS_MS, e2el.value_s if e2el else 0.0)


def _held_against(
    value_s: float, limits_ms: tuple[float, float], reference_s: float
) -> tuple[Verdict, float]:
    """The verdict, and the limit up to which it would be `valid`, in ms."""
    valid_ms, degraded_ms = (
        max(limit_ms, share * reference_s * 1000) for limit_ms, share in zip(limits_ms, _SHARES, strict=True)
    )
    return _graded(value_s * 1000, valid_ms, degraded_ms), valid_ms


def _graded(value: float, valid: float, degraded: float) -> Verdict:
    return VALID if value <= valid else DEGRADED if value <= degraded else INVALID


def without_exponent(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent: 1290, not 1.29e+03."""
    return np.format_float_positional(value, digits, fractional=False, trim="-")


def told_apart(value: float, limit: float, digits: int = 3) -> tuple[str, str]:
    """Both numbers with as few digits as show that they differ, so many at least."""
    shown = without_exponent(value, digits), without_exponent(limit, digits)
    return told_apart(value, limit, digits + 1) if value != limit and shown[0] == shown[1] else shown


def _lead(part: str) -> str:
    return f"{part}: " if part else ""


def perhaps_shorter(window: Window | None) -> Iterator[str]:
    """A remark where throughputs may be higher, since less time may have been measured."""
    if window is not None and window.shortest_s < (1 - _SHARES[0]) * window.duration_s:
        shortest, measured = told_apart(window.shortest_s, window.duration_s)
        yield f"the measured {measured} s may have been {shortest} s, and throughputs as much higher"


def lost_sentence(lost: int) -> str:
    return f"{lost} requests were handed out and not accounted for"


def _judge_lost(lost: int) -> Iterator[_Finding]:
    if lost:
        yield INVALID, lost_sentence(lost)


def _judge_cpu(shares: Mapping[str, float]) -> Iterator[_Finding]:
    for name, share in shares.items():
        yield _graded(share, *_CPU_LIMITS), f"the process {name!r} used {share * 100:.0f} % of a core"


def _judge_dropped(measured: Measured, loop: Loop) -> Iterator[_Finding]:
    dropped, planned = measured.dropped, measured.planned
    if loop == "capped" and dropped:  # as the user wanted it, and by no fault of the client
        yield DEGRADED, f"{dropped} of {planned} planned requests found no place, and were never sent"
    else:
        verdict = _graded(dropped, 0, _DROPPED_LIMIT * planned)
        yield verdict, f"{dropped} of {planned} planned requests could not be sent"


def not_offered(measured: Measured, client: Validity, loop: Loop, *, missed: bool) -> str | None:
    """Why the server did not have the rate that was planned, in words.

    Users are the same however late they go on. A cap lets a part of a rate through: what that `missed` all of
    it would miss, too.
    """
    if loop == "closed":
        return None
    if client.load.verdict == INVALID:
        return client.load.reasons[0]
    if missed or Judged.by(_judge_dropped(measured, "open")).verdict != INVALID:
        return None
    return Judged.by(_judge_dropped(measured, loop)).reasons[0]


def _judge_stamps(stamps: Stamps) -> Iterator[_Finding]:
    if stamps == "read":
        yield DEGRADED, "arrival times are the moments of reading: this platform gave no kernel time stamps"


def _error_ms(number: Bounded | None) -> float | None:
    return None if number is None else number.error_s * 1000


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
