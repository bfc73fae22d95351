"""Plots of rows as PNG files: curves over load, and configurations side by side.

Rule: what the rows have makes the plots, nothing is asked: loads make curves, several configurations make
panels. A plot is a grid of small panels, each with a scale of its own; what is not known is a gap in the
line, never a zero.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_locust.core.knee import find_knee
from vllm_locust.report.plot_data import NAN, VALUE, Curve, Panel, configuration_plots, level_plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vllm_locust.results.rows import Row

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by the colour-blind too: M. Okabe, K. Ito, Color universal design, 2008."""
_MARKERS = "osD^vPX"

_PANEL_INCHES = (4.2, 3.1)
_DPI = 130
_LOG_FROM = 20
_LOG_LOADS_FROM = 4
"""An axis is logarithmic when its largest number is so many times its smallest."""
_MOST_COLUMNS = 3
_WIDE_INCHES, _WIDE_LEGEND = 10, 4
_LABEL_SHARE = 0.06
"""What a label takes of a horizontal axis."""
_LOG_TICKS = (1, 2, 5)
_GREY = "#555555"
_UNSURE = "hollow: too few requests to tell, or some failed"
_BARS = "bars: 95 % interval as if requests were independent, or all repeats"


def write_plots(folder: Path, rows: Sequence["Row"]) -> list[Path]:
    """Write a PNG for each thing that the rows can show into `folder`, which is made; the paths."""
    return [
        _save(_figure(title, panels), folder / f"{name}.png")
        for name, (title, panels) in {**level_plots(rows), **configuration_plots(rows)}.items()
    ]


def _save(figure: "Figure", path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path


def _grid(title: str, count: int) -> tuple["Figure", list["Axes"]]:
    """A figure with as many panels, at most three beside each other."""
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(count, _MOST_COLUMNS)
    lines = -(-count // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(max(width * columns, 6), height * lines + 0.9), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    for used in axes[:count]:
        used.grid(color="#dddddd", linewidth=0.7)
        used.spines[["top", "right"]].set_visible(False)
    return figure, axes[:count]


def _figure(title: str, panels: Sequence[Panel]) -> "Figure":
    figure, axes = _grid(title, len(panels))
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    for panel, axis in zip(panels, axes, strict=True):
        _draw(axis, panel, names)
    _legend(figure, axes, [curve for panel in panels for curve in panel.curves])
    return figure


def _legend(figure: "Figure", axes: Sequence["Axes"], curves: Sequence[Curve]) -> None:
    """One for all panels, below them, where no data are: the curves, and what marks mean."""
    from matplotlib.lines import Line2D

    shown: dict[str, Any] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        shown.update(zip(labels, handles, strict=True))
    shown.pop(VALUE, None)
    if len(shown) == 1:
        shown.clear()
    if any(True in curve.unsure for curve in curves):
        shown[_UNSURE] = Line2D([], [], color=_GREY, marker="o", markerfacecolor="white", linestyle="none")
    if any(low == low for curve in curves for low in curve.low):
        shown[_BARS] = Line2D([], [], color=_GREY, marker="|", markersize=9, linestyle="none")
    if shown:
        columns = min(len(shown), _WIDE_LEGEND if figure.get_figwidth() > _WIDE_INCHES else 2)
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False}
        figure.legend(list(shown.values()), list(shown), **place)


def _draw(axis: "Axes", panel: Panel, names: Sequence[str]) -> None:
    axis.set_title(panel.title, fontsize=11)
    axis.set_ylabel(panel.unit)
    axis.set_xlabel(panel.along)
    for curve in panel.curves:
        style = names.index(curve.name)
        colour = COLOURS[style % len(COLOURS)]
        marker = _MARKERS[(style + style // len(COLOURS)) % len(_MARKERS)]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5}
        axis.plot(curve.x, _joined(curve, panel), label=curve.name, linewidth=1.6, **look)
        axis.vlines(curve.x, curve.low, curve.high, color=colour, linewidth=1.2, alpha=0.8)
        hollow = [y if is_so else NAN for y, is_so in zip(curve.y, curve.unsure, strict=True)]
        axis.plot(curve.x, hollow, linestyle="none", markerfacecolor="white", **look)
        if panel.knee:
            _mark_knee(axis, curve, colour)
    _scale_y(axis, panel)
    _scale_x(axis, panel)


def _joined(curve: Curve, panel: Panel) -> list[float]:
    """What a line goes through: of configurations only those that may be compared."""
    if panel.ticks is None:
        return list(curve.y)
    return [NAN if unsure else y for y, unsure in zip(curve.y, curve.unsure, strict=True)]


def _mark_knee(axis: "Axes", curve: Curve, colour: str) -> None:
    known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y == y]
    knee = find_knee([x for x, _ in known], [y for _, y in known])
    if knee is not None:
        height = dict(known)[knee]
        axis.plot([knee], [height], "o", markersize=13, fillstyle="none", color=colour, markeredgewidth=1.8)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        words: dict[str, Any] = {"ha": "left", "va": "top", "color": colour, "fontsize": 9, "bbox": box}
        axis.annotate(f"knee at {knee:g}", (knee, height), (6, -8), textcoords="offset points", **words)


def _scale_y(axis: "Axes", panel: Panel) -> None:
    """From 0, or logarithmic where the smallest would not be seen beside the largest."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = [y for curve in panel.curves for y in (*curve.y, *curve.low, *curve.high) if y == y]
    if values and min(values) > 0 and max(values) >= _LOG_FROM * min(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=_LOG_TICKS))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif values:
        axis.set_ylim(bottom=0, top=max(values) * 1.12 or 1)


def _scale_x(axis: "Axes", panel: Panel) -> None:
    """Words, or the loads that were measured; linear where a knee is to be seen, which a logarithm hides."""
    if panel.ticks is not None:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.5, len(panel.ticks) - 0.5)
        return
    levels = sorted({x for curve in panel.curves for x in curve.x})
    if panel.knee:
        levels = _apart(levels)
    elif levels[0] > 0 and levels[-1] >= _LOG_LOADS_FROM * levels[0]:
        axis.set_xscale("log", base=2)
    axis.set_xticks(levels, [f"{level:g}" for level in levels])
    axis.minorticks_off()


def _apart(levels: Sequence[float]) -> list[float]:
    """Those whose labels do not touch; the largest is always one of them."""
    kept = [levels[-1]]
    for level in reversed(levels):
        if kept[-1] - level >= _LABEL_SHARE * (levels[-1] - levels[0]):
            kept.append(level)
    return kept
