"""One test from start to stop: what it sends, what it has seen, and what it comes to.

Rule: a `Run` knows Locust's environment, to show its numbers there, but none of Locust's events: `wiring`
calls it when they happen.
"""

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter

import gevent
from locust.env import Environment

from vllm_locust.client.chat import ChatClient, Transport
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.load.backlog import Backlog
from vllm_locust.load.manifest import describe_run, identity_of
from vllm_locust.load.plan import Plan, Share
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.process import CpuMeter
from vllm_locust.load.results import ResultsFolder
from vllm_locust.load.rows import Rows
from vllm_locust.load.verdict import Verdict, conclude

logger = logging.getLogger(__name__)

_FLUSH_EVERY_S = 1.0
# For each profile of a scenario that runs several, when neither --run-time nor --num-prompts says otherwise.
_DEFAULT_PHASE_S = 30.0


class Run:
    """The state of one test. `on_plan_end` is called when all requests of the plan are done."""

    def __init__(self, environment: Environment, prepared: Prepared, on_plan_end: Callable[[], None]) -> None:
        self.settings = prepared.settings
        self.load_is_over = False
        self.verdict: Verdict | None = None
        self.clients: set[ChatClient] = set()
        """Of the users there are now: what a user leaves open is closed at the end."""
        self.started_s = perf_counter()
        run_id = uuid.uuid4().hex[:8]
        started = datetime.now(UTC)
        self._manifest = describe_run(prepared, run_id, started)
        self._results = self._results_folder(started, several=environment.web_ui is not None)
        self.transport = Transport(prepared.target, prepared.request_options, run_id)
        self.transport.pulse.widen()
        share = _share(prepared, getattr(environment.parsed_options, "run_time", None))
        self.plan = Plan(prepared.scenario, self.settings.seed, share, perf_counter, on_plan_end)
        warmup_s = self.settings.warmup_s
        self._recording = Recording(
            warmup_until_s=self.started_s + warmup_s if warmup_s else None, origin_s=self.started_s
        )
        self._rows = Rows(environment)
        self._backlog = Backlog(self._fold)
        self._flusher = gevent.spawn(self._flush_regularly)
        self._cpu = CpuMeter()
        self._cpu_share = 0.0

    @staticmethod
    def of(environment: Environment) -> "Run":
        """The run that `environment` is in the middle of."""
        run: Run | None = getattr(environment, "vllm_run", None)
        if run is None:
            raise RuntimeError("VllmUser works in runs started by Locust's command line or web UI.")
        return run

    def add(self, record: RequestRecord) -> None:
        """Take in a finished request, to be written, folded and shown as soon as nobody waits for us."""
        self._backlog.add(record)

    def stop_load(self) -> None:
        """Hand out nothing more; what is in flight may finish."""
        self.load_is_over = True
        self.plan.stop()
        if in_flight := self.transport.in_flight:
            logger.info("Waiting for %d requests in flight. Ctrl-C (again) cancels them.", in_flight)
        self._recording.close_window(perf_counter())
        self._cpu_share = self._cpu.share()

    def finish(self) -> None:
        """All requests are done: draw the conclusions and write them down, once."""
        if self.verdict is not None:
            return
        self.verdict = self._conclude()
        self._backlog.close()
        self._flusher.kill()
        if self._results is not None:
            self._results.finish(self.verdict.summary)
        for client in self.clients:
            client.close()
        self.transport.close()

    def _conclude(self) -> Verdict:
        self._backlog.drain()
        self._rows.flush()
        if self.plan.handed_out and (never_begun := self.plan.never_begun):
            logger.warning("The time was over before these had their turn: %s.", ", ".join(never_begun))
        return conclude(
            self._recording,
            self.settings,
            identity_of(self._manifest),
            cpu_shares={"client": self._cpu_share},
            stamps="read" if self.transport.pulse.unstamped_reads else "kernel",
            handed_out=self.plan.handed_out + self.transport.unplanned,
        )

    def _fold(self, record: RequestRecord) -> None:
        if self._results is not None:
            self._results.add(record, self.started_s)
        self._recording.add(record)
        self._rows.add(record)

    def _results_folder(self, started: datetime, several: bool) -> ResultsFolder | None:
        folder = self.settings.results_dir
        if folder is None:
            return None
        if several:  # from the web UI many runs may follow from one command
            folder = folder / started.strftime("%Y%m%d-%H%M%S")
        return ResultsFolder(folder, self._manifest)

    def _flush_regularly(self) -> None:
        while True:
            gevent.sleep(_FLUSH_EVERY_S)
            self._rows.flush()
            if self._results is not None:
                self._results.flush()


def _share(prepared: Prepared, run_time_s: float | None) -> Share:
    phases = len(prepared.scenario.phases)
    if prepared.settings.num_prompts is not None:
        return Share(requests=prepared.settings.num_prompts)
    if phases == 1:
        return Share()
    return Share(seconds=run_time_s / phases if run_time_s else _DEFAULT_PHASE_S)
