"""When things happen: Locust's events, in the order in which they come.

Importing this joins the suite to Locust. A process is alone, or the master, or a worker: the master and the
lonely one lead, the workers and the lonely one send.

    init_command_line_parser   the suite's options join Locust's
    init                       leads: options and target are checked; without --host the simulator is started
    test_start                 leads: a Run begins; sends: a LoadGenerator, which asks for work
    stream_finished            sends: every finished request is taken in
    test_stopping              the load ends: nothing more is handed out, what is in flight is waited for
    test_stop                  all requests are done: a worker's last report; leads: summary, files
    quitting, quit             exit code; the result block is printed last, where the report is, why it is 4
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import gevent
from gevent import GreenletExit, get_hub, getcurrent
from gevent.event import Event
from locust import events, runners
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import STATE_CLEANUP, STATE_SPAWNING, MasterRunner, Runner, WorkerRunner

from vllm_locust.core.record import RequestRecord
from vllm_locust.errors import UsageError
from vllm_locust.load import worker
from vllm_locust.load.csv_files import use_complete_files
from vllm_locust.load.embedded import start_simulator
from vllm_locust.load.generator import LoadGenerator
from vllm_locust.load.hooks import stream_finished
from vllm_locust.load.hosts import conceal_given, host_of, warn_of_others
from vllm_locust.load.junit import write_refusal
from vllm_locust.load.master import Workers
from vllm_locust.load.messages import TO_MASTER, TO_WORKER
from vllm_locust.load.observation import what_to_watch
from vllm_locust.load.observer import ObserverLink
from vllm_locust.load.options import add_options
from vllm_locust.load.own_tasks import asks_for_scenario
from vllm_locust.load.prepare import Prepared, prepare
from vllm_locust.load.process import tune_process
from vllm_locust.load.rows import use_fine_buckets
from vllm_locust.load.run import Run
from vllm_locust.load.settings import Settings, read_settings, scenario_of
from vllm_locust.load.shapes import choose_shape, kind_of
from vllm_locust.load.verdict import EXIT_NOT_CONCLUSIVE, EXIT_USAGE, exit_code, unaccepted, why_inconclusive
from vllm_locust.load.web import dress
from vllm_locust.observe.addresses import DEFAULT_PORT, LOOPBACK

logger = logging.getLogger(__name__)

_SOON_S = 0.01
# A worker is missed when so many are, one a second. Locust's own 3 give up those that read a large data set
# or are stopped for a moment, and others then send what they will send too.
_HEARTBEATS = 10
_NEVER_BEGAN = "nothing was measured, since the run ended before it could begin"
_CANNOT_GO_ON = "the run could not go on to its end, the log says why"


@events.init_command_line_parser.add_listener
def _on_parser(parser: argparse.ArgumentParser, **_: Any) -> None:
    add_options(parser)
    use_complete_files()


@events.init.add_listener
def _on_init(environment: Environment, runner: Any, **_: Any) -> None:
    """Check what can be checked now; a command line that cannot work ends here, with exit code 2."""
    use_fine_buckets()
    environment.vllm_initialised = True  # type: ignore[attr-defined]
    if isinstance(runner, WorkerRunner):
        runner.register_message(TO_WORKER, _on_order)
    else:
        _prepare_to_lead(environment)
    if isinstance(runner, MasterRunner):
        runner.register_message(TO_MASTER, _on_word_of_worker)
        # When a worker leaves, Locust waits so long for reports that it cannot read meanwhile, nor we ours.
        os.environ.setdefault("LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP", "0.1")
        runners.HEARTBEAT_LIVENESS = _HEARTBEATS
        options = environment.parsed_options
        if options is not None and options.expect_workers_max_wait and _is_headless(environment):
            gevent.spawn_later(options.expect_workers_max_wait, _give_up_on_workers, environment, runner)
    # Behind Locust's own listeners, whose order is reversed: a run must end before workers say goodbye.
    environment.events.quitting.add_listener(_on_quitting)
    # Last, behind Locust's own tables: Locust's event brings no environment, so it is bound here.
    environment.events.quit.add_listener(partial(_print_result, environment))
    environment.events.quit.add_listener(partial(_await_report, environment))
    environment.events.quit.add_listener(partial(_clean_up, environment))
    signal.signal(signal.SIGINT, partial(_on_interrupt, environment))
    if isinstance(runner, MasterRunner) and _is_headless(environment):
        signal.signal(signal.SIGTERM, partial(_on_interrupt, environment))  # until Locust takes it over
    tune_process()


def _prepare_to_lead(environment: Environment) -> None:
    try:
        settings, problems = _settings(environment)
        conceal_given(environment)
        host = host_of(environment)
        simulated = host is None
        if host is None:
            host = environment.host = start_simulator()
        observer = None if problems else _start_observer(environment, settings)
        prepared = environment.vllm_prepared = prepare(settings, host, problems)  # type: ignore[attr-defined]
        if observer is not None:
            observer.watch(what_to_watch(prepared))
            _await_observer(observer, settings)
    except UsageError as error:
        if settings.junit_xml is not None:
            write_refusal(settings.junit_xml, error.problems)
        _refuse(error)
    choose_shape(environment, settings)
    if simulated:
        logger.info("No --host given: measuring the built-in simulator at %s.", host)
    if environment.web_ui is not None:
        dress(environment.web_ui)


def _start_observer(environment: Environment, settings: Settings) -> ObserverLink | None:
    """The process that looks at the server and shows both sides to others, unless nobody wants either."""
    if not settings.watches_server and settings.exporter is None and environment.web_ui is None:
        return None
    observer = environment.vllm_observer = ObserverLink(settings.exporter)  # type: ignore[attr-defined]
    return observer


def _living_observer(environment: Environment, settings: Settings) -> ObserverLink | None:
    """The observer; one that was lost in the run before gets a successor."""
    observer = _observer(environment)
    if observer is not None and observer.gone:
        observer.close()
        observer = _start_observer(environment, settings)
        if observer is not None and (problem := observer.await_ready()) is not None:
            logger.warning("%s There are no metrics for Prometheus from this process.", problem)
    return observer


def _await_observer(observer: ObserverLink, settings: Settings) -> None:
    """Until it is ready. That others have the port is a fault only where it was chosen."""
    problem = observer.await_ready()
    if problem is not None and settings.exporter != (LOOPBACK, DEFAULT_PORT):
        raise UsageError(problem)
    if problem is not None:
        logger.warning("%s There are no metrics for Prometheus from this process.", problem)
    elif observer.exporter is not None:
        logger.info("Metrics for Prometheus: %s", observer.exporter)


def _on_interrupt(environment: Environment, *_: Any) -> None:
    """Let Ctrl-C end what the main greenlet waits for.

    Raised wherever Python happens to be, it would end a callback that reads a socket, or the folding of a
    record, and what they were doing would be lost. Workers that the master has started get it too, with the
    whole process group, but the end of a run is the master's to lead.
    """
    link, options = _link(environment), environment.parsed_options
    if link is not None and not link.finished and options is not None and options.processes:
        return
    is_master = isinstance(environment.runner, MasterRunner)
    if is_master and _is_headless(environment) and _run(environment) is None:
        gevent.spawn(_end_before_it_began, environment)
        return
    hub = get_hub()
    assert hub.parent is not None
    hub.loop.run_callback(hub.parent.throw, KeyboardInterrupt)


def _end_before_it_began(environment: Environment) -> NoReturn:
    """As Locust ends, which heeds no signal while it waits for workers."""
    assert environment.runner is not None
    environment.events.quitting.fire(environment=environment, reverse=True)
    environment.runner.quit()
    environment.events.quit.fire(exit_code=environment.process_exit_code)
    sys.exit(environment.process_exit_code)


@events.test_start.add_listener
def _on_test_start(environment: Environment, **_: Any) -> None:
    if environment.parsed_options is not None and environment.parsed_options.worker:
        _join(environment)
        return
    try:
        prepared = _prepared(environment)
        warn_of_others(environment)
        if (before := _run(environment)) is not None:
            before.discard()
        run = environment.vllm_run = Run(  # type: ignore[attr-defined]
            environment,
            prepared,
            partial(_on_plan_end, environment),
            _living_observer(environment, prepared.settings),
        )
    except UsageError as error:
        if _is_headless(environment):
            _refuse(error)
        raise StopTest(str(error)) from None
    if environment.parsed_options is not None:  # which Locust sends to the workers, each when it begins
        environment.parsed_options.vllm_run = {**run.for_workers, "host": host_of(environment)}


def _join(environment: Environment) -> None:
    """Take part in the master's run, which may be on before Locust has made this worker's runner known."""
    while not getattr(environment, "vllm_initialised", False):
        gevent.sleep(_SOON_S)
    runner = environment.runner
    assert isinstance(runner, WorkerRunner)
    run: Mapping[str, Any] = environment.parsed_options.vllm_run  # type: ignore[union-attr]
    try:
        settings, problems = _settings(environment)
        alone = replace(settings, results_dir=None, junit_xml=None)  # which are the master's
        prepared = prepare(alone, run["host"], problems)
    except UsageError as error:
        worker.refuse(runner, run["id"], error)
        _refuse(error)
    environment.vllm_link = worker.WorkerLink(environment, runner, prepared, run)  # type: ignore[attr-defined]
    runner.update_state(STATE_SPAWNING)  # Locust's own comes later, and would not stop what comes before


def _on_order(environment: Environment, msg: Any, **_: Any) -> None:
    link = _link(environment)
    if link is not None:
        link.obey(msg.data)


def _on_word_of_worker(environment: Environment, msg: Any, **_: Any) -> None:
    run = _run(environment)
    if run is None or not isinstance(run.crew, Workers):
        return
    if msg.data["do"] == "refused" and msg.data["run"] == run.id:
        gevent.spawn(_give_up, environment, msg.data["problems"])
    else:
        run.crew.hear(msg.node_id, msg.data)


def _give_up(environment: Environment, problems: list[str]) -> None:
    """A worker cannot take part: without it the run is not what was asked for."""
    assert environment.runner is not None
    for problem in problems:
        print(f"vllm-locust: a worker says: {problem}", file=sys.stderr)
    if not _is_headless(environment):
        environment.runner.stop()
        return
    if (run := _run(environment)) is not None:
        run.refused = True
    environment.runner.quit()


def _settings(environment: Environment) -> tuple[Settings, list[str]]:
    settings, problems = read_settings(
        environment.parsed_options,
        kind_of(environment.shape_class),
        scenario_of(environment.user_classes),
        own_tasks=not asks_for_scenario(environment.user_classes),
    )
    return settings, list(problems)


def _prepared(environment: Environment) -> Prepared:
    """What `init` has prepared; from the web UI's form anything may be different."""
    if _is_headless(environment):
        prepared: Prepared = environment.vllm_prepared  # type: ignore[attr-defined]
        return prepared
    settings, problems = _settings(environment)
    return prepare(settings, host_of(environment) or "", problems)


def _on_plan_end(environment: Environment) -> None:
    logger.info("All requests of the plan are done.")
    runner = environment.runner
    if runner is not None:
        # Not from here: this may be a user's greenlet, which the runner is about to stop.
        gevent.spawn(runner.quit if _is_headless(environment) else runner.stop)


@stream_finished.add_listener
def _on_stream_finished(record: RequestRecord, generator: LoadGenerator, **_: Any) -> None:
    generator.add(record)


@events.test_stopping.add_listener
def _on_test_stopping(environment: Environment, **_: Any) -> None:
    """Locust waits for users only, and for workers not at all when a run's time is over: so we wait here."""
    runner = environment.runner
    assert runner is not None
    if getcurrent() in (runner.spawning_greenlet, *runner.user_greenlets):
        # A listener of the run's begin, or a task, has ended it: Locust would kill, or wait for, itself.
        gevent.spawn(runner.quit if _is_headless(environment) else runner.stop)
        raise GreenletExit
    if (run := _run(environment)) is not None:
        run.stop_load()
        runner.update_state(STATE_CLEANUP)
        run.crew.drain(environment.stop_timeout)
    elif (link := _link(environment)) is not None:
        link.generator.stop_load()
        link.generator.drain(environment.stop_timeout)


@events.test_stop.add_listener
def _on_test_stop(environment: Environment, **_: Any) -> None:
    if (run := _run(environment)) is not None:
        is_news = run.finish()
        if not _is_headless(environment):
            if is_news and run.verdict is not None:
                print(run.verdict.text)
                gevent.spawn(_tell_of_report, environment, run)
        elif isinstance(environment.runner, MasterRunner) and not environment.runner.worker_count:
            gevent.spawn(environment.runner.quit)  # Locust goes on without workers, for ever
    elif (link := _link(environment)) is not None:
        link.finish()
        environment.stop_timeout = 0.0  # Locust's worker sleeps so long before it is ready again


def _on_quitting(environment: Environment, **_: Any) -> None:
    """The end of the process, which may be asked for twice: by Locust's main greenlet, and by SIGTERM."""
    if getattr(environment, "vllm_quitting", False) and not isinstance(environment.runner, WorkerRunner):
        _leave_it_to_the_first(environment)
    _end_run(environment)
    environment.vllm_quitting = True  # type: ignore[attr-defined]


def _leave_it_to_the_first(environment: Environment) -> NoReturn:
    """Else all would be printed twice. The first ends the process, and who asks again is in a hurry."""
    if getcurrent() is not get_hub().parent:
        if (observer := _observer(environment)) is not None:
            observer.stop_waiting()
        if (run := _run(environment)) is not None and run.reporting is not None:
            run.reporting.skip()
    while True:
        Event().wait()


def _end_run(environment: Environment) -> None:
    runner, run = environment.runner, _run(environment)
    if isinstance(runner, WorkerRunner):
        if (link := _link(environment)) is not None and not link.finished:
            link.leave()
            runner.stop()
        if link is not None:  # a stop that came from the master may still be at it
            link.finish()
        return
    if runner is None:
        return
    if run is None:
        if _is_headless(environment) or getattr(environment.parsed_options, "autostart", False):
            _tell_that_none_began(environment)
        return
    if run.verdict is None:  # Ctrl-C and SIGTERM come here first
        _finish_early(runner, run)
        run.finish()
    assert run.verdict is not None
    code = exit_code(run.verdict, user_errors=bool(runner.exceptions))
    if code is None and unaccepted(run.verdict) is not None and environment.parsed_options is not None:
        # Locust's own rule, which on a master goes by what workers had told of failures some seconds ago.
        code = environment.parsed_options.exit_code_on_error
    if run.conductor.failed:
        code = EXIT_NOT_CONCLUSIVE
    environment.process_exit_code = EXIT_USAGE if run.refused else code


def _tell_that_none_began(environment: Environment) -> None:
    """The end came before the run could begin: no gate may be green over nothing."""
    settings = _prepared(environment).settings
    if settings.junit_xml is not None:
        write_refusal(settings.junit_xml, [_NEVER_BEGAN])
    environment.process_exit_code = EXIT_NOT_CONCLUSIVE
    environment.events.quit.add_listener(partial(_tell_why, environment, _NEVER_BEGAN))


def _finish_early(runner: Runner, run: Run) -> None:
    """Let what is in flight finish, unless the user asks for the end a second time: then cancel it."""
    try:
        if run.load_is_over:
            raise KeyboardInterrupt
        if isinstance(runner, MasterRunner):
            runner.stop(send_stop_to_client=False)  # the workers have stopped by then, and are to quit
        else:
            runner.stop()
    except KeyboardInterrupt:
        logger.warning("Cancelling the requests in flight.")
        run.crew.cancel()


def _print_result(environment: Environment, **_: Any) -> None:
    run = _run(environment)
    if run is not None and run.verdict is not None and not run.refused and _is_headless(environment):
        _say(environment, run.verdict.text)


def _await_report(environment: Environment, **_: Any) -> None:
    if (run := _run(environment)) is None or run.refused:
        return
    if _is_headless(environment):
        _tell_of_report(environment, run)
    code, options = environment.process_exit_code, environment.parsed_options
    if run.verdict is None or options is None or not code:
        return
    why = None
    if code == EXIT_NOT_CONCLUSIVE:
        why = _CANNOT_GO_ON if run.conductor.failed else why_inconclusive(run.verdict)
    elif code == options.exit_code_on_error:
        why = unaccepted(run.verdict)
    if why is not None:
        _tell_why(environment, why)


def _tell_why(environment: Environment, why: str, **_: Any) -> None:
    """The last line, where the exit code alone does not say it."""
    _say(environment, f"Exit code {environment.process_exit_code}: {why}")


def _tell_of_report(environment: Environment, run: Run) -> None:
    if run.reporting is not None and (page := run.reporting.wait()) is not None:
        _say(environment, f"Report: {page}")


def _say(environment: Environment, text: str) -> None:
    stdout_is_json = getattr(environment.parsed_options, "json", False)  # then it is Locust's alone
    print(text, flush=True, file=sys.stderr if stdout_is_json else sys.stdout)


def _clean_up(environment: Environment, **_: Any) -> None:
    if (run := _run(environment)) is not None:
        run.discard()
    observer = _observer(environment)
    if observer is None:
        return
    if _is_headless(environment) and _run(environment) is not None:
        with suppress(KeyboardInterrupt):
            observer.await_fetch()
    observer.close()


def _give_up_on_workers(environment: Environment, runner: MasterRunner) -> None:
    """What Locust does then says nothing of how many there are."""
    options = environment.parsed_options
    assert options is not None
    there = runner.worker_count
    if _run(environment) is None and there < options.expect_workers:
        runner.quit()
        _refuse(
            UsageError(
                f"--expect-workers {options.expect_workers}: only {there} came within "
                f"{options.expect_workers_max_wait} s."
            )
        )


def _refuse(error: UsageError) -> NoReturn:
    for problem in error.problems:
        print(f"vllm-locust: {problem}", file=sys.stderr, flush=True)
    sys.exit(EXIT_USAGE)


def _run(environment: Environment) -> Run | None:
    """The run that this process leads."""
    return getattr(environment, "vllm_run", None)


def _observer(environment: Environment) -> ObserverLink | None:
    return getattr(environment, "vllm_observer", None)


def _link(environment: Environment) -> worker.WorkerLink | None:
    """The run that this process takes part in."""
    return getattr(environment, "vllm_link", None)


def _is_headless(environment: Environment) -> bool:
    return environment.web_ui is None
