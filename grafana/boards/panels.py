"""The kinds of panels the boards have, with what Grafana must know of each.

Rule: the only place that knows Grafana's options; a board says what is shown, and what to look for. Queries
over a window have a step of at least 4 s, and so look back 16 s or more: workers report every 3 s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import (
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
    xychart,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.xychart import SeriesMapping, XYShowMode

from .promql import WINDOW

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = Any
"""A builder of any kind of panel: they have no common type that knows `span` and `height`."""

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on, which colour; the first from None."""

_WINDOW_STEP = "4s"
_GAUGE_STEP = "1s"
_REF_IDS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the name of what it finds; `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""
    instant: bool = False
    format: PromQueryFormat = PromQueryFormat.TIME_SERIES


@dataclass(frozen=True, slots=True)
class Style:
    """How series look whose names match a regular expression."""

    pattern: str
    color: str = ""
    dashed: bool = False
    bars: bool = False
    right_axis_unit: str = ""
    most: float | None = None

    def properties(self) -> list[models.DynamicConfigValue]:
        found: dict[str, object] = {}
        if self.color:
            found["color"] = {"mode": "fixed", "fixedColor": self.color}
        if self.dashed:
            found["custom.lineStyle"] = {"fill": "dash", "dash": [6, 4]}
        if self.bars:
            found |= {"custom.drawStyle": "bars", "custom.fillOpacity": 60, "custom.lineWidth": 0}
        if self.right_axis_unit:
            found |= {"custom.axisPlacement": "right", "unit": self.right_axis_unit}
            found["custom.thresholdsStyle"] = {"mode": "off"}  # a panel's limits are about its left axis
        if self.most is not None:
            found["max"] = self.most
        return [models.DynamicConfigValue(id_val=key, value=value) for key, value in found.items()]


def lines(
    title: str,
    look_for: str,
    unit: str,
    *queries: Query,
    styles: Sequence[Style] = (),
    stacked: bool = False,
    most: float | None = None,
    limits: Steps = (),
) -> Panel:
    """Values over time, from zero up; `limits` are drawn as lines."""
    panel = _common(timeseries.Panel(), title, look_for, unit, queries)
    panel.line_width(2 if not stacked else 1).fill_opacity(60 if stacked else 8)
    panel.show_points(common.VisibilityMode.AUTO).axis_soft_min(0)
    panel.legend(_legend()).tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    if limits:
        panel.thresholds(_thresholds(limits))
        panel.thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        )
    for style in styles:
        panel.override_by_regexp(style.pattern, style.properties())
    return panel


def number(
    title: str,
    look_for: str,
    unit: str,
    *queries: Query,
    steps: Steps = ((None, "text"),),
    words: Mapping[int, tuple[str, str]] | None = None,
    absent: str = "–",
    filled: bool = False,
) -> Panel:
    """The value at the end of the time shown, large; `words` say what one means, with a colour of its own."""
    panel = _common(stat.Panel(), title, look_for, unit, [replace(query, instant=True) for query in queries])
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.color_mode(common.BigValueColorMode.BACKGROUND if filled else common.BigValueColorMode.VALUE)
    panel.graph_mode(common.BigValueGraphMode.NONE)
    panel.thresholds(_thresholds(steps)).no_value(absent)
    if len(queries) > 1:
        panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME)
    if words:
        options = {
            str(value): models.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
        panel.mappings([models.ValueMap(options=options)])
    return panel


def heat(title: str, look_for: str, unit: str, buckets: str) -> Panel:
    """How many observations fell into each bucket over time; `buckets` keeps the label `le`."""
    query = Query(buckets, "{{le}}", format=PromQueryFormat.HEATMAP)
    panel = _common(heatmap.Panel(), title, look_for, "short", [query])
    panel.calculate(False).cell_gap(0).hide_legend().show_value(common.VisibilityMode.NEVER)
    panel.y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(common.AxisPlacement.LEFT))
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Turbo")
        .steps(64)
        .fill("dark-blue")
        .exponent(0.5)
    )
    panel.scale_distribution(common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LINEAR))
    panel.filter_values(heatmap.FilterValueRange().le(1e-9))
    panel.mode(common.TooltipDisplayMode.SINGLE).show_y_histogram()
    return panel


def curve(title: str, look_for: str, unit: str, x: str, y: str, x_title: str, x_unit: str = "none") -> Panel:
    """One value over another, a line for each value of the label `line`.

    The labels `line`, `phase` and `title` join the two. A search asks for some levels twice: of a line's
    phases with the same title the last is drawn.
    """
    panel = _common(xychart.Panel(), title, look_for, unit, [_table(x), _table(y)])
    panel.transformations(
        [
            models.DataTransformerConfig(id_val="merge", options={}),
            _numbers("phase"),
            *_sorted("phase"),
            _last_of_each(["line", "title"], ["Value #A", "Value #B"]),
            _renamed(["title"], {"Value #A (last)": "x", "Value #B (last)": "y"}),
            *_sorted("line", "x"),
            models.DataTransformerConfig(id_val="partitionByValues", options={"fields": ["line"]}),
        ]
    )
    panel.mapping(SeriesMapping.AUTO).series([xychart.XYSeriesConfig()]).legend(_legend())
    panel.tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.SINGLE))
    panel.show(XYShowMode.POINTS_AND_LINES).point_size(xychart.XychartFieldConfigPointSize().fixed(7))
    panel.line_width(2).axis_soft_min(0)
    # After the last transformation the column x is called "x LINE".
    panel.override_by_regexp(
        "/^x\\b/",
        [
            models.DynamicConfigValue(id_val="unit", value=x_unit),
            models.DynamicConfigValue(id_val="custom.axisLabel", value=x_title),
        ],
    )
    return panel


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: PromQL with the labels of the rows, or the name of such a label."""

    title: str
    source: str
    unit: str = "string"
    width: int = 90
    steps: Steps = ()


def steps_table(title: str, look_for: str, rows: Sequence[Column], values: Sequence[Column]) -> Panel:
    """A row for each set of the labels in `rows`, a column for each of `values`."""
    panel = _common(table.Panel(), title, look_for, "none", [_table(value.source) for value in values])
    names = {row.source: row.title for row in rows}
    names |= {f"Value #{ref}": value.title for ref, value in zip(_REF_IDS, values, strict=False)}
    panel.transformations(
        [
            models.DataTransformerConfig(id_val="merge", options={}),
            _numbers(*(row.source for row in rows if row.unit != "string")),
            *_sorted("run", "phase"),
            _renamed(["Time"], names, order=[row.source for row in rows]),
        ]
    )
    panel.cell_height(common.TableCellHeight.SM).align(common.FieldTextAlignment.AUTO)
    for column in (*rows, *values):
        panel.override_by_name(column.title, _column_properties(column))
    return panel


def _column_properties(column: Column) -> list[models.DynamicConfigValue]:
    found: dict[str, object] = {"unit": column.unit, "custom.width": column.width}
    if column.steps:
        found["thresholds"] = _thresholds(column.steps).build().to_json()
        found["custom.cellOptions"] = {"type": "color-text"}
    return [models.DynamicConfigValue(id_val=key, value=value) for key, value in found.items()]


def _common(panel: Panel, title: str, look_for: str, unit: str, queries: Sequence[Query]) -> Panel:
    panel.title(title).description(look_for).unit(unit).datasource(DATASOURCE)
    panel.targets([_target(query, ref) for query, ref in zip(queries, _REF_IDS, strict=False)])
    return panel


def _target(query: Query, ref: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref).expr(query.expr).datasource(DATASOURCE)
    target.format(query.format).legend_format(query.legend or "__auto")
    target.interval(_WINDOW_STEP if WINDOW in query.expr else _GAUGE_STEP)
    return target.instant() if query.instant else target.range()


def _table(expr: str) -> Query:
    return Query(expr, instant=True, format=PromQueryFormat.TABLE)


def _renamed(
    hidden: Sequence[str], names: Mapping[str, str], order: Sequence[str] = ()
) -> models.DataTransformerConfig:
    options = {
        "excludeByName": dict.fromkeys(hidden, True),
        "indexByName": {name: index for index, name in enumerate(order)},
        "renameByName": dict(names),
    }
    return models.DataTransformerConfig(id_val="organize", options=options)


def _numbers(*labels: str) -> models.DataTransformerConfig:
    """Labels that are numbers, and are to sort like ones."""
    conversions = [{"targetField": label, "destinationType": "number"} for label in labels]
    return models.DataTransformerConfig(id_val="convertFieldType", options={"conversions": conversions})


def _last_of_each(groups: Sequence[str], values: Sequence[str]) -> models.DataTransformerConfig:
    """The last row of each group; the columns `values` are then called "NAME (last)", others are gone."""
    fields: dict[str, object] = {name: {"operation": "groupby", "aggregations": []} for name in groups}
    fields |= {name: {"operation": "aggregate", "aggregations": ["last"]} for name in values}
    return models.DataTransformerConfig(id_val="groupBy", options={"fields": fields})


def _sorted(*fields: str) -> list[models.DataTransformerConfig]:
    """Rows in order of the first field, then of the next: each sort keeps what the one before did."""
    return [
        models.DataTransformerConfig(id_val="sortBy", options={"fields": {}, "sort": [{"field": field}]})
        for field in reversed(fields)
    ]


def _legend() -> Builder[common.VizLegendOptions]:
    return (
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    config = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return config.steps([models.Threshold(value=value, color=color) for value, color in steps])
