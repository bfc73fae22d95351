"""Charts as data that page.js hands to plotly when they come into view.

Rule: a colour is the name of a variable of style.css (`--c0`, or `--c0/0.2` where light shines through), so
that a chart follows the light. Numbers have six digits that count; NaN becomes null, a gap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.report.page.html import Html, embedded_json, tag

COLOURS = 8
DASHES = ("solid", "dash", "dot", "dashdot")
_LONGEST = 48
"""Characters of a name in a chart."""
LOG_FROM = 30.0
"""An axis is logarithmic when its largest value is so many times the median one."""

Trace = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chart:
    """One pair of axes with traces as plotly has them."""

    title: str
    look_for: str
    """One sentence: what is to be seen."""
    traces: Sequence[Trace]
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    link: str | None = None
    """Charts with the same one zoom their x axes together."""
    layout: Mapping[str, Any] = field(default_factory=dict)


class Charts:
    """The charts of a page, in order."""

    def __init__(self) -> None:
        self._data: list[Mapping[str, Any]] = []

    def place(self, chart: Chart) -> Html:
        """The place of a chart in the page; its data are kept for `data`."""
        layout = {"xaxis": chart.x, "yaxis": chart.y, **chart.layout}
        return self.figure(
            chart.title, chart.look_for, {"traces": chart.traces, "layout": layout, "link": chart.link}
        )

    def figure(
        self, title: str, look_for: str, data: Mapping[str, Any], kind: str = "plot", key: Html | None = None
    ) -> Html:
        """A figure that page.js draws from `data`, with a legend of its own below it if it has one."""
        number = len(self._data)
        self._data.append(data)
        place = {
            "class_": kind,
            "data_chart": str(number),
            "role": "img",
            "aria_label": f"{title}. {look_for}",
        }
        return tag(
            "figure",
            tag("figcaption", tag("h4", title), tag("p", look_for)),
            tag("div", **place),
            key,
        )

    def data(self) -> str:
        """JSON for a script element."""
        return embedded_json(self._data)


def line(name: str, x: Sequence[float] | Floats, y: Sequence[Any] | Floats, place: int, **more: Any) -> Trace:
    """A line in the colour of its place; those beyond the palette differ in their dashes."""
    colour, dash = f"--c{place % COLOURS}", DASHES[place // COLOURS % len(DASHES)]
    style = {"color": colour, "width": 2, "dash": dash} | more.pop("line", {})
    return {"name": plain(name), "x": numbers(x), "y": numbers(y), "mode": "lines", "line": style, **more}


def band(x: Floats, low: Floats, high: Floats, place: int) -> list[Trace]:
    """Where a line may lie, in a lighter shade of its colour; nothing where it is not known."""
    known = ~(np.isnan(low) | np.isnan(high))
    around = np.concatenate([x[known], x[known][::-1]]), np.concatenate([high[known], low[known][::-1]])
    if not known.any():
        return []
    shade = {"fill": "toself", "fillcolor": f"--c{place % COLOURS}/0.18", "line": {"width": 0}}
    quiet = {"hoverinfo": "skip", "showlegend": False, "mode": "lines"}
    return [{"x": numbers(around[0]), "y": numbers(around[1]), **shade, **quiet}]


def numbers(values: Sequence[Any] | NDArray[Any], digits: int = 6) -> list[Any]:
    """So many digits that count; None for NaN and for what is infinite."""
    return [float(f"{v:.{digits}g}") if v is not None and isfinite(v) else None for v in values]


def plain(text: str) -> str:
    """Text that plotly shows as it is, for it takes tags in names for markup; cut where it is too long."""
    return escape(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…", quote=False)


def thinned(x: Floats, y: Floats, most: int = 400) -> tuple[Floats, Floats]:
    """At most about `most` points: of each stretch the smallest and the largest value, and gaps stay gaps."""
    if len(x) <= most:
        return x, y
    keep = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), most // 3):
        values = y[part]
        if np.isnan(values).any():
            keep.add(int(part[np.isnan(values).argmax()]))
        if not np.isnan(values).all():
            keep |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    places = np.array(sorted(keep))
    return x[places], y[places]


def scale(title: str, *series: Sequence[float] | Floats) -> dict[str, Any]:
    """A y axis from zero, or a logarithmic one where a few values would flatten all others."""
    values = np.concatenate([np.asarray(one, np.float64) for one in series]) if series else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.max() > LOG_FROM * np.median(values):
        return {"title": title, "type": "log"}
    return {"title": title, "rangemode": "tozero"}
