"""What an offline run says on stdout. Computes nothing but the spread of lengths.

Rule: `Throughput: ...` is vLLM's own line (`vllm bench throughput`), to the letter; so are the names of the
fields of an offline test that people put into tables. What is not known prints as `n/a`.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from vllm_locust.offline.batch import Batch

_NOT_KNOWN = "n/a"
_COLUMNS = (
    ("requests", "completed"),
    ("total_time", "duration"),
    ("requests/s", "request_throughput"),
    ("total tok/s", "total_token_throughput"),
    ("output tok/s", "output_throughput"),
    ("reviews/s", "reviews_per_second"),
)


def render_phase(phase: Mapping[str, Any], batch: Batch) -> Iterator[str]:
    """One phase in full."""
    yield f"{batch.name}: {len(batch.planned)} requests"
    rates = (phase["request_throughput"], phase["total_token_throughput"], phase["output_throughput"])
    names = ("requests/s", "total tokens/s", "output tokens/s")
    yield "Throughput: " + ", ".join(
        f"{_number(rate)} {name}" for rate, name in zip(rates, names, strict=True)
    )
    yield _line("throughput (req/s)", phase["request_throughput"])
    yield _line("avg_prompt_throughput (tok/s)", phase["avg_prompt_throughput"])
    yield _line("avg_generation_throughput (tok/s)", phase["avg_generation_throughput"])
    yield _line("total_time (s)", phase["duration"])
    if "reviews" in phase:
        yield _line("reviews", phase["reviews"])
        yield _line("reviews/s", phase["reviews_per_second"])
    yield _line("prompt tokens", f"{phase['total_input_tokens']}{_spread(batch)}")
    if phase["prompt_lengths"]["promised"]:
        kept = phase["prompt_lengths"]
        yield _line("  as long as planned", f"{kept['exact']} of {kept['promised']}")
    yield _line("output tokens", phase["total_output_tokens"])
    yield _line("cached prompt tokens", _cached(phase))
    if phase["mean_ttft_ms"] is not None:
        ttft = f"{phase['mean_ttft_ms']:.2f}, p99 {phase['p99_ttft_ms']:.2f}"
        yield _line("mean TTFT (ms)", ttft + ", from the moment in which the engine was given the batch")
    for kind, count in phase["failures"].items():
        yield _line(f"failed, {kind}", f"{count}: {phase['failure_examples'][kind]}")


def render_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """A row for each phase or value that was compared."""
    columns = [(name, key) for name, key in _COLUMNS if any(key in phase for _, phase in rows)]
    cells = [["", *(name for name, _ in columns)]]
    cells += [[label, *(_number(phase.get(key)) for _, key in columns)] for label, phase in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *others])


def same_reviews_words(same: bool) -> str:
    if same:
        return "Both asked about the same reviews, in the same order."
    return "They did NOT ask about the same reviews: set --set reviews=N, and leave --num-prompts out."


def _line(label: str, value: float | str | None) -> str:
    return f"  {label:<34} {_number(value)}"


def _number(value: float | str | None) -> str:
    if value is None:
        return _NOT_KNOWN
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _spread(batch: Batch) -> str:
    lengths = sorted(map(len, batch.prompts))
    if not lengths:
        return ""
    return f" ({lengths[0]} to {lengths[-1]} a prompt, median {median(lengths):g})"


def _cached(phase: Mapping[str, Any]) -> str | None:
    cached, total = phase["total_cached_tokens"], phase["total_input_tokens"]
    if cached is None:
        return None
    return f"{cached} ({cached / total * 100:.1f} %)" if total else str(cached)
