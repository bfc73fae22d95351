"""The sections that hold several runs beside each other, and those of an experiment."""

from collections.abc import Callable, Sequence
from functools import partial

from vllm_locust.report.cache_hits import difference, hit_rate
from vllm_locust.report.findings import Finding
from vllm_locust.report.page.charts import Chart, Charts
from vllm_locust.report.page.html import Html, Part, join, number, percent, table, tag
from vllm_locust.report.page.latency_charts import latency_charts, series_of
from vllm_locust.report.page.lead import FAMILIES
from vllm_locust.report.page.plot_charts import configuration_charts, load_charts
from vllm_locust.report.page.words import with_interval
from vllm_locust.results.folder import Results
from vllm_locust.results.rows import Row, rows_of

Section = tuple[str, Callable[[], Html | None]]

_VERDICTS = {
    **{"confirmed": "good", "refuted": "bad", "note": ""},
    **dict.fromkeys(("confirmed once", "refuted once", "cannot tell"), "warn"),
}
_CLIENT = {"valid": "good", "degraded": "warn", "invalid": "bad"}
_COUNTS = {
    "requests completed": "completed",
    "requests failed": "failed",
    "requests dropped": "dropped",
    "requests per second": "request_throughput",
    "output tokens per second": "output_throughput",
}


def sections(runs: Sequence[Results], labels: Sequence[str], charts: Charts) -> list[Section]:
    """Numbers, curves and distributions of these runs."""
    rows = rows_of_runs(runs, labels)
    return [
        ("Side by side", partial(_beside, runs, labels)),
        ("Over load", lambda: _grid(charts, load_charts(rows))),
        ("Distributions", lambda: _grid(charts, list(latency_charts(series_of(runs, labels))))),
    ]


def experiment_sections(findings: Sequence[Finding], rows: Sequence[Row], charts: Charts) -> list[Section]:
    """What the data say, in words; the configurations in a table; their metrics in charts."""
    return [
        ("Findings", partial(_findings, findings)),
        ("Configurations", partial(_configurations, rows)),
        ("Metrics over configurations", lambda: _grid(charts, configuration_charts(rows))),
        ("Configurations over load", lambda: _grid(charts, load_charts(rows))),
    ]


def rows_of_runs(runs: Sequence[Results], labels: Sequence[str]) -> list[Row]:
    """The rows of all of them that have a summary in order."""
    return [row for run, label in zip(runs, labels, strict=True) for row in _rows(run, label)]


def _rows(run: Results, label: str) -> list[Row]:
    """None of a run with a broken summary: its own section says so."""
    try:
        return rows_of(run, label)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return []


def _grid(charts: Charts, wanted: Sequence[Chart]) -> Html | None:
    shown = [charts.place(chart) for chart in wanted]
    return tag("div", *shown, class_="charts") if shown else None


def _beside(runs: Sequence[Results], labels: Sequence[str]) -> Html:
    summaries = [run.summary or {} for run in runs]
    verdicts = [str((one.get("client") or {}).get("verdict") or "n/a") for one in summaries]
    marks = [tag("span", word, class_=f"mark {_CLIENT.get(word, '')}".strip()) for word in verdicts]
    rows: list[Sequence[Part]] = [("measurement", *marks)]
    rows += [(name, *(number(one.get(key)) for one in summaries)) for name, key in _COUNTS.items()]
    for family, name in FAMILIES.items():
        for word in ("mean", "p50", "p99"):
            key = f"{word}_{family}_ms"
            rows.append((f"{name} {word}, ms", *(with_interval(one, key) for one in summaries)))
    peaks = [percent((one.get("server") or {}).get("kv_cache_usage_peak")) for one in summaries]
    rows.append(("KV cache in use at the peak, at least", *peaks))
    rows.append(("prefix cache hit rate", *(percent(hit_rate(one)) for one in summaries)))
    words = (
        "Below each percentile is its 95 % interval, as if requests were independent. Whether a difference "
        "is real, vllm-locust compare says."
    )
    shown = tag("div", table(["", *labels], rows), class_="snug")
    cached = difference(summaries, labels)
    return join([tag("p", words, class_="soft"), tag("p", cached) if cached else None, shown])


def _findings(findings: Sequence[Finding]) -> Html | None:
    if not findings:
        return None
    rows = [
        (one.name, tag("span", one.verdict, class_=f"mark {_VERDICTS[one.verdict]}".strip()), one.sentence)
        for one in findings
    ]
    return tag("div", table(["finding", "verdict", "what the data say"], rows, words=3), class_="sentences")


def _configurations(rows: Sequence[Row]) -> Html | None:
    whole = [row for row in rows if row.phase is None and row.profile is None]
    if not whole:
        return tag("p", "No run of the experiment has measured anything yet.", class_="soft")
    factors = _that_differ(whole)
    keys = {
        "TTFT p50": "p50_ttft_ms",
        "TTFT p99": "p99_ttft_ms",
        "TPOT p50": "p50_tpot_ms",
        "ITL p99": "p99_itl_ms",
    }
    shown = [
        (
            row.run,
            *(_factor(row, name) for name in factors),
            *(number(row.numbers.get(key)) for key in (*_COUNTS.values(), *keys.values())),
            percent(row.server.get("kv_cache_usage_peak")),
        )
        for row in whole
    ]
    heads = [
        "configuration",
        *factors,
        "completed",
        "failed",
        "dropped",
        "req/s",
        "tokens/s",
        *keys,
        "KV peak, at least",
    ]
    return table(heads, shown, "Latencies in ms", words=1 + len(factors))


def _that_differ(rows: Sequence[Row]) -> list[str]:
    """The factors of which the rows have more than one value: the others tell them apart by nothing."""
    names = dict.fromkeys(name for row in rows for name in row.factors)
    return [name for name in names if len({_factor(row, name) for row in rows}) > 1]


def _factor(row: Row, name: str) -> str:
    value = row.factors.get(name)
    return "n/a" if value is None else str(value)
