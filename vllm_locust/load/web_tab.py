"""The tab "LLM" of Locust's web UI: its page, what that asks for once a second, and files to download.

Rule: this process measures. What is asked for is handed on as it is, and a long file goes out in pieces, with
the event loop having its turn in between.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import gevent
import orjson
from flask import Blueprint, Flask, Response, request, send_from_directory
from locust.web import WebUI

from vllm_locust.load.results import REQUESTS, SUMMARY
from vllm_locust.observe.view import live_view

STATIC = Path(__file__).with_name("static")

_TAB = {"title": "LLM", "key": "llm"}
_FOLDER = "vllm-locust"
# Relative as Locust's own, for a web UI below another path.
_TAGS = (
    f'  <link rel="stylesheet" href="./{_FOLDER}/static/tab.css">\n'
    f'    <script type="module" src="./{_FOLDER}/static/tab.js"></script>\n  '
)
_PIECE_BYTES = 128 * 1024
# A timer and not 0: gevent does greenlets that only step back many times over before it looks at sockets.
_PAUSE_S = 0.001

_NO_RUN = "There was no run yet: start one first."
_STILL_RUNNING = "The run goes on: there is a summary when its last request is answered."
_NOT_KEPT = "This run keeps no requests: start Locust with --results-dir to keep those of the next."
_UNREADABLE = "The requests of this run cannot be read: {reason}."
_SUMMARY_FORMAT = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY

_EMPTY_VIEW = live_view(None, (), None, clock_s=0.0)


@dataclass(frozen=True, slots=True)
class Results:
    """What there is to download of the run that is on, or of the last one."""

    name: str
    """What the names of the files begin with."""
    summary: Mapping[str, Any] | None
    """None while the run goes on."""
    requests: Path | None
    """Its requests.jsonl; None when the run keeps none."""


def add_tab(
    web_ui: WebUI, *, view: Callable[[], bytes | None], results: Callable[[], Results | None]
) -> None:
    """Add the tab to a web UI that has not started.

    `view` gives the newest live view as JSON, None before there is any; `results` the run that is on or the
    last one, None before the first.
    """
    app = web_ui.app
    assert app is not None, "Locust makes it together with the web UI"
    _offer_tab(web_ui)
    app.register_blueprint(_routes(web_ui, app, view, results))
    app.after_request(_add_tags)


def _offer_tab(web_ui: WebUI) -> None:
    """Offer the tab whenever the page is made: others may replace the list of tabs at any time before."""
    update: Callable[[], None] = web_ui.update_template_args

    def update_and_offer() -> None:
        update()
        others = web_ui.template_args.get("extended_tabs") or ()
        tabs = [tab for tab in others if tab["key"] != _TAB["key"]]
        web_ui.template_args["extended_tabs"] = [*tabs, _TAB]

    web_ui.update_template_args = update_and_offer  # type: ignore[method-assign]


def _routes(
    web_ui: WebUI, app: Flask, view: Callable[[], bytes | None], results: Callable[[], Results | None]
) -> Blueprint:
    above = app.blueprints["locust"].url_prefix or ""
    routes = Blueprint("vllm_locust", __name__, url_prefix=f"{above.rstrip('/')}/{_FOLDER}")
    answers: Mapping[str, tuple[str, Callable[..., Response]]] = {
        "view": ("/view", partial(_view, view)),
        "summary": (f"/{SUMMARY}", partial(_summary, results)),
        "requests": (f"/{REQUESTS}", partial(_requests, results)),
        "static": ("/static/<path:name>", _static),
    }
    for endpoint, (path, answer) in answers.items():
        routes.add_url_rule(path, endpoint, web_ui.auth_required_if_enabled(answer))
    return routes


def _view(view: Callable[[], bytes | None]) -> Response:
    response = Response(view() or _EMPTY_VIEW, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _static(name: str) -> Response:
    return send_from_directory(STATIC, name)


def _summary(results: Callable[[], Results | None]) -> Response:
    run = results()
    if run is None:
        return _sentence(404, _NO_RUN)
    if run.summary is None:
        return _sentence(409, _STILL_RUNNING)
    body = orjson.dumps(run.summary, option=_SUMMARY_FORMAT)
    return _as_download(Response(body, mimetype="application/json"), f"{run.name}-{SUMMARY}")


def _requests(results: Callable[[], Results | None]) -> Response:
    run = results()
    if run is None:
        return _sentence(404, _NO_RUN)
    if run.requests is None:
        return _sentence(404, _NOT_KEPT)
    try:
        file = run.requests.open("rb")
    except OSError as error:
        return _sentence(404, _UNREADABLE.format(reason=error.strerror))
    size_bytes = _length_in_whole_lines(file)
    file.seek(0)
    response = Response(_pieces(file, size_bytes), mimetype="application/x-ndjson")
    response.call_on_close(file.close)
    response.content_length = size_bytes
    return _as_download(response, f"{run.name}-{REQUESTS}")


def _sentence(status: int, sentence: str) -> Response:
    return Response(sentence + "\n", status, mimetype="text/plain")


def _as_download(response: Response, name: str) -> Response:
    response.headers.set("Content-Disposition", "attachment", filename=name)
    response.headers["Cache-Control"] = "no-store"
    return response


def _length_in_whole_lines(file: BinaryIO) -> int:
    """How far the last whole line goes: the file may be written to at this moment."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _PIECE_BYTES)
        file.seek(begin)
        last_newline = file.read(end - begin).rfind(b"\n")
        if last_newline >= 0:
            return begin + last_newline + 1
        end = begin
    return 0


def _pieces(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    while size_bytes > 0 and (piece := file.read(min(_PIECE_BYTES, size_bytes))):
        yield piece
        size_bytes -= len(piece)
        gevent.sleep(_PAUSE_S)


def _add_tags(response: Response) -> Response:
    """Put our script into Locust's page, and nowhere else: not into the login or an error in its place."""
    if request.endpoint != "locust.index" or response.status_code != 200:
        return response
    page = response.get_data(as_text=True)
    before, end, after = page.rpartition("</body>")
    if end:
        response.set_data(before + _TAGS + end + after)
    return response
