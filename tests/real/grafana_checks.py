"""Every query under `grafana/`, asked of a real Prometheus as Grafana would; what promtool says of the rest.

A query fails when it is an error, has no series, or only NaN. What may be empty stands in `MAY_BE_EMPTY`,
with the reason; an alert's expression need only be sound, since it is empty while all is well.
"""

import json
import math
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"

MAY_BE_EMPTY = {
    "vllm_locust_server_gpu_utilization_ratio": "a machine without a GPU",
    "vllm_locust_server_gpu_memory_used_bytes": "a machine without a GPU",
    "vllm_locust_request_rate_target": "a closed loop has no rate",
}
"""A query that asks for one of these may have no answer, and why."""

_SHORTEST_STEP_S = 1
_MOST_POINTS = 600

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A query as it is written, and what Grafana needs to know to ask it.

    `instant` asks at the end of the range only, which is what makes a difference to totals of it.
    """

    where: str
    expr: str
    step_s: int = _SHORTEST_STEP_S
    instant: bool = False
    may_be_empty: bool = False


class Prometheus:
    """A server's answers about a range of time, in seconds since 1970."""

    def __init__(self, url: str, began_s: float, ended_s: float) -> None:
        self.url = url
        self.began_s = began_s
        self.ended_s = ended_s

    @property
    def range_s(self) -> int:
        return max(math.ceil(self.ended_s - self.began_s), 1)

    def values(self, expr: str, step_s: int, instant: bool) -> list[float]:
        """All values of all series. ValueError when the query is none."""
        if instant:
            series = self._get("query", query=expr, time=self.ended_s)["result"]
            return [float(each["value"][1]) for each in series]
        fields = {"start": self.began_s, "end": self.ended_s, "step": step_s}
        series = self._get("query_range", query=expr, **fields)["result"]
        return [float(value) for each in series for _, value in each["values"]]

    def label_values(self, selector: str, label: str) -> list[str]:
        fields = {"match[]": selector, "start": self.began_s, "end": self.ended_s}
        found: list[str] = self._get(f"label/{label}/values", **fields)
        return found

    def result_lines(self, expr: str) -> list[str]:
        """The series of an instant query as Grafana writes them for a variable's regular expression."""
        return [
            "{" + ",".join(f'{name}="{value}"' for name, value in each["metric"].items()) + "}"
            for each in self._get("query", query=expr, time=self.ended_s)["result"]
        ]

    def _get(self, path: str, **fields: Any) -> Any:
        try:
            with urlopen(f"{self.url}/api/v1/{path}?{urlencode(fields)}", timeout=30) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None


def unanswered_queries(url: str, began_s: float, ended_s: float) -> list[str]:
    """A line for each query of a board or rule that has no proper answer for this range of time."""
    prometheus = Prometheus(url, began_s, ended_s)
    problems = []
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        variables, problem = _variables(board, prometheus)
        problems += [f"{path.stem}, {each}" for each in problem]
        for chosen in variables:
            problems += [
                f"{path.stem}, {each}" for each in _unanswered(_questions(board), chosen, prometheus)
            ]
    problems += _unanswered(_rules(), {}, prometheus)
    return list(dict.fromkeys(problems))


def panel_values(
    url: str, began_s: float, ended_s: float, place: tuple[str, str, str], every_s: int | None = None
) -> list[float]:
    """What a query says over this range of time when nothing is chosen; `place` is board, panel and refId.

    `every_s` asks for values closer together than Grafana does, over the same windows.
    """
    name, title, ref = place
    prometheus = Prometheus(url, began_s, ended_s)
    board = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    (question,) = (each for each in _questions(board) if each.where == f"{title}, {ref}")
    variables, _ = _variables(board, prometheus)
    expr, step_s = _as_asked(question, variables[-1], prometheus)
    return prometheus.values(expr, every_s or step_s, question.instant)


def promtool_problems() -> list[str]:
    """What promtool has against the configuration, the rules and their tests."""
    problems = []
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules/vllm-locust.yml"),
        ("test", "rules", "rules/tests.yml"),
    ):
        command = ["promtool", *arguments]
        done = subprocess.run(command, cwd=GRAFANA, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            problems.append(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return problems


def _questions(board: Json) -> Iterator[Question]:
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield Question(
                f"{panel['title']}, {target['refId']}",
                target["expr"],
                int(target["interval"].removesuffix("s")),
                target.get("instant", False) and "$__range" in target["expr"],
            )
    for mark in board["annotations"]["list"]:
        target = mark["target"]
        yield Question(f"mark {mark['name']}", target["expr"], int(target["interval"].removesuffix("s")))


def _rules() -> Iterator[Question]:
    groups = yaml.safe_load((GRAFANA / "rules" / "vllm-locust.yml").read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule.get("record") or rule["alert"]
        yield Question(f"rule {name}", rule["expr"], may_be_empty="alert" in rule)


def _unanswered(
    questions: Iterable[Question], chosen: Mapping[str, str], prometheus: Prometheus
) -> Iterator[str]:
    for question in questions:
        expr, step_s = _as_asked(question, chosen, prometheus)
        empty_is_fine = question.may_be_empty or any(name in question.expr for name in MAY_BE_EMPTY)
        try:
            values = prometheus.values(expr, step_s, question.instant)
        except ValueError as error:
            yield f"{question.where}: {error}: {expr}"
            continue
        if not values and not empty_is_fine:
            yield f"{question.where}: no answer: {expr}"
        elif values and all(map(math.isnan, values)):
            yield f"{question.where}: only NaN: {expr}"


def _as_asked(question: Question, chosen: Mapping[str, str], prometheus: Prometheus) -> tuple[str, int]:
    """With variables and Grafana's macros filled in, and at which step in seconds."""
    step_s = max(question.step_s, math.ceil(prometheus.range_s / _MOST_POINTS))
    window_s = max(step_s + question.step_s, 4 * question.step_s)
    macros = {"__rate_interval": f"{window_s}s", "__range": f"{prometheus.range_s}s"}
    return _fill(question.expr, {**chosen, **macros}), step_s


def _variables(board: Json, prometheus: Prometheus) -> tuple[list[dict[str, str]], list[str]]:
    """What variables may stand for: all values there are, with each choice in turn; and All, once."""
    filled = {"__range": f"{prometheus.range_s}s"}
    choices: dict[str, list[str]] = {}
    problems = []
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "custom":
            choices[name] = [option["value"] for option in variable["options"]]
        elif variable["type"] == "query":
            values = _offered(variable, filled, prometheus)
            if not values:
                problems.append(f"variable {name}: no values")
            elif variable["multi"]:
                filled[name] = f"({'|'.join(_escaped(value) for value in values)})"
            else:
                filled[name] = values[0]
    picked = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    everything = {
        variable["name"]: variable["allValue"]
        for variable in board["templating"]["list"]
        if variable.get("includeAll")
    }
    return [*(filled | each for each in picked), filled | everything | picked[0]], problems


def _offered(variable: Json, filled: Mapping[str, str], prometheus: Prometheus) -> list[str]:
    query = _fill(variable["query"]["query"], filled)
    if match := re.fullmatch(r"label_values\((.*), (\w+)\)", query):
        values = prometheus.label_values(*match.groups())
        return sorted(values, reverse=variable["sort"] == 2)
    match = re.fullmatch(r"query_result\((.*)\)", query)
    assert match, f"neither label_values nor query_result: {query}"
    pattern = re.compile(variable["regex"].strip("/"))
    return [found[1] for line in prometheus.result_lines(match[1]) if (found := pattern.search(line))]


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of `$name`, `${name}` and `${name:format}`; what is no variable stays."""

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", value, text)


def _escaped(value: str) -> str:
    """For a regular expression within quotes, as Grafana does it for Prometheus."""
    return re.sub(r"[\\^$.*+?()[\]{}|]", lambda match: f"\\\\{match[0]}", value)
