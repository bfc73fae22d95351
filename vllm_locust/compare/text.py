"""A comparison for a terminal: the table, then what one must know to read it."""

from collections.abc import Iterator
from textwrap import fill
from typing import TYPE_CHECKING

from vllm_locust.compare.judge import Cell, Judged
from vllm_locust.compare.metrics import SHARES

if TYPE_CHECKING:
    from vllm_locust.compare.result import Comparison

_WIDTH = 100
HEAD = ("metric", "base", "new", "change", "95 % interval", "verdict")


def render(comparison: "Comparison") -> str:
    """The whole text, with its newline."""
    lines = [f"base {comparison.base}", f"new  {comparison.new}", ""]
    for cell in comparison.cells:
        lines += [*([cell.name] if cell.name else []), *_table(cell), ""]
        lines += [_fold(told) for told in (*cell.sentences, *unclear(cell, comparison.tolerance))]
        lines += [""]
    lines += [_fold(told) for told in (*comparison.sentences, *comparison.invalid, comparison.conclusion)]
    return "\n".join(lines) + "\n"


def row(metric: Judged) -> tuple[str, ...]:
    """The cells of the table's row, as in `HEAD`."""
    share = metric.key in SHARES
    ends = "" if metric.low is None else f"{_change(metric.low, share)} .. {_change(metric.high, share)}"
    return (
        metric.key,
        number(metric.base, share),
        number(metric.new, share),
        _change(metric.change, share),
        ends,
        metric.verdict,
    )


def in_words(metric: Judged, condition: str | None) -> str:
    """The row as a sentence, and what it rests on."""
    _, base, new, change, ends, verdict = row(metric)
    if condition is not None and verdict != "unclear":
        verdict = f"{verdict} {condition}"
    return (
        f"{verdict}: {base} in base, {new} in new, {change} [{ends}], p {metric.p or 0:.2g}"
        if ends
        else verdict
    )


def number(value: float | None, share: bool) -> str:
    """Four digits that mean something; a share in per cent."""
    if value is None:
        return "n/a"
    if share:
        return f"{value * 100:.2f} %"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def unclear(cell: Cell, tolerance: float) -> Iterator[str]:
    """For each unclear metric what these units could have shown, and what would show the tolerance."""
    for metric in cell.metrics:
        if metric.verdict != "unclear" or metric.detectable is None or metric.may_be_drift:
            continue
        share = metric.key in SHARES
        wanted = "the tolerance" if share else f"{tolerance * 100:g} %"
        change = _change(metric.detectable, share)
        yield (
            f"{metric.key} is unclear: a change of {change} would have been seen in 4 of 5 such comparisons; "
            f"{_needed(cell, metric)} would show {wanted}."
        )


def _needed(cell: Cell, metric: Judged) -> str:
    turns = "" if cell.in_turns else " in turns"
    if metric.needed is None:
        return f"not even 1000 {cell.unit}s{turns}"
    if cell.unit == "block":
        longer = metric.needed / min(cell.units)
        return f"runs {longer:.2g} times as long" if longer > 1 else "runs as long as these"
    return f"{metric.needed} {cell.unit}s{'' if cell.unit == 'pair' else ' each'}{turns}"


def _table(cell: Cell) -> Iterator[str]:
    if not cell.metrics:
        return
    rows = [HEAD, *(row(metric) for metric in cell.metrics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for one in rows:
        first, *middle, last = one
        cells = [f"{text:>{width}}" for text, width in zip(middle, widths[1:-1], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells, last])


def _change(value: float | None, share: bool) -> str:
    if value is None:
        return "n/a"
    if abs(value) >= 10 and not share:
        return f"{value + 1:+.0f} x" if value < 1e6 else "any"
    return f"{value * 100:+.2f} pp" if share else f"{value * 100:+.1f} %"


def _fold(text: str) -> str:
    return fill(text, _WIDTH)
