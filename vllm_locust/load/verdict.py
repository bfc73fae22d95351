"""What a finished run comes to: its summary, the gates, the text for a person, the exit code for a machine.

Exit codes: 0 fine, 1 requests failed (Locust's own), 2 wrong usage, 3 an SLO was missed, 4 the measurement is
invalid or the sample cannot tell whether an SLO was met.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_locust.core.batch_means import intervals_in_order
from vllm_locust.core.evidence import gates
from vllm_locust.core.group import Group
from vllm_locust.core.percentile import Interval
from vllm_locust.core.reconciliation import reconcile
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import Judgement, Slo, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import INVALID, VALID, Measured, Stamps, judge, named_parts
from vllm_locust.load.observation import ServerSide
from vllm_locust.load.settings import Settings
from vllm_locust.report.capacity import render_answer
from vllm_locust.report.text import render, render_phases, render_slos

EXIT_USAGE = 2
EXIT_SLO_MISSED = 3
EXIT_NOT_CONCLUSIVE = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusions of one run."""

    summary: Mapping[str, Any]
    """What `summary.json` holds."""
    judgements: Sequence[Judgement]
    text: str


@dataclass(frozen=True, slots=True)
class Generators:
    """What is known of the processes that generated the load."""

    cpu_shares: Mapping[str, float]
    stamps: Stamps
    lost: int
    """Requests that were begun and are not in the recording, which spoils the verdict."""
    workers: Sequence[Mapping[str, Any]] = ()
    """Which they were, if they were others than this one."""


def conclude(
    recording: Recording,
    settings: Settings,
    identity: Mapping[str, Any],
    generators: Generators,
    phases: Mapping[int, Mapping[str, Any]],
    *,
    server: ServerSide | None = None,
    profiler: Sequence[Mapping[str, Any]] | None = None,
    capacity: Mapping[str, Any] | None = None,
) -> Verdict:
    """Sum up a recording. `identity` says what was measured and leads the summary.

    `phases` describes each phase by its number; `server` is what is known of the other side, if it was asked;
    `profiler` is when its profiler ran, if it was to run; `capacity` is what a search found.
    """
    numbers = summarize(recording, settings.goodput_ms or None, percentiles_of(settings.slos), phases)
    client = judge(
        Measured.of(recording.total()),
        generators.cpu_shares,
        generators.stamps,
        parts=named_parts({key: Measured.of(group) for key, group in recording.groups.items()}),
        lost=generators.lost,
        lost_workers=list(sentences_on_lost(generators.workers)),
        queued=settings.max_concurrency is not None,
    ).to_dict()
    # A search looks for where its objectives break: holding its whole course against them would say nothing.
    judgements = _judge_all(settings.slos, recording, numbers) if capacity is None else []
    summary = {
        **identity,
        **numbers,
        "client": client,
        "server": _server(server, numbers, client["verdict"]) if settings.watches_server and server else None,
        "workers": list(generators.workers),
        "slo": [judgement.to_dict() for judgement in judgements],
    }
    if profiler is not None:
        summary["profiler"] = profiler
    if capacity is not None:
        summary["capacity"] = capacity
    return Verdict(summary, judgements, _text(summary))


def _judge_all(slos: Sequence[Slo], recording: Recording, numbers: Mapping[str, Any]) -> Sequence[Judgement]:
    """Of the whole run; every phase of several gets a block `slo` of its own."""
    if not slos:
        return []
    phases: Sequence[dict[str, Any]] = numbers["phases"]
    total = recording.total()
    if len(phases) == 1:  # several levels of load have no order in time that intervals could be made of
        known = _intervals(slos, total, numbers)
        return gates(slos, total, numbers, known)
    for phase in phases:
        group = recording.phase(phase["phase"])
        known = _intervals(slos, group, phase)
        phase["slo"] = [judgement.to_dict() for judgement in gates(slos, group, phase, known)]
    return gates(slos, total, numbers)


def _intervals(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any]) -> Mapping[str, Interval]:
    percentiles = {50.0, *percentiles_of(slos)}  # the first for `median_`
    return intervals_in_order(group, numbers["max_concurrent_requests"] or 1, percentiles)


def _server(side: ServerSide, numbers: Mapping[str, Any], client_verdict: str) -> Mapping[str, Any]:
    """The block `server` of the summary; every phase gets one of its own."""
    for phase in numbers["phases"]:
        window = side.recording.phase(phase["phase"])
        phase["server"] = None if window is None else window.to_dict()
    total = side.recording.total()
    block: dict[str, Any] = {"sources": list(side.sources)}
    if total is not None:
        reconciliation = reconcile(total, numbers, client_valid=client_verdict == VALID)
        block |= {**total.to_dict(), "reconciliation": reconciliation}
    return block


def sentences_on_lost(workers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why the verdict suffers from workers that were lost on the way."""
    for worker in workers:
        name = f"worker {worker['worker']} ({worker['name']})"
        if worker["lost_after_s"] is not None:
            yield f"{name} was lost after {worker['lost_after_s']:.1f} s"
        elif worker["was_missing"]:
            yield f"{name} was out of reach for a while: others may have sent the same requests meanwhile"


def exit_code(verdict: Verdict, user_errors: bool) -> int | None:
    """The code that the run's gates demand; None leaves it to Locust. `user_errors`: a task raised.

    A missed objective on failures stands however poor the measurement; one on latencies does not.
    """
    if "capacity" in verdict.summary:
        return _exit_code_of_search(verdict.summary["capacity"], user_errors)
    missed = [judgement.slo for judgement in verdict.judgements if judgement.outcome == "missed"]
    # Whoever says how many failures are acceptable makes Locust's own rule, none, step back.
    failures_judged = any(judgement.slo.about_failures for judgement in verdict.judgements)
    if any(slo.about_failures for slo in missed):
        return EXIT_SLO_MISSED
    if verdict.summary["requests"]["failed"] and not failures_judged and not missed:
        return None  # says more than that such a run makes a poor measurement
    if verdict.summary["client"]["verdict"] == INVALID:
        return EXIT_NOT_CONCLUSIVE
    if missed:
        return EXIT_SLO_MISSED
    if any(judgement.outcome == "undetermined" for judgement in verdict.judgements):
        return EXIT_NOT_CONCLUSIVE
    return 0 if failures_judged and not user_errors else None


def _exit_code_of_search(capacity: Mapping[str, Any], user_errors: bool) -> int | None:
    """A search goes on until something breaks: what failed on the way is no fault of the level it found."""
    if capacity["undecided"] is not None:
        return EXIT_NOT_CONCLUSIVE
    if capacity["level"] is None:
        return EXIT_SLO_MISSED
    return None if user_errors else 0


def _text(summary: Mapping[str, Any]) -> str:
    parts = [render(summary)]
    if len(summary["phases"]) > 1 or any("profiles" in phase for phase in summary["phases"]):
        parts.append(render_phases(summary["phases"]))
    if "capacity" in summary:
        parts.append(render_answer(summary["capacity"], summary["capacity"]["unit"]))
    if summary["slo"]:
        parts.append(render_slos(summary))
    return "\n".join(parts)
