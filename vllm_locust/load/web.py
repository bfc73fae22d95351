"""What the suite changes in Locust's web UI.

The start form tells what is wrong and keeps secrets, the page follows a run to its very end, and there is a
tab for language models (`web_tab`).
"""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import orjson
from flask import Response, jsonify, request
from locust.env import Environment
from locust.runners import (
    STATE_CLEANUP,
    STATE_INIT,
    STATE_MISSING,
    STATE_RUNNING,
    STATE_SPAWNING,
    STATE_STOPPED,
    STATE_STOPPING,
    MasterRunner,
)
from locust.util.timespan import parse_timespan
from locust.web import WebUI
from werkzeug.datastructures import ImmutableMultiDict

from vllm_locust.errors import UsageError
from vllm_locust.load.capacity import MOST
from vllm_locust.load.hosts import conceal, host_of, in_full
from vllm_locust.load.observer import ObserverLink
from vllm_locust.load.own_tasks import asks_for_scenario
from vllm_locust.load.prepare import prepare
from vllm_locust.load.results import REQUESTS
from vllm_locust.load.run import Run
from vllm_locust.load.settings import API_KEY_VARIABLE, Settings, read_settings, scenario_of
from vllm_locust.load.shapes import choose_shape, kind_of
from vllm_locust.load.web_tab import Results, add_tab

_STILL_ENDING = "The last requests of the run before are still being answered: start again in a moment."
_ONLY_USERS = "Only the number of users can be changed during a run: stop it to change anything else."
_SHAPED = "The load shape of this run chooses the number of users: it cannot be changed meanwhile."


def dress(web_ui: WebUI) -> None:
    """Join our additions to the web UI, before it starts."""
    environment = web_ui.environment
    _fill_in_users(environment)
    _amend_page(web_ui)
    add_tab(web_ui, view=partial(_view, environment), results=partial(_results, environment))
    if web_ui.app is not None:
        web_ui.app.before_request(partial(_answer_for_locust, environment))
        web_ui.app.after_request(partial(_follow_to_the_end, environment))


def _fill_in_users(environment: Environment) -> None:
    """Where nobody has said how many, Locust's form says 1, which would be the most that a search tries."""
    options = environment.parsed_options
    if kind_of(environment.shape_class) != "capacity" or options is None or options.levels != "users":
        return
    for name in ("num_users", "spawn_rate"):
        if getattr(options, name) is None:
            setattr(options, name, MOST)


def _view(environment: Environment) -> bytes | None:
    observer: ObserverLink | None = getattr(environment, "vllm_observer", None)
    return observer.view if observer is not None else None


def _results(environment: Environment) -> Results | None:
    run = _run(environment)
    if run is None:
        return None
    return Results(
        run.id,
        run.verdict.summary if run.verdict is not None else None,
        run.results.folder / REQUESTS if run.results is not None else None,
    )


def _amend_page(web_ui: WebUI) -> None:
    """What the page begins with: no secrets, the state as we tell it, and what the run that is on was given.

    Locust puts secrets of the command line into the start form as defaults. Without, the form has an empty
    field for the key: it means the environment's, so that is where the key goes.
    """
    environment = web_ui.environment
    if key := getattr(environment.parsed_options, "api_key", None):
        os.environ[API_KEY_VARIABLE] = key
    update: Callable[[], None] = web_ui.update_template_args

    def update_and_amend() -> None:
        update()
        page = web_ui.template_args
        page["state"] = _state_to_show(environment, page["state"])
        running = vars(environment.parsed_options or Namespace()) if _run_that_is_on(environment) else {}
        for name, option in page["extra_options"].items():
            if option["is_secret"]:
                option["default_value"] = None
            elif name in running:  # a form to edit the run sends all of them
                option["default_value"] = running[name]
        scenario = page["extra_options"]["scenario"]
        if asks_for_scenario(environment.user_classes):
            scenario["default_value"] = scenario["default_value"] or scenario_of(environment.user_classes)

    web_ui.update_template_args = update_and_amend  # type: ignore[method-assign]


def _answer_for_locust(environment: Environment) -> Response | None:
    """Answer a start that cannot work by saying so; Locust would say that the test has started."""
    if request.endpoint == "locust.stop" and _is_ending(environment):
        # Locust would begin to stop a second time, and may end up with stopping the next run.
        return jsonify({"success": True, "message": "The last requests are being answered."})
    if request.endpoint != "locust.swarm":
        return None
    if _is_ending(environment):
        problems: Sequence[str] = [_STILL_ENDING]
    elif (run := _run_that_is_on(environment)) is not None:
        problems = _problems_of_edit(environment, run)
    else:
        problems = _problems_of_start(environment)
    if not problems:
        _conceal_host_of_form(environment)
        return None
    return jsonify({"success": False, "message": " ".join(problems), "host": environment.host})


def _problems_of_start(environment: Environment) -> Sequence[str]:
    run_time = request.form.get("run_time")
    settings, problems = _settings_of_form(environment, _seconds(run_time))
    choose_shape(environment, settings)
    try:
        # A field that was emptied is what Locust takes.
        prepare(settings, _host_of_form(environment), problems)
    except UsageError as error:
        return error.problems
    if not run_time and environment.parsed_options is not None:
        environment.parsed_options.run_time = None  # Locust leaves that of the run before
    return ()


def _problems_of_edit(environment: Environment, run: Run) -> Sequence[str]:
    """A run goes on: nothing is prepared anew, which would disturb what it measures."""
    if environment.shape_class is not None:
        return [_SHAPED]
    settings, problems = _settings_of_form(environment)
    host = _host_of_form(environment) or host_of(environment)
    same = _without_users(settings) == _without_users(run.settings) and host == host_of(environment)
    return () if same and not problems else [_ONLY_USERS]


def _host_of_form(environment: Environment) -> str:
    return in_full(environment, request.form.get("host", environment.host or ""))


def _conceal_host_of_form(environment: Environment) -> None:
    """Locust takes the host from the form, and shows it from then on."""
    if "host" in request.form:
        form = request.form.copy()
        form["host"] = conceal(environment, _host_of_form(environment))
        request.form = ImmutableMultiDict(form)


def _settings_of_form(
    environment: Environment, run_time_s: int | None = None
) -> tuple[Settings, Sequence[str]]:
    given = {**vars(environment.parsed_options or Namespace())}
    given.update({name: value for name, value in request.form.items() if name in given})
    given["run_time"] = run_time_s
    shape, scenario = kind_of(environment.shape_class), scenario_of(environment.user_classes)
    own_tasks = not asks_for_scenario(environment.user_classes)
    return read_settings(Namespace(**given), shape, scenario, own_tasks=own_tasks)


def _seconds(run_time: str | None) -> int | None:
    """What Locust takes it for; it refuses a wrong one itself."""
    try:
        return parse_timespan(run_time)
    except ValueError:
        return None


def _without_users(settings: Settings) -> Settings:
    """What must stay the same during a run. A seed that was not given is a new one each time."""
    return replace(settings, seed=0, most_users=None)


def _follow_to_the_end(environment: Environment, response: Response) -> Response:
    """Keep the page asking while a run ends: at Locust's names for that it stops."""
    if request.endpoint == "locust.request_stats":
        page = response.get_json(silent=True)
        if isinstance(page, dict) and (state := page.get("state")):
            shown = _state_to_show(environment, state)
            if shown != state:
                response.set_data(orjson.dumps({**page, "state": shown}))
    return response


def _state_to_show(environment: Environment, state: str) -> str:
    """What the page understands: it asks on while a test runs, and offers a new one when it has stopped."""
    if _is_ending(environment):
        return STATE_RUNNING
    return STATE_STOPPED if state in (STATE_CLEANUP, STATE_STOPPING) else state


def _is_ending(environment: Environment) -> bool:
    """Whether a run's load is over, and the run is not. One that started now would take its place."""
    runner, run = environment.runner, _run(environment)
    if run is not None and run.load_is_over and run.verdict is None:
        return True
    if runner is None or runner.state not in (STATE_CLEANUP, STATE_STOPPING):
        return False
    if runner.state == STATE_STOPPING and isinstance(runner, MasterRunner):
        # For a worker that it misses, Locust's master stays in this state for a minute more.
        return any(worker.state not in (STATE_INIT, STATE_MISSING) for worker in runner.clients.all)
    return True


def _run_that_is_on(environment: Environment) -> Run | None:
    runner, run = environment.runner, _run(environment)
    if run is None or run.load_is_over or runner is None:
        return None
    return run if runner.state in (STATE_SPAWNING, STATE_RUNNING) else None


def _run(environment: Environment) -> Run | None:
    return getattr(environment, "vllm_run", None)
