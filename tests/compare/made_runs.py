"""Results folders whose numbers are known, and what a comparison says of a metric."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from vllm_locust.compare.judge import Judged
from vllm_locust.compare.result import Comparison

DURATION_S = 60.0


def write_run(folder: Path, *, seed: int = 0, factor: float = 1.0, count: int = 240, **changes: Any) -> Path:
    """A run whose latencies are `factor` times the usual; `changes` are keys of its summary, or `start_time`.

    From seed to seed they differ by about one per cent.
    """
    generator = np.random.default_rng(seed)
    total_s = 0.3 * factor * generator.lognormal(0, 0.1, count) * generator.lognormal(0, 0.005)
    ended_s = np.sort(generator.uniform(0, DURATION_S, count))
    folder.mkdir(parents=True)
    lines = [
        {
            "index": index,
            "outcome": "ok",
            "phase": 0,
            "ended_s": ended,
            "total_s": total,
            "ttft_s": total * 0.3,
            "tpot_s": total * 0.07,
            "output_tokens": 11,
            "prompt_tokens": 50,
        }
        for index, (ended, total) in enumerate(zip(ended_s.tolist(), total_s.tolist(), strict=True))
    ]
    (folder / "requests.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    run = {"scenario": "made", "options": {}, "start_time": changes.pop("start_time", None)}
    summary = {
        "scenario": "made",
        "model_id": "m",
        "completed": count,
        "failed": 0,
        "error_rate": 0.0,
        "start_s": 0.0,
        "end_s": DURATION_S,
        "total_input_tokens": 50 * count,
        "total_output_tokens": 11 * count,
        "requests": {"planned": count, "dropped": 0},
        "client": {"verdict": "valid", "reasons": []},
        "request_throughput": count / DURATION_S / factor,
        "output_throughput": 11 * count / DURATION_S / factor,
        "request_goodput": None,
        "mean_tpot_ms": float(total_s.mean()) * 70,
        "p99_tpot_ms": float(np.percentile(total_s, 99)) * 70,
        "p99_itl_ms": float(np.percentile(total_s, 99)) * 80,
        "p50_ttft_ms": float(np.percentile(total_s, 50)) * 300,
        "p99_ttft_ms": float(np.percentile(total_s, 99)) * 300,
        "p50_e2el_ms": float(np.percentile(total_s, 50)) * 1000,
        "p99_e2el_ms": float(np.percentile(total_s, 99)) * 1000,
        "phases": [{"phase": 0, "name": "made", "start_s": 0.0, "end_s": DURATION_S}],
        **changes,
    }
    (folder / "run.json").write_bytes(orjson.dumps(run))
    (folder / "summary.json").write_bytes(orjson.dumps(summary))
    return folder


def write_runs(folder: Path, runs: int, *, seed: int = 0, **more: Any) -> Path:
    """Several, one a minute, in folders of their own."""
    for number in range(runs):
        start = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat()
        write_run(folder / f"{number:02}", seed=seed + number, **{"start_time": start, **more})
    return folder


def write_in_order(
    folder: Path,
    order: str,
    *,
    drift: float = 0.0,
    factor: float = 1.0,
    seed: int = 0,
    pause: int = 0,
    **more: Any,
) -> tuple[Path, Path]:
    """Runs `a` and `b` in this order, one a minute; the last is slower than the first by `drift`.

    All runs of `b` are slower by `factor` besides. Between the halves are `pause` minutes more, in which the
    drift goes on.
    """
    minutes = [number + pause * (2 * number >= len(order)) for number in range(len(order))]
    for number, (side, minute) in enumerate(zip(order, minutes, strict=True)):
        write_run(
            folder / side / f"{number:02}",
            seed=seed + number,
            factor=(1 + drift * minute / minutes[-1]) * (factor if side == "b" else 1.0),
            start_time=(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)).isoformat(),
            **more,
        )
    return folder / "a", folder / "b"


def verdicts(comparison: Comparison) -> dict[str, str]:
    (cell,) = comparison.cells
    return {metric.key: metric.verdict for metric in cell.metrics}


def metric(comparison: Comparison, key: str) -> Judged:
    return next(one for cell in comparison.cells for one in cell.metrics if one.key == key)
