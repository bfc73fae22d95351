"""What a reader sees first of a run: who was measured, how well, the numbers that matter, the objectives.

Rule: numbers are those of the summary, and what is missing is said before any of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_locust.report.page.html import Html, Part, guarded, join, listing, number, percent, table, tag
from vllm_locust.report.page.words import at_most, phase_name
from vllm_locust.report.words import listed
from vllm_locust.results.folder import Results

FAMILIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}
_LONG_NAMES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "itl": "Between tokens (ITL)",
    "e2el": "Whole request (E2EL)",
}
_VERDICTS = {
    "valid": ("good", "The measurement is valid."),
    "degraded": ("warn", "The measurement is degraded: read the numbers with care."),
    "invalid": ("bad", "The measurement is invalid: the client could not measure, do not use {}."),
}
_OUTCOMES = {"met": "good", "missed": "bad", "undetermined": "warn"}


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that leads the page."""

    name: str
    value: str
    unit: str = ""
    notes: Sequence[Part] = ()


def title(run: Results) -> str:
    """`chat on meta-llama/...`."""
    known, summary = run.run or {}, run.summary or {}
    scenario = run.scenario or run.folder.resolve().name
    model = known.get("model") or summary.get("model_id")
    return f"{scenario} on {model}" if model else str(scenario)


def lead(run: Results) -> Html:
    """All of it, above the sections."""
    summary = run.summary or {}
    parts = (
        lambda: _about(run),
        lambda: missing(run),
        lambda: verdict(summary),
        lambda: _failed(summary),
        lambda: headline(run),
        lambda: objectives(summary),
    )
    return join(guarded(part) for part in parts)


def _about(run: Results) -> Html | None:
    known, summary = run.run or {}, run.summary or {}
    version, host = known.get("server_version"), known.get("host") or summary.get("host")
    started, duration = str(known.get("start_time") or summary.get("date") or ""), summary.get("duration")
    shown = [
        host,
        f"vLLM {version}" if version else None,
        f"{started[:19].replace('T', ' ')} UTC" if started.endswith("+00:00") else started,
        None if duration is None else f"{number(float(duration))} s measured",
        str(run.folder),
    ]
    return tag("ul", *(tag("li", str(one)) for one in shown if one), class_="about")


def missing(run: Results) -> Html | None:
    """A sentence for everything that a reader would look for in vain, or must know of."""
    summary = run.summary
    notes = list(run.problems)
    if not len(run.requests):
        notes.append("No requests were recorded.")
    if summary is not None:
        if not summary.get("server"):
            notes.append(
                "The server was not asked for its metrics, or did not answer: this is the client's side only."
            )
        if len(run.requests) and not summary.get("completed"):
            notes.append("No request was answered within the window: there are no latencies to show.")
        notes += _disturbed(summary)
    if not notes:
        return None
    return tag("div", tag("strong", "Good to know"), listing(notes), class_="verdict warn")


def _disturbed(summary: Mapping[str, Any]) -> Iterator[str]:
    """What went on in a run besides measuring."""
    for worker in summary.get("workers") or ():
        if worker.get("lost_after_s") is not None:
            yield (
                f"Worker {worker['worker']} ({worker['name']}) was lost after "
                f"{number(worker['lost_after_s'])} s: {worker['requests']} requests it had finished are "
                f"counted, up to {worker['unaccounted']} are not accounted for."
            )
    if any(session.get("started_s") is not None for session in summary.get("profiler") or ()):
        yield "The server's profiler ran, which slows it: these numbers are not those of a run without it."


def verdict(summary: Mapping[str, Any]) -> Html:
    """Whether the client measured well, and whether the load was as planned, in words."""
    client = summary.get("client") or {}
    return join(
        [_measurement(client), _load(client.get("load") or {}), _remarks(client.get("remarks") or ())]
    )


def _measurement(client: Mapping[str, Any]) -> Html:
    kind, words = _VERDICTS.get(
        client.get("verdict", ""), ("", "Whether the measurement is valid is not known.")
    )
    bound, bounds = client.get("ttft_bound_p99_ms"), None
    if client.get("verdict") == "valid" and bound is not None and client.get("itl_bound_p99_ms") is not None:
        bounds = (
            f"The client's own error: a TTFT {at_most(bound)}, an ITL "
            f"{at_most(client['itl_bound_p99_ms'])} (99th percentiles)."
        )
    parts: list[Part] = [tag("strong", words.format(_useless(client))), tag("p", bounds) if bounds else None]
    return tag("div", *parts, listing(client.get("reasons") or ()), class_=f"verdict {kind}".strip())


def _useless(client: Mapping[str, Any]) -> str:
    """The metrics that may be wrong by too much; all of them where the fault is one of all."""
    metrics = client.get("metrics") or {}
    names = [name for key, name in FAMILIES.items() if (metrics.get(key) or {}).get("verdict") == "invalid"]
    return listed(names) or "the numbers"


def _load(load: Mapping[str, Any]) -> Html | None:
    if load.get("verdict", "valid") == "valid":
        return None
    words = "The load was not as planned: throughputs and latencies from the plan are not those of the plan."
    kind = "bad" if load["verdict"] == "invalid" else "warn"
    return tag("div", tag("strong", words), listing(load.get("reasons") or ()), class_=f"verdict {kind}")


def _remarks(remarks: Sequence[str]) -> Html | None:
    return (
        tag("div", tag("strong", "For the record"), listing(remarks), class_="verdict") if remarks else None
    )


def _failed(summary: Mapping[str, Any]) -> Html | None:
    """How many requests of the whole run failed, and of what, and how many were never sent."""
    counts = dict(summary.get("failures") or {})
    requests = summary.get("requests") or {}
    if unsent := requests.get("dropped"):
        counts["dropped, never sent"] = unsent
    if not counts:
        return None
    planned = requests.get("planned")
    of = "" if planned is None else f" of {number(planned)}"
    words = (
        f"{number(sum(counts.values()))}{of} requests {'failed or were dropped' if unsent else 'failed'}: "
    )
    kinds = ", ".join(f"{number(count)} {kind}" for kind, count in counts.items())
    return tag("div", tag("strong", words), tag("p", kinds), class_="verdict bad")


def headline(run: Results) -> Html | None:
    """Throughput and latency in tiles; None without a summary."""
    summary = run.summary
    if summary is None or "completed" not in summary:
        return None
    tiles = [*_throughput(summary), *_latencies(summary)]
    shown = (
        tag(
            "div",
            tag("h3", one.name),
            tag("b", one.value, tag("small", f" {one.unit}") if one.unit else None),
            *(tag("p", note) for note in one.notes if note is not None),
            class_="tile",
        )
        for one in tiles
    )
    loads = {phase.get(key) for phase in summary.get("phases") or () for key in ("users", "request_rate")} - {
        None
    }
    mixed = "All loads together: each by itself stands below." if len(loads) > 1 else None
    return join([tag("div", *shown, class_="tiles"), tag("p", mixed, class_="soft") if mixed else None])


def _throughput(summary: Mapping[str, Any]) -> Iterator[Tile]:
    server, goodput = summary.get("server") or {}, summary.get("request_goodput")
    good = None if goodput is None else f"goodput {number(goodput)} req/s"
    failed = f"{number(summary['failed'])} failed ({percent(summary.get('error_rate'))})"
    dropped = summary.get("dropped")
    unsent = f"{number(dropped)} dropped, never sent" if dropped else None
    yield Tile("Requests answered", number(summary["completed"]), notes=[failed, unsent])
    yield Tile("Requests per second", number(summary["request_throughput"]), "req/s", [good])
    yield Tile("Output tokens per second", number(summary["output_throughput"]), "tokens/s", [_best(summary)])
    if server.get("kv_cache_usage_peak") is not None:
        waited = server.get("requests_waiting_peak")
        note = None if waited is None else f"{number(waited)} requests at least waited at the peak"
        yield Tile("KV cache, peak at least", percent(server["kv_cache_usage_peak"]), notes=[note])
    else:
        yield Tile("Requests in flight, peak", number(summary.get("max_concurrent_requests")))


def _best(summary: Mapping[str, Any]) -> str | None:
    """The phase of several loads with the most output tokens."""
    phases = [one for one in summary.get("phases") or () if one.get("output_throughput") is not None]
    if len(phases) < 2:
        return None
    best = max(phases, key=lambda one: one["output_throughput"])
    return f"most: {number(best['output_throughput'])} with {phase_name(best)}"


def _latencies(summary: Mapping[str, Any]) -> Iterator[Tile]:
    for family, name in _LONG_NAMES.items():
        value, p99 = summary.get(f"p50_{family}_ms"), summary.get(f"p99_{family}_ms")
        ends = (summary.get("intervals") or {}).get(f"p99_{family}_ms")
        sure: Part = None
        if p99 is not None and ends is not None:
            low, high = ends
            known = f"95 %, if independent: {number(low)} to {number(high)}"
            sure = "too few for a sure p99" if None in ends else known
        tail = None if p99 is None else join(["p99 ", tag("strong", number(p99)), " ms"])
        yield Tile(f"{name}, median", number(value), "ms" if value is not None else "", [tail, sure])


def objectives(summary: Mapping[str, Any]) -> Html | None:
    """What became of each --slo, in the whole run and in each of several phases."""
    judgements = summary.get("slo") or ()
    if not judgements:
        return None
    phases = [one for one in summary.get("phases") or () if one.get("slo")]
    rows: list[Sequence[Part]] = []
    for place, one in enumerate(judgements):
        mark = tag("span", one["outcome"], class_=f"mark {_OUTCOMES.get(one['outcome'], '')}")
        by_phase: dict[str, list[str]] = {}
        for phase in phases:
            by_phase.setdefault(phase["slo"][place]["outcome"], []).append(phase_name(phase))
        spread = [f"{outcome}: {' · '.join(names)}" for outcome, names in by_phase.items()]
        rows.append(
            (one["slo"], mark, join([one["sentence"], *(tag("span", s, class_="ci") for s in spread)]))
        )
    shown = table(["objective", "outcome", "in words"], rows, "Objectives (--slo)", words=3)
    return tag("div", shown, class_="sentences")
