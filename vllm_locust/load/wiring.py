"""When things happen: Locust's events, in the order in which they come.

Importing this joins the suite to Locust.

    init_command_line_parser   the suite's options join Locust's
    init                       options and target are checked; without --host the simulator is started
    test_start                 a Run begins: plan, transport, recording, results folder
    stream_finished            every finished request is taken in
    test_stopping              the load ends: nothing more is handed out, the window closes
    test_stop                  requests in flight are done: summary, files
    quitting, quit             exit code; the result block is the last thing printed
"""

import argparse
import logging
import signal
import sys
from functools import partial
from typing import Any, NoReturn

import gevent
from gevent import get_hub
from locust import events
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import STATE_CLEANUP, LocalRunner, Runner

from vllm_locust.core.record import RequestRecord
from vllm_locust.errors import UsageError
from vllm_locust.load.embedded import start_simulator
from vllm_locust.load.hooks import stream_finished
from vllm_locust.load.options import add_options, read_settings
from vllm_locust.load.prepare import Prepared, prepare
from vllm_locust.load.process import tune_process
from vllm_locust.load.rows import use_fine_buckets
from vllm_locust.load.run import Run
from vllm_locust.load.verdict import exit_code
from vllm_locust.load.web import dress

logger = logging.getLogger(__name__)


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
        environment.vllm_prepared = prepare(settings, host, problems)  # type: ignore[attr-defined]
    except UsageError as error:
        _refuse(error)
    if simulated:
        logger.info("No --host given: measuring the built-in simulator at %s.", host)
    if environment.web_ui is not None:
        dress(environment.web_ui)
    # Last, behind Locust's own tables: Locust's event brings no environment, so it is bound here.
    environment.events.quit.add_listener(partial(_print_result, environment))
    signal.signal(signal.SIGINT, _interrupt_main)
    use_fine_buckets()
    tune_process()


def _interrupt_main(*_: Any) -> None:
    """Let Ctrl-C end what the main greenlet waits for.

    Raised wherever Python happens to be, it would end a callback that reads a socket, or the folding of a
    record, and what they were doing would be lost.
    """
    hub = get_hub()
    assert hub.parent is not None
    hub.loop.run_callback(hub.parent.throw, KeyboardInterrupt)


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: Any) -> None:
    try:
        prepared = _prepared(environment)
        environment.vllm_run = Run(  # type: ignore[attr-defined]
            environment, prepared, partial(_on_plan_end, environment)
        )
    except UsageError as error:
        if _is_headless(environment):
            _refuse(error)
        raise StopTest(str(error)) from None


def _prepared(environment: Environment) -> Prepared:
    """What `init` has prepared; from the web UI's form anything may be different."""
    if _is_headless(environment):
        prepared: Prepared = environment.vllm_prepared  # type: ignore[attr-defined]
        return prepared
    settings, problems = read_settings(environment.parsed_options)
    return prepare(settings, _host(environment) or "", problems)


def _on_plan_end(environment: Environment) -> None:
    logger.info("All requests of the plan are done.")
    runner = environment.runner
    if runner is not None:
        # Not from here: this may be a user's greenlet, which the runner is about to stop.
        gevent.spawn(runner.quit if _is_headless(environment) else runner.stop)


@stream_finished.add_listener
def _on_stream_finished(record: RequestRecord, run: Run, **_: Any) -> None:
    run.add(record)


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
    if run is None or run.verdict is None or not _is_headless(environment):
        return
    stdout_is_json = getattr(environment.parsed_options, "json", False)  # then it is Locust's alone
    print(run.verdict.text, flush=True, file=sys.stderr if stdout_is_json else sys.stdout)


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
