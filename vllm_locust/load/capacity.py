"""A capacity search as the course of a run: each phase probes one level, and the next follows from it.

`core.search` chooses the levels and `core.evidence` weighs what a probe has shown; this module runs them
against the run's recording, and shows every probe when it is done.
"""

import logging
import math
from typing import Any

from vllm_locust.core.collapse import collapsed
from vllm_locust.core.evidence import conclude, weigh
from vllm_locust.core.search import CapacitySearch, Probe
from vllm_locust.core.slo import percentiles_of
from vllm_locust.core.summary import summarize_phase
from vllm_locust.core.validity import Measured, judge, not_offered, worst
from vllm_locust.load.crew import Crew
from vllm_locust.load.phases import Phase, step_times
from vllm_locust.load.settings import Settings
from vllm_locust.report.capacity import render_probe

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
# No probe is decided before this part of its time: a queue takes time to build up.
_LEAST_SHARE = 0.25
# A Poisson process of so many on average has none once in 22 000 times.
_LEAST_REQUESTS = 10

MOST = 4096
"""Where neither -u nor --request-rate says how far to go."""


class SearchCourse:
    """Phases that follow from what earlier ones have shown."""

    length = None

    def __init__(self, settings: Settings, name: str, crew: Crew, patience_s: float) -> None:
        """`name` is the scenario's; `patience_s` is how long a probe's last requests may take."""
        most: float | None = settings.most_users if settings.levels == "users" else None
        if settings.levels == "rate" and settings.request_rate is not None:
            most = settings.request_rate.rate_at(0.0)
        self.patience_s = patience_s
        self._step_s, self._warmup_s = step_times(settings)
        limit = MOST if most is None else most
        start = min(self._start(users=settings.levels == "users"), limit)
        self._search = CapacitySearch(start, limit, whole=settings.levels == "users")
        self._settings = settings
        self._name = name
        self._crew = crew
        self._probes = 0
        self._looked_s = 0.0

    @property
    def unit(self) -> str:
        """What the levels count."""
        return "users" if self._settings.levels == "users" else "requests/s"

    def next_phase(self, now_s: float) -> Phase | None:
        level = self._search.next_level()
        if level is None:
            return None
        number, self._probes = self._probes, self._probes + 1
        self._looked_s = 0.0
        return Phase(
            number,
            0,
            self._name,
            **self._settings.level(level),
            level=level,
            requests=self._settings.num_prompts,
            seconds=self._step_s,
            warmup_s=self._warmup_s,
        )

    def decided(self, phase: Phase, elapsed_s: float) -> bool:
        if elapsed_s - self._looked_s < _LOOK_EVERY_S:
            return False
        self._looked_s = elapsed_s
        group = self._crew.recording.phase(phase.number)
        if collapsed(group) is not None:
            return True
        least_s = self._warmup_s + _LEAST_SHARE * ((self._step_s or 0.0) - self._warmup_s)
        if elapsed_s < least_s:
            return False
        evidence = weigh(self._settings.slos, group)
        return evidence.outcome != "open" and evidence.hiccup is None  # which may be diluted yet

    def finished(self, phase: Phase, elapsed_s: float) -> None:
        self._crew.settle()
        probe = self._probe(phase, elapsed_s)
        self._search.take(probe)
        logger.info(render_probe(probe, self.unit))

    def to_dict(self) -> dict[str, Any]:
        """The block `capacity` of the summary."""
        return {"unit": self.unit, **self._search.answer.to_dict()}

    def _start(self, users: bool) -> float:
        """One user, or a rate at which a probe cannot be empty by chance."""
        if users or self._step_s is None:
            return 1.0
        return max(1.0, math.ceil(_LEAST_REQUESTS / (self._step_s - self._warmup_s)))

    def _probe(self, phase: Phase, elapsed_s: float) -> Probe:
        slos, recording = self._settings.slos, self._crew.recording
        group = recording.phase(phase.number)
        numbers = summarize_phase(
            recording, phase.number, self._settings.goodput_ms or None, percentiles_of(slos)
        )
        measured, loop = Measured.of(group, recording.clock_bound_s), self._settings.loop
        # Of this probe alone: a client that was busy before is none of its business.
        client = judge(measured, self._crew.cpu_shares, self._crew.stamps, loop=loop)
        evidence = conclude(slos, group, numbers, client)
        assert phase.level is not None
        return Probe(
            level=phase.level,
            evidence=evidence,
            client=worst(client.verdict, client.load.verdict),
            client_reasons=(*client.reasons, *client.load.reasons),
            not_the_load=not_offered(measured, client, loop, missed=evidence.outcome == "missed"),
            collapsed=collapsed(group),
            requests=group.planned,
            dropped=group.dropped,
            seconds=elapsed_s,
            numbers={key: numbers[key] for key in ("request_throughput", "output_throughput")},
        )
