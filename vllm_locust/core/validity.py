"""Whether the measurement can be trusted: what the client itself may have added to the numbers, in words.

Rule: the verdict is about the client, never about the server. Many failures or few requests are results, not
faults of the measurement. The worst of all checks decides, and each check that is not fine gives one reason.

`valid` up to the first limit, `degraded` up to the second, `invalid` above. Where a share is given the limit
is the larger of the absolute one and that share of what was measured, since 1 ms on 200 ms is nothing:

    possible error of TTFT, mean       1 ms or 2 %       5 ms or 10 %     of the mean TTFT
    possible error of TTFT, p99        2 ms or 2 %      10 ms or 10 %     of the p99 TTFT
    possible error of ITL, mean        1 ms or 2 %       5 ms or 10 %     of the mean ITL
    possible error of ITL, p99         1 ms or 2 %       5 ms or 10 %     of the p99 ITL
    lag of reading, p99               10 ms or 2 %     100 ms or 10 %     of the mean E2EL
    lateness of sending, p99          10 ms or 2 %     100 ms or 10 %     of the mean E2EL
    CPU of a process                   80 % of a core   95 % of a core
    requests not sent                  none              1 % of those planned
    requests not accounted for         none              none
    processes lost on the way          none              any

The possible errors are the limits that the stamps themselves set (`RequestRecord.bounds_s`). Lag does not
move kernel stamps, but a client that reads late also answers late: in a closed loop the next request waits.
In an open loop nothing waits, and a request that is sent late has its TTFT from when it was sent: only the
latencies from the intended start tell of it.
Without kernel stamps the lag cannot be known and the verdict is `degraded` at best.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Literal, Self

import numpy as np

from vllm_locust.core.group import Group
from vllm_locust.core.percentile import percentile

Verdict = Literal["valid", "degraded", "invalid"]
Stamps = Literal["kernel", "read"]

VALID: Verdict = "valid"
DEGRADED: Verdict = "degraded"
INVALID: Verdict = "invalid"
_SEVERITY: dict[Verdict, int] = {VALID: 0, DEGRADED: 1, INVALID: 2}

_VALID_SHARE = 0.02
_DEGRADED_SHARE = 0.10
_VALID_CPU = 0.80
_DEGRADED_CPU = 0.95
_DEGRADED_DROPPED = 0.01


@dataclass(frozen=True, slots=True)
class Measured:
    """What is judged of some requests, None where there was nothing to measure: numbers, and no requests."""

    ttft_mean_s: float | None
    ttft_p99_s: float | None
    itl_mean_s: float | None
    itl_p99_s: float | None
    e2el_mean_s: float | None
    ttft_bound_mean_s: float | None
    ttft_bound_p99_s: float | None
    itl_bound_mean_s: float | None
    itl_bound_p99_s: float | None
    lag_p99_s: float | None
    lateness_p99_s: float | None
    planned: int
    dropped: int

    @classmethod
    def of(cls, group: Group) -> Self:
        """Of the requests of a group."""
        return cls(
            ttft_mean_s=_mean(group.ttft_s),
            ttft_p99_s=percentile(group.ttft_s, 99),
            itl_mean_s=group.itl.mean_s,
            itl_p99_s=group.itl.percentile(99),
            e2el_mean_s=_mean(group.e2el_s),
            ttft_bound_mean_s=group.ttft_bound.mean_s,
            ttft_bound_p99_s=group.ttft_bound.percentile(99),
            itl_bound_mean_s=group.itl_bound.mean_s,
            itl_bound_p99_s=group.itl_bound.percentile(99),
            lag_p99_s=group.lag.percentile(99),
            lateness_p99_s=group.lateness.percentile(99),
            planned=group.planned,
            dropped=group.dropped,
        )


def named_parts(parts: Mapping[tuple[int, str], Measured]) -> dict[str, Measured]:
    """What was measured by (phase, profile), in order, by the name that a reader knows it by."""
    several = len({phase for phase, _ in parts}) > 1
    return {
        f"phase {phase + 1}, {profile}" if several else profile: part
        for (phase, profile), part in sorted(parts.items(), key=lambda item: item[0])
    }


@dataclass(frozen=True, slots=True)
class Validity:
    """The verdict, its reasons, and the numbers behind them; None where there was nothing to measure."""

    verdict: Verdict
    reasons: tuple[str, ...]
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
    """How long after their intended start requests were sent."""
    cpu_shares: Mapping[str, float]
    """By process, 1.0 is all of one core."""
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """The `client` block of a summary."""
        return asdict(self) | {"reasons": list(self.reasons), "cpu_shares": dict(self.cpu_shares)}


@dataclass(frozen=True, slots=True)
class _Duration:
    """One measured duration of the client and the limits it is held against, in ms."""

    name: str
    value_ms: float | None
    valid_ms: float
    degraded_ms: float
    reference_ms: float | None

    def judged(self) -> Iterator[tuple[Verdict, str]]:
        if self.value_ms is None:
            return
        reference_ms = self.reference_ms or 0.0
        valid_ms = max(self.valid_ms, _VALID_SHARE * reference_ms)
        degraded_ms = max(self.degraded_ms, _DEGRADED_SHARE * reference_ms)
        verdict = _held_against(self.value_ms, valid_ms, degraded_ms)
        yield (
            verdict,
            f"{self.name} is {self.value_ms:.3g} ms, beyond the {valid_ms:.3g} ms of a valid measurement",
        )


def _held_against(value: float, valid: float, degraded: float) -> Verdict:
    return VALID if value <= valid else DEGRADED if value <= degraded else INVALID


def judge(
    measured: Measured,
    cpu_shares: Mapping[str, float],
    stamps: Stamps,
    *,
    parts: Mapping[str, Measured] | None = None,
    lost: int = 0,
    lost_workers: Sequence[str] = (),
    queued: bool = False,
) -> Validity:
    """Judge the client by all that was `measured`.

    `parts` are what is reported by itself, see `named_parts`: each must hold for itself, since an error that
    is nothing to long answers may be all there is to short ones. `lost` requests were handed out and not
    accounted for. `lost_workers` are sentences, one per process that was lost before it had told all; what is
    missing of theirs is no part of `lost`.

    `cpu_shares` holds, by a name that a reader understands ("client", "worker 2", "simulator"), the share of
    one core that a process used during the load. `queued` says that requests waited on purpose (an open loop
    with a cap on concurrency), so that sending late, or not at all, is no fault.
    """
    durations = _durations(measured)
    last = -1 if queued else None
    findings = chain(
        *(check.judged() for part in _checks(measured, parts) for check in part[:last]),
        _judge_cpu(cpu_shares),
        _judge_lost(lost),
        ((DEGRADED, sentence) for sentence in lost_workers),
        () if queued else _judge_dropped(measured),
        _judge_stamps(stamps),
    )
    faults = [(verdict, reason) for verdict, reason in findings if verdict != VALID]
    ttft_mean, ttft_p99, itl_mean, itl_p99, lag_p99, late_p99 = (check.value_ms for check in durations)
    return Validity(
        max((verdict for verdict, _ in faults), key=_SEVERITY.__getitem__, default=VALID),
        tuple(reason for _, reason in faults),
        stamps,
        ttft_bound_mean_ms=ttft_mean,
        ttft_bound_p99_ms=ttft_p99,
        itl_bound_mean_ms=itl_mean,
        itl_bound_p99_ms=itl_p99,
        lag_p99_ms=lag_p99,
        send_lateness_p99_ms=late_p99,
        cpu_shares=cpu_shares,
        dropped=measured.dropped,
    )


def _checks(measured: Measured, parts: Mapping[str, Measured] | None) -> Iterator[list[_Duration]]:
    """The durations to be judged: of every part with the part's name, or of the whole if it is one."""
    if parts is None or len(parts) < 2:
        yield _durations(measured)
        return
    for name, part in parts.items():
        yield [replace(check, name=f"{name}: {check.name}") for check in _durations(part)]


def _judge_lost(lost: int) -> Iterator[tuple[Verdict, str]]:
    if lost:
        yield INVALID, f"{lost} requests were handed out and not accounted for"


def _durations(measured: Measured) -> list[_Duration]:
    """In the order of `Validity`; the lateness of sending is the last."""
    ttft, itl = (
        "the possible error of the time to first token",
        "the possible error of the inter-token latency",
    )
    lag, lateness = "the p99 of the lag between arrival and reading", "the p99 of how late requests were sent"
    checks = [
        (f"the mean of {ttft}", measured.ttft_bound_mean_s, 1, 5, measured.ttft_mean_s),
        (f"the p99 of {ttft}", measured.ttft_bound_p99_s, 2, 10, measured.ttft_p99_s),
        (f"the mean of {itl}", measured.itl_bound_mean_s, 1, 5, measured.itl_mean_s),
        (f"the p99 of {itl}", measured.itl_bound_p99_s, 1, 5, measured.itl_p99_s),
        (lag, measured.lag_p99_s, 10, 100, measured.e2el_mean_s),
        (lateness, measured.lateness_p99_s, 10, 100, measured.e2el_mean_s),
    ]
    return [
        _Duration(name, _ms(value_s), valid_ms, degraded_ms, _ms(reference_s))
        for name, value_s, valid_ms, degraded_ms, reference_s in checks
    ]


def _judge_cpu(shares: Mapping[str, float]) -> Iterator[tuple[Verdict, str]]:
    for name, share in shares.items():
        yield (
            _held_against(share, _VALID_CPU, _DEGRADED_CPU),
            f"the process {name!r} used {share * 100:.0f} % of a core",
        )


def _judge_dropped(measured: Measured) -> Iterator[tuple[Verdict, str]]:
    dropped, planned = measured.dropped, measured.planned
    verdict = _held_against(dropped, 0, _DEGRADED_DROPPED * planned)
    yield verdict, f"{dropped} of {planned} planned requests could not be sent"


def _judge_stamps(stamps: Stamps) -> Iterator[tuple[Verdict, str]]:
    if stamps == "read":
        yield DEGRADED, "arrival times are the moments of reading: this platform gave no kernel time stamps"


def _mean(column_s: Sequence[float]) -> float | None:
    return float(np.mean(column_s)) if len(column_s) else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
