"""The page in a real browser: charts are drawn, follow the light and each other, and nothing is red."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.made_records import an_ok
from tests.real.browser import Browser, Page
from tests.results.made_lines import RUN, a_failed, a_folder, a_line
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.report.page import write_page
from vllm_locust.results.folder import read_results

pytestmark = pytest.mark.timeout(600)  # the first test may have to install chromium

EVIL = "</script><script>evil = 1</script><img src=x onerror='evil = 2'>\"' <b>ünï</b>\u2028日本" + "x" * 200
TIME_AXES = (
    "[...document.querySelectorAll('.plot')].filter(p => p.layout?.xaxis.ticksuffix)"
    ".map(p => p.layout.xaxis.range.map(v => Math.round(v)).join())"
)
COLOURS = """[...new Set((() => {
  const canvas = document.querySelector('canvas'), pen = canvas.getContext('2d');
  const {data} = pen.getImageData(0, 0, canvas.width, canvas.height);
  const seen = [];
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) seen.push(data.slice(i, i + 3).join());
  return seen;
})())]"""


def colour(name: str) -> str:
    """Of the style sheet, as `r,g,b`."""
    return (
        f"getComputedStyle(document.documentElement).getPropertyValue('{name}').trim()"
        ".match(/[0-9a-f]{2}/g).map(part => parseInt(part, 16)).join()"
    )


def evil_run(folder: Path) -> Path:
    recording = Recording()
    recording.add(an_ok(sent_s=1.0))
    times = [place / 4 for place in range(80)]
    more = {"profile": EVIL, "output_tokens": 5}
    lines = [a_line(at_s, last_token_s=at_s + 1, ended_s=at_s + 1, **more) for at_s in times]
    lines += [a_failed(EVIL, at_s) for at_s in times[::8]]
    run = RUN | {"scenario": EVIL, "model": EVIL, "command": [EVIL]}
    summary = summarize(recording) | {"failures": {EVIL: 10}, "failure_examples": {EVIL: EVIL}}
    return a_folder(folder, b"".join(lines), run=run, summary=summary)


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page about one run whose names are all hostile, without a network."""
    folder = tmp_path_factory.mktemp("page")
    write_page(folder / "report.html", [read_results(evil_run(folder / "run"))])
    with browser.page() as opened:
        opened.send("Network.enable")
        opened.send(
            "Network.emulateNetworkConditions",
            offline=True,
            latency=0,
            downloadThroughput=0,
            uploadThroughput=0,
        )
        opened.open((folder / "report.html").as_uri())
        yield opened


def through(page: Page) -> None:
    """Scroll to the end as a reader does, until all charts are drawn."""
    page.wait_for(
        "(() => { scrollBy({top: 700, behavior: 'instant'});"
        "return [...document.querySelectorAll('[data-chart]')]"
        ".every(p => p.querySelector('.main-svg, canvas')); })()",
        "all charts",
    )


def test_charts_are_drawn_when_they_come_into_view(page: Page) -> None:
    assert page.evaluate("[...document.querySelectorAll('[data-chart]')].some(p => !p.childElementCount)")
    through(page)
    empty = (
        "[...document.querySelectorAll('.plot')].filter(p => p.layout && !p.querySelector('.trace')).length"
    )
    assert page.evaluate(empty) == 0
    assert page.evaluate("document.querySelectorAll('[data-chart]').length") > 8
    assert page.errors == []


def test_nothing_is_fetched(page: Page) -> None:
    names = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    assert [name for name in names if not name.startswith("data:")] == []


def test_names_are_text_and_do_no_harm(page: Page) -> None:
    through(page)
    assert page.evaluate("typeof evil") == "undefined"
    assert page.evaluate("document.querySelectorAll('main img, header img, svg img').length") == 0
    assert "<img src=x onerror='evil = 2'>\"' <b>ünï</b>" in page.text("h1")
    assert page.evaluate("document.title").startswith("</script><script>evil = 1</script>")


def test_all_stages_of_requests_are_on_the_canvas(page: Page) -> None:
    through(page)
    seen = page.evaluate(COLOURS)
    for name in ("--c0", "--c1", "--bad"):
        assert page.evaluate(colour(name)) in seen


def test_who_zooms_one_time_axis_zooms_all(page: Page) -> None:
    through(page)
    first = "document.querySelector('.wide .plot')"
    page.evaluate(f"Plotly.relayout({first}, {{'xaxis.range': [4, 9]}}).then(() => 1)")
    page.wait_for(f"{TIME_AXES}.every(range => range === '4,9')", "linked axes")
    page.evaluate("document.querySelector('.tools [title=\"later\"]').click()")
    page.wait_for(f"{TIME_AXES}.every(range => range !== '4,9')", "axes that follow the requests")
    page.evaluate("document.querySelector('.tools [title=\"all of the run\"]').click()")
    page.wait_for(f"{TIME_AXES}.every(range => range === '0,21')", "the whole run")


def test_a_request_says_what_became_of_it(page: Page) -> None:
    through(page)
    box = "document.querySelector('canvas').getBoundingClientRect()"
    page.evaluate("document.querySelector('canvas').scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y, width = page.evaluate(f"[{box}.x, {box}.y, {box}.width]")
    page.point(x + width / 2, y + 60)
    said = page.wait_for(
        "!document.querySelector('.tip').hidden && document.querySelector('.tip').textContent"
    )
    assert said.startswith(f"request 0: {EVIL}, ok\ndue at ")
    assert "\nfirst token after 100 ms\nended after 1,000 ms" in said


def test_charts_follow_the_light(page: Page) -> None:
    text = "document.querySelector('.plot').layout.font.color"
    colours = []
    for scheme in ("light", "dark"):
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.wait_for(
            f"{text} === getComputedStyle(document.documentElement).getPropertyValue('--soft').trim()"
        )
        assert page.evaluate(colour("--c0")) in page.evaluate(COLOURS)
        colours.append(page.evaluate(text))
    assert colours[0] != colours[1]


@pytest.mark.parametrize(
    ("peak", "labels"),
    [
        (0.0029, ["0%", "0.05%", "0.1%", "0.15%", "0.2%", "0.25%", "0.3%"]),
        (1.0, ["0%", "20%", "40%", "60%", "80%", "100%"]),
    ],
)
def test_labels_of_the_cache_differ(browser: Browser, tmp_path: Path, peak: float, labels: list[str]) -> None:
    folder = a_folder(tmp_path / "run", b"".join(a_line(at_s) for at_s in (0.0, 4.0)), run=RUN)
    (folder / "server_metrics.csv").write_text(f"time_s,engine,kv_cache_usage\n0,0,0\n4,0,{peak}\n")
    write_page(tmp_path / "report.html", [read_results(folder)])
    with browser.page() as page:
        page.open((tmp_path / "report.html").as_uri())
        through(page)
        shown = page.evaluate(
            "[...[...document.querySelectorAll('.plot')].find(p => p.data?.[0].name === 'KV cache')"
            ".querySelectorAll('.ytick text')].map(label => label.textContent)"
        )
    assert shown[0] == labels[0]
    assert set(shown) <= set(labels)
    assert len(set(shown)) == len(shown) > 2


def test_a_phone_never_scrolls_sideways(page: Page) -> None:
    page.size(390, 800)
    page.wait_for("document.documentElement.scrollWidth <= 390", "390 pixels to be enough")
    through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.errors == []


def test_it_prints(page: Page) -> None:
    assert len(page.send("Page.printToPDF")["data"]) > 50_000
    assert page.errors == []
