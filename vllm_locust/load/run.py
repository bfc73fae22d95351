"""One test from start to stop, where it is led: what was asked for, what came of it, what it comes to.

Rule: a `Run` knows Locust's environment, but none of Locust's events: `wiring` calls it when they happen. It
exists in the process that leads, the master or the only one; those that send have a `LoadGenerator`.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from locust.env import Environment
from locust.runners import MasterRunner

from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.load.capacity import SearchCourse
from vllm_locust.load.conductor import Conductor, Watcher
from vllm_locust.load.crew import Crew, LocalCrew
from vllm_locust.load.generator import Assignment
from vllm_locust.load.junit import write_verdict
from vllm_locust.load.manifest import describe_run, identity_of
from vllm_locust.load.master import Workers
from vllm_locust.load.observation import Observation, ServerSide
from vllm_locust.load.observer import ObserverLink
from vllm_locust.load.phases import Course, FixedCourse, Phase, course_of
from vllm_locust.load.prefix_cache import PrefixCache
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.profiler import Profiler
from vllm_locust.load.reporting import Reporting
from vllm_locust.load.results import ResultsFolder
from vllm_locust.load.verdict import Generators, Verdict, conclude, sentences_on_lost

logger = logging.getLogger(__name__)

_TICK_S = 1.0
# Of requests.jsonl for those who may ask for it on the web UI, and have given no --results-dir.
_MOST_KEPT_BYTES = 2 << 30
_CANNOT_GO_ON = "It could not: the log says why."


class Run:
    """The state of one test."""

    def __init__(
        self,
        environment: Environment,
        prepared: Prepared,
        on_plan_end: Callable[[], None],
        observer: ObserverLink | None = None,
    ) -> None:
        """`on_plan_end` is called when all that was planned is done; `observer` is told of the run."""
        self.settings = prepared.settings
        self.load_is_over = False
        self.refused = False
        """A worker could not take part: what there is says nothing."""
        self.verdict: Verdict | None = None
        self._finishing = BoundedSemaphore()
        self.reporting: Reporting | None = None
        """What makes a report of the results, when they are written and one is wanted."""
        self.began_s = perf_counter()
        self.id = uuid.uuid4().hex[:8]
        started = datetime.now(UTC)
        users = getattr(environment.parsed_options, "num_users", None)
        self._manifest = describe_run(prepared, self.id, started, users)
        self._temporary: TemporaryDirectory[str] | None = None
        self.results = self._results_folder(started, several=environment.web_ui is not None)
        self._observation: Observation | None = None
        if observer is not None:
            identity = identity_of(self._manifest)
            self._observation = Observation(observer, prepared, identity, self.began_s, self.results)
        self._profiler = Profiler(prepared, self.began_s) if self.settings.profiler else None
        watchers: tuple[Watcher | None, ...] = (self._profiler, self._observation)
        self._watchers = [watcher for watcher in watchers if watcher is not None]
        self.crew: Crew = self._new_crew(environment, prepared)
        self.course: Course = self._new_course(environment, prepared)
        self.conductor = self.crew.conductor = Conductor(
            self.course,
            self.crew,
            self.began_s,
            on_plan_end,
            watchers=self._watchers,
            before=self._prepare_phase,
            overlap=self.settings.step_overlap,
            most_members=self.settings.max_concurrency,
        )
        self._prefix_cache = PrefixCache(prepared, self.id)
        self._ticker = gevent.spawn(self._tick_regularly)

    @property
    def for_workers(self) -> Mapping[str, Any]:
        """What a worker must know of the run to take part in it."""
        return {"id": self.id, "seed": self.settings.seed}

    def stop_load(self) -> None:
        """Hand out nothing more; what is in flight may finish."""
        if self.load_is_over:
            return
        self.load_is_over = True
        self.conductor.stop()
        self.crew.stop_load()
        if in_flight := self.crew.in_flight:
            logger.info("Waiting for %d requests in flight. Ctrl-C (again) cancels them.", in_flight)
        if (phase := self.conductor.phase) is not None:
            for watcher in reversed(self._watchers):
                watcher.phase_ended(phase)

    def finish(self) -> bool:
        """All requests are done: draw the conclusions and write them down, once.

        True when this call did so. Locust ends a run more than once, from several greenlets: the others wait.
        """
        if self._profiler is not None:
            self._profiler.finish()
        with self._finishing:
            if self.verdict is not None:
                return False
            self._finish()
            return True

    def _finish(self) -> None:
        self.crew.settle()
        self._ticker.kill()
        server = None
        if self._observation is not None:
            self._tell(self._observation, lost=self.crew.handed_out - self.crew.recorded)
            server = self._observation.settle()
        self.verdict = self._conclude(server)
        self.crew.close()
        if self._observation is not None:
            self._observation.end()
        if self.results is not None:
            self.results.finish(self.verdict.summary)
        if self.settings.junit_xml is not None:
            problem = _CANNOT_GO_ON if self.refused or self.conductor.failed else None
            write_verdict(self.settings.junit_xml, self.verdict, problem)
        if self.results is not None and self.settings.results_dir is not None and self.settings.report:
            self.reporting = Reporting(self.results.folder)

    def discard(self) -> None:
        """Nobody will ask for this run any more."""
        if self.reporting is not None:
            self.reporting.skip()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _conclude(self, server: ServerSide | None) -> Verdict:
        if isinstance(self.course, FixedCourse) and self.conductor.begun and self.course.to_come:
            names = ", ".join(phase.title for phase in self.course.to_come)
            logger.warning("The time was over before these had their turn: %s.", names)
        return conclude(
            self.crew.recording,
            self.settings,
            identity_of(self._manifest),
            Generators(
                self.crew.cpu_shares,
                self.crew.stamps,
                lost=self.crew.handed_out - self.crew.recorded,
                outside=self.crew.outside,
                workers=self.crew.workers,
                warming_s=self._prefix_cache.warming_s,
            ),
            {phase.number: phase.description for phase in self.conductor.begun},
            server=server,
            profiler=None if self._profiler is None else self._profiler.sessions,
            capacity=self.course.to_dict() if isinstance(self.course, SearchCourse) else None,
        )

    def _prepare_phase(self, phase: Phase) -> Phase:
        if self._observation is not None and self.settings.prefix_cache == "warm":
            self._observation.before_others_ask()
        return self._prefix_cache.prepare(phase)

    def _new_course(self, environment: Environment, prepared: Prepared) -> Course:
        if self.settings.capacity:
            return SearchCourse(
                self.settings, prepared.scenario.name, self.crew, patience_s=environment.stop_timeout
            )
        run_time_s = getattr(environment.parsed_options, "run_time", None)
        return course_of(self.settings, prepared.scenario, run_time_s)

    def _new_crew(self, environment: Environment, prepared: Prepared) -> Crew:
        runner = environment.runner
        if isinstance(runner, MasterRunner):
            return Workers(runner, self.id, self.began_s, self._keep_lines, self._on_delta)
        assignment = Assignment(self.id, self.settings.seed, self.began_s)
        return LocalCrew(environment, prepared, assignment, self._keep, self._on_delta)

    @property
    def _on_delta(self) -> Callable[[Mapping[str, Any]], None] | None:
        return None if self._observation is None else self._observation.delta

    def _keep(self, record: RequestRecord) -> None:
        self._keep_lines(to_json_line(record, self.began_s))

    def _keep_lines(self, lines: bytes) -> None:
        if self.results is not None:
            self.results.add(lines)

    def _results_folder(self, started: datetime, several: bool) -> ResultsFolder | None:
        folder = self.settings.results_dir
        if folder is not None:
            if several:  # from the web UI many runs may follow from one command
                folder = folder / started.strftime("%Y%m%d-%H%M%S")
            return ResultsFolder(folder, self._manifest)
        if not several:
            return None
        self._temporary = TemporaryDirectory(prefix="vllm-locust-")
        return ResultsFolder(Path(self._temporary.name) / "results", self._manifest, _MOST_KEPT_BYTES)

    def _tick_regularly(self) -> None:
        while True:
            gevent.sleep(_TICK_S)
            if self.results is not None:
                self.results.flush()
            if self._observation is not None:
                self._tell(self._observation)

    def _tell(self, observation: Observation, lost: int = 0) -> None:
        self.crew.tell()
        observation.tick(
            self.crew,
            "ending" if self.load_is_over else "running",
            lost=lost,
            lost_workers=list(sentences_on_lost(self.crew.workers)) if self.load_is_over else [],
        )
