"""The sections of one run, each made only when it is asked for: a broken one costs the others nothing.

Rule: numbers are those of the summary; what is missing is said in a sentence, at the top and at its place.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from vllm_locust.report.page.charts import Chart, Charts
from vllm_locust.report.page.html import Html, Part, facts, join, listing, number, table, tag
from vllm_locust.report.page.latency_charts import latency_charts, series_of
from vllm_locust.report.page.lead import FAMILIES
from vllm_locust.report.page.plot_charts import load_charts
from vllm_locust.report.page.sent_section import sent_section
from vllm_locust.report.page.sides import honesty, kv_cache, reconciliation
from vllm_locust.report.page.time_charts import end_of_axis, time_charts
from vllm_locust.report.page.waterfall import MOST_REQUESTS, waterfall
from vllm_locust.report.page.words import phase_name, with_interval
from vllm_locust.results.folder import Results
from vllm_locust.results.rows import rows_of

Section = tuple[str, Callable[[], Html | None]]


def sections(run: Results, charts: Charts) -> list[Section]:
    """Of a page about this run alone."""
    return [
        *_leading(run),
        ("Over load", partial(_load, run, charts)),
        ("Distributions", partial(_distributions, run, charts)),
        *_shared(run, 0, charts, MOST_REQUESTS),
    ]


def sections_among_others(run: Results, place: int, charts: Charts, most_requests: int) -> list[Section]:
    """Of a run whose curves and distributions stand beside those of others already."""
    return [*_leading(run), *_shared(run, place, charts, most_requests)]


def _leading(run: Results) -> list[Section]:
    return [
        ("Numbers", partial(_numbers, run)),
        ("Failures", partial(_failures, run)),
        ("Capacity", partial(_capacity, run)),
    ]


def _shared(run: Results, place: int, charts: Charts, most_requests: int) -> list[Section]:
    return [
        ("Over time", partial(_time, run, place, charts)),
        ("Requests", partial(_waterfall, run, place, charts, most_requests)),
        ("What was sent", partial(sent_section, run, charts)),
        ("Client and server", partial(reconciliation, run)),
        ("KV cache", partial(kv_cache, run)),
        ("Validity", partial(honesty, run)),
        ("Repeat it", partial(_repeat, run)),
    ]


def _capacity(run: Results) -> Html | None:
    """What a capacity search found."""
    from vllm_locust.report.capacity import render_answer

    found = (run.summary or {}).get("capacity")
    return tag("pre", render_answer(found, found["unit"]), class_="wrap") if found else None


_FROM_PLAN = {"ttft_from_plan": "TTFT from plan", "e2el_from_plan": "E2EL from plan"}
"""Of an open loop: counted from when a request was due, so that sending late hides nothing."""


def _numbers(run: Results) -> Html | None:
    summary = run.summary
    if summary is None:
        return tag("p", "There is no summary: the run did not reach its end.", class_="soft")
    words = ("p50", "p90", "p95", "p99")
    heads = ["ms", "mean", *words, "max"]
    rows: list[Sequence[Part]] = []
    if not summary["completed"]:
        return None
    unsent = summary.get("unsent_in_from_plan")
    from_plan = {key: f"{name}, at least" if unsent else name for key, name in _FROM_PLAN.items()}
    for family, name in (FAMILIES | (from_plan if summary.get("request_rate") is not None else {})).items():
        cells = [with_interval(summary, f"{word}_{family}_ms") for word in words]
        rows.append((name, number(summary[f"mean_{family}_ms"]), *cells, number(summary[f"max_{family}_ms"])))
    parts: list[Part] = [
        table(
            heads,
            rows,
            "Latencies in the window; below each percentile its 95 % interval if requests are independent",
        )
    ]
    if unsent:
        words_on_unsent = f"At least: {number(unsent)} requests were never sent, and count as their wait."
        parts.append(tag("p", words_on_unsent, class_="soft"))
    if odd := (summary.get("answers") or {}).get("sentences"):
        parts.append(listing(odd))
    phases = summary.get("phases") or ()
    if len(phases) > 1 or any("profiles" in phase for phase in phases):
        parts.append(
            table(_PHASE_HEADS, _phase_rows(phases), "Each phase, and its profiles; latencies in ms", words=2)
        )
    return join(parts)


_PHASE_HEADS = (
    "phase", "profile", "completed", "failed", "dropped", "req/s", "tokens/s",
    "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "E2EL p50", "E2EL p99",
)  # fmt: skip


def _phase_rows(phases: Sequence[Mapping[str, Any]]) -> Iterator[Sequence[Part]]:
    for phase in phases:
        yield (phase_name(phase), *row_of(phase))
        for part in phase.get("profiles", ()):
            yield ("", *row_of(part))


def row_of(numbers: Mapping[str, Any]) -> list[Part]:
    """A profile's name and the numbers of one row of a table of phases."""
    keys = [f"{word}_{family}_ms" for family in ("ttft", "tpot", "e2el") for word in ("p50", "p99")]
    wanted = ["completed", "failed", "dropped", "request_throughput", "output_throughput", *keys]
    return [numbers.get("profile") or "all", *(number(numbers.get(key)) for key in wanted)]


def _grid(charts: Charts, wanted: Sequence[Chart], wide: bool = False) -> Html | None:
    if not wanted:
        return None
    return tag("div", *(charts.place(chart) for chart in wanted), class_="charts wide" if wide else "charts")


def _load(run: Results, charts: Charts) -> Html | None:
    return _grid(charts, load_charts(rows_of(run)))


def _distributions(run: Results, charts: Charts) -> Html | None:
    series = series_of([run], ["all requests"])
    if not len(series[0].requests):
        return None
    shown = _grid(charts, list(latency_charts(series)))
    which = "in the window" if run.summary is not None else "that were recorded, for want of a summary"
    words = (
        f"{len(series[0].requests):,} answered requests {which}. Intervals are from order statistics and "
        "take requests for independent: those that shared a batch are not, and the truth may be less sure."
    )
    return join([tag("p", words, class_="soft"), shown])


def _time(run: Results, place: int, charts: Charts) -> Html | None:
    shown = _grid(charts, time_charts(run, f"time{place}"), wide=True)
    if shown is None:
        return tag("p", "Nothing happened that could be shown over time.", class_="soft")
    words = (
        "All have one axis, seconds since the start of the run: zoom one and all follow, the requests below "
        "too. Shaded is what was measured."
    )
    return join([tag("p", words, class_="soft"), shown])


def _failures(run: Results) -> Html | None:
    summary = run.summary or {}
    examples = summary.get("failure_examples") or {}
    counts = summary.get("failures")
    if counts is None:
        counts = {k: n for k, n in run.requests.count_words("outcome").items() if k not in ("ok", "dropped")}
    if not counts:
        return None
    rows = [(str(kind), number(count), examples.get(kind, "")) for kind, count in counts.items()]
    shown = [(kind, count, tag("span", text)) for kind, count, text in rows]
    return tag("div", table(["kind", "requests", "first message"], shown, words=1), class_="sentences")


def _waterfall(run: Results, place: int, charts: Charts, most: int) -> Html | None:
    shown = waterfall(run.requests, most)
    if shown is None:
        return None
    title = f"{shown.of:,} requests, one by one"
    if shown.stretches > 1:
        title = f"{len(shown.lane):,} of {shown.of:,} requests: all those of {shown.stretches} stretches"
    look_for = (
        "A row is a place in flight, so the height is the concurrency. Drag over a part to zoom, with shift "
        "to move, double-click to go back."
    )
    data = {"requests": shown.data(), "range": [0, end_of_axis(run)], "link": f"time{place}"}
    colours = {"due": "due, not yet sent", "sent": "sent, no token yet: queue and prefill"}
    colours |= {"first": "first to last token: decoding", "failed": "failed; above the rows: never sent"}
    key = (tag("li", tag("i", class_=kind), words) for kind, words in colours.items())
    figure = charts.figure(title, look_for, data, "plot tall", tag("ul", *key, class_="key"))
    return tag("div", figure, class_="charts wide")


def _repeat(run: Results) -> Html | None:
    known = run.run
    if known is None:
        return None
    command = known.get("command") or ()
    parts: list[Part] = []
    if command:
        parts.append(tag("pre", shlex.join(map(str, command)), class_="wrap"))
    pairs = [
        ("seed", known.get("seed")),
        *(known.get("machine") or {}).items(),
        *(known.get("versions") or {}).items(),
    ]
    parts.append(facts((str(name), None if value is None else str(value)) for name, value in pairs))
    sets = [(str(one.get("path")), str(one.get("sha256"))) for one in known.get("datasets") or ()]
    if sets:
        parts.append(table(["data set", "sha256"], sets, words=2))
    return join(parts)
