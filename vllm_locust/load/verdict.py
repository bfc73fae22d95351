"""What a finished run comes to: its summary, the gates, the text for a person, the exit code for a machine.

Exit codes: 0 fine, 1 requests failed (Locust's own), 2 wrong usage, 3 an SLO was missed, 4 the measurement is
invalid or cannot tell whether an SLO was met. With 4 the last line of stdout says why.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_locust.core.batch_means import intervals_in_order
from vllm_locust.core.gates import gates
from vllm_locust.core.group import Group
from vllm_locust.core.percentile import Interval
from vllm_locust.core.reconciliation import is_partial, reconcile
from vllm_locust.core.recording import Recording
from vllm_locust.core.server_window import ServerWindow
from vllm_locust.core.slo import Judgement, Slo, percentiles_of, undetermined
from vllm_locust.core.summary import nothing_measured, summarize
from vllm_locust.core.validity import (
    INVALID,
    Measured,
    Stamps,
    Validity,
    judge,
    named_parts,
    perhaps_shorter,
)
from vllm_locust.load.observation import ServerSide
from vllm_locust.load.outside import Outside
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
    outside: Outside
    """What their users asked on their own."""
    workers: Sequence[Mapping[str, Any]] = ()
    """Which they were, if they were others than this one."""
    warming_s: float | None = None
    """How long they waited for the prefix cache to be warmed, if it was to be."""


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
    if generators.warming_s is not None:
        numbers["warming_s"] = generators.warming_s
    total = recording.total()
    client = judge(
        Measured.of(total, recording.clock_bound_s),
        generators.cpu_shares,
        generators.stamps,
        loop=settings.loop,
        parts=named_parts({key: Measured.of(group) for key, group in recording.groups.items()}),
        lost=generators.lost,
        lost_workers=list(sentences_on_lost(generators.workers)),
        remarks=[
            *perhaps_shorter(recording.window()),
            *generators.outside.remarks(total.planned, settings.of_scenario),
        ],
    )
    # A search looks for where its objectives break: holding its whole course against them would say nothing.
    judgements = _judge_all(settings.slos, recording, numbers, client) if capacity is None else []
    judgements = _with_unaccounted(judgements, sum(worker["unaccounted"] for worker in generators.workers))
    summary = {
        **identity,
        **_asked(total, generators.outside),
        **numbers,
        "client": client.to_dict(),
        "server": _server(server, numbers, client) if settings.watches_server and server else None,
        "workers": list(generators.workers),
        "slo": [judgement.to_dict() for judgement in judgements],
    }
    if profiler is not None:
        summary["profiler"] = profiler
    if capacity is not None:
        summary["capacity"] = capacity
    return Verdict(summary, judgements, _text(summary))


def _asked(total: Group, outside: Outside) -> dict[str, None]:
    """Nothing of the scenario where all requests were asked outside of it."""
    return {"scenario": None} if total.planned and outside.asked.total() >= total.planned else {}


def _judge_all(
    slos: Sequence[Slo], recording: Recording, numbers: Mapping[str, Any], client: Validity
) -> Sequence[Judgement]:
    """Of the whole run; every phase of several gets a block `slo` of its own."""
    if not slos:
        return []
    phases: Sequence[dict[str, Any]] = numbers["phases"]
    total = recording.total()
    if len(phases) == 1:  # several levels of load have no order in time that intervals could be made of
        known = _intervals(slos, total, numbers)
        return gates(slos, total, numbers, known, client)
    for phase in phases:
        group = recording.phase(phase["phase"])
        known = _intervals(slos, group, phase)
        phase["slo"] = [judgement.to_dict() for judgement in gates(slos, group, phase, known, client)]
    together = gates(slos, total, numbers, client=client)
    return [_unless_silent(judgement, place, phases) for place, judgement in enumerate(together)]


def _unless_silent(judgement: Judgement, place: int, phases: Sequence[Mapping[str, Any]]) -> Judgement:
    """What all requests together meet is not known of a phase in which nothing was measured."""
    silent = [
        f"in phase {number} {nothing}"
        for number, phase in enumerate(phases, 1)
        if phase["slo"][place]["outcome"] == "undetermined" and (nothing := nothing_measured(phase))
    ]
    if judgement.outcome != "met" or judgement.value is None or not silent:
        return judgement
    shown = judgement.slo.shown(judgement.value)
    return undetermined(judgement, f"{shown} of all phases together, but {'; '.join(silent)}")


def _with_unaccounted(judgements: Sequence[Judgement], unaccounted: int) -> Sequence[Judgement]:
    """Whatever lost workers had in flight may have failed."""
    if not unaccounted:
        return judgements
    why = f"but what became of up to {unaccounted} requests of lost workers is not known"
    return [
        undetermined(one, f"{one.slo.shown(one.value)}, {why}")
        if one.value is not None and one.slo.about_failures and one.outcome == "met"
        else one
        for one in judgements
    ]


def _intervals(slos: Sequence[Slo], group: Group, numbers: Mapping[str, Any]) -> Mapping[str, Interval]:
    percentiles = {50.0, *percentiles_of(slos)}  # the first for `median_`
    return intervals_in_order(group, numbers["max_concurrent_requests"] or 1, percentiles)


def _server(side: ServerSide, numbers: Mapping[str, Any], client: Validity) -> Mapping[str, Any]:
    """The block `server` of the summary; every phase gets one of its own."""
    total = side.recording.total()
    silent = [source["source"] for source in side.sources if not source["up"]]
    partial = total is not None and is_partial(total, numbers, silent)
    for phase in numbers["phases"]:
        phase["server"] = _shown(side.recording.phase(phase["phase"]), partial)
    block: dict[str, Any] = {"sources": list(side.sources)}
    if total is not None:
        reconciliation = reconcile(total, numbers, valid=client.valid_metrics, silent=silent)
        block |= {**(_shown(total, partial) or {}), "reconciliation": reconciliation}
    return block


def _shown(window: ServerWindow | None, partial: bool) -> Mapping[str, Any] | None:
    if window is None:
        return None
    return (window.of_a_part() if partial else window).to_dict()


def sentences_on_lost(workers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why the verdict suffers from workers that were lost on the way."""
    for worker in workers:
        name = f"worker {worker['worker']} ({worker['name']})"
        if worker["lost_after_s"] is not None:
            yield f"{name} was lost after {worker['lost_after_s']:.1f} s"
        elif worker["was_missing"]:
            yield f"{name} was out of reach for a while: others may have sent the same requests meanwhile"


def exit_code(verdict: Verdict, user_errors: bool) -> int | None:
    """The code that the run's gates demand; None leaves it to Locust. `user_errors`: a task raised."""
    if why_inconclusive(verdict) is not None:
        return EXIT_NOT_CONCLUSIVE
    if "capacity" in verdict.summary:
        return EXIT_SLO_MISSED if verdict.summary["capacity"]["level"] is None else None if user_errors else 0
    if any(judgement.outcome == "missed" for judgement in verdict.judgements):
        return EXIT_SLO_MISSED
    if unaccepted(verdict) is not None:
        return None
    # Whoever says how many are acceptable makes Locust's own rule, none, step back.
    judged = _failures_judged(verdict.judgements) or _drops_judged(verdict.judgements)
    return 0 if judged and not user_errors else None


def unaccepted(verdict: Verdict) -> str | None:
    """The failed or dropped requests that no objective is about, in words; None without any."""
    requests, judgements = verdict.summary["requests"], verdict.judgements
    counts = {
        "failed": 0 if _failures_judged(judgements) else requests["failed"],
        "were dropped, never sent": 0 if _drops_judged(judgements) else requests["dropped"],
    }
    told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"of {requests['planned']} requests {told}" if told else None


def why_inconclusive(verdict: Verdict) -> str | None:
    """The sentence behind exit code 4, None with any other.

    What is missed for certain stands whatever else cannot be told, and so do failures that nobody accepts.
    Where there are objectives they are what matters, whatever else is badly measured, as long as somebody
    made the load to its end.
    """
    summary, judgements = verdict.summary, verdict.judgements
    if "capacity" in summary:
        undecided: str | None = summary["capacity"]["undecided"]
        return undecided
    if any(judgement.outcome == "missed" for judgement in judgements):
        return None
    if summary["requests"]["failed"] and not _failures_judged(judgements):
        return None  # says more than that such a run makes a poor measurement
    undetermined = [judgement.sentence for judgement in judgements if judgement.outcome == "undetermined"]
    return why_worthless(verdict) or _and_more(undetermined)


def why_worthless(verdict: Verdict) -> str | None:
    """Why a run as a whole says nothing, None where it does; objectives say themselves what they lack."""
    summary, client = verdict.summary, verdict.summary["client"]
    if (abandoned := _abandoned(summary["workers"])) is not None:
        return abandoned
    if verdict.judgements:
        return None
    if client["verdict"] == INVALID:
        besides = "" if (told := unaccepted(verdict)) is None else f"; and {told}"
        return f"the measurement is invalid: {_and_more(client['reasons'])}{besides}"
    return nothing_measured(summary)


def _abandoned(workers: Sequence[Mapping[str, Any]]) -> str | None:
    """That nobody was left to make the load, and since when; None where somebody was."""
    lost_after_s = [worker["lost_after_s"] for worker in workers]
    if not workers or None in lost_after_s:
        return None
    all_of_them = f"all {len(workers)} load-generating processes were lost"
    return f"{all_of_them}, the last one after {max(lost_after_s):.1f} s"


def _failures_judged(judgements: Sequence[Judgement]) -> bool:
    return any(judgement.slo.about_failures for judgement in judgements)


def _drops_judged(judgements: Sequence[Judgement]) -> bool:
    return any(judgement.slo.about_drops for judgement in judgements)


def _and_more(sentences: Sequence[str]) -> str | None:
    if not sentences:
        return None
    more = len(sentences) - 1
    return f"{sentences[0]} (and {more} more, see above)" if more else sentences[0]


def _text(summary: Mapping[str, Any]) -> str:
    parts = [render(summary)]
    if len(summary["phases"]) > 1 or any("profiles" in phase for phase in summary["phases"]):
        parts.append(render_phases(summary["phases"]))
    if "capacity" in summary:
        parts.append(render_answer(summary["capacity"], summary["capacity"]["unit"]))
    if summary["slo"]:
        parts.append(render_slos(summary))
    return "\n".join(parts)
