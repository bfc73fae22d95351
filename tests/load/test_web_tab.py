"""The routes of the tab "LLM": what its page is given, what can be downloaded, and who may have it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient
from locust.env import Environment
from locust.web import WebUI

from vllm_locust.load.web_tab import STATIC, Results, add_tab

OUR_SCRIPT = '<script type="module" src="./vllm-locust/static/tab.js"></script>'


@dataclass
class Served:
    """A web UI with the tab, and what the tab is given to show."""

    web_ui: WebUI
    view: bytes | None = None
    results: Results | None = None
    client: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        add_tab(self.web_ui, view=lambda: self.view, results=lambda: self.results)
        assert self.web_ui.app is not None
        self.client = self.web_ui.app.test_client()

    def text(self, path: str, status: int = 200) -> str:
        with self.client.get(path) as answer:
            text = answer.get_data(as_text=True)
            assert answer.status_code == status, text
            return text

    def tabs(self) -> list[Mapping[str, str]]:
        """The additional tabs that the page is told of."""
        line = next(line for line in self.text("/").splitlines() if "window.templateArgs" in line)
        tabs: list[Mapping[str, str]] = json.loads(line.partition("=")[2])["extended_tabs"]
        return tabs


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    monkeypatch.setattr("sys.argv", ["locust"])  # Locust reads it for the start form
    environment = Environment(user_classes=[], host="http://127.0.0.1:1")
    runner = environment.create_local_runner()
    yield environment
    runner.quit()


def served(environment: Environment, **options: Any) -> Served:
    return Served(environment.create_web_ui("127.0.0.1", 0, delayed_start=True, **options))


def test_the_page_has_the_tab_and_its_script_once(environment: Environment) -> None:
    ui = served(environment)
    for _ in range(2):
        page = ui.text("/")
        assert page.count(OUR_SCRIPT) == 1
        assert page.index(OUR_SCRIPT) < page.index("</body>")
        assert page.count('<link rel="stylesheet" href="./vllm-locust/static/tab.css">') == 1
        assert ui.tabs() == [{"key": "llm", "title": "LLM"}]
    assert OUR_SCRIPT not in ui.text("/stats/requests")


def test_tabs_of_others_stay_whenever_they_were_added(environment: Environment) -> None:
    ui = served(environment)
    theirs = {"key": "theirs", "title": "Theirs"}
    ui.web_ui.template_args["extended_tabs"] = [theirs]
    assert [tab["key"] for tab in ui.tabs()] == ["theirs", "llm"]
    ui.web_ui.template_args.update({"extended_tabs": [theirs, {"key": "more", "title": "More"}]})
    assert [tab["key"] for tab in ui.tabs()] == ["theirs", "more", "llm"]


def test_the_view_is_handed_on_as_it_is(environment: Environment) -> None:
    ui = served(environment)
    ui.view = b'{"run": {"id": "1"},  "odd":"\xe2\x82\xac"}'
    with ui.client.get("/vllm-locust/view") as answer:
        assert answer.data == ui.view
        assert answer.mimetype == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"


def test_before_there_is_a_view_there_is_an_empty_one(environment: Environment) -> None:
    view = json.loads(served(environment).text("/vllm-locust/view"))
    assert view["run"] is view["verdict"] is view["exporter"] is None
    assert view["table"] == view["series"]["t_s"] == view["server"] == view["phases"] == []
    assert view["requests"] == {"ok": 0, "failed": 0, "dropped": 0, "outside_window": 0, "failures": {}}


def test_what_is_not_there_yet_is_said_in_a_sentence(environment: Environment, tmp_path: Path) -> None:
    ui = served(environment)
    for name in ("summary.json", "requests.jsonl"):
        assert ui.text(f"/vllm-locust/{name}", 404) == "There was no run yet: start one first.\n"
    ui.results = Results("ab12", None, None)
    assert ui.text("/vllm-locust/summary.json", 409).startswith("The run goes on: ")
    assert "--results-dir" in ui.text("/vllm-locust/requests.jsonl", 404)
    ui.results = Results("ab12", None, tmp_path / "gone.jsonl")
    assert "cannot be read: No such file" in ui.text("/vllm-locust/requests.jsonl", 404)


def test_the_summary_is_a_download(environment: Environment) -> None:
    ui = served(environment)
    ui.results = Results("ab12", {"completed": 7, "p99_ttft_ms": None}, None)
    with ui.client.get("/vllm-locust/summary.json") as answer:
        assert answer.get_json() == {"completed": 7, "p99_ttft_ms": None}
        assert answer.headers["Content-Disposition"] == "attachment; filename=ab12-summary.json"


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        (b"", b""),
        (b'{"id"', b""),
        (b"1\n", b"1\n"),
        (b"1\n2\n3", b"1\n2\n"),
        (b"1\n" + b"x" * 300_000, b"1\n"),
        (b"y" * 299_999 + b"\n" + b"x", b"y" * 299_999 + b"\n"),
    ],
    ids=["empty", "first line", "whole", "half a line more", "long half a line", "long line"],
)
def test_requests_are_a_download_in_whole_lines(
    written: bytes, whole: bytes, environment: Environment, tmp_path: Path
) -> None:
    ui = served(environment)
    (tmp_path / "requests.jsonl").write_bytes(written)
    ui.results = Results("ab12", None, tmp_path / "requests.jsonl")
    with ui.client.get("/vllm-locust/requests.jsonl") as answer:
        assert answer.data == whole
        assert answer.content_length == len(whole)
        assert answer.headers["Content-Disposition"] == "attachment; filename=ab12-requests.jsonl"
    with ui.client.head("/vllm-locust/requests.jsonl") as answer:
        assert (answer.content_length, answer.data) == (len(whole), b"")


def test_a_long_file_goes_out_in_pieces_that_let_others_have_a_turn(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("vllm_locust.load.web_tab.gevent.sleep", pauses.append)
    ui = served(environment)
    file = tmp_path / "requests.jsonl"
    file.write_bytes(b"z" * 999 + b"\n")
    ui.results = Results("ab12", None, file)
    with ui.client.get("/vllm-locust/requests.jsonl", buffered=False) as answer:
        file.write_bytes((b"z" * 999 + b"\n") * 500)  # what is written from now on is not part of it
        assert len(answer.data) == 1000
    pauses.clear()
    with ui.client.get("/vllm-locust/requests.jsonl", buffered=False) as answer:
        pieces = [len(piece) for piece in answer.iter_encoded()]
    assert sum(pieces) == 500_000
    assert max(pieces) <= 128 * 1024
    assert len(pauses) == len(pieces)
    assert all(pause > 0 for pause in pauses), "0 is no turn for sockets"


@pytest.mark.parametrize("name", ["tab.js", "page.js", "charts.js", "dom.js", "format.js"])
def test_scripts_are_served_as_scripts(environment: Environment, name: str) -> None:
    with served(environment).client.get(f"/vllm-locust/static/{name}") as answer:
        assert answer.data == (STATIC / name).read_bytes()
        assert answer.headers["Content-Type"].partition(";")[0].endswith("/javascript")


def test_nothing_else_is_served(environment: Environment) -> None:
    ui = served(environment)
    assert "#vllm-locust" in ui.text("/vllm-locust/static/tab.css")
    for path in ("static/nothing.js", "static/../web_tab.py", "static/%2e%2e/web_tab.py", "static/"):
        with ui.client.get(f"/vllm-locust/{path}") as answer:
            assert answer.status_code == 404, path


def test_scripts_import_each_other_and_ask_nobody_else() -> None:
    scripts = {script.name: script.read_text(encoding="utf-8") for script in STATIC.glob("*.js")}
    imported = {
        name for text in scripts.values() for name in re.findall(r'^import .* from "\./(.*)";', text, re.M)
    }
    assert imported == scripts.keys() - {"tab.js"}
    for text in scripts.values():
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_below_a_path_all_of_it_is_there(environment: Environment) -> None:
    ui = served(environment, web_base_path="/load")
    assert OUR_SCRIPT in ui.text("/load/")
    assert json.loads(ui.text("/load/vllm-locust/view"))["run"] is None
    ui.text("/vllm-locust/view", 404)


def test_with_a_login_nothing_is_shown_to_strangers(environment: Environment) -> None:
    ui = served(environment, web_login=True)
    ui.view, ui.results = b'{"secret": 1}', Results("ab12", {"secret": 1}, STATIC / "tab.js")
    app = ui.web_ui.app
    assert app is not None
    app.secret_key = "of the test"
    ui.web_ui.login_manager.user_loader(lambda _: SimpleNamespace(is_authenticated=True))
    for path in ("view", "summary.json", "requests.jsonl", "static/tab.js"):
        with ui.client.get(f"/vllm-locust/{path}") as answer:
            assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (302, "/login"), path
    with ui.client.get("/") as answer:
        assert answer.status_code == 302
    assert OUR_SCRIPT not in ui.text("/login")
    with ui.client.session_transaction() as session:
        session["_user_id"] = "1"
    assert ui.text("/vllm-locust/view") == '{"secret": 1}'
    assert OUR_SCRIPT in ui.text("/")
