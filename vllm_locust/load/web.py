"""What the suite changes in Locust's web UI.

The start form tells what is wrong and keeps secrets, and the page follows a run to its very end.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial

import orjson
from flask import Response, jsonify, request
from locust.env import Environment
from locust.runners import STATE_CLEANUP, STATE_RUNNING
from locust.web import WebUI

from vllm_locust.errors import UsageError
from vllm_locust.load.prepare import prepare
from vllm_locust.load.settings import API_KEY_VARIABLE, read_settings
from vllm_locust.load.shapes import choose_shape


def dress(web_ui: WebUI) -> None:
    """Join our additions to the web UI, before it starts."""
    _hide_secrets(web_ui)
    if web_ui.app is not None:
        web_ui.app.before_request(partial(_refuse_wrong_start, web_ui))
        web_ui.app.after_request(_show_draining_as_running)


def _hide_secrets(web_ui: WebUI) -> None:
    """Keep secrets of the command line out of the start form's page, where Locust puts them as defaults.

    The form then has an empty field for the key: it means the environment's, so that is where the key goes.
    """
    if key := getattr(web_ui.environment.parsed_options, "api_key", None):
        os.environ[API_KEY_VARIABLE] = key
    update: Callable[[], None] = web_ui.update_template_args

    def update_and_hide() -> None:
        update()
        for option in web_ui.template_args["extra_options"].values():
            if option["is_secret"]:
                option["default_value"] = None

    web_ui.update_template_args = update_and_hide  # type: ignore[method-assign]


def _refuse_wrong_start(web_ui: WebUI) -> Response | None:
    """Answer a start that cannot work by saying so; Locust would say that the test has started."""
    if request.endpoint != "locust.swarm":
        return None
    environment = web_ui.environment
    if environment.runner is not None and environment.runner.state == STATE_CLEANUP:
        problems: Sequence[str] = [
            "The last requests of the run before are still being answered: start again in a moment."
        ]
    else:
        problems = _problems_of_form(environment)
    if not problems:
        return None
    return jsonify({"success": False, "message": " ".join(problems), "host": environment.host})


def _problems_of_form(environment: Environment) -> Sequence[str]:
    given = {**vars(environment.parsed_options or Namespace())}
    given.update({name: value for name, value in request.form.items() if name in given})
    settings, problems = read_settings(Namespace(**given), getattr(environment.shape_class, "kind", None))
    choose_shape(environment, settings)
    try:
        prepare(settings, request.form.get("host") or environment.host or "", problems)
    except UsageError as error:
        return error.problems
    return ()


def _show_draining_as_running(response: Response) -> Response:
    """Keep the page asking while the last requests are answered: at Locust's name for that it stops."""
    if request.endpoint == "locust.request_stats":
        page = response.get_json(silent=True)
        if isinstance(page, dict) and page.get("state") == STATE_CLEANUP:
            response.set_data(orjson.dumps({**page, "state": STATE_RUNNING}))
    return response
