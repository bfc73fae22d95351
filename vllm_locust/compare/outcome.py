"""What a comparison comes to: an exit code, and one sentence that says why.

Rule: what cannot be told is not green. A regression that is shown is one whatever else cannot be told.
"""

from collections.abc import Iterator, Sequence

from vllm_locust.compare.judge import Cell

EXIT_REGRESSION = 3
EXIT_NOT_CONCLUSIVE = 4


def outcome(cells: Sequence[Cell], tolerance: float, strict: bool) -> tuple[int, str]:
    """The exit code and the last line."""
    beyond = f"beyond {tolerance * 100:g} %"
    metrics = [metric for cell in cells for metric in cell.metrics]
    worse = dict.fromkeys(metric.key for metric in metrics if metric.verdict == "regression")
    conditions = " and ".join(dict.fromkeys(cell.condition for cell in cells if cell.condition))
    if worse:
        on = f", {conditions}" if conditions else ""
        return EXIT_REGRESSION, f"Regression {beyond}{on}: {', '.join(worse)}."
    if short := "; ".join(dict.fromkeys(_shortcomings(cells, strict))):
        return EXIT_NOT_CONCLUSIVE, f"No verdict: {short}."
    unclear = sum(metric.verdict == "unclear" for metric in metrics)
    more = f"; {unclear} of {len(metrics)} metrics are unclear" if unclear else ""
    on = f" {conditions}" if conditions else ""
    return 0, f"No regression {beyond} was shown{on}{more}."


def _shortcomings(cells: Sequence[Cell], strict: bool) -> Iterator[str]:
    if not cells:
        yield "one side has no run that has ended"
    for cell in cells:
        name = f"{cell.name}: " if cell.name else ""
        yield from (f"{name}{short}" for short in cell.shortcomings)
        unclear = [metric for metric in cell.metrics if metric.verdict == "unclear"]
        if strict and unclear and not cell.shortcomings:
            keys = ", ".join(metric.key for metric in unclear)
            needed = [metric.needed for metric in unclear]
            most = "more than 1000" if None in needed else str(max(filter(None, needed)))
            each = "" if cell.unit == "pair" else " each"
            turns = "" if cell.in_turns else " in turns"
            yield f"{name}{keys} stay unclear, {most} {cell.unit}s{each}{turns} would tell"
