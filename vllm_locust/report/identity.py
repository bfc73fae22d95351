"""What leads a report of a run, and the whole of it in text: the result block, and what was really sent."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from vllm_locust.report.capacity import render_answer
from vllm_locust.report.kv import describe_kv, render_kv
from vllm_locust.report.sent import SentByProfile
from vllm_locust.report.sent_text import render_sent
from vllm_locust.report.text import render, render_phases
from vllm_locust.results.folder import Results

_WIDTH = 110
_NOT_KNOWN = "n/a"
_HASH_DIGITS = 12


def identity(results: Results) -> dict[str, Any]:
    """What leads a report; from the summary where run.json is lost, and the other way round."""
    run, summary = results.run or {}, results.summary or {}
    client = summary.get("client")
    return {
        "scenario": results.scenario,
        "model": run.get("model", summary.get("model_id")),
        "host": run.get("host", summary.get("host")),
        "server_version": run.get("server_version"),
        "start_time": run.get("start_time", summary.get("date")),
        "duration_s": summary.get("duration"),
        "verdict": client.get("verdict") if isinstance(client, dict) else None,
    }


def report_text(results: Results, sent: SentByProfile) -> str:
    """The report of one run in text; ends with a newline."""
    server = (results.summary or {}).get("server") or {}
    blocks = ["\n".join(_heading(results)) + "\n"]
    if results.summary is not None:
        blocks += _results(results.summary)
        blocks += _kv_cache(results)
    blocks.append("\n".join(_plan(results)) + "\n")
    blocks.append(render_sent(sent, server.get("prefix_cache_hit_rate")))
    return "\n".join(blocks)


def _heading(results: Results) -> Iterator[str]:
    known = identity(results)
    version = f" (vLLM {known['server_version']})" if known["server_version"] else ""
    yield from _title(f"Run in {results.folder}", "=")
    yield _fact("scenario", known["scenario"])
    yield _fact("model", known["model"])
    yield _fact("host", f"{known['host'] or _NOT_KNOWN}{version}")
    yield _fact("started", _date(known["start_time"]))
    yield _fact("duration", _duration(results, known["duration_s"]))
    yield _fact("measurement", known["verdict"])
    for problem in results.problems:
        yield fill(problem, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)


def _results(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the run printed at its end."""
    try:
        yield render(summary)
        phases: Sequence[Mapping[str, Any]] = summary["phases"]
        if len(phases) > 1 or any("profiles" in phase for phase in phases):
            yield render_phases(phases)
        if "capacity" in summary:
            yield render_answer(summary["capacity"], summary["capacity"]["unit"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"summary.json is not as this version writes it ({error!r}): its numbers are not shown.\n"


def _kv_cache(results: Results) -> Iterator[str]:
    """What fits into the cache beside what was in use, where the server told its size."""
    try:
        use = describe_kv(results)
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # `_results` has said of the same summary that it is broken.
    if use is not None:
        yield "\n".join(render_kv(use)) + "\n"


def _plan(results: Results) -> Iterator[str]:
    """What was to be sent, and from which data."""
    run = results.run or {}
    yield from _title("What was sent", "-")
    yield _fact("scenario", f"{results.scenario or _NOT_KNOWN}, seed {run.get('seed', _NOT_KNOWN)}")
    if parameters := (run.get("options") or {}).get("parameters"):
        yield _fact("parameters", " ".join(f"{name}={value}" for name, value in parameters.items()))
    for data_set in run.get("datasets") or ():
        yield from _data_set(data_set)


def _data_set(data_set: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        f"{data_set[name]} {name}"
        for name in ("rows", "kept", "filtered", "skipped")
        if data_set.get(name) is not None
    ]
    size = data_set.get("bytes")
    details = [
        *([] if size is None else [f"{size} bytes"]),
        *([f"sha256 {data_set['sha256'][:_HASH_DIGITS]}..."] if data_set.get("sha256") else []),
        *([", ".join(rows)] if rows else []),
    ]
    yield _fact("data set", data_set.get("path"))
    if details:
        yield _fact("", "; ".join(details))


def _title(text: str, line: str) -> Iterator[str]:
    yield text
    yield line * len(text)


def _fact(name: str, value: Any) -> str:
    return f"  {name:<12} {_NOT_KNOWN if value is None else value}"


def _duration(results: Results, measured_s: float | None) -> str | None:
    if measured_s is not None:
        return f"{measured_s:.1f} s were measured"
    last_s = max((ended_s for ended_s in results.requests["ended_s"].tolist() if ended_s >= 0), default=None)
    return None if last_s is None else f"the last request that was recorded ended after {last_s:.1f} s"


def _date(start_time: str | None) -> str | None:
    """`2026-11-26 07:23:22 UTC` for `2026-11-26T07:23:22.667+00:00`."""
    if start_time is None or not start_time.endswith("+00:00"):
        return start_time
    return f"{start_time[:19].replace('T', ' ')} UTC"
