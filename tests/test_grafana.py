"""The boards are what their code says, and ask for metrics that exist; the files around them fit together.

Nothing is started here. What the queries answer is tested against a real Prometheus in tests/real.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from grafana.boards.__main__ import DASHBOARDS, boards
from tests.observe.made_runs import GOODPUT_MS, a_run, a_sample, engine, requests
from tests.test_deploy import parse
from vllm_locust.core.server import COUNTERS, GAUGES, HISTOGRAMS, GpuState, HistogramState
from vllm_locust.load.settings import read_settings
from vllm_locust.observe.addresses import DEFAULT_PORT
from vllm_locust.observe.live import LoadState
from vllm_locust.observe.metrics import Page
from vllm_locust.observe.status import ServerStatus

ROOT = Path(__file__).parents[1]
GRAFANA = ROOT / "grafana"

Json = dict[str, Any]

FILES: Mapping[str, Json] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))
}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, board in FILES.items()
    for panel in board["panels"]
]

OF_ANY_EXPORTER = "max by (server, engine, model_name, gpu, le) "

FORMATS = {"target", "titleFormat", "textFormat"}
"""What Grafana knows of an annotation that is a query of Prometheus, and its SDK does not."""


def read(path: str) -> Any:
    return yaml.safe_load((GRAFANA / path).read_text(encoding="utf-8"))


def targets() -> Iterator[tuple[str, Json]]:
    for name, board in FILES.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target


def rules() -> list[Json]:
    return [rule for group in read("rules/vllm-locust.yml")["groups"] for rule in group["rules"]]


# -- boards -----------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_makes() -> None:
    made = {name: board.to_json() for name, board in boards().items()}
    found = {path.stem: path.read_text(encoding="utf-8") for path in DASHBOARDS.iterdir()}
    assert found == made, "python -m grafana.boards writes them"


def through_the_schema(board: Json) -> Json:
    """The board as Grafana's own types read and write it, which drop what they do not know."""
    register_default_plugins()
    again: Json = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    return again


def without_formats(board: Json) -> Json:
    marks = [
        {key: value for key, value in mark.items() if key not in FORMATS}
        for mark in board["annotations"]["list"]
    ]
    return board | {"annotations": board["annotations"] | {"list": marks}}


@pytest.mark.parametrize("name", FILES)
def test_grafanas_schema_knows_every_key(name: str) -> None:
    board = without_formats(FILES[name])
    assert through_the_schema(board) == board


@pytest.mark.parametrize("panel", PANELS)
def test_grafana_takes_no_panel_for_an_old_one(panel: Json) -> None:
    """It changes XY charts of before 11.1, which those are that have no version."""
    major, minor, _ = map(int, panel["pluginVersion"].split("."))
    assert (major, minor) >= (11, 1)


def test_limits_and_maxima_are_about_one_axis() -> None:
    """What stands in a panel's defaults holds for all its axes."""
    for name, board in FILES.items():
        for panel in board["panels"]:
            defaults = panel["fieldConfig"]["defaults"]
            for override in panel["fieldConfig"]["overrides"]:
                found = {each["id"]: each["value"] for each in override["properties"]}
                if found.get("custom.axisPlacement") == "right":
                    assert "max" not in defaults, f"{name}: {panel['title']}"
                    assert found["custom.thresholdsStyle"] == {"mode": "off"}, f"{name}: {panel['title']}"


@pytest.mark.parametrize("name", FILES)
def test_marks_on_the_time_axis_have_names(name: str) -> None:
    marks = FILES[name]["annotations"]["list"]
    assert {mark["name"]: mark["titleFormat"] for mark in marks} == {
        "Phases": "{{title}}",
        "Server down": "server down",
    }
    for mark in marks:
        assert mark.keys() >= FORMATS
        assert mark["target"]["expr"] == mark["expr"], "which of the two is read depends on Grafana's version"


@pytest.mark.parametrize(
    "path",
    [
        ("panels", 0, "options"),
        ("panels", 9, "fieldConfig", "defaults", "custom"),
        ("panels", 9, "targets", 0),
    ],
    ids=lambda path: path[-2] if path[-1] == 0 else path[-1],
)
def test_a_misspelt_key_would_be_found(path: tuple[str | int, ...]) -> None:
    board = without_formats(json.loads(json.dumps(FILES["load-test"])))
    place: Any = board
    for step in path:
        place = place[step]
    place["lineWitdh"] = 1
    assert through_the_schema(board) != board


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: Json) -> None:
    assert panel["title"]
    assert re.fullmatch(r"[A-Z0-9].{30,}\.", panel["description"]), "a sentence on what to look for"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for each in (panel, *panel["targets"]):
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", FILES)
def test_panels_fill_the_screen_without_overlap(name: str) -> None:
    panels = FILES[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = max(y for _, y in taken) + 1
    assert sorted(taken) == [(x, y) for x in range(24) for y in range(height)]


def test_the_load_test_fits_on_a_screen() -> None:
    """Of 1080 lines a browser in full screen and the board's own head leave 980, in units of 38."""
    places = [panel["gridPos"] for panel in FILES["load-test"]["panels"]]
    assert max(place["y"] + place["h"] for place in places) <= 980 / 38


def test_boards_are_found_and_lead_to_each_other() -> None:
    assert len({board["uid"] for board in FILES.values()}) == len(FILES) == 3
    for board in FILES.values():
        assert board["tags"] == ["vllm-locust"]
        (link,) = board["links"]
        assert (link["type"], link["tags"], link["includeVars"]) == ("dashboards", board["tags"], True)
        assert (board["time"]["from"], board["refresh"]) == ("now-15m", "5s")


# -- queries ----------------------------------------------------------------------------------------------


def exported() -> Mapping[str, set[str]]:
    """The labels of each sample that the exporter can have."""
    _, run = a_run(requests(100, Random(1)), goodput_ms=GOODPUT_MS)
    run.state(1.0, LoadState(8, 5, 12.5, {"client": 0.25}, "kernel", "running"))
    server = a_sample(
        engine(
            histograms=dict.fromkeys(HISTOGRAMS, HistogramState((0.1,), (3, 1), 4.5)),
            **dict.fromkeys((*GAUGES, *COUNTERS), 1.0),
        ),
        gpus=[GpuState("0", 0.5, 100.0, 200.0)],
    )
    page = Page(run, [ServerStatus("h:1", True, sample=server, scrape_s=0.004)]).render().decode()
    samples = chain.from_iterable(family.samples for family in text_string_to_metric_families(page))
    labels: dict[str, set[str]] = {}
    for sample in samples:
        labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def expressions() -> Iterator[tuple[str, str]]:
    for where, target in targets():
        yield where, target["expr"]
    for name, board in FILES.items():
        for mark in board["annotations"]["list"]:
            yield f"{name}, mark {mark['name']}", mark["expr"]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}, variable {variable['name']}", variable["query"]["query"]
    for rule in rules():
        yield f"rule {rule.get('record') or rule['alert']}", rule["expr"]


def test_only_metrics_and_labels_that_the_exporter_has_are_asked_for() -> None:
    known = exported()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = set()
    for where, expr in expressions():
        for name, selector in re.findall(r"\b(vllm_locust[\w:]+)(?:\{([^}]*)\})?", expr):
            if name in recorded:
                continue
            assert name in known, where
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= known[name], where
            asked.add(name)
        for name, label in re.findall(r"label_values\((\w+)[^)]*\}?, (\w+)\)", expr):
            assert label in known[name], where
    assert len(asked) > 50, "the names were found at all"


@pytest.mark.parametrize("name", FILES)
def test_variables_exist_and_are_used(name: str) -> None:
    board = FILES[name]
    given = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(board, ensure_ascii=False)))
    assert used == given


def test_legends_name_labels_that_are_kept() -> None:
    for where, target in targets():
        seen_outside = target["expr"].replace(OF_ANY_EXPORTER, "")
        kept = set(re.split(r"\W+", ",".join(re.findall(r"by \(([^)]*)\)", seen_outside))))
        if "split" in kept:
            kept |= {"profile", "run"}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, where


def test_a_server_that_two_exporters_see_counts_once() -> None:
    """A histogram's buckets, a counter, a gauge: whichever is summed."""
    asked = [
        (where, target["expr"]) for where, target in targets() if "vllm_locust_server_" in target["expr"]
    ]
    assert len(asked) > 20
    for where, expr in asked:
        assert expr.count(OF_ANY_EXPORTER) == expr.count("vllm_locust_server_"), where


def test_numbers_are_those_of_the_end_of_the_time_shown() -> None:
    """The last value within the time shown may be of a run that is long over."""
    tiles = [panel for board in FILES.values() for panel in board["panels"] if panel["type"] == "stat"]
    assert tiles
    assert all(target["instant"] and not target["range"] for tile in tiles for target in tile["targets"])


def test_rates_look_back_at_least_as_far_as_workers_need() -> None:
    """They report every 3 s; $__rate_interval is four times the target's interval."""
    windows = [target for _, target in targets() if "$__rate_interval" in target["expr"]]
    assert windows
    assert all(4 * int(target["interval"].removesuffix("s")) >= 15 for target in windows)
    assert not [where for where, target in targets() if re.search(r"rate\([^\[]*\[(?!\$)", target["expr"])]


# -- rules ------------------------------------------------------------------------------------------------


def test_alerts_say_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}
            assert len(rule["annotations"]["description"]) > 100


def test_every_rule_is_tested() -> None:
    """By promtool, which tests/real calls; an alert that fires as well as one that does not."""
    ours = (GRAFANA / "rules" / "tests.yml").read_text(encoding="utf-8")
    fires = {
        test["alertname"]
        for group in read("rules/tests.yml")["tests"]
        for test in group.get("alert_rule_test", ())
        if test.get("exp_alerts")
    }
    assert fires == {rule["alert"] for rule in rules() if "alert" in rule}
    assert all(rule["record"] in ours for rule in rules() if "record" in rule)


# -- what is around the boards ------------------------------------------------------------------------------


def compose(**variables: str) -> Json:
    """With its variables filled in as Compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, word = match.groups()
        found = variables.get(name, "")
        return (word if found else "") if kind == "+" else (found or word)

    text = (GRAFANA / "compose.yaml").read_text(encoding="utf-8")
    filled: Json = yaml.safe_load(re.sub(r"\$\{(\w+):([-+])([^}]*)\}", value, text))
    return filled


@pytest.mark.parametrize("path", sorted(GRAFANA.rglob("*.y*ml")), ids=lambda path: path.name)
def test_yaml_can_be_read_and_holds_no_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)
    assert not re.search(r"Bearer|\bsk-|hf_\w|(?i:password|secret)\s*[:=]", text)


def test_containers_open_ports_to_this_machine_only() -> None:
    for name, service in compose()["services"].items():
        assert service["ports"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert "network_mode" not in service, name
        assert service["cap_drop"] == ["ALL"], name


def test_images_are_pinned_and_vllm_is_only_there_when_asked_for() -> None:
    services = compose()["services"]
    for name, service in services.items():
        if name == "locust":
            assert (GRAFANA / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
    assert [name for name, service in services.items() if "profiles" in service] == ["vllm"]


def mounts() -> dict[str, Path]:
    """What each place in a container is in the checkout."""
    found = {}
    for service in compose()["services"].values():
        for volume in service.get("volumes", ()):
            if isinstance(volume, dict):
                source, target, mode = volume["source"], volume["target"], ""
            else:
                source, target, mode = (*volume.split(":"), "")[:3]
            if source.startswith("."):
                assert mode == "ro" or target == "/app/results", "only results are written"
                found[target] = (GRAFANA / source).resolve()
    return found


def test_every_mounted_path_exists() -> None:
    found = mounts()
    assert found.pop("/app/results") == ROOT / "results"  # the user makes it
    assert len(found) == 4
    assert all(path.exists() for path in found.values())


@pytest.mark.parametrize("variables", [{}, {"TARGET": "http://192.0.2.10:8000", "OPTIONS": "-u 8 -r 8"}])
def test_locusts_options_are_right_and_prometheus_finds_its_exporter(variables: dict[str, str]) -> None:
    filled = compose(**variables)
    options = parse(shlex.split(filled["services"]["locust"]["command"]))
    assert read_settings(options)[1] == []
    assert options.host == variables.get("TARGET")
    assert (ROOT / options.locustfile).is_file()
    host, _, port = options.exporter_port.partition(":")
    assert host == "0.0.0.0", "else only its own container reaches it"
    (job,) = read("prometheus.yml")["scrape_configs"]
    (files,) = job["file_sd_configs"]
    (config,) = filled["services"]["prometheus"]["configs"]
    assert config["target"] == f"/etc/prometheus/{files['files'][0]}"
    assert yaml.safe_load(filled["configs"][config["source"]]["content"]) == [{"targets": [f"locust:{port}"]}]


def test_prometheus_without_containers_finds_the_exporter_where_it_listens_unasked() -> None:
    assert read("targets.yml") == [{"targets": [f"localhost:{DEFAULT_PORT}"]}]
    config = read("prometheus.yml")
    (job,) = config["scrape_configs"]
    assert all(
        (GRAFANA / path).is_file() for path in (*job["file_sd_configs"][0]["files"], *config["rule_files"])
    )


def test_prometheus_starts_anew_for_another_exporter() -> None:
    """Compose looks at the service, not at what its configs hold."""
    first, second = (compose(**variables)["services"] for variables in ({}, {"EXPORTER": "192.0.2.1:9646"}))
    assert first["prometheus"] != second["prometheus"]
    assert first["grafana"] == second["grafana"]


def test_grafana_finds_boards_and_prometheus() -> None:
    services = compose()["services"]
    found = mounts()
    environment = services["grafana"]["environment"]
    (provider,) = read("provisioning/dashboards/vllm-locust.yml")["providers"]
    assert found[provider["options"]["path"]] == DASHBOARDS
    assert found["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    folder, _, home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rpartition("/")
    assert (found[folder] / home).is_file()
    (source,) = read("provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "$PROMETHEUS_URL"
    assert environment["PROMETHEUS_URL"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in services["prometheus"]["ports"]
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]


def test_nobody_can_log_in_and_change_grafana() -> None:
    environment = compose()["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
