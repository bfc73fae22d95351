"""What a comparison says of made-up data whose truth is known, beside what it should say.

Runs have six metrics whose logarithms are normal, with a correlation of 0.6; pairs share a drift besides.
Runs in an order are one a minute, whole comparisons with their verdicts, in which one metric differs.
Runs for blocks of time are sequences of requests whose latency is an AR(1), or a queue's (Lindley).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import orjson

from vllm_locust.compare.judge import judge
from vllm_locust.compare.metrics import Metric
from vllm_locust.compare.outcome import EXIT_NOT_CONCLUSIVE, outcome
from vllm_locust.compare.result import TOLERANCE, compare_folders
from vllm_locust.compare.units import Part
from vllm_locust.core import comparison, comparison_blocks
from vllm_locust.core.comparison import Array

METRICS = 6
SPREAD = 0.04
SHARED = 0.6
SURE = 0.4
"""Ten times the spread."""
APART = 0.2
DRIFT = 0.3
OF_BLOCKS = [
    comparison_blocks.Metric("e2el", 50.0, log=True),
    comparison_blocks.Metric("e2el", 99.0, log=True),
    comparison_blocks.Metric("ttft", "mean", log=True),
    comparison_blocks.Metric("ok", "rate", log=True),
]

Made = tuple[Array, Array]


def runs(count: int, rng: np.random.Generator, change: float = 0.0) -> Made:
    """Base and new, (runs, metrics), the first metric of new larger by `change`."""
    common = rng.standard_normal((2, count, 1)) * np.sqrt(SHARED)
    own = rng.standard_normal((2, count, METRICS)) * np.sqrt(1 - SHARED)
    sides = SPREAD * (common + own)
    sides[1, :, 0] += change
    return sides[0], sides[1]


def pairs(count: int, rng: np.random.Generator, change: float = 0.0) -> Made:
    """The same with a drift that both of a pair share, many times as large as the spread."""
    base, new = runs(count, rng, change)
    drift = np.cumsum(rng.standard_normal((count, 1)), axis=0) * SPREAD * 5
    return base + drift, new + drift


def window(
    kind: str, count: int, rng: np.random.Generator, factor: float = 1.0
) -> comparison_blocks.Requests:
    """A run of 60 s with `count` requests, their latency times `factor`."""
    ended_s = np.sort(rng.uniform(0, 60, count))
    latency_s = LATENCIES[kind](count, rng) * factor
    columns = {
        "e2el": latency_s * 1000,
        "ttft": latency_s * 300 * rng.lognormal(0, 0.1, count),
        "ok": np.ones(count),
    }
    return comparison_blocks.Requests(ended_s, 60.0, columns, latency_s)


def autoregressive(count: int, rng: np.random.Generator, rho: float = 0.9) -> Array:
    """Latencies in s, around 0.2."""
    noise = rng.standard_normal(count) * np.sqrt(1 - rho**2)
    state = np.empty(count)
    state[0] = rng.standard_normal()
    for i in range(1, count):
        state[i] = rho * state[i - 1] + noise[i]
    return 0.2 * np.exp(0.3 * state)


def queue(count: int, rng: np.random.Generator, load: float = 0.7) -> Array:
    """Waiting and serving of M/G/1 in s; the mean service takes 0.7 of the mean gap."""
    gap_s = 60 / count
    service = rng.gamma(2, load * gap_s / 2, count)
    gaps = rng.exponential(gap_s, count)
    waits, wait = np.empty(count), 0.0
    for i in range(count):
        waits[i] = wait
        wait = max(0.0, wait + service[i] - gaps[i])
    return waits + service


ORDERS: dict[str, Callable[[int], list[int]]] = {
    "A..AB..B": lambda count: [0] * count + [1] * count,
    "ABAB": lambda count: [0, 1] * count,
    "ABBA": lambda count: ([0, 1, 1, 0] * count)[: 2 * count],
}
DRIFTS: dict[str, Callable[[int, np.random.Generator], Array]] = {
    "no drift": lambda size, rng: np.zeros(size),
    "steady": lambda size, rng: np.linspace(0, 1, size),
    "a step": lambda size, rng: (np.arange(size) >= rng.integers(1, size)).astype(float),
}
"""How the minutes of a session, one after the other, get slower by `DRIFT`."""
PAUSES = (1, 3, 10)
"""How many times as long as a side, between the sides."""
REAL = ("regression", "worse", "better")

LATENCIES: dict[str, Callable[[int, np.random.Generator], Array]] = {"AR(1)": autoregressive, "queue": queue}
UNITS = {"runs": (runs, comparison.of_runs), "pairs": (pairs, comparison.of_pairs)}


def of_units(kind: str, count: int, times: int, rng: np.random.Generator) -> Iterator[str]:
    """False alarms, coverage, and power at the change that is printed as detectable."""
    make, evidence_of = UNITS[kind]
    alarms = covered = seen = tried = 0
    for _ in range(times):
        evidence = evidence_of(*make(count, rng), rng)
        each = comparison.level([evidence])
        half = comparison.half_widths(evidence, each)
        outside = np.abs(evidence.change) > half
        (p,) = comparison.adjusted([evidence])
        alarms += bool((outside & (p <= comparison.ALPHA)).any())
        covered += not outside.any()
        detectable = float(comparison.detectable(evidence, comparison.critical(evidence, p, each), rng)[0])
        again = evidence_of(*make(count, rng, detectable), rng)
        tried += 1
        away = abs(again.change[0]) > comparison.half_widths(again, comparison.level([again]))[0]
        seen += bool(away and comparison.adjusted([again])[0][0] <= comparison.ALPHA)
    yield _line(f"{count} {kind}", alarms / times, covered / times, seen / tried, 0)


def of_cells(cells: int, kind: str, count: int, times: int, rng: np.random.Generator) -> Iterator[str]:
    """Of several cells, half of which have a metric that differs for sure; power: how often it is seen."""
    make, evidence_of = UNITS[kind]
    alarms = covered = seen = 0
    changes = [SURE * (cell % 2) for cell in range(cells)]
    for _ in range(times):
        families = [evidence_of(*make(count, rng, change), rng) for change in changes]
        each, alarmed, missed = comparison.level(families), False, False
        for family, p, change in zip(families, comparison.adjusted(families), changes, strict=True):
            half, truth = comparison.half_widths(family, each), np.array([change] + [0.0] * (METRICS - 1))
            real = (np.abs(family.change) > half) & (p <= comparison.ALPHA)
            missed |= bool((np.abs(family.change - truth) > half).any())
            alarmed |= bool(real[truth == 0].any())
            seen += bool(real[0] and change)
        alarms, covered = alarms + alarmed, covered + (not missed)
    shown = seen / times / sum(change > 0 for change in changes)
    yield _line(f"{cells} cells of {count} {kind}, half differ", alarms / times, covered / times, shown, 0)


def of_order(
    order: str,
    drift: str,
    count: int,
    times: int,
    rng: np.random.Generator,
    *,
    pause: int = 0,
    of_baseline: bool = False,
) -> Iterator[str]:
    """The same of whole comparisons of runs in this order, the first metric of new larger by `APART`.

    Between the halves is a pause of so many sides, in which the drift goes on. The last column is how often
    it was left open (exit code 4).
    """
    turns = ORDERS[order](count)
    minutes = np.concatenate([np.arange(count), np.arange(count) + (1 + pause) * count])
    metrics = [Metric(f"p{50 + i}_e2el_ms", "lower") for i in range(METRICS)]
    truth = np.log1p([APART] + [0.0] * (METRICS - 1))
    alarms = covered = seen = opened = 0
    for _ in range(times):
        base, new = runs(count, rng, float(truth[0]))
        left = [list(base), list(new)]
        shifts = np.log1p(DRIFT) * DRIFTS[drift](int(minutes[-1]) + 1, rng)[minutes]
        sides: tuple[list[Part], list[Part]] = ([], [])
        for minute, side, shift in zip(minutes.tolist(), turns, shifts, strict=True):
            values = np.exp(left[side].pop() + shift).tolist()
            numbers = dict(zip((metric.key for metric in metrics), values, strict=True)) | {"completed": 1000}
            started = f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00+00:00"
            kept = of_baseline and side == 0
            sides[side].append(Part(str(minute), started, numbers, {}, {}, of_baseline=kept))
        cells = judge({"": sides}, metrics, TOLERANCE)
        judged, code = cells[0].metrics, outcome(cells, TOLERANCE, strict=False)[0]
        ends = np.log1p([(one.low or 0.0, one.high or 0.0) for one in judged])
        alarms += any(one.verdict in REAL for one in judged[1:])
        covered += bool(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).all())
        seen += judged[0].verdict in REAL[:2]
        opened += code == EXIT_NOT_CONCLUSIVE
    name = f"{count} runs, {order}, {drift}"
    if pause:
        name = f"{count} runs, {'file' if of_baseline else 'A..A'}, {pause}x, B..B, {drift}"
    yield _line(name, alarms / times, covered / times, seen / times, opened / times)


def after_pauses(times: int, rng: np.random.Generator) -> Iterator[str]:
    """The same of base, a pause and new, base as runs and as a baseline file."""
    for of_baseline, pauses in ((False, PAUSES), (True, PAUSES[1:])):
        for pause, drift, count in product(pauses, ("no drift", "steady"), (4, 10)):
            yield from of_order("A..AB..B", drift, count, times, rng, pause=pause, of_baseline=of_baseline)


def of_blocks(kind: str, count: int, times: int, rng: np.random.Generator) -> Iterator[str]:
    """The same of one run against one, and how often it was refused."""
    metrics = [one for one in OF_BLOCKS if comparison_blocks.has_tail([window(kind, count, rng)], one)]
    alarms = covered = seen = judged = refused = 0
    for _ in range(times):
        sides = [comparison_blocks.cut([window(kind, count, rng)], metrics) for _ in range(2)]
        base, new = sides
        if isinstance(base, str) or isinstance(new, str):
            refused += 1
            continue
        judged += 1
        evidence = comparison_blocks.of_blocks(base, new, metrics, rng)
        each = comparison.level([evidence])
        outside = np.abs(evidence.change) > comparison.half_widths(evidence, each)
        (p,) = comparison.adjusted([evidence])
        alarms += bool((outside & (p <= comparison.ALPHA)).any())
        covered += not outside.any()
        # The metric's true change is that of all latencies.
        critical = comparison.critical(evidence, p, each)
        larger = np.exp(float(comparison.detectable(evidence, critical, rng)[0]))
        other = comparison_blocks.cut([window(kind, count, rng, larger)], metrics)
        if isinstance(other, str):
            continue
        again = comparison_blocks.of_blocks(base, other, metrics, rng)
        half = comparison.half_widths(again, comparison.level([again]))
        seen += bool(again.change[0] > half[0] and comparison.adjusted([again])[0][0] <= comparison.ALPHA)
    name = f"1 run, {kind}, {count} requests"
    yield _line(
        name, alarms / max(judged, 1), covered / max(judged, 1), seen / max(judged, 1), refused / times
    )


def seconds(count: int, requests: int, rng: np.random.Generator) -> float:
    """How long a comparison of 2 x `count` runs takes, reading included."""
    with tempfile.TemporaryDirectory() as place:
        sides = [Path(place) / side for side in ("base", "new")]
        for side in sides:
            for number in range(count):
                write_run(side / str(number), requests, rng)
        began = time.perf_counter()
        compare_folders(*sides)
        return time.perf_counter() - began


def write_run(folder: Path, count: int, rng: np.random.Generator, factor: float = 1.0) -> None:
    """A results folder with `count` requests in 60 s."""
    folder.mkdir(parents=True)
    total_s = queue(count, rng) * factor
    ended_s = np.sort(rng.uniform(0, 60, count))
    tpot_s = total_s * 0.07
    with (folder / "requests.jsonl").open("wb") as file:
        for i in range(count):
            row = {
                "index": i, "outcome": "ok", "phase": 0, "ended_s": ended_s[i], "ttft_s": total_s[i] * 0.3,
                "total_s": total_s[i], "tpot_s": tpot_s[i], "output_tokens": 11, "prompt_tokens": 50,
            }  # fmt: skip
            file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
    summary = {
        "completed": count, "failed": 0, "error_rate": 0.0, "start_s": 0.0, "end_s": 60.0,
        "requests": {"planned": count}, "client": {"verdict": "valid", "reasons": []},
        "request_throughput": count / 60, "output_throughput": count * 11 / 60, "request_goodput": None,
        "mean_tpot_ms": float(tpot_s.mean()) * 1e3, "p99_tpot_ms": float(np.percentile(tpot_s, 99)) * 1e3,
        "p99_itl_ms": float(np.percentile(tpot_s, 99)) * 1e3,
        "phases": [{"phase": 0, "name": "made", "start_s": 0.0, "end_s": 60.0}],
    }  # fmt: skip
    for q in (50, 99):
        summary[f"p{q}_e2el_ms"] = float(np.percentile(total_s, q)) * 1e3
        summary[f"p{q}_ttft_ms"] = float(np.percentile(total_s, q)) * 300
    (folder / "summary.json").write_bytes(orjson.dumps(summary))
    (folder / "run.json").write_bytes(orjson.dumps({"scenario": "made", "options": {}}))


def _line(name: str, alarms: float, covered: float, power: float, refused: float) -> str:
    return f"{name:<34}{alarms:>12.1%}{covered:>12.1%}{power:>12.1%}{refused:>12.1%}"


def main() -> None:
    """Print a table; its heading has what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="How often each is tried.")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    print(f"{'':<34}{'false alarm':>12}{'coverage':>12}{'power':>12}{'refused':>12}")
    print(f"{'promised':<34}{'<= 5 %':>12}{'95 %':>12}{'80 %':>12}")
    for count in (4, 6, 10):
        print(*of_units("runs", count, args.times, rng), sep="\n", flush=True)
    for count in (6, 10):
        print(*of_units("pairs", count, args.times, rng), sep="\n", flush=True)
    for kind, count in (("runs", 4), ("pairs", 6)):
        for cells in (2, 4, 8):
            print(*of_cells(cells, kind, count, args.times, rng), sep="\n", flush=True)
    for order in ORDERS:
        for drift in DRIFTS:
            for count in (4, 10):
                print(*of_order(order, drift, count, args.times // 2, rng), sep="\n", flush=True)
    print(*after_pauses(args.times // 2, rng), sep="\n", flush=True)
    for kind in LATENCIES:
        for count in (1000, 4000):
            print(*of_blocks(kind, count, args.times, rng), sep="\n", flush=True)
    print(f"2 x 10 runs of 10 000 requests: {seconds(10, 10_000, rng):.1f} s (20 s are allowed)")


if __name__ == "__main__":
    main()
