"""Panels of `report.plot_data`, which the PNG plots show too, as charts: over load, over configurations."""

from collections.abc import Iterator, Mapping, Sequence

from vllm_locust.core.knee import find_knee
from vllm_locust.report.page.charts import COLOURS, Chart, Trace, line, plain, scale
from vllm_locust.report.plot_data import Curve, Panel, configuration_plots, level_plots
from vllm_locust.results.rows import Row

_MANY_TIMES = 8


def load_charts(rows: Sequence[Row]) -> list[Chart]:
    """Latency and throughput over load."""
    return [_chart(title, panel) for title, panels in level_plots(rows).values() for panel in panels]


def configuration_charts(rows: Sequence[Row]) -> list[Chart]:
    """Configurations side by side."""
    return [_chart(title, panel) for title, panels in configuration_plots(rows).values() for panel in panels]


def _chart(title: str, panel: Panel) -> Chart:
    where = title.partition(", ")[2]
    ys = [[y for y in curve.y if y == y] for curve in panel.curves]
    return Chart(
        f"{panel.title}, {where}" if where else panel.title,
        _look_for(panel),
        [trace for place, curve in enumerate(panel.curves) for trace in _traces(curve, place, panel)],
        _x(panel),
        scale(panel.unit, *ys),
        layout={"showlegend": len(panel.curves) > 1},
    )


def _look_for(panel: Panel) -> str:
    if panel.ticks is not None:
        return "A difference counts only if it is larger than what repeats of one configuration differ by."
    if panel.knee:
        return "The ring marks the knee: beyond it more load brings little more throughput."
    return "Where a line turns up, more load costs latency."


def _traces(curve: Curve, place: int, panel: Panel) -> Iterator[Trace]:
    markers: Mapping[str, object] = {
        "size": 8,
        "symbol": ["circle-open" if unsure else "circle" for unsure in curve.unsure] or "circle",
    }
    yield line(curve.name, curve.x, curve.y, place, mode="lines+markers", marker=markers)
    knee = _knee(curve) if panel.knee else None
    if knee is not None:
        ring = {"symbol": "circle-open", "size": 18, "color": f"--c{place % COLOURS}", "line": {"width": 3}}
        at = [y for x, y in zip(curve.x, curve.y, strict=True) if x == knee][:1]
        words = {"name": f"knee of {plain(curve.name)}", "showlegend": False, "mode": "markers"}
        yield {"x": [knee], "y": at, "marker": ring, **words}


def _knee(curve: Curve) -> float | None:
    known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y == y]
    return find_knee([x for x, _ in known], [y for _, y in known]) if known else None


def _x(panel: Panel) -> dict[str, object]:
    if panel.ticks is not None:
        ticks = [plain(tick) for tick in panel.ticks]
        places = {"tickvals": list(range(len(ticks))), "ticktext": ticks}
        # As much room beside the first and the last as between them: plotly hides a label that has none.
        return {"title": panel.along, "range": [-0.5, len(ticks) - 0.5], **places}
    xs = sorted({x for curve in panel.curves for x in curve.x})
    if xs and xs[0] > 0 and xs[-1] >= _MANY_TIMES * xs[0]:
        return {"title": panel.along, "type": "log", "tickvals": xs, "ticktext": [f"{x:g}" for x in xs]}
    return {"title": panel.along}
