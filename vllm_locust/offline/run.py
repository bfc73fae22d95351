"""One engine, one scenario or several values of one of its parameters: plan, measure, tell, write.

Rule: all that is wrong with the options and with what was planned is said before anything is measured.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.offline import results, text
from vllm_locust.offline.batch import Batch, make_batch, plan
from vllm_locust.offline.engine import Engine
from vllm_locust.offline.measure import Measured, measure, records, warm_up
from vllm_locust.offline.reviews import is_classification
from vllm_locust.offline.summary import summarize_run
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, Scenario, primers_of, sources_of

_USUAL_PROMPTS = 100
_WARM_UP_SEED = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run, checked and converted."""

    model: str
    scenario: str
    seed: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    num_prompts: int | None = None
    input_len: Lengths | None = None
    max_tokens: Lengths | None = None
    dataset_path: Path | None = None
    endpoint_type: str = "chat"
    ignore_eos: bool = True
    prefix_cache: str = "cold"
    num_warmups: int = 8
    results_dir: Path | None = None
    sweep: tuple[str, Sequence[str]] | None = None
    """A parameter of the scenario and the values to try, one run each."""
    engine_arguments: Sequence[str] = ()

    @property
    def chat(self) -> bool:
        return self.endpoint_type == "chat"

    def runs(self) -> Sequence[tuple[str, "Settings"]]:
        """What is run in turn, each with its label; without a sweep one, that has none."""
        if self.sweep is None:
            return [("", self)]
        name, values = self.sweep
        return [(f"{name}={value}", self._with(name, value)) for value in values]

    def _with(self, name: str, value: str) -> "Settings":
        folder = None if self.results_dir is None else self.results_dir / f"{name}={value}"
        return replace(self, parameters={**self.parameters, name: value}, results_dir=folder)


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that is ready for the engine."""

    label: str
    settings: Settings
    scenario: Scenario
    batches: Sequence[Batch]
    primers: Sequence[Batch | None]


def run_offline(settings: Settings, engine: Engine) -> bool:
    """Do all of it and print what came out; whether every request was answered."""
    planned = [_plan(label, one, engine) for label, one in settings.runs()]
    _warm_up(planned[0], engine)
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for one in planned:
        summary = _run(one, engine)
        rows += [(f"{one.label} {phase['name']}".strip(), phase) for phase in summary["phases"]]
    if len(rows) > 1:
        print("\n".join(["", *text.render_table(rows)]), flush=True)
    return not any(phase["failed"] for _, phase in rows)


def _plan(label: str, settings: Settings, engine: Engine) -> Planned:
    context = Context(
        dataset_path=settings.dataset_path,
        input_len=settings.input_len,
        max_tokens=settings.max_tokens,
        count_tokens=engine.count_chat if settings.chat else engine.count_prompt,
        encode=engine.encode,
        endpoint_type=settings.endpoint_type,
        max_model_len=engine.max_model_len,
        parameters=settings.parameters,
    )
    scenario = catalogue.load(settings.scenario, context)
    make = partial(make_batch, engine=engine, ignore_eos=settings.ignore_eos, chat=settings.chat)
    batches: list[Batch] = []
    primers: list[Batch | None] = []
    for number, phase in enumerate(scenario.phases):
        requests = plan(phase, settings.seed, settings.num_prompts, _USUAL_PROMPTS)
        first = sum(len(batch.planned) for batch in batches)
        batches.append(make(number, phase.name, first, requests))
        warm = list(primers_of(phase, settings.seed)) if settings.prefix_cache == "warm" else []
        primers.append(make(number, phase.name, 0, warm) if warm else None)
    if settings.prefix_cache == "warm" and not any(primers):
        raise UsageError(
            f"--prefix-cache warm needs a scenario whose requests share a prefix, or of imdb an end "
            f"(--set reviews=N): {scenario.name} does not"
        )
    return Planned(label, settings, scenario, batches, primers)


def _warm_up(planned: Planned, engine: Engine) -> None:
    """With requests of another seed, so that no kernel is new and no prompt is known."""
    settings, phase = planned.settings, planned.scenario.phases[0]
    if settings.num_warmups:
        requests = plan(phase, settings.seed + _WARM_UP_SEED, settings.num_warmups, settings.num_warmups)
        _say(f"warming up with {len(requests)} requests ...")
        batch = make_batch(
            0, phase.name, 0, requests, engine, ignore_eos=settings.ignore_eos, chat=settings.chat
        )
        warm_up(engine, batch)


def _run(planned: Planned, engine: Engine) -> dict[str, Any]:
    """Measure all phases of a run, print them and write them."""
    settings, began = planned.settings, datetime.now(UTC)
    began_s = time.time()
    phases = []
    for batch, primers in zip(planned.batches, planned.primers, strict=True):
        label = f"{planned.label} {batch.name}".strip()
        _say(f"{label}: {len(batch.planned)} requests of {batch.prompt_tokens} prompt tokens ...")
        measured = measure(engine, batch, primers)
        phases.append((measured, list(records(measured, began_s, settings.model, settings.chat))))
    manifest = _manifest(planned, engine, began)
    summary = summarize_run(phases, _identity(manifest), _classifications(planned.scenario))
    print("\n".join(_report(planned, summary, [measured for measured, _ in phases])), flush=True)
    if settings.results_dir is not None:
        every = (record for _, known in phases for record in known)
        results.write(settings.results_dir, manifest, every, summary)
    return summary


def _classifications(scenario: Scenario) -> Sequence[int]:
    return [number for number, phase in enumerate(scenario.phases) if is_classification(phase)]


def _report(planned: Planned, summary: Mapping[str, Any], phases: Sequence[Measured]) -> Iterator[str]:
    for phase, measured in zip(summary["phases"], phases, strict=True):
        yield ""
        if planned.label:
            yield f"[{planned.label}]"
        yield from text.render_phase(phase, measured.batch)
    if "same_reviews" in summary:
        yield ""
        yield text.same_reviews_words(summary["same_reviews"])


def _manifest(planned: Planned, engine: Engine, began: datetime) -> dict[str, Any]:
    settings = planned.settings
    return {
        "run": began.strftime("%Y%m%dT%H%M%S"),
        "start_time": began.isoformat(timespec="milliseconds"),
        "command": results.command_line(),
        "host": None,
        "engine": "offline",
        "engine_arguments": results.command_line(settings.engine_arguments),
        "model": settings.model,
        "max_model_len": engine.max_model_len,
        "server_version": engine.version,
        "scenario": planned.scenario.name,
        "users": None,
        "phases": [batch.name for batch in planned.batches],
        "seed": settings.seed,
        "datasets": sources_of(planned.scenario),
        "options": {
            "parameters": dict(settings.parameters),
            "num_prompts": settings.num_prompts,
            "input_len": _plain(settings.input_len),
            "max_tokens": _plain(settings.max_tokens),
            "dataset_path": _plain(settings.dataset_path),
            "endpoint_type": settings.endpoint_type,
            "ignore_eos": settings.ignore_eos,
            "prefix_cache": settings.prefix_cache,
            "num_warmups": settings.num_warmups,
        },
        "versions": results.versions(),
        "machine": results.machine(),
    }


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What leads the summary."""
    return {
        "date": manifest["start_time"],
        "run": manifest["run"],
        "backend": "vllm",
        "model_id": manifest["model"],
        "host": None,
        "scenario": manifest["scenario"],
        "num_prompts": manifest["options"]["num_prompts"],
    }


def _plain(value: Lengths | Path | None) -> str | None:
    return None if value is None else str(value)


def _say(sentence: str) -> None:
    print(f"vllm-locust: {sentence}", file=sys.stderr, flush=True)
