"""server_metrics.csv holds what the server said, and nothing where it said nothing."""

import csv
import io

from vllm_locust.core.server import EngineState, GpuState, HistogramState, ServerSample
from vllm_locust.core.server_table import COLUMNS, header, rows


def read(lines: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(lines.decode())))


def test_a_row_per_engine_and_gpu() -> None:
    engine = EngineState(
        "1",
        'a "model", named',
        {"running": 3.0, "kv_cache_usage": 0.25},
        {"preemptions": 7.0},
        {"ttft": HistogramState((0.1, 0.2), (1, 2, 3), 1.5)},
    )
    sample = ServerSample(
        "a:8000", 101.25, (engine, EngineState("2", "m")), (GpuState("0", 0.5, None, 80e9),)
    )
    one, two, gpu = read(header() + rows(sample, 100.0))
    known = {name: value for name, value in one.items() if value}
    assert known == {
        "time_s": "1.250",
        "source": "a:8000",
        "engine": "1",
        "model_name": 'a "model", named',
        "running": "3.0",
        "kv_cache_usage": "0.25",
        "preemptions_total": "7.0",
        "ttft_seconds_sum": "1.5",
        "ttft_seconds_count": "6",
    }
    assert {name: value for name, value in two.items() if value} == {
        "time_s": "1.250", "source": "a:8000", "engine": "2", "model_name": "m",
    }  # fmt: skip
    assert {name: value for name, value in gpu.items() if value} == {
        "time_s": "1.250",
        "source": "a:8000",
        "gpu": "0",
        "gpu_utilization": "0.5",
        "gpu_memory_total_bytes": "80000000000.0",
    }


def test_the_first_line_names_all_columns() -> None:
    assert header().decode().strip().split(",") == list(COLUMNS)
