"""What all boards have in common: frame, variables, marks on the time axis, links to each other, JSON.

Rule: a board is rows of equally wide panels, from top to bottom. A variable that nothing is chosen for stands
for all there is in the time shown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from .panels import DATASOURCE, Panel
from .promql import SERVER

TAG = "vllm-locust"
PHASES = "Phases"
SERVER_DOWN = "Server down"

_GRID_COLUMNS = 24
# The version that the panels are written for. Without one Grafana takes them for older than 11.1, and draws
# only one line of each XY chart.
_GRAFANA = "11.6.0"
# What Grafana knows of a mark that is a query of Prometheus, and its SDK does not: added to the JSON.
_MARK_FORMATS: Mapping[str, Mapping[str, str]] = {
    PHASES: {"titleFormat": "{{title}}", "textFormat": "run {{run}}, phase {{phase}}"},
    SERVER_DOWN: {"titleFormat": "server down", "textFormat": "{{server}}"},
}
_MARK_STEP = "1s"
_UP_BEFORE = "1h"

Variable = Any
"""A builder of any kind of variable."""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side; `height` is in the grid's units of 38 pixels."""

    height: int
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    """One screen."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]

    def to_json(self) -> str:
        """The file that Grafana reads."""
        content = json.loads(JSONEncoder(sort_keys=True).encode(self._build()))
        for mark in content["annotations"]["list"]:
            target = {"expr": mark["expr"], "interval": _MARK_STEP, "refId": "Anno"}
            mark |= {"target": target, **_MARK_FORMATS[mark["name"]]}
        for panel in content["panels"]:
            panel["pluginVersion"] = _GRAFANA
        return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def _build(self) -> models.Dashboard:
        board = dashboard.Dashboard(self.title).uid(self.uid).description(self.description).tags([TAG])
        board.time("now-15m", "now").refresh("5s").tooltip(models.DashboardCursorSync.CROSSHAIR)
        board.timepicker(dashboard.TimePicker().refresh_intervals(["1s", "5s", "10s", "30s", "1m"]))
        board.variables([_datasource(), *self.variables]).annotations(_annotations()).links([_others()])
        y = 0
        number = 0
        for row in self.rows:
            width = _GRID_COLUMNS // len(row.panels)
            for column, panel in enumerate(row.panels):
                number += 1
                panel.id(number).grid_pos(models.GridPos(h=row.height, w=width, x=column * width, y=y))
                board.with_panel(panel)
            y += row.height
        return board.build()


def runs() -> Variable:
    """The runs in the time shown, the one that was seen last first."""
    seen = "sort_desc(max by (run) (max_over_time(timestamp(vllm_locust_users)[$__range:5s])))"
    return _several(_query("run", "Run", f"query_result({seen})", kind=3)).regex('/run="([^"]*)"/')


def workload() -> list[Variable]:
    """What the runs asked, and whom."""
    users = 'vllm_locust_users{run=~"$run"}'
    return [_values("scenario", "Scenario", users), _values("model", "Model", users)]


def profile() -> Variable:
    return _values("profile", "Profile", 'vllm_locust_requests_total{run=~"$run"}')


def server() -> Variable:
    servers = _values("server", "Server", "vllm_locust_server_up")
    return servers.description(
        "Servers are watched with and without runs: choosing a Run does not narrow them."
    )


def load_unit() -> Variable:
    """One of `users` and `rate`, users first."""
    levels = 'label_values(vllm_locust_phase_level{run=~"$run"}, unit)'
    return _query("unit", "Load in", levels).sort(models.VariableSort.ALPHABETICAL_DESC)


def choice(name: str, title: str, options: Mapping[str, str], chosen: str) -> Variable:
    """One of these values, which are shown by the names in front of them."""
    listed = [
        models.VariableOption(text=text, value=option, selected=text == chosen)
        for text, option in options.items()
    ]
    variable = dashboard.CustomVariable(name).label(title).multi(False).options(listed)
    variable.values(", ".join(f"{text} : {option}" for text, option in options.items()))
    return variable.current(next(option for option in listed if option.selected))


def _datasource() -> Variable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _values(label: str, title: str, metric: str) -> Variable:
    listed = _query(label, title, f"label_values({metric}, {label})")
    return _several(listed).sort(models.VariableSort.ALPHABETICAL_ASC)


def _query(name: str, title: str, query: str, kind: int = 1) -> Variable:
    """`kind` is Grafana's number for what the query is: 1 for `label_values`, 3 for `query_result`."""
    variable = dashboard.QueryVariable(name).label(title).datasource(DATASOURCE)
    variable.query({"qryType": kind, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
    return variable.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.DISABLED)


def _several(variable: dashboard.QueryVariable) -> Variable:
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def _annotations() -> list[Builder[models.AnnotationQuery]]:
    return [
        _annotation(PHASES, 'vllm_locust_phase_info{run=~"$run"}', "blue"),
        _annotation(SERVER_DOWN, _down(), "red"),
    ]


def _down() -> str:
    """Above zero, where a mark stands, while a server is down that was up: some never have any metrics."""
    up = f"vllm_locust_server_up{{{SERVER}}}"
    return f"max by (server) ({up}) == bool 0 and max by (server) (max_over_time({up}[{_UP_BEFORE}])) == 1"


def _annotation(name: str, expr: str, color: str) -> Builder[models.AnnotationQuery]:
    annotation = dashboard.AnnotationQuery().name(name).datasource(DATASOURCE).expr(expr)
    return annotation.icon_color(color).enable(True)


def _others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Boards").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).include_vars(True).keep_time(True)
