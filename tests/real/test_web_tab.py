"""The tab "LLM" in a real browser: with a real Locust, and with made views for what a run does not show."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from locust.env import Environment
from werkzeug.serving import make_server

from tests.locust_command import (
    PATIENT,
    Outcome,
    assert_nothing_is_lost,
    free_port,
    in_processes,
    read_json,
    simulator,
    started,
    wait_until,
)
from tests.real.browser import Browser, Page
from vllm_locust.load.web_tab import Results, add_tab

pytestmark = pytest.mark.timeout(600)  # the first test may have to install chromium

TAB = "#vllm-locust"
ROWS = (
    f"[...document.querySelectorAll('{TAB} tbody tr')]"
    ".map(row => [...row.cells].map(cell => cell.textContent))"
)


def tiles(page: Page) -> dict[str, str]:
    """What stands in the boxes below the verdict, by their titles."""
    shown: dict[str, str] = page.evaluate(
        f"Object.fromEntries([...document.querySelectorAll('{TAB} .tiles > div')].map("
        "tile => [tile.children[0].innerText, tile.children[1].innerText]))"
    )
    return shown


def number_in(text: str) -> float:
    return float(text.replace(",", "").rstrip("*"))


def points(page: Page, title: str) -> Sequence[int]:
    """How many values each line of a chart has."""
    figure = f"[...document.querySelectorAll('{TAB} figure')].find(f => f.innerText.startsWith({title!r}))"
    counts: Sequence[int] = page.evaluate(
        f"[...{figure}.querySelectorAll('.plot .line')].map("
        "line => (line.getAttribute('d').match(/[ML]/g) ?? []).length)"
    )
    return counts


def test_a_ramp_is_started_and_watched_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    ui = f"http://127.0.0.1:{free_port()}"
    with (
        simulator(tmp_path) as server,
        started(
            "--web-host", "127.0.0.1", "--web-port", ui.rpartition(":")[2], "--scenario", "ss:1,ls:1",
            "--host", server.url, "--server-metrics-url", server.url, "--exporter-port", "0",
            *in_processes(2), folder=tmp_path / "results", locustfile=PATIENT,
        ) as run,
        browser.page() as page,
    ):  # fmt: skip
        wait_until(lambda: read(f"{ui}/worker-count")["worker_count"] == 2, "the workers")
        page.open(ui)
        page.write("input[name=userCount]", "6")
        page.write("input[name=spawnRate]", "2")
        page.click_text("button", "start")
        page.click_text("[role=tab]", "llm")

        page.wait_for(f"{ROWS}.length >= 3", "rows of two profiles and of all")
        page.wait_for(f"{ROWS}[0][0] == 'all' && document.querySelector('{TAB} .verdict .words') !== null")
        wait_until(lambda: tiles(page).get("Users") == "6", "the end of the ramp")
        before, drawn = number_in(tiles(page)["Requests ok"]), points(page, "TTFT")[0]
        wait_until(lambda: number_in(tiles(page)["Requests ok"]) > before, "more requests")
        wait_until(lambda: points(page, "TTFT")[0] > drawn, "a longer chart")
        wait_until(lambda: any(points(page, "Server's requests")), "the server's side")
        latencies = page.evaluate(ROWS)[0]
        assert all(number_in(text) > 0 for text in latencies if text not in ("all", "0")), latencies

        with pytest.raises(HTTPError, match="409"):
            urlopen(f"{ui}/vllm-locust/summary.json", timeout=10)
        lines = page.evaluate("fetch('./vllm-locust/requests.jsonl').then(answer => answer.text())")
        assert lines.endswith("\n")
        assert {json.loads(line)["outcome"] for line in lines.splitlines()} == {"ok"}

        page.click_text("[role=tab]", "statistics")
        page.wait_for(f"document.querySelector('{TAB}') === null")
        page.click_text("[role=tab]", "llm")
        page.wait_for(f"{ROWS}.length >= 3")
        page.click_text("button", "stop")
        page.wait_for(f"document.querySelector('{TAB} .state').innerText == 'done'")
        page.wait_for(f"document.querySelector('{TAB} .downloads a[href$=\"summary.json\"]') !== null")
        summary = page.evaluate("fetch('./vllm-locust/summary.json').then(answer => answer.json())")
        wait_until(
            lambda: number_in(tiles(page)["Requests ok"]) == summary["requests"]["ok"], "the last count"
        )
        assert number_in(page.evaluate(ROWS)[0][1]) == summary["completed"]
        assert page.errors == []
        run.process.terminate()
        ended = run.wait()
    (folder,) = run.folder.iterdir()
    assert read_json(folder / "summary.json")["completed"] == summary["completed"]
    assert_nothing_is_lost(Outcome(ended.code, ended.stdout, ended.stderr, folder))


def read(url: str) -> Any:
    with urlopen(url, timeout=10) as answer:
        return json.load(answer)


class Shown:
    """A web UI whose run is made: `view` is what the tab is given, None for a fault."""

    def __init__(self) -> None:
        self.view: Mapping[str, Any] | None = view()
        self.asked = 0

    def newest(self) -> bytes:
        self.asked += 1
        if self.view is None:
            raise RuntimeError("a fault")
        return json.dumps(self.view).encode()


def nobody_asks(shown: Shown, page: Page) -> bool:
    """In one and a half seconds; a tab that is seen asks every second."""
    asked = shown.asked
    page.evaluate("new Promise(go => setTimeout(go, 1500))")
    return shown.asked == asked


@contextmanager
def made(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Shown, Page]]:
    """The page of a run that seems to go on, at the tab."""
    monkeypatch.setattr("sys.argv", ["locust"])  # Locust reads it for the start form
    environment = Environment(user_classes=[], host="http://127.0.0.1:1")
    runner = environment.create_local_runner()
    runner.state = "running"
    web_ui = environment.create_web_ui("127.0.0.1", 0, delayed_start=True)
    shown = Shown()
    add_tab(web_ui, view=shown.newest, results=lambda: Results("ab12", None, None))
    assert web_ui.app is not None
    server = make_server("127.0.0.1", 0, web_ui.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with browser.page() as page:
            page.open(f"http://127.0.0.1:{server.port}/?tab=llm")
            page.wait_for(f"document.querySelector('{TAB} .plot .line[d^=M]') !== null")
            yield shown, page
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        runner.quit()


def view(**other: Any) -> Mapping[str, Any]:
    """A run of one profile and ten seconds, but for what is `other`."""
    statistics = {
        "count": 1234,
        "mean_ms": 8.7654,
        "p50_ms": 0.3123,
        "p90_ms": 40.66,
        "p99_ms": 2612.4,
        "uncertain": ["p99"],
    }
    nothing = {**dict.fromkeys(statistics), "count": 0, "uncertain": ["p99"]}
    times = [float(second) for second in range(1, 11)]
    names = (
        "ttft_p50_ms ttft_p99_ms itl_p50_ms itl_p99_ms output_tokens_per_s requests_per_s failed_per_s users"
    )
    names += " in_flight server_running server_waiting server_kv_usage server_generation_tokens_per_s"
    gaps = [10.0, 20.0, None, 40.0, None, None, 70.0, 80.0, 90.0, 100.0]
    return {
        "run": {
            "id": "ab12", "scenario": "ss", "model": "m", "host": "h", "state": "running", "elapsed_s": 10.4,
        },
        "verdict": {
            "verdict": "degraded", "reasons": ["the reason"], "metrics": {"ttft": "degraded"},
            "load": {"verdict": "valid", "reasons": []}, "remarks": [],
            "cpu_shares": {"one": 0.1, "two": 0.85},
            "ttft_bound_p99_ms": 0.3, "itl_bound_p99_ms": None,
            "lag_p99_ms": None, "send_lateness_p99_ms": 0.1,
        },
        "load": {
            "users": 8, "in_flight": 7, "request_rate_target": None,
            "phase": {"number": 3, "of": 6, "title": "ss, 8 users"},
        },
        "requests": {"ok": 1234, "failed": 2, "dropped": 0, "outside_window": 0, "failures": {"timeout": 2}},
        "rates": {"request_throughput": 24.23, "output_throughput": 1853.0, "request_goodput": None},
        "table": [
            {"profile": "ss", "completed": 1234, "failed": 2, "ttft": statistics, "tpot": nothing,
             "itl": statistics, "e2el": statistics},
        ],
        "series": {"bin_s": 1.0, "t_s": times, **dict.fromkeys(names.split(), times), "ttft_p50_ms": gaps},
        "phases": [
            {"number": 1, "title": "ss, 1 user", "at_s": 0.0}, {"number": 2, "title": "two", "at_s": 5.0},
        ],
        "server": [],
        "exporter": "http://127.0.0.1:9646/metrics",
        **other,
    }  # fmt: skip


def test_what_a_view_says_can_be_read(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(browser, monkeypatch) as (_, page):
        verdict = " ".join(page.text(f"{TAB} .verdict").split())
        assert verdict.startswith(
            "!The measurement is degraded the reason TTFT too large by at most 0.300 ms, for 99 %"
        )
        assert verdict.endswith("sends 0.100 ms late (p99), needs 85 % of a core at most (two).")
        assert tiles(page)["Phase"] == "step 3 of 6: ss, 8 users"
        assert (tiles(page)["Elapsed"], tiles(page)["Output tokens/s"]) == ("0:10", "1,853")
        (row,) = page.evaluate(f"{ROWS}.filter(row => row.length > 2)")
        numbers = ["1,234", "8.77", "0.312", "40.7", "2,612*"]
        assert row == ["ss", "1,234", "2", *numbers, "0", *["n/a"] * 4, *numbers, *numbers]
        assert ["timeout", "2"] in page.evaluate(ROWS)
        assert page.errors == []


def test_a_null_is_a_gap_and_the_crosshair_goes_through_all_charts(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(browser, monkeypatch) as (_, page):
        path = page.evaluate(f"document.querySelector('{TAB} .plot .line-0').getAttribute('d')")
        assert (path.count("M"), path.count("L")) == (3, 4)  # 10 20, 40, 70 80 90 100
        first = f"document.querySelector('{TAB} figure > svg')"
        page.evaluate(f"{first}.scrollIntoView({{block: 'center'}})")
        box = page.evaluate(
            f"(box => [box.x, box.y, box.width, box.height])({first}.getBoundingClientRect())"
        )
        # The plot has margins of 46 and 10.
        page.point(box[0] + 46 + (box[2] - 56) * 0.71, box[1] + box[3] / 2)
        charts = page.evaluate(f"document.querySelectorAll('{TAB} figure:not([hidden])').length")
        page.wait_for(f"document.querySelectorAll('{TAB} .cursor line').length == {charts}")
        assert page.text(f"{TAB} .cursor text") == "0:07 · 2: two"
        assert page.text(f"{TAB} .legend") == "p50 70.0 p99 7.00"
        page.point(5, 5)
        page.wait_for(f"document.querySelector('{TAB} .cursor line') === null")
        assert page.text(f"{TAB} .legend") == "p50 100.0 p99 10.0"
        assert page.errors == []


def test_what_comes_from_others_is_text_and_never_markup(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "<img src=x onerror='document.title=1'>"
    with made(browser, monkeypatch) as (shown, page):
        normal = view()
        shown.view = view(
            run={**normal["run"], "model": evil, "scenario": evil, "host": evil},
            verdict={**normal["verdict"], "reasons": [evil]},
            table=[{**normal["table"][0], "profile": evil}],
            requests={**normal["requests"], "failures": {evil: 2}},
            phases=[{"number": 1, "title": evil, "at_s": 0.0}],
            server=[{
                "source": evil, "up": False, "problem": evil, "engines": 0, "running": None, "waiting": None,
                "kv_cache_usage": None, "preemptions": None, "prefix_cache_hit_ratio": None, "gpus": [],
            }],
            exporter="javascript:alert(1)",
        )  # fmt: skip
        page.wait_for(f"document.querySelector('{TAB}').innerText.split({evil!r}).length >= 8")
        assert page.evaluate(f"document.querySelectorAll('{TAB} img').length") == 0
        assert page.evaluate(f"[...document.querySelectorAll('{TAB} [href^=javascript]')].length") == 0
        assert page.errors == []


def test_a_lost_connection_is_said_and_got_over(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(browser, monkeypatch) as (shown, page):
        shown.view = None
        page.wait_for(f"document.querySelector('{TAB} .notice').innerText.startsWith('No connection')")
        assert tiles(page)["Users"] == "8", "the last numbers stay"
        shown.view = view(load={**view()["load"], "users": 9})
        wait_until(lambda: tiles(page)["Users"] == "9", "new numbers")
        assert page.evaluate(f"document.querySelector('{TAB} .notice').hidden")


def test_it_comes_and_goes_with_the_tab_and_follows_the_theme(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made(browser, monkeypatch) as (shown, page):
        page.click_text("[role=tab]", "charts")
        page.wait_for(f"document.querySelector('{TAB}') === null")
        wait_until(lambda: nobody_asks(shown, page), "an end of the questions")
        asked = shown.asked
        page.click_text("[role=tab]", "llm")
        page.wait_for(f"document.querySelector('{TAB} .plot .line') !== null")
        wait_until(lambda: shown.asked > asked, "a question")
        themes = f"[document.querySelector('{TAB}').dataset.theme, localStorage.theme ?? 'light']"
        for _ in range(2):
            page.click("[...document.querySelectorAll('header button')].at(-1)")
            now = page.wait_for(
                f"({themes}).every(theme => theme === localStorage.theme) && localStorage.theme"
            )
            assert now in ("dark", "light")
        page.size(390, 844)
        page.wait_for("innerWidth == 390")
        page.wait_for("document.documentElement.scrollWidth == 390", "a page as wide as a phone")
        assert page.errors == []


def test_before_the_first_run_it_says_so(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(browser, monkeypatch) as (shown, page):
        shown.view = view(run=None, verdict=None, table=[], phases=[], series={"bin_s": 1.0, "t_s": []})
        page.wait_for(f"document.querySelector('{TAB} .notice').innerText == 'No numbers of a run yet.'")
        assert "Over time" not in page.text(TAB)
        shown.view = view(verdict=None, table=[], phases=[], series={"bin_s": 1.0, "t_s": []})
        page.wait_for(f"document.querySelector('{TAB} .verdict').innerText.startsWith('No verdict yet')")
        assert "nothing to show yet" in page.text(TAB)
        assert page.errors == []
