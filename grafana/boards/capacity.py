"""Capacity: latencies and throughput against the load, a point for each step, run against run."""

from .board import Board, Row, choice, load_unit, runs, server, workload
from .panels import Column, Panel, curve, steps_table
from .promql import RUN, last

_LOAD = "users or requests/s"
_PERCENTILE = 'quantile="$quantile"'
_UNIT = 'unit="$unit"'


def board() -> Board:
    return Board(
        uid="vllm-locust-capacity",
        title="vLLM capacity",
        description="Steps of ladders and searches: latency and throughput against load, run against run.",
        variables=[
            runs(),
            *workload(),
            server(),
            load_unit(),
            choice("quantile", "Percentile", {"p50": "0.5", "p90": "0.9", "p99": "0.99"}, chosen="p99"),
        ],
        rows=[
            Row(9, _latencies()),
            Row(9, _throughput()),
            Row(10, [_steps()]),
        ],
    )


def _latencies() -> list[Panel]:
    return [
        _latency("TTFT", "ttft", "Bends upwards at the load from which requests queue."),
        _latency("TPOT", "tpot", "Grows with the batch; a jump means prefills between decodes."),
        _latency("ITL", "itl", "Shows stalls between tokens before TPOT does."),
        _latency("E2EL", "e2e", "The sum of it all: compare runs with answers of the same lengths."),
    ]


def _throughput() -> list[Panel]:
    return [
        _against_load(
            "Output tokens/s",
            "phase_output_throughput",
            "short",
            "Flat from some load on: more load brings nothing.",
        ),
        _against_load(
            "Good requests/s, with --goodput",
            "phase_request_goodput",
            "reqps",
            "The top is the load to run at: beyond it requests miss the limits of --goodput. Empty without.",
        ),
        _against_load(
            "Failed requests",
            "phase_error_ratio",
            "percentunit",
            "Where requests fail, latencies are those of the survivors: do not compare such steps.",
        ),
        curve(
            "TTFT, ${quantile:text}, against throughput",
            "The trade-off: the best configuration is the line that is lowest and furthest to the right.",
            "s",
            *_joined("phase_output_throughput", "phase_ttft_seconds", _PERCENTILE),
            "output tokens/s",
        ),
    ]


def _latency(name: str, metric: str, look_for: str) -> Panel:
    points = _joined("phase_level", f"phase_{metric}_seconds", _PERCENTILE)
    return curve(f"{name}, ${{quantile:text}}", look_for, "s", *points, _LOAD)


def _against_load(title: str, metric: str, unit: str, look_for: str) -> Panel:
    return curve(title, look_for, unit, *_joined("phase_level", metric), _LOAD)


def _joined(x: str, y: str, labels: str = "") -> tuple[str, str]:
    """Both of all steps that have both; `labels` are of `y`."""
    values = _last(y, labels)
    return _points(f"{_last(x)} and on (run, phase) {values}"), _points(values)


def _points(values: str) -> str:
    """Those of steps that have a level; the label `line` says which run, and which kind of requests.

    A step's title is the kind and the level, "short_short, 4 users": a ladder may have several kinds.
    """
    steps = f"{values} and on (run, phase) {_last('phase_level', _UNIT)}"
    kinds = f'label_replace({steps}, "kind", "$1", "title", "(.*), [^,]*")'
    return f'max by (line, phase, title) (label_join({kinds}, "line", " ", "run", "kind"))'


def _steps() -> Panel:
    return steps_table(
        "Steps",
        "All steps of the runs shown: a click on a column's head sorts by it.",
        rows=[
            Column("Run", "run"),
            Column("Scenario", "scenario", width=100),
            Column("Model", "model", width=270),
            Column("Phase", "phase", unit="none", width=60),
            Column("Step", "title", width=210),
        ],
        values=[
            Column("Requests/s", _cell("phase_request_throughput"), "reqps", 100),
            Column("Good/s", _cell("phase_request_goodput"), "reqps"),
            Column("Tokens/s", _cell("phase_output_throughput"), "short"),
            Column(
                "Failed",
                _cell("phase_error_ratio"),
                "percentunit",
                steps=[(None, "green"), (0.001, "yellow"), (0.01, "red")],
            ),
            *_percentiles("TTFT", "ttft"),
            *_percentiles("TPOT", "tpot"),
            *_percentiles("ITL", "itl"),
            *_percentiles("E2EL", "e2e"),
        ],
    )


def _percentiles(name: str, metric: str) -> list[Column]:
    return [
        Column(f"{name} {title}", _cell(f"phase_{metric}_seconds", f'quantile="{quantile}"'), "s")
        for title, quantile in (("p50", "0.5"), ("p99", "0.99"))
    ]


def _cell(metric: str, labels: str = "") -> str:
    return f"max by (run, scenario, model, phase, title) ({_last(metric, labels)})"


def _last(metric: str, labels: str = "") -> str:
    return last(metric, f"{RUN}, {labels}" if labels else RUN)
