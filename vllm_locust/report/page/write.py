"""The page as a file: one HTML document with its style, its script and plotly inside.

Rule: nothing is fetched, and whatever a broken summary lacks costs its own section only.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from vllm_locust.errors import UsageError
from vllm_locust.report.findings import Finding
from vllm_locust.report.page import lead, many, one
from vllm_locust.report.page.charts import Charts
from vllm_locust.report.page.html import Html, Part, guarded, join, listing, tag
from vllm_locust.report.page.waterfall import MOST_REQUESTS
from vllm_locust.results.folder import Results
from vllm_locust.results.rows import Row

Section = tuple[str, Callable[[], Html | None]]

_SCRIPTS = ("waterfall.js", "page.js")
_MOST_OPEN = 2
_FEWEST_REQUESTS = 500
"""That are shown one by one of each run, however many runs there are."""


def write_page(
    path: Path,
    runs: Sequence[Results],
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    findings: Sequence[Finding] = (),
    table: Sequence[Row] = (),
) -> None:
    """Write the report of these runs to `path`, whose folder is made.

    `labels` name the runs, else their folders do; `findings` and `table`, the rows of an experiment, come
    first. UsageError when the file cannot be written, or when plotly's script is not installed.
    """
    names = list(labels) if labels is not None else unlike([run.folder for run in runs])
    charts = Charts()
    single = len(runs) == 1 and not table
    sections: list[Section] = []
    if findings or table:
        sections += many.experiment_sections(findings, table, charts)
    if single:
        sections += one.sections(runs[0], charts)
    elif runs:
        sections += many.sections(runs, names, charts)
        sections.append(("Runs", lambda: join(_folded(runs, names, charts))))
    heading = title or (lead.title(runs[0]) if single else f"{len(runs)} runs")
    document = _document(heading, lead.lead(runs[0]) if single else None, sections, charts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def unlike(folders: Sequence[Path]) -> list[str]:
    """The names of the folders; as much of their paths as tells them apart where names are the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _folded(runs: Sequence[Results], names: Sequence[str], charts: Charts) -> Iterator[Html]:
    """All of each run below its name, to be opened."""
    most_requests = max(_FEWEST_REQUESTS, MOST_REQUESTS // len(runs))
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        parts: list[Part] = [lead.lead(run)]
        for part, section in one.sections_among_others(run, place, charts, most_requests):
            shown = guarded(section)
            if shown is not None:
                parts.append(join([tag("h3", part), shown]))
        opened = {"open": ""} if len(runs) <= _MOST_OPEN else {}
        yield tag("details", tag("summary", name), *parts, class_="run", **opened)


def _document(heading: str, above: Html | None, sections: Sequence[Section], charts: Charts) -> str:
    contents: list[Html] = []
    bodies: list[Html] = []
    for name, section in sections:
        shown = guarded(section)
        if shown is None:
            continue
        anchor = f"s{len(bodies)}"
        contents.append(tag("a", name, href=f"#{anchor}"))
        bodies.append(tag("section", tag("h2", name, id=anchor), shown))
    style = (files(__package__) / "style.css").read_text(encoding="utf-8")
    script = "".join((files(__package__) / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    body = join(
        [
            tag("header", tag("h1", heading), above),
            tag("nav", listing(contents), aria_label="Contents"),
            tag("main", *bodies),
            tag("footer", "Written by vllm-locust. This page needs no network; keep it beside its results."),
        ]
    ).text
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="chart-data">{charts.data()}</script>\n'
        f"<script>{_plotly()}</script>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _plotly() -> str:
    """The script as the package of that name ships it; the package itself is not imported."""
    from importlib.util import find_spec

    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        script = Path(folder) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    raise UsageError("a report needs the script plotly.min.js of the package plotly: pip install plotly")
