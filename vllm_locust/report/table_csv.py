"""Rows as CSV: a line for each, for pandas and spreadsheets.

Rule: a column is called what the number is called in summary.json, so that there is one vocabulary, and has
that number with all its digits; what is not known is empty. Columns that every row leaves empty stay: a
program that reads two tables finds the same ones in both, but for the factors.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_locust.results.rows import Row

_ROW = ("run", "workload", "phase", "profile", "level", "unit")
"""Attributes of a row; phases count from 0, as in requests.jsonl."""
_COUNTS = (
    "completed",
    "failed",
    "dropped",
    "error_rate",
    "duration",
    "total_input_tokens",
    "total_output_tokens",
    "total_cached_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_concurrent_requests",
)
_ANSWERS = (
    "in_one_piece",
    "in_few_pieces",
    "of_several_choices",
    "with_hidden_reasoning",
    "shorter_than_asked",
    "perhaps_shorter",
    "usage_below_stream",
    "usage_above_asked",
)
_LATENCIES = tuple(
    f"{statistic}_{family}_ms"
    for family in ("ttft", "tpot", "itl", "e2el")
    for statistic in ("mean", "std", "p50", "p90", "p95", "p99", "max")
)
_SERVER = (
    "kv_cache_usage_peak",
    "kv_cache_usage_mean",
    "requests_running_peak",
    "requests_waiting_peak",
    "preemptions",
    "prefix_cache_hit_rate",
    "mean_queue_ms",
)


def table_csv(rows: Sequence[Row]) -> str:
    """A heading and a line per row, each ended by a newline; only the heading when there are no rows.

    The columns: what the row is of, its factors, `measurement` (the client's verdict, of whole runs), the
    numbers, with `answers_` in front how many answers are odd, behind each percentile the ends of its 95 %
    interval (`_low`, `_high`), and with `server_` in front what the server said. A factor with the name of
    another column is called `factor_` and its name.
    """
    factors = list(dict.fromkeys(name for row in rows for name in row.factors))
    numbers = [_numbers(row) for row in rows]
    known = {*_ROW, *_numbers(Row("", "", {}))}
    heads = {name: f"factor_{name}" if name in known else name for name in factors}
    out = io.StringIO()
    columns = [*_ROW, *heads.values(), *_numbers(Row("", "", {}))]
    table = csv.DictWriter(out, columns, lineterminator="\n")
    table.writeheader()
    for row, values in zip(rows, numbers, strict=True):
        of_row = {name: getattr(row, name) for name in _ROW}
        of_factors = {heads[name]: value for name, value in row.factors.items()}
        table.writerow({**of_row, **of_factors, **values})
    return out.getvalue()


def _numbers(row: Row) -> dict[str, Any]:
    """All columns of numbers, in order; None where the row does not know one."""
    client: Mapping[str, Any] = row.numbers.get("client") or {}
    values: dict[str, Any] = {"measurement": client.get("verdict")}
    values.update({key: row.numbers.get(key) for key in _COUNTS})
    answers = row.numbers.get("answers") or {}
    values.update({f"answers_{key}": answers.get(key) for key in _ANSWERS})
    intervals = row.numbers.get("intervals") or {}
    for key in _LATENCIES:
        values[key] = row.numbers.get(key)
        if key.startswith("p"):
            values[f"{key}_low"], values[f"{key}_high"] = intervals.get(key) or (None, None)
    values.update({f"server_{key}": row.server.get(key) for key in _SERVER})
    return values
