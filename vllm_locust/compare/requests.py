"""The requests of a run's window, as blocks of time need them.

Rule: those that the summary counts, and no others. What was dropped is no request. Without a warm-up the
window ends with the last request that was not cancelled, and cancelled ones that ended later still count.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vllm_locust.compare.units import Part
from vllm_locust.core.comparison import Array
from vllm_locust.core.comparison_blocks import Requests
from vllm_locust.core.record import CANCELLED, DROPPED, OK
from vllm_locust.results.requests import Requests as RequestColumns

_ROUNDING_S = 1e-6


def requests_of(part: Part) -> Requests | None:
    """Those that count in the window of the part; None without a window or its requests."""
    start_s, end_s = part.numbers.get("start_s"), part.numbers.get("end_s")
    if part.results is None or start_s is None or end_s is None or end_s <= start_s:
        return None
    found = part.results.requests
    mine = ~found.is_word("outcome", DROPPED)
    if "phase" in part.numbers:
        mine &= found["phase"] == part.numbers["phase"]
    found = found.take(mine & _counted(found, part.numbers, (start_s, end_s)))
    if not len(found):
        return None
    ok = found.is_word("outcome", OK)
    columns: dict[str, Array] = {
        "ttft": np.where(ok, found["ttft_s"], np.nan) * 1000,
        "tpot": np.where(ok, found["tpot_s"], np.nan) * 1000,
        "e2el": np.where(ok, found["total_s"], np.nan) * 1000,
        "failed": (~ok).astype(float),
        "ok": ok.astype(float),
        "output_tokens": np.where(ok, np.maximum(found["output_tokens"], 0), 0).astype(float),
        "tokens": np.where(
            ok, np.maximum(found["output_tokens"], 0) + np.maximum(found["prompt_tokens"], 0), 0
        ).astype(float),
    }
    run = part.results.run or {}
    columns["good"] = _good(columns, ok, (run.get("options") or {}).get("goodput_ms") or {})
    return Requests(found["ended_s"] - start_s, end_s - start_s, columns, columns["e2el"] / 1000)


def _counted(found: RequestColumns, numbers: Mapping[str, Any], window_s: tuple[float, float]) -> Any:
    ended_s, (start_s, end_s) = found["ended_s"], window_s
    # requests.jsonl has microseconds only.
    inside = (ended_s >= start_s - _ROUNDING_S) & (ended_s <= end_s + _ROUNDING_S)
    failed = ~(found.is_word("outcome", OK) | found.is_word("outcome", DROPPED))
    if int((inside & failed).sum()) < (numbers.get("failed") or 0):
        inside |= found.is_word("outcome", CANCELLED) & (ended_s > end_s)
    return inside


def _good(columns: Mapping[str, Array], ok: Any, limits_ms: Mapping[str, float]) -> Array:
    good = ok.copy()
    for name, limit_ms in limits_ms.items():
        good &= ~(columns[name] > limit_ms)
    kept: Array = good.astype(float)
    return kept
