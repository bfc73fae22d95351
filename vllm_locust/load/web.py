"""What the suite adds to Locust's web UI: a start form that tells what is wrong, and keeps secrets."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from flask import Response, jsonify, request
from locust.web import WebUI

from vllm_locust.load.options import API_KEY_VARIABLE, read_settings


def dress(web_ui: WebUI) -> None:
    """Join our additions to the web UI, before it starts."""
    _hide_secrets(web_ui)
    _refuse_wrong_forms(web_ui)


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


def _refuse_wrong_forms(web_ui: WebUI) -> None:
    """Answer a start form with wrong options by saying so; Locust would say that the test has started."""

    def check() -> Response | None:
        if request.endpoint != "locust.swarm":
            return None
        given: dict[str, Any] = {**vars(web_ui.environment.parsed_options or argparse.Namespace())}
        given.update({name: value for name, value in request.form.items() if name in given})
        _, problems = read_settings(argparse.Namespace(**given))
        if not problems:
            return None
        answer = {"success": False, "message": " ".join(problems), "host": web_ui.environment.host}
        return jsonify(answer)

    web_ui.app.before_request(check)
