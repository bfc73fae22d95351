"""The page: nothing in it is fetched or run that a file said, and what is missing is said, not hidden."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.core.made_records import an_ok
from tests.results.made_lines import RUN, a_failed, a_folder, a_line
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.errors import UsageError
from vllm_locust.report.cache_hits import HIT_RATE
from vllm_locust.report.findings import Finding
from vllm_locust.report.page import write as writing
from vllm_locust.report.page import write_page
from vllm_locust.report.page.words import at_most, phase_name
from vllm_locust.results.folder import read_results
from vllm_locust.results.rows import rows_of

CLIENT = {"verdict": "valid", "reasons": [], "cpu_shares": {"client": 0.05}, "stamps": "kernel"}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"' ünï\u2028日本"


class _Reader(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.inside = ""
        self.data = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script" and dict(attrs).get("id") == "chart-data":
            self.inside = "data"

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "data":
            self.data += data
        elif not self.inside:
            self.words.append(data)


@pytest.fixture(autouse=True)
def no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its script is 4.8 MB, which these tests need not read each time."""
    monkeypatch.setattr(writing, "_plotly", lambda: "/* plotly */")


def page_of(tmp_path: Path, *folders: Path, **more) -> _Reader:
    path = tmp_path / "out" / "report.html"
    write_page(path, [read_results(folder) for folder in folders], **more)
    return _Reader(path.read_text(encoding="utf-8"))


def summary_of(*phases: int, **more) -> dict:
    recording = Recording()
    for phase in phases:
        recording.add(an_ok(sent_s=1.0, phase=phase))
    return summarize(recording) | {"client": CLIENT} | more


def plots(page: _Reader) -> list[dict]:
    return [chart for chart in json.loads(page.data) if "traces" in chart]


def opened(page: _Reader) -> list[bool]:
    """Of each run among others, whether it is open."""
    return ["open" in attributes for _, attributes in page.tags if attributes.get("class") == "run"]


def headings(page: _Reader) -> list[str]:
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "h2"]
    return links


def test_a_whole_run(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "r", a_line(0.5, output_tokens=3), summary=summary_of(0))
    page = page_of(tmp_path, folder)
    text = " ".join(page.words)
    assert "prompts on base" in text
    assert "The measurement is valid." in text
    assert "The server was not asked for its metrics" in text
    assert "5120 bytes" not in text
    assert "0123456789abcdef" in text
    assert len(headings(page)) >= 7
    charts = json.loads(page.data)
    assert len([1 for tag, attributes in page.tags if "data-chart" in attributes]) == len(charts) > 4


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = page_of(tmp_path, a_folder(tmp_path / "r", a_line(), summary=summary_of(0)))
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"
    style = (Path(writing.__file__).parent / "style.css").read_text()
    assert not re.search(r"url\(|@import|https?:", style)


def test_what_files_say_stays_text(tmp_path: Path) -> None:
    run = RUN | {"scenario": EVIL, "model": EVIL, "host": EVIL, "command": [EVIL], "versions": {EVIL: EVIL}}
    lines = a_line(profile=EVIL, scenario=EVIL, model=EVIL, output_tokens=2) + a_line(profile="b")
    lines += a_failed(EVIL, 0.2, profile=EVIL)
    more = {"failures": {EVIL: 1}, "failure_examples": {EVIL: EVIL}, "client": CLIENT | {"reasons": [EVIL]}}
    folder = a_folder(tmp_path / "r", lines, run=run, summary=summary_of(0, **more))
    page = page_of(
        tmp_path, folder, folder, labels=[EVIL, "b"], title=EVIL, findings=[Finding(EVIL, "note", EVIL)]
    )
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert any(EVIL in words for words in page.words)
    names = [trace.get("name", "") for chart in plots(page) for trace in chart["traces"]]
    assert not [name for name in names if "<" in name]


CASES = {
    "killed": (a_line(), RUN, None, "summary.json is missing"),
    "empty": (b"", RUN, None, "No requests were recorded"),
    "only a summary": (None, None, summary_of(0), "run.json is missing"),
    "all failed": (a_failed("timeout") + a_failed("dropped"), RUN, summary_of(), "No request was answered"),
    "one request": (a_line(), RUN, summary_of(0), "too few requests"),
    "a broken summary": (a_line(), RUN, {"completed": 3, "phases": "oops"}, "not as this version writes it"),
    "words for numbers": (a_line(), RUN, summary_of(0) | {"client": {"verdict": 5}}, "is not known"),
}


@pytest.mark.parametrize(("lines", "run", "summary", "said"), CASES.values(), ids=CASES)
def test_what_is_missing_is_said(tmp_path: Path, lines, run, summary, said: str) -> None:
    folder = a_folder(tmp_path / "r", lines, run=run, summary=summary)
    page = page_of(tmp_path, folder)
    assert said in " ".join(page.words)
    page_of(tmp_path, folder, folder)


@pytest.mark.parametrize(
    ("rates", "told"), [((0.069, 0.81), True), ((0.74, 0.76), False), ((0.5, None), False)]
)
def test_runs_that_a_cache_helped_more_than_others(tmp_path: Path, rates, told: bool) -> None:
    folders = [
        a_folder(tmp_path / name, a_line(), summary=summary_of(0) | {"server": {HIT_RATE: rate}})
        for name, rate in zip("ab", rates, strict=True)
    ]
    text = " ".join(page_of(tmp_path, *folders).words)
    assert "prefix cache hit rate" in text
    sentence = "The server's prefix cache held of the prompt tokens 6.9% in a and 81.0% in b"
    assert (sentence in text) is told


def test_runs_side_by_side(tmp_path: Path) -> None:
    summaries = {"a": summary_of(0), "b": summary_of(0) | {"output_throughput": 1234.5}}
    folders = [a_folder(tmp_path / name, a_line(), summary=one) for name, one in summaries.items()]
    page = page_of(tmp_path, *folders)
    text = " ".join(page.words)
    assert "Side by side" in text
    assert "1,234" in text or "1,235" in text
    shares = next(chart for chart in plots(page) if chart["layout"]["yaxis"].get("tickformat") == ".0%")
    assert [trace["name"] for trace in shares["traces"]] == ["a", "b"]
    links = [chart["link"] for chart in json.loads(page.data) if chart["link"]]
    assert set(links) == {"time0", "time1"}
    assert {chart["link"] for chart in json.loads(page.data) if "requests" in chart} == set(links)
    assert opened(page) == [True, True]
    assert opened(page_of(tmp_path, *folders, *folders, labels=list("abcd"))) == [False] * 4


def test_a_little_of_the_cache_has_labels_that_differ(tmp_path: Path) -> None:
    """The browser writes `0.05%` and `20%` by this format; whole per cents would all be `0%`."""
    folder = a_folder(tmp_path / "r", a_line(), summary=summary_of(0))
    (folder / "server_metrics.csv").write_text("time_s,engine,kv_cache_usage\n0,0,0\n1,0,0.0029\n")
    (cache,) = [one for one in plots(page_of(tmp_path, folder)) if one["traces"][0]["name"] == "KV cache"]
    assert cache["layout"]["yaxis"]["tickformat"] == ".3~p"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    folders = [a_folder(tmp_path / name / "run", a_line(), summary=summary_of(0)) for name in ("x", "y")]
    assert writing.unlike(folders) == [str(folder) for folder in folders]


def test_an_experiment_begins_with_its_findings(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "r", a_line(), summary=summary_of(0))
    table = [
        row
        for name in ("on", "off")
        for row in rows_of(read_results(folder), name, {"chunked": name, "kind": "usual"})
    ]
    found = [Finding("H1", "refuted", "It was the other way round.")]
    page = page_of(tmp_path, folder, title="S2", findings=found, table=table)
    text = " ".join(page.words)
    assert text.index("Findings") < text.index("Configurations") < text.index("Metrics over configurations")
    assert "It was the other way round." in text
    assert "chunked" in text
    assert "kind" not in text, "it is the same of all"
    empty = " ".join(page_of(tmp_path, findings=found, title="S2").words)
    assert "has measured anything yet" in empty


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match=r"report.html cannot be written"):
        page_of(tmp_path, a_folder(tmp_path / "r", a_line()))


def test_without_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the script plotly.min.js") as error:
        page_of(tmp_path, a_folder(tmp_path / "r", a_line()))
    assert len(error.value.problems) == 1


def test_answers_that_are_odd_are_told_below_the_numbers(tmp_path: Path) -> None:
    summary = summary_of(1) | {"completed": 1, "answers": {"sentences": ["1 of 1 answers arrived oddly"]}}
    words = page_of(tmp_path, a_folder(tmp_path / "r", a_line(), summary=summary)).words
    assert "1 of 1 answers arrived oddly" in words


def test_the_numbers_that_lead(tmp_path: Path) -> None:
    phases = [
        {"phase": n, "name": "ss", "users": n, "output_throughput": 10.0 * n, "slo": [{"outcome": outcome}]}
        for n, outcome in ((1, "met"), (2, "met"), (4, "missed"))
    ]
    slo = {"slo": "p99_ttft_ms<9", "outcome": "missed", "sentence": "it is missed"}
    server = {"kv_cache_usage_peak": 0.25, "requests_waiting_peak": 3, "sources": []}
    known = {
        "completed": 1234,
        "failed": 66,
        "error_rate": 66 / 1300,
        "p50_ttft_ms": 12.345,
        "p99_ttft_ms": 98.7,
    }
    known |= {"intervals": {"p99_ttft_ms": [80.1, 120.2], "p99_e2el_ms": [1.0, None]}, "p99_e2el_ms": 2.0}
    summary = (
        summary_of(0) | known | {"phases": phases, "slo": [slo], "server": server, "request_goodput": 5.5}
    )
    text = " ".join(page_of(tmp_path, a_folder(tmp_path / "r", a_line(), summary=summary)).words)
    above = " ".join(text.partition("Distributions")[0].split())
    for words in (
        "1,234 66 failed (5.08 %)",
        "goodput 5.50 req/s",
        "most: 40.00 with ss, 4 users",
        "25.00 % 3 requests at least waited at the peak",
        "12.35 ms p99 98.70 ms 95 %, if independent: 80.10 to 120.2",
        "p99 2.00 ms too few for a sure p99",
        "All loads together",
        "missed it is missed met: ss, 1 user · ss, 2 users missed: ss, 4 users",
    ):
        assert words in above


def test_what_else_a_reader_must_know(tmp_path: Path) -> None:
    worker = {"worker": 1, "name": "w1", "lost_after_s": 3.25, "requests": 17, "unaccounted": 2}
    more = {"workers": [worker, worker | {"lost_after_s": None}], "profiler": [{"started_s": 1.0}]}
    more |= {"failures": {"timeout": 3, "http_500": 1}, "requests": {"planned": 10}, "failure_examples": {}}
    text = " ".join(page_of(tmp_path, a_folder(tmp_path / "r", a_line(), summary=summary_of(0) | more)).words)
    assert text.count("was lost after 3.25 s: 17 requests it had finished are counted, up to 2") == 1
    assert "The server's profiler ran" in text
    assert "4 of 10 requests failed:  3 timeout, 1 http_500" in text


def test_both_sides_and_the_cache(tmp_path: Path) -> None:
    sides = {
        "ttft": {"client_mean_ms": 12.0, "server_mean_ms": 11.5, "gap_ms": 0.5},
        "sentences": ["They agree."],
    }
    engine = {"engine": "0", "num_gpu_blocks": 100, "block_size": 16, "kv_cache_usage_peak": 0.5}
    server = {"reconciliation": sides, "engines": [engine], "requests_running_peak": 7, "mean_queue_ms": 1.25}
    folder = a_folder(
        tmp_path / "r", a_line(prompt_tokens=20, output_tokens=8), summary=summary_of(0) | {"server": server}
    )
    text = " ".join(" ".join(page_of(tmp_path, folder).words).split())
    assert "TTFT 12.00 11.50 0.5000" in text
    assert "They agree." in text
    assert "waited in the queue, mean 1.25 ms" in text
    assert "engine 0 100 16 1,584 792 50.00 %" in text
    assert (
        "fit at once, sharing nothing 49.5 that ran at once, peak at least 7" in text
    )  # 20 + 8/2 tokens are two blocks of 16


def test_a_bound_that_is_too_small_to_see_is_no_zero() -> None:
    assert (at_most(0.0), at_most(0.42), at_most(None)) == ("below 0.01 ms", "at most 0.4200 ms", "n/a")
    names = [phase_name({"name": "m.ss", **load}) for load in ({"users": 1}, {"request_rate": 2.0}, {})]
    assert names == ["ss, 1 user", "ss, 2/s", "ss"]
