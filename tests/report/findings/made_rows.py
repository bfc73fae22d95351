"""Rows made by hand, and those of experiments that were published with all their numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vllm_locust.results.rows import Factor, Row


def a_row(
    run: str = "base",
    workload: str = "chat",
    factors: Mapping[str, Factor] | None = None,
    server: Mapping[str, Any] | None = None,
    place: Mapping[str, Any] | None = None,
    **numbers: Any,
) -> Row:
    """A row with these numbers; `place` says its phase, profile, level and unit."""
    if server is not None:
        numbers["server"] = {"samples": 1, **server}
    return Row(run, workload, numbers, factors=factors or {}, **(place or {"unit": "requests/s"}))


def repeats(values: Sequence[float], run: str, key: str, **more: Any) -> list[Row]:
    """A row for each repeat of a configuration, which differ in one number."""
    factors = more.pop("factors", {})
    return [
        a_row(
            run if repeat == 1 else f"{run}#{repeat}",
            factors={**factors, "repeat": repeat},
            **{**more, key: value},
        )
        for repeat, value in enumerate(values, 1)
    ]


def at_level(profile: str, users: float, server: Mapping[str, Any] | None = None, **numbers: Any) -> Row:
    """A phase of a ladder of profiles."""
    place = {"phase": 0, "profile": profile, "level": users, "unit": "users"}
    return a_row("run", "tiny.x", server=server, place=place, **numbers)


# Chunked prefill on and off, and max_num_batched_tokens: Qwen2.5-72B-GPTQ-Int4, ShareGPT, 1000 prompts.
_ROUNDS = """
on-64   458.11 2.18 433.92 220089 435865 67.91  72.16   68.05  72.45   1000
on-128  407.00 2.46 487.56 189093 377978 119.23 133.46  118.04 127.46  1000
on-256  390.70 2.56 508.80 165589 349869 222.05 253.39  216.90 454.54  1000
on-512  393.35 2.54 505.39 145934 331527 413.37 485.53  387.35 712.21  1000
on-2048 404.65 2.47 490.90 145588 333788 546.50 1553.99 440.14 1557.57 1000
on-4096 403.73 2.48 491.83 145208 333073 576.98 3010.28 440.17 2020.04 1000
on-8192 403.80 2.48 492.07 145192 333630 590.15 3091.14 439.71 1798.01 1000
off-256  48.48 6.11 600.72 8354   18644  409    1815    247    580     296
off-512 194.36 3.60 558.42 59907  149117 527    2689    372    987     700
off-2048 403.04 2.48 492.98 142572 333149 668.80 5647.73 446.03 1420.74 1000
off-4096 404.60 2.47 491.48 145568 333544 612.43 3506.11 444.17 1451.10 1000
off-8192 404.37 2.47 490.64 145157 331883 609.64 3823.35 443.97 1575.09 1000
"""
_KEYS = (
    "duration request_throughput output_throughput mean_ttft_ms p99_ttft_ms mean_tpot_ms p99_tpot_ms "
    "mean_itl_ms p99_itl_ms completed"
).split()


def _round(line: str) -> Row:
    name, *words = line.split()
    chunked, budget = name.split("-")
    numbers: dict[str, Any] = dict(zip(_KEYS, map(json.loads, words), strict=True))
    failed = 1000 - numbers["completed"]
    numbers |= {"failed": failed, "failures": {"HTTP 400: context length": failed} if failed else {}}
    factors = {"enable-chunked-prefill": chunked == "on", "max-num-batched-tokens": int(budget)}
    return a_row(name, "sharegpt", factors, **numbers)


CHUNKED_PREFILL = [_round(line) for line in _ROUNDS.strip().splitlines()]

# max_num_seqs: 1000 real conversations on an A100 with a 13B; KV cache, req/s and mean latency.
_AT_ONCE = {64: (0.104, 10.03, 51.59), 128: (0.213, 10.75, 49.80), 256: (0.400, 11.36, 52.70)}
_AT_ONCE[512] = (0.687, 11.40, 60.40)
_ONE_BATCH = {64: (9.94, 6.01), 128: (10.88, 10.76), 256: (11.47, 19.81), 512: (11.52, 37.35)}

ALL_AT_ONCE = [
    a_row(
        f"seqs-{seqs}",
        factors={"max-num-seqs": seqs, "load": "all-at-once"},
        server={"kv_cache_usage_peak": kv},
        request_throughput=rate,
        mean_e2el_ms=1000 * latency_s,
        completed=1000,
    )
    for seqs, (kv, rate, latency_s) in _AT_ONCE.items()
]
ONE_BATCH = [
    a_row(
        f"seqs-{seqs}",
        factors={"max-num-seqs": seqs, "load": "one-batch"},
        place={"level": float(seqs), "unit": "users"},
        request_throughput=rate,
        mean_e2el_ms=1000 * latency_s,
        completed=1000,
    )
    for seqs, (rate, latency_s) in _ONE_BATCH.items()
]
# The longest of the latencies of a worst case at so many users, mistral-7B; the budget is 20 s.
_LONGEST_S = {4: 9.52, 8: 12.96, 12: 17.13, 16: 20.17}
WITHIN_20_S = [
    a_row(
        "mistral",
        place={"level": float(users), "unit": "users", "phase": phase},
        max_e2el_ms=1000 * longest_s,
        completed=100,
        slo=[{"slo": "max_e2el_ms<20000", "outcome": "met" if longest_s < 20 else "missed"}],
    )
    for phase, (users, longest_s) in enumerate(_LONGEST_S.items())
]

# IMDB reviews, packed (n to a prompt) and single: requests, tokens and output tokens per second.
_IMDB = {
    ("packed", 400, 1): (0.04, 5058, 16.8),
    ("single", 400, 1): (65.75, 21299, 65.75),
    ("packed", 40, 1): (1.02, 11443, 40.65),
    ("single", 40, 1): (73.27, 22262, 73.27),
    ("packed", 4, 1): (8.01, 8118, 32.03),
    ("single", 4, 1): (32.03, 8648, 32.03),
}
# The same with each request 100 times; which n was published is not: here 40 for both.
_COPIED = {("packed", 40, 100): (2.47, 297019, 0.0), ("single", 40, 100): (703.7, 229370, 0.0)}


def _imdb(cells: Mapping[tuple[str, int, int], tuple[float, float, float]]) -> list[Row]:
    return [
        a_row(
            "h800",
            f"imdb.{kind}",
            {"n": n, "copies": copies},
            request_throughput=rate,
            total_token_throughput=tokens,
            output_throughput=output,
            completed=1,
        )
        for (kind, n, copies), (rate, tokens, output) in cells.items()
    ]


IMDB = _imdb(_IMDB)
IMDB_COPIED = _imdb(_COPIED)
# Filling the batch: 4000 reviews in all, n in a prompt; output tokens, which are reviews, per second.
_FILLED = {400: 19.98, 40: 71.27, 20: 80.83, 4: 88.38, 1: 85.05}
IMDB_FILLED = [
    a_row(
        "h800",
        "imdb.single" if n == 1 else "imdb.packed",
        request_throughput=reviews / n,
        output_throughput=reviews,
        completed=4000 // n,
        total_output_tokens=4000,
    )
    for n, reviews in _FILLED.items()
]
