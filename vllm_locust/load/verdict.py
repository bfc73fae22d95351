"""What a finished run comes to: its summary, the gates, the text for a person, the exit code for a machine.

Exit codes: 0 fine, 1 requests failed (Locust's own), 2 wrong usage, 3 an SLO was missed, 4 the measurement is
invalid or the sample cannot tell whether an SLO was met.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_locust.client.stamps import kernel_stamps_available
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import Judgement, evaluate, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import INVALID, Stamps, judge
from vllm_locust.load.options import Settings
from vllm_locust.report.text import render, render_phases

EXIT_SLO_MISSED = 3
EXIT_NOT_CONCLUSIVE = 4

# An objective on one of these says how many failures are acceptable: Locust's own rule, none, steps back.
_FAILURE_KEYS = ("failed", "error_rate", "requests.failed")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusions of one run."""

    summary: Mapping[str, Any]
    """What `summary.json` holds."""
    judgements: Sequence[Judgement]
    text: str


def conclude(
    recording: Recording, settings: Settings, cpu_shares: Mapping[str, float], identity: Mapping[str, Any]
) -> Verdict:
    """Sum up a recording. `identity` says what was measured and leads the summary."""
    numbers = summarize(recording, settings.goodput_ms or None, percentiles_of(settings.slos))
    stamps: Stamps = "kernel" if kernel_stamps_available() else "read"
    client = judge(recording.total(), cpu_shares, stamps).to_dict()
    judgements = [evaluate(slo, numbers) for slo in settings.slos]
    summary = {
        **identity,
        **numbers,
        "client": client,
        "slo": [judgement.to_dict() for judgement in judgements],
    }
    return Verdict(summary, judgements, _text(summary, judgements))


def exit_code(verdict: Verdict, user_errors: bool) -> int | None:
    """The code that the run's gates demand; None leaves it to Locust. `user_errors`: a task raised."""
    outcomes = {judgement.outcome for judgement in verdict.judgements}
    failures_judged = any(judgement.slo.key in _FAILURE_KEYS for judgement in verdict.judgements)
    if "missed" in outcomes:
        return EXIT_SLO_MISSED
    if verdict.summary["requests"]["failed"] and not failures_judged:
        return None  # says more than that such a run makes a poor measurement
    if "undetermined" in outcomes or verdict.summary["client"]["verdict"] == INVALID:
        return EXIT_NOT_CONCLUSIVE
    return 0 if failures_judged and not user_errors else None


def _text(summary: Mapping[str, Any], judgements: Sequence[Judgement]) -> str:
    parts = [render(summary)]
    if len(summary["phases"]) > 1:
        parts.append(render_phases(summary["phases"]))
    if judgements:
        parts.append("\n".join(f"SLO {judgement.sentence}" for judgement in judgements) + "\n")
    return "\n".join(parts)
