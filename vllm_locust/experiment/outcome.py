"""What became of a run, from Locust's exit code and what it has left behind."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.experiment.log import telling_lines
from vllm_locust.results.folder import SUMMARY

LOG = "locust.log"
"""What Locust printed, in the folder of the results."""

BY_EXIT_CODE: Mapping[int, str] = {
    0: "ok",
    1: "failed_requests",
    2: "refused",
    3: "slo_missed",
    4: "invalid",
}
CRASHED = "crashed"

_OURS = "vllm-locust: "


def outcome_of(exit_code: int, folder: Path) -> tuple[str, str | None]:
    """The outcome and why it is so, in words."""
    outcome = BY_EXIT_CODE.get(exit_code, CRASHED)
    if outcome == "ok":
        return outcome, None
    summary = _summary(folder)
    if outcome == "refused":
        return outcome, _refusals(folder / LOG)
    if summary is None or outcome == CRASHED:
        # Without a summary it did not come to its end, whatever the code.
        return CRASHED, f"exit code {exit_code}: {telling_lines(folder / LOG) or 'it said nothing'}"
    return outcome, "; ".join(_reasons(outcome, summary)) or telling_lines(folder / LOG) or None


def _summary(folder: Path) -> Mapping[str, Any] | None:
    try:
        summary = orjson.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def _reasons(outcome: str, summary: Mapping[str, Any]) -> Iterator[str]:
    if outcome == "failed_requests":
        requests = summary.get("requests") or {}
        failed = [f"{requests.get('failed')} of {requests.get('planned')} requests failed"]
        if requests.get("dropped"):
            failed.append(f"{requests['dropped']} were never sent")
        examples = summary.get("failure_examples") or {}
        for kind, count in sorted((summary.get("failures") or {}).items(), key=lambda pair: -pair[1]):
            example = f" ({examples[kind]})" if examples.get(kind) else ""
            failed.append(f"{count} {kind}{example}")
        yield ", ".join(failed)
    if outcome in ("slo_missed", "invalid"):
        for slo in summary.get("slo") or ():
            if slo.get("outcome") not in (None, "met"):
                yield str(slo.get("sentence") or slo)
        if "capacity" in summary:
            yield f"the search ended: {summary['capacity'].get('ended')}"
    if outcome == "invalid":
        client = summary.get("client") or {}
        if client.get("verdict") == "invalid":
            yield from (str(reason) for reason in client.get("reasons") or ())


def _refusals(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    ours = [line.removeprefix(_OURS) for line in text.splitlines() if line.startswith(_OURS)]
    return " ".join(ours) or telling_lines(log)
