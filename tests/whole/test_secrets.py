"""A password and a query in `--host`: the server gets them, and no file, output or page of a run has them."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote
from urllib.request import urlopen

import pytest

from tests.locust_command import (
    HEADLESS,
    LocustProcess,
    free_port,
    in_processes,
    run_locust,
    started,
    wait_until,
)
from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedServer,
    plain,
    scripted_server,
    token,
)
from tests.whole.test_web_ui import Table, get, post

QUERY = "key=Schlüssel-7&api-version=2024-10-21"
GIVEN = ["Zauber,wort 9%40ß%2F", "Zauber@wort,%2F9 é", quote("Zauber,wort 9@/?#%ß", safe="")]
"""Passwords as one may write them into a URL."""

MODELS = plain("200 OK", b'{"data": [{"id": "m"}]}', "content-type: application/json")
ANSWER = [STREAM_HEAD, token("a", "stop"), DONE, LAST_CHUNK]


@contextmanager
def gossip(password: str) -> Iterator[ScriptedServer]:
    """A server that answers well, and refuses every third request by telling all that it was told."""
    told = f"hush:{password} hush:{unquote(password)} {QUERY} {quote(QUERY)} {token_of(password)}"
    refusal = plain("403 Forbidden", told.encode(), "content-type: text/plain")
    scripts = [ANSWER, ANSWER, [refusal]] * 100
    questions = {"GET /v1/models": MODELS, "GET /": plain("403 Forbidden", told.encode())}
    with scripted_server(*scripts, questions=questions) as server:
        yield server


def token_of(password: str) -> str:
    return b64encode(f"hush:{unquote(password)}".encode()).decode()


def traces(password: str) -> set[str]:
    """All in which the secrets may show."""
    plain_ones = {
        password,
        unquote(password),
        "Zauber",
        "Schlüssel-7",
        "2024-10-21",
        token_of(password),
        "hush",
    }
    return {
        form for one in plain_ones for form in (one, quote(one, safe=""), quote_plus(one), ascii(one)[1:-1])
    }


def assert_hidden(texts: Mapping[str, str], password: str) -> None:
    found = {(place, one) for place, text in texts.items() for one in traces(password) if one in text}
    assert not found


def contents(folder: Path) -> dict[str, str]:
    """The text of every file; a name that has none is a text, too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {str(path): f"{path.name} {path.read_text(encoding='utf-8', errors='replace')}" for path in files}


@pytest.mark.parametrize(("password", "processes"), [*zip(GIVEN, [1, 1, 2], strict=True)])
def test_a_run_leaves_no_trace_of_them(tmp_path: Path, password: str, processes: int) -> None:
    quoted = quote(unquote(password), safe="")
    with gossip(password) as server:
        host = f"http://hush:{password}@127.0.0.1:{server.port}?{QUERY}"
        outcome = run_locust(
            *HEADLESS, *in_processes(processes), "--host", host, "--scenario", "ss", "--num-prompts", "30",
            "--html", str(tmp_path / "locust.html"), "--csv", str(tmp_path / "locust"), "--csv-full-history",
            "--junit-xml", str(tmp_path / "gates.xml"), "--slo", "failed==0", "--report",
            "--server-metrics-url", f"http://hush:{quoted}@127.0.0.1:{server.port}/metrics?{quote(QUERY)}",
            folder=tmp_path / "results",
        )  # fmt: skip
    assert outcome.code in (3, 4), outcome.text
    asked = server.requests[0].decode("latin-1")
    assert f"Authorization: Basic {token_of(password)}\r\n" in asked
    assert asked.startswith(
        "POST /v1/chat/completions?key=Schl%C3%BCssel-7&api-version=2024-10-21 HTTP/1.1\r\n"
    )
    assert outcome.summary["failures"] == {"http_403": 10}
    assert_hidden({"output": outcome.text, **contents(tmp_path)}, password)


@pytest.mark.parametrize(
    "option", ["--host=http://hush:Zauber wort@:1", "--server-metrics-url=http://hush:Zauber, wort@a"]
)
def test_nor_does_a_refusal_tell_them(tmp_path: Path, option: str) -> None:
    outcome = run_locust(*HEADLESS, option, folder=tmp_path / "results")
    assert (outcome.code, "is not an address like http" in outcome.text) == (2, True)
    assert_hidden({"output": outcome.text}, "Zauber wort")


PAGES = (
    *("/", "/stats/report", "/stats/report?download=1", "/stats/requests", "/stats/requests/csv"),
    *("/stats/failures/csv", "/exceptions", "/tasks", "/logs", "/vllm-locust/view"),
    *("/vllm-locust/summary.json", "/vllm-locust/requests.jsonl"),
)


def everything_shown(ui: str) -> dict[str, str]:
    """Body and headers of every page."""
    shown = {}
    for page in PAGES:
        with urlopen(f"{ui}{page}", timeout=60) as answer:
            shown[page] = f"{answer.headers}\n{answer.read().decode()}"
    return shown


def prefilled(ui: str) -> str:
    """The host that the page's start form has."""
    match = re.search(r'"host": ("[^"]*")', get(f"{ui}/"))
    assert match is not None
    host: str = json.loads(match[1])
    return host


@contextmanager
def waiting(tmp_path: Path, *options: str) -> Iterator[tuple[str, LocustProcess]]:
    """A web UI that waits for a start, and its process."""
    ui = f"http://127.0.0.1:{free_port()}"
    place = ("--web-host", "127.0.0.1", "--web-port", ui.rpartition(":")[2])
    with started(*place, *options, folder=tmp_path / "results") as run:
        wait_until(lambda: bool(get(ui)), "the web UI")
        yield ui, run


def test_the_page_shows_no_trace_of_them_and_takes_what_it_shows(tmp_path: Path) -> None:
    password = GIVEN[0]
    with gossip(password) as server, gossip(password) as other:
        given = f"http://hush:{password}@127.0.0.1:{server.port}?{QUERY}"
        shown = f"http://***@127.0.0.1:{server.port}?***"
        with waiting(tmp_path, "--host", given) as (ui, run):
            assert prefilled(ui) == shown
            form = {"user_count": 2, "spawn_rate": 20, "scenario": "ss"}
            elsewhere = shown.replace(str(server.port), str(other.port))
            answers = [post(f"{ui}/swarm", {**form, "host": elsewhere})]
            assert "has *** in the place of what was hidden" in answers[0]["message"]
            answers.append(post(f"{ui}/swarm", {**form, "host": shown}))
            assert (answers[-1]["success"], answers[-1]["host"]) == (True, shown)
            wait_until(lambda: len(server.requests) > 6, "requests")
            answers.append(post(f"{ui}/swarm", {**form, "user_count": 3, "host": prefilled(ui)}))
            answers.append(post(f"{ui}/swarm", {**form, "host": f"http://hush:new@127.0.0.1:{server.port}"}))
            assert [answer["success"] for answer in answers[-2:]] == [True, False]
            wait_until(lambda: Table(ui).user_count == 3, "the third user")
            post(f"{ui}/stop", {})
            wait_until(lambda: Table(ui).state == "stopped", "the end of the run")
            pages = everything_shown(ui)
            # Another address, with secrets of its own: what the form is given, it does not give back.
            answers.append(
                post(f"{ui}/swarm", {**form, "host": given.replace(str(server.port), str(other.port))})
            )
            assert (answers[-1]["success"], answers[-1]["host"]) == (True, elsewhere)
            wait_until(lambda: len(other.requests) > 6, "requests there")
            post(f"{ui}/stop", {})
            wait_until(lambda: Table(ui).state == "stopped", "the end of the second run")
            assert prefilled(ui) == elsewhere
            pages.update({f"second {place}": text for place, text in everything_shown(ui).items()})
            run.process.terminate()
            ended = run.wait()
        for asked in (*server.requests, *other.requests):
            assert f"Authorization: Basic {token_of(password)}\r\n".encode() in asked
    texts = {**pages, "answers": str(answers), "output": ended.text, **contents(tmp_path / "results")}
    assert_hidden(texts, password)
