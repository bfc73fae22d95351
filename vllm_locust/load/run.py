"""One run, from the first check to the exit code, as Locust's events tell it.

Read from top to bottom; the events come in this order:

    init_command_line_parser   the suite's options join Locust's
    init                       options and target are checked; without --host the simulator is started
    test_start                 a Run begins: plan, transport, recording, results folder
    stream_finished            every finished request is folded, written and shown
    test_stopping              the load ends: nothing more is handed out, the window closes
    test_stop                  requests in flight are done: summary, files
    quitting, quit             exit code; the result block is the last thing printed
"""

import argparse
import logging
import sys
import uuid
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

import gevent
from locust import events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import STATE_CLEANUP, LocalRunner, Runner

from vllm_locust.client.chat import Transport
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.errors import UsageError
from vllm_locust.load.backlog import Backlog
from vllm_locust.load.embedded import start_simulator
from vllm_locust.load.hooks import stream_finished
from vllm_locust.load.manifest import describe_run, identity_of
from vllm_locust.load.options import add_options, read_settings
from vllm_locust.load.plan import Plan, Share
from vllm_locust.load.prepare import Prepared, prepare
from vllm_locust.load.process import CpuMeter, tune_process
from vllm_locust.load.results import ResultsFolder
from vllm_locust.load.rows import Rows, use_fine_buckets
from vllm_locust.load.verdict import Verdict, conclude, exit_code
from vllm_locust.load.web import dress

logger = logging.getLogger(__name__)

_FLUSH_EVERY_S = 1.0
# For each profile of a scenario that runs several, when neither --run-time nor --num-prompts says otherwise.
_DEFAULT_PHASE_S = 30.0


class Run:
    """One test from start to stop: what it sends, and what it has seen so far."""

    def __init__(self, environment: Environment, prepared: Prepared) -> None:
        self.environment = environment
        self.prepared = prepared
        self.settings = prepared.settings
        self.verdict: Verdict | None = None
        self._rows = Rows(environment)
        self._backlog = Backlog(self._fold)
        self.started_s = perf_counter()
        self.run_id = uuid.uuid4().hex[:8]
        self._manifest = describe_run(prepared, self.run_id, datetime.now(UTC))
        self.results = self._results_folder(self._manifest)
        warmup_s = self.settings.warmup_s
        self.recording = Recording(
            warmup_until_s=self.started_s + warmup_s if warmup_s else None, origin_s=self.started_s
        )
        self.transport = Transport(prepared.target, prepared.request_options, self.run_id)
        self.transport.pulse.widen()
        self.plan = Plan(
            prepared.scenario, self.settings.seed, self._share(), perf_counter, self._plan_is_done
        )
        self._cpu = CpuMeter()
        self._cpu_share = 0.0
        self._flusher = gevent.spawn(self._flush_regularly)

    @staticmethod
    def of(environment: Environment) -> "Run":
        """The run that `environment` is in the middle of."""
        run: Run | None = getattr(environment, "vllm_run", None)
        if run is None:
            raise RuntimeError("VllmUser works in runs started by Locust's command line or web UI.")
        return run

    def add(self, record: RequestRecord) -> None:
        """Take in a finished request, to be folded, shown and written as soon as nobody waits for us."""
        self._backlog.add(record)

    def _fold(self, record: RequestRecord) -> None:
        self.recording.add(record)
        self._rows.add(record)
        if self.results is not None:
            self.results.add(record, self.started_s)

    def stop_load(self) -> None:
        """Hand out nothing more; what is in flight may finish."""
        self.plan.stop()
        self.recording.close_window(perf_counter())
        self._cpu_share = self._cpu.share()

    def finish(self) -> None:
        """All requests are done: draw the conclusions and write them down, once."""
        if self.verdict is not None:
            return
        self._backlog.close()
        self._flusher.kill()
        self._rows.flush()
        self.transport.close()
        self.verdict = conclude(
            self.recording, self.settings, {"client": self._cpu_share}, identity_of(self._manifest)
        )
        if self.results is not None:
            self.results.finish(self.verdict.summary)

    def _results_folder(self, manifest: dict[str, Any]) -> ResultsFolder | None:
        folder = self.settings.results_dir
        if folder is None:
            return None
        if self.environment.web_ui is not None:  # many runs may follow from one command
            folder = folder / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return ResultsFolder(folder, manifest)

    def _share(self) -> Share:
        settings, phases = self.settings, len(self.prepared.scenario.phases)
        if settings.num_prompts is not None:
            return Share(requests=settings.num_prompts)
        if phases == 1:
            return Share()
        run_time_s = getattr(self.environment.parsed_options, "run_time", None)
        return Share(seconds=run_time_s / phases if run_time_s else _DEFAULT_PHASE_S)

    def _plan_is_done(self) -> None:
        logger.info("All requests of the plan are done.")
        runner = self.environment.runner
        if runner is not None:
            # Not from here: this may be a user's greenlet, which the runner is about to stop.
            gevent.spawn(runner.quit if _is_headless(self.environment) else runner.stop)

    def _flush_regularly(self) -> None:
        while True:
            gevent.sleep(_FLUSH_EVERY_S)
            self._rows.flush()
            if self.results is not None:
                self.results.flush()


@events.init_command_line_parser.add_listener
def _on_parser(parser: argparse.ArgumentParser, **_: Any) -> None:
    add_options(parser)


@events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: Any) -> None:
    """Check what can be checked now; a command line that cannot work ends here, with exit code 2."""
    try:
        if not isinstance(runner, LocalRunner):
            raise UsageError("--processes, --master and --worker are not supported yet: run one process.")
        settings, problems = read_settings(environment.parsed_options)
        host = _host(environment)
        simulated = host is None
        if host is None:
            host = environment.host = start_simulator()
        prepare(settings, host, problems)
    except UsageError as error:
        _refuse(error)
    if simulated:
        logger.info("No --host given: measuring the built-in simulator at %s.", host)
    if environment.web_ui is not None:
        dress(environment.web_ui)
    # Last, behind Locust's own tables: Locust's event brings no environment, so it is bound here.
    environment.events.quit.add_listener(partial(_print_result, environment))
    use_fine_buckets()
    tune_process()


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: Any) -> None:
    try:
        # Once more: the web UI's form may have changed them.
        settings, problems = read_settings(environment.parsed_options)
        run = Run(environment, prepare(settings, _host(environment) or "", problems))
    except UsageError as error:
        if _is_headless(environment):
            _refuse(error)
        raise StopTest(str(error)) from None
    environment.vllm_run = run  # type: ignore[attr-defined]


@stream_finished.add_listener
def _on_stream_finished(record: RequestRecord, environment: Environment, **_: Any) -> None:
    Run.of(environment).add(record)


@events.test_stopping.add_listener
def _on_test_stopping(environment: Environment, **_: Any) -> None:
    if (run := _current(environment)) is not None:
        run.stop_load()


@events.test_stop.add_listener
def _on_test_stop(environment: Environment, **_: Any) -> None:
    if (run := _current(environment)) is not None:
        run.finish()
        if not _is_headless(environment):
            print(run.verdict.text if run.verdict else "")


@events.quitting.add_listener
def _on_quitting(environment: Environment, **_: Any) -> None:
    runner, run = environment.runner, _current(environment)
    if run is None or runner is None:
        return
    if run.verdict is None:  # Ctrl-C and SIGTERM come here first
        _finish_early(runner)
        run.finish()
    assert run.verdict is not None
    environment.process_exit_code = exit_code(run.verdict, user_errors=bool(runner.exceptions))


def _finish_early(runner: Runner) -> None:
    """Let what is in flight finish, unless the user asks for the end a second time: then cancel it."""
    try:
        if runner.state == STATE_CLEANUP:
            raise KeyboardInterrupt
        runner.stop()
    except KeyboardInterrupt:
        logger.warning("Cancelling the requests in flight.")
        runner.user_greenlets.kill(block=True)


def _print_result(environment: Environment, **_: Any) -> None:
    run = _current(environment)
    if run is not None and run.verdict is not None and _is_headless(environment):
        print(run.verdict.text, flush=True)


def _refuse(error: UsageError) -> NoReturn:
    for problem in error.problems:
        print(f"vllm-locust: {problem}", file=sys.stderr)
    sys.exit(2)


def _current(environment: Environment) -> Run | None:
    return getattr(environment, "vllm_run", None)


def _is_headless(environment: Environment) -> bool:
    return environment.web_ui is None


def _host(environment: Environment) -> str | None:
    """The address to test: from --host or the web UI's form, else from a user class."""
    if environment.host:
        return environment.host
    return next((user.host for user in environment.user_classes if user.host), None)
