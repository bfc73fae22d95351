"""Runs as rows of numbers: one for each phase and profile, and one for the whole of a run that has several.

Rule: a row points at numbers of a summary and computes none; what tables, plots, comparisons and findings
show of several runs are columns of these rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vllm_locust.results.folder import Results

Factor = str | int | float | bool | None
Unit = Literal["users", "requests/s"]


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one phase of a run, or of one profile of it."""

    run: str
    """What the run is called where it stands beside others."""
    workload: str
    """The scenario, or the member of it that the phase asked."""
    numbers: Mapping[str, Any]
    """The keys of a summary (see `core.summary`), `server` among them where the server was asked."""
    phase: int | None = None
    """None: the whole run."""
    profile: str | None = None
    """None: all profiles together."""
    level: float | None = None
    """The load, where it is a number: users of a closed loop, or requests per second of an open one."""
    unit: Unit | None = None
    factors: Mapping[str, Factor] = field(default_factory=dict)
    """What sets the run apart from others of an experiment: `max-num-seqs` and the like."""

    @property
    def server(self) -> Mapping[str, Any]:
        """What the server said of itself meanwhile; empty when it said nothing."""
        server: Mapping[str, Any] = self.numbers.get("server") or {}
        return server if "samples" in server else {}


def rows_of(
    results: Results, run: str | None = None, factors: Mapping[str, Factor] | None = None
) -> list[Row]:
    """The rows of a run, called `run` or like its folder; none without a summary.

    First the whole run, then, if it has more than one phase or profile, each phase and each of its profiles.
    """
    if results.summary is None:
        return []
    name, known = run or results.folder.name, factors or {}
    summary = results.summary
    workload = results.scenario or "n/a"
    phases = summary.get("phases") or []
    several = len(phases) > 1 or any("profiles" in phase for phase in phases)
    whole = Row(name, workload, summary, factors=known, **_whole_level(results, several))
    return [whole, *(_rows_of_phases(name, workload, phases, known) if several else ())]


def _whole_level(results: Results, several: bool) -> dict[str, Any]:
    """The load of a run that has only one; of a ladder it is no number."""
    run, summary = results.run or {}, results.summary or {}
    if several and len({_level(phase)["level"] for phase in summary["phases"]}) > 1:
        return {}
    level = _level({"users": run.get("users"), **(summary.get("phases") or [{}])[0]})
    return level if summary.get("request_rate") is None else _level(summary)


def _rows_of_phases(run: str, workload: str, phases: Any, factors: Mapping[str, Factor]) -> Iterator[Row]:
    for phase in phases:
        what = {"workload": str(phase.get("name") or workload), "phase": phase["phase"], **_level(phase)}
        yield Row(run, numbers=phase, profile=phase.get("profile"), factors=factors, **what)
        for part in phase.get("profiles", ()):
            yield Row(run, numbers=part, profile=part["profile"], factors=factors, **what)


def _level(phase: Mapping[str, Any]) -> dict[str, Any]:
    for key, unit in (("request_rate", "requests/s"), ("users", "users")):
        value = phase.get(key)
        if isinstance(value, int | float):
            return {"level": float(value), "unit": unit}
        if value is not None:
            return {"level": None, "unit": unit}
    return {"level": None, "unit": None}
