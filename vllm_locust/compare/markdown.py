"""A comparison in Markdown, for a pull request."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_locust.compare.judge import Cell
from vllm_locust.compare.text import HEAD, row, unclear

if TYPE_CHECKING:
    from vllm_locust.compare.result import Comparison

_MARKS = {"regression": "**regression**", "worse": "*worse*"}


def render(comparison: "Comparison") -> str:
    """The whole text, with its newline."""
    lines = [
        f"**{comparison.conclusion}**",
        "",
        f"`{comparison.base}` (base) and `{comparison.new}` (new)",
        "",
    ]
    for cell in comparison.cells:
        lines += [*([f"### {cell.name}", ""] if cell.name else []), *_table(cell)]
        lines += [f"- {told}" for told in (*cell.sentences, *unclear(cell, comparison.tolerance))]
        lines += [""]
    lines += [f"- {told}" for told in (*comparison.sentences, *comparison.invalid)]
    return "\n".join(lines).rstrip() + "\n"


def _table(cell: Cell) -> Iterator[str]:
    if not cell.metrics:
        return
    yield f"| {' | '.join(HEAD)} |"
    yield f"|---|{'---:|' * (len(HEAD) - 2)}---|"
    for metric in cell.metrics:
        *numbers, verdict = row(metric)
        yield f"| {' | '.join(numbers)} | {_MARKS.get(verdict, verdict)} |"
    yield ""
