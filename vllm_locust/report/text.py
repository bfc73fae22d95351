"""What a run says on stdout: the block that users of `vllm bench serve` know, with what it leaves out added.

Rule: labels, widths and decimals of the known lines stay as vLLM prints them, so that eyes and greps go on
working; ours come as further lines or behind the value. What is not known prints as `n/a`, never as 0.00.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_locust.core.summary import nothing_measured
from vllm_locust.core.validity import METRICS
from vllm_locust.report.evidence import by_phase

_WIDTH = 50
_TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
_TOO_FEW = "(too few samples)"
_INTERVALS = "[low .. high]: 95 % interval as if requests were independent of each other"
_NOT_KNOWN = "n/a"
_AT_LEAST = "at least"


def render(summary: Mapping[str, Any]) -> str:
    """The result block of one run, 50 columns wide apart from intervals and sentences; ends with a newline.

    `max_concurrency` and `request_rate` are printed when the summary has them, as vLLM does; a rate that is
    words, such as `1-64:120s`, as it is. The blocks `workers`, `server` (see `core.server_recording`),
    `profiler` (see `load.profiler`) and `client` (see `core.validity`) become sections in words.
    """
    lines = [_title(" Serving Benchmark Result ", "=")]
    lines += _totals(summary)
    for family, title in _TITLES.items():
        lines += [_title(title, "-"), *_latency(family, summary)]
    if any(" [" in line for line in lines):
        lines.append(_INTERVALS)
    if summary.get("request_rate") is not None or _differs_from_plan(summary):
        lines += [_title("From the Intended Start", "-"), *_from_plan(summary)]
    if summary.get("workers"):
        lines += [_title("Load-generating Processes", "-"), *_workers(summary["workers"])]
    if summary.get("server"):
        lines += [_title("The Server's Side", "-"), *_server(summary["server"])]
    if summary.get("profiler"):
        lines += [_title("The Server's Profiler", "-"), *_profiler(summary["profiler"])]
    if "client" in summary:
        lines += [_title("Validity of the Measurement", "-"), *_client(summary["client"])]
    lines.append("=" * _WIDTH)
    return "\n".join(lines) + "\n"


def _title(text: str, fill: str) -> str:
    return f"{text:{fill}^{_WIDTH}}"


def _line(label: str, value: float | str | None, note: str = "") -> str:
    if value is None:
        value = _NOT_KNOWN
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    if text == _NOT_KNOWN:
        note = ""
    return f"{label + ':':<40} {text:<10}" + (f" {note}" if note else "")


def _totals(summary: Mapping[str, Any]) -> Iterator[str]:
    yield _line("Successful requests", summary["completed"])
    yield _line("Failed requests", summary["failed"])
    yield from _failures(summary)
    if summary.get("max_concurrency") is not None:
        yield _line("Maximum request concurrency", summary["max_concurrency"])
    if summary.get("request_rate") is not None:
        rate = summary["request_rate"]
        yield _line("Request rate configured (RPS)", rate if isinstance(rate, str) else float(rate))
    yield _line("Benchmark duration (s)", summary["duration"], _in_truth(summary))
    yield _line("Total input tokens", summary["total_input_tokens"])
    lengths = summary.get("prompt_lengths", {"promised": 0})
    if lengths["promised"]:
        kept = f"{lengths['exact']} of {lengths['promised']}"
        yield _line("  prompts exactly as long as planned", kept)
    yield _line("Total generated tokens", summary["total_output_tokens"])
    if summary["completed_without_usage"]:
        yield _line("  counted by events, in requests", summary["completed_without_usage"])
    if summary["total_cached_tokens"] is not None:
        yield _line("Total cached input tokens", summary["total_cached_tokens"], _share_of_input(summary))
    yield _line("Request throughput (req/s)", summary["request_throughput"])
    if summary["request_goodput"] is not None:
        yield _line("Request goodput (req/s)", summary["request_goodput"])
    yield _line("Output token throughput (tok/s)", summary["output_throughput"])
    yield _line("Peak output token throughput (tok/s)", _as_float(summary["max_output_tokens_per_s"]))
    yield _line("Peak concurrent requests", _as_float(summary["max_concurrent_requests"]))
    yield _line("Total token throughput (tok/s)", summary["total_token_throughput"])
    for sentence in summary.get("answers", {}).get("sentences", ()):
        yield f"  - {sentence}"


def _in_truth(summary: Mapping[str, Any]) -> str:
    """What the duration truly is at least, and at most, where that is another one."""
    ends = summary.get("error_bounds", {}).get("duration", (None, None))
    if None in ends:
        return ""
    low, high, claimed = (f"{one:.2f}" for one in (*ends, summary["duration"]))
    if high != claimed:
        return f"(in truth {low} to {high})"
    return f"(in truth {low} at least)" if low != claimed else ""


def _share_of_input(summary: Mapping[str, Any]) -> str:
    total = summary["total_input_tokens"]
    return f"({summary['total_cached_tokens'] / total * 100:.1f} %)" if total else ""


def _failures(summary: Mapping[str, Any]) -> Iterator[str]:
    """How many of what, over the whole run; then the share of those in the window, as an SLO sees it."""
    requests = summary["requests"]
    if requests["failed"] != summary["failed"]:
        yield _line("Failed requests in the whole run", requests["failed"])
    for kind, count in summary["failures"].items():
        yield _line(f"  {kind}", count, summary["failure_examples"][kind].replace("\n", " ")[:_WIDTH])
    if requests["dropped"]:
        yield _line("Dropped requests (never sent)", requests["dropped"], f"of {requests['planned']} planned")
    if (nothing := nothing_measured(summary)) is not None:
        yield f"  - {nothing[0].upper()}{nothing[1:]}"
    if requests["outside_window"]:
        yield _line("Requests outside the window", requests["outside_window"])
    rate = summary["error_rate"]
    yield _line("Error rate (%)", _percent(rate))


def _latency(family: str, summary: Mapping[str, Any]) -> Iterator[str]:
    name = family.upper()
    yield _line(f"Mean {name} (ms)", summary[f"mean_{family}_ms"])
    yield _line(f"Median {name} (ms)", summary[f"median_{family}_ms"])
    for key, ends in summary["intervals"].items():
        word, _, rest = key.partition("_")
        if rest == f"{family}_ms":
            yield _line(f"{word.upper()} {name} (ms)", summary[key], _interval(summary[key], ends))


def _interval(value: float | None, ends: Sequence[float | None]) -> str:
    """The 95 % interval behind a percentile."""
    if value is None:
        return ""
    low, high = ends
    return _TOO_FEW if low is None or high is None else f"[{low:.2f} .. {high:.2f}]"


def _differs_from_plan(summary: Mapping[str, Any]) -> bool:
    """Whether sending late hides 1 ms and 2 % of a latency.

    In a closed loop only then the second truth is worth its lines; in an open one it is the better one.
    """
    return any(
        (summary[f"{word}_{family}_from_plan_ms"] or 0) > 1.02 * (summary[f"{word}_{family}_ms"] or 0) + 1
        for word in ("mean", "p50", "p90", "p99")
        for family in ("ttft", "e2el")
    )


def _from_plan(summary: Mapping[str, Any]) -> Iterator[str]:
    unsent = summary.get("unsent_in_from_plan")
    for family in ("ttft", "e2el"):
        for word in ("mean", "p50", "p90", "p99"):
            key = f"{word}_{family}_from_plan_ms"
            note = _interval(summary[key], summary["intervals"][key]) if word != "mean" else ""
            note = " ".join(filter(None, [_AT_LEAST if unsent else "", note]))
            yield _line(f"{word.capitalize()} {family.upper()} from plan (ms)", summary[key], note)
    if unsent:
        yield f"  - At least: {unsent} requests were never sent, and count as the time that they had waited"


def _workers(workers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _line("Load-generating processes", len(workers))
    for worker in workers:
        if (lost_after_s := worker.get("lost_after_s")) is not None:
            yield (
                f"  - Worker {worker['worker']} ({worker['name']}) was lost after {lost_after_s:.1f} s: "
                f"{worker['requests']} requests it had finished are counted, "
                f"up to {worker['unaccounted']} are not accounted for"
            )


def _server(server: Mapping[str, Any]) -> Iterator[str]:
    for source in server["sources"]:
        if source["problem"]:
            yield f"  - {source['source']}: {source['problem']}"
    if "samples" not in server:
        return
    yield _line("KV cache usage, peak (%)", _percent(server["kv_cache_usage_peak"]), _AT_LEAST)
    yield _line("KV cache usage, mean (%)", _percent(server["kv_cache_usage_mean"]))
    yield _line("Running requests, peak", server["requests_running_peak"], _AT_LEAST)
    yield _line("Waiting requests, peak", server["requests_waiting_peak"], _AT_LEAST)
    yield _line("Preemptions", server["preemptions"])
    yield _line("Prefix cache hit rate (%)", *_hit_rate(server))
    yield from _both_sides(server["reconciliation"])


def _hit_rate(server: Mapping[str, Any]) -> tuple[float | None, str]:
    """By the counters; of a server that has none what it said of itself, which is of more than this run."""
    counted, told = server["prefix_cache_hit_rate"], server.get("prefix_cache_hit_rate_told_mean")
    if counted is not None or told is None:
        return _percent(counted), ""
    return _percent(told), "(of its latest requests, as it says)"


def _profiler(sessions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """When it ran, in seconds since the run began, and what one must know of such numbers."""
    for session in sessions:
        if session["started_s"] is not None and session["stopped_s"] is not None:
            when = f"{session['started_s']:.2f} .. {session['stopped_s']:.2f}"
            yield _line(f"Phase {session['phase'] + 1} profiled (s of the run)", when, session["host"])
        if session["problem"]:
            yield f"  - {session['host']}, phase {session['phase'] + 1}: {session['problem']}"
    if any(session["started_s"] is not None for session in sessions):
        yield "  - A profiler slows a server down: these numbers are not those of a run without it"
        yield "  - The profile is where the server's own --profiler-config says"


def _both_sides(reconciliation: Mapping[str, Any]) -> Iterator[str]:
    """What client and server say of the same, and sentences where they differ."""
    for family in ("ttft", "itl", "e2el"):
        means = reconciliation[family]
        both = _pair(means["client_mean_ms"], means["server_mean_ms"], "{:.2f}")
        yield _line(f"Mean {family.upper()}, client / server (ms)", both)
    yield _line("Mean time in the server's queue (ms)", reconciliation["queue"]["server_mean_ms"])
    for kind, tokens in reconciliation["tokens"].items():
        yield _line(f"{kind.capitalize()} tokens, client / server", _pair(tokens["client"], tokens["server"]))
    for sentence in reconciliation["sentences"]:
        yield f"  - {sentence}"


def _pair(client: float | None, server: float | None, form: str = "{:.0f}") -> str | None:
    if server is None:
        return None
    return " / ".join(_NOT_KNOWN if value is None else form.format(value) for value in (client, server))


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else ratio * 100


def _client(client: Mapping[str, Any]) -> Iterator[str]:
    yield _line("Client measurement", client["verdict"])
    for name, metric in client.get("metrics", {}).items():
        yield _line(f"  {METRICS[name]}", metric["verdict"], _off_by(metric))
    load = client.get("load", {"verdict": None, "reasons": ()})
    yield _line("The load, as planned", load["verdict"])
    yield _line("Arrival times taken by", "kernel" if client["stamps"] == "kernel" else "read()")
    yield _line("Mean TTFT is too large by at most (ms)", client["ttft_bound_mean_ms"])
    yield _line("P99 of the error of a TTFT (ms)", client["ttft_bound_p99_ms"])
    yield _line("P99 of the error of an ITL (ms)", client["itl_bound_p99_ms"])
    yield _line("P99 of the lag of reading (ms)", client["lag_p99_ms"])
    late = "P99 of the lateness of sending (ms)"
    yield _line(late, client["send_lateness_p99_ms"], _at_most(client.get("send_lateness_p99_high_ms")))
    if bound_ms := client.get("clock_bound_ms"):
        yield _line("Clocks of the processes are off by at most (ms)", bound_ms)
    for name, share in client["cpu_shares"].items():
        yield _line(f"CPU of {name} (% of a core)", share * 100)
    for sentence in (*client["reasons"], *load["reasons"], *client.get("remarks", ())):
        yield f"  - {sentence}"


def _at_most(high_ms: float | None) -> str:
    return "" if high_ms is None else f"{high_ms:.2f} ms at most"


def _off_by(metric: Mapping[str, Any]) -> str:
    """How far the metric's numbers may be wrong."""
    mean, p99 = metric["mean_error_ms"], metric["p99_error_ms"]
    return "" if mean is None else f"mean {mean:.2f} ms off at most, p99 {p99:.2f} ms"


def _as_float(value: int | None) -> float | None:
    return None if value is None else float(value)


def render_slos(summary: Mapping[str, Any]) -> str:
    """What became of each objective in a sentence, and of which phases of several; ends with a newline."""
    lines = []
    for number, judgement in enumerate(summary["slo"]):
        lines.append(f"SLO {judgement['sentence']}")
        if spread := by_phase(summary, number):
            lines.append(f"    {spread}")
    return "\n".join(lines) + "\n"


# Headings of the phases' table, in two rows, and the summary's key of each column.
_Column = tuple[str, str, str]
_REQUESTS: tuple[_Column, ...] = (("", "ok", "completed"), ("requests", "failed", "failed"))
_DROPPED: tuple[_Column, ...] = (("", "dropped", "dropped"),)
_RATES: tuple[_Column, ...] = (("", "req/s", "request_throughput"), ("", "peak", "max_concurrent_requests"))
_LATENCIES: tuple[_Column, ...] = (
    ("TTFT", "mean", "mean_ttft_ms"),
    ("", "p50", "p50_ttft_ms"),
    ("", "p99", "p99_ttft_ms"),
    ("TPOT", "mean", "mean_tpot_ms"),
    ("", "p99", "p99_tpot_ms"),
    ("ITL", "p99", "p99_itl_ms"),
    ("E2EL", "mean", "mean_e2el_ms"),
    ("", "p99", "p99_e2el_ms"),
    ("output", "tok/s", "output_throughput"),
)
_SERVER: tuple[_Column, ...] = (
    ("", "wait", "requests_waiting_peak"),
    ("server", "KV %", "kv_cache_usage_peak"),
)
_LEVELS = {"users": "users", "request_rate": "req/s"}
"""What may set the load of a phase apart from that of others: the key, and the heading of its column."""
_TABLE_WIDTH = 120
_NAME_WIDTHS = (8, 18)
"""The least and the most that the names of profiles get of it."""
_LEVEL_WIDTH = 10
_CELL_WIDTH = 7
_LEGEND = (
    "Latencies in ms: TTFT to the first token, TPOT per token after it, ITL between tokens,\n"
    "E2EL to the last token. * = too few samples for this percentile, n/a = nothing to measure."
)
_LEGEND_OF_SERVER = (
    "Server: the most requests seen waiting, and the most of its KV cache seen in use: at least."
)
_LEGEND_OF_RATES = "req/s = requests answered per second, peak = the most that were open at one time."


def render_phases(phases: Sequence[Mapping[str, Any]]) -> str:
    """One aligned table, a row per phase and below it one per profile if it has several; ends with a newline.

    At most 120 columns wide. When the plan gave phases `users` or a `request_rate`, rows begin with that, and
    the throughput and the concurrency that came of it are shown too. Dropped requests have a column where
    there were any. Rows end with what the server told of itself (`server`), if it did.
    """
    levels = [key for key in _LEVELS if any(phase.get(key) is not None for phase in phases)]
    dropped = _DROPPED if any(phase.get("dropped") for phase in phases) else ()
    columns = (*_REQUESTS, *dropped, *(_RATES if levels else ()), *_LATENCIES)
    server = _SERVER if any(phase.get("server") for phase in phases) else ()
    heads = (*columns, *server)
    groups = ["", *("plan" for _ in levels), "", *(group for group, _, _ in heads)]
    rows = [["phase", *(_LEVELS[key] for key in levels), "profile", *(name for _, name, _ in heads)]]
    for phase in phases:
        plan = [_level(phase.get(key)) for key in levels]
        cells = [*_cells(phase, columns), *_server_cells(phase.get("server"), server)]
        rows.append([str(phase["phase"] + 1), *plan, _name(phase), *cells])
        for part in phase.get("profiles", ()):
            cells = [*_cells(part, columns), *("" for _ in server)]
            rows.append(["", *("" for _ in levels), "  " + part["profile"], *cells])
    legend = [_LEGEND, *([_LEGEND_OF_RATES] if levels else ()), *([_LEGEND_OF_SERVER] if server else ())]
    return "\n".join([*_aligned(groups, rows, names=1 + len(levels)), *legend]) + "\n"


def _aligned(groups: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> Iterator[str]:
    """The lines of a table: its columns up to that of `names` are words, those behind it numbers.

    A group heads the columns up to the one in whose place it is.
    """
    widths, gap = _widths(rows, names)
    head = ""
    for i, group in enumerate(groups):
        end = sum(widths[: i + 1]) + i * len(gap)
        head = head.ljust(end - (widths[i] if i <= names else len(group))) + group if group else head
    yield head
    for row in rows:
        cells = [_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield gap.join([*cells[: names + 1], *(cell.strip().rjust(len(cell)) for cell in cells[names + 1 :])])


def _widths(rows: Sequence[Sequence[str]], names: int) -> tuple[list[int], str]:
    """How wide the columns are and what is between them: the names get what the numbers leave them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    at_least, at_most = _NAME_WIDTHS
    widths[names] = min(widths[names], at_most)
    gaps = len(widths) - 1
    gap = 2 if sum(widths) + 2 * gaps <= _TABLE_WIDTH else 1
    too_wide = sum(widths) + gap * gaps - _TABLE_WIDTH
    if too_wide > 0:
        widths[names] = max(widths[names] - too_wide, min(widths[names], at_least))
    return widths, gap * " "


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"


def _name(phase: Mapping[str, Any]) -> str:
    """The profile of a phase; of several what the plan calls them together."""
    return str(phase["profile"] or phase.get("name") or ("all" if "profiles" in phase else "-"))


def _level(value: float | str | None) -> str:
    if value is None:
        return "-"
    return _cut(value, _LEVEL_WIDTH) if isinstance(value, str) else f"{value:g}"


def _cells(summary: Mapping[str, Any], columns: Sequence[_Column]) -> list[str]:
    return [_cell(summary, key) for _, _, key in columns]


def _server_cells(server: Mapping[str, Any] | None, columns: Sequence[_Column]) -> list[str]:
    values = [None if server is None else server[key] for _, _, key in columns]
    return [
        _NOT_KNOWN if value is None else str(value) if isinstance(value, int) else f"{value * 100:.1f}"
        for value in values
    ]


def _cell(phase: Mapping[str, Any], key: str) -> str:
    value = phase[key]
    if value is None:
        return _NOT_KNOWN
    if isinstance(value, int):
        return str(value)
    decimals = 2 if value < 10 else 1 if value < 1000 else 0
    mark = "*" if None in phase["intervals"].get(key, ()) else ""
    text = f"{value:.{decimals}f}{mark}"
    return text if len(text) <= _CELL_WIDTH else f"{value:.0e}{mark}"
