"""`server_metrics.csv`: what the server said of itself over a run, a row per look and engine (or GPU).

Rule: values are as the server gave them: counters and histograms count from the server's start, and what it
did not give is an empty cell, never 0.
"""

import csv
import io
from collections.abc import Iterable

from vllm_locust.core.server import COUNTERS, GAUGES, HISTOGRAMS, EngineState, GpuState, ServerSample

_GPU_COLUMNS = ("gpu", "gpu_utilization", "gpu_memory_used_bytes", "gpu_memory_total_bytes")

COLUMNS = (
    "time_s",
    "source",
    "engine",
    "model_name",
    *GAUGES,
    *(f"{name}_total" for name in COUNTERS),
    *(f"{name}_seconds_{part}" for name in HISTOGRAMS for part in ("sum", "count")),
    *_GPU_COLUMNS,
)
"""`time_s` is in seconds since the run began."""


def header() -> bytes:
    """The first line."""
    return _lines([COLUMNS])


def rows(sample: ServerSample, began_s: float) -> bytes:
    """The lines of one look at a server, for a run that began at `began_s`."""
    time_s = f"{sample.at_s - began_s:.3f}"
    engines = ((time_s, sample.source, *_engine_cells(engine)) for engine in sample.engines)
    gpus = ((time_s, sample.source, *_gpu_cells(gpu)) for gpu in sample.gpus)
    return _lines([*engines, *gpus])


def _engine_cells(engine: EngineState) -> list[object]:
    cells: list[object] = [engine.engine, engine.model_name]
    cells += [engine.gauges.get(name, "") for name in GAUGES]
    cells += [engine.counters.get(name, "") for name in COUNTERS]
    for name in HISTOGRAMS:
        histogram = engine.histograms.get(name)
        cells += ["", ""] if histogram is None else [histogram.sum_s, histogram.count]
    return cells + [""] * len(_GPU_COLUMNS)


def _gpu_cells(gpu: GpuState) -> list[object]:
    before = [""] * (len(COLUMNS) - 2 - len(_GPU_COLUMNS))
    values = (gpu.utilization_ratio, gpu.memory_used_bytes, gpu.memory_total_bytes)
    return [*before, gpu.gpu, *("" if value is None else value for value in values)]


def _lines(table: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue().encode()
