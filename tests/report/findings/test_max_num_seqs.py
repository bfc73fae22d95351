"""max_num_seqs: curves that refute, loads that are kept apart, and what a search answered."""

from dataclasses import replace
from typing import Any

import pytest

from tests.report.findings.made_rows import ALL_AT_ONCE, ONE_BATCH, a_row
from vllm_locust.report.findings import Finding, find
from vllm_locust.results.rows import Row

NAME = "throughput stops growing, KV usage goes on"
SEQS = (64, 128, 256, 512)


def at_once(rates: list[float], kv: list[float], load: str = "all", **more: Any) -> list[Row]:
    return [
        a_row(
            f"seqs-{seqs}",
            factors={"max-num-seqs": seqs, "load": load},
            server={"kv_cache_usage_peak": used},
            request_throughput=rate,
            completed=100,
            **more,
        )
        for seqs, rate, used in zip(SEQS, rates, kv, strict=True)
    ]


def named(name: str, rows: list[Row]) -> Finding:
    return next(finding for finding in find("max_num_seqs", rows) if finding.name == name)


def test_throughput_that_grows_to_the_end_refutes() -> None:
    finding = named(NAME, at_once([64, 128, 256, 512], [0.1, 0.2, 0.4, 0.8]))
    assert finding.verdict == "refuted once"
    assert finding.sentence.startswith(
        "Throughput still grows at the largest: 64.0 req/s, KV peak at least 10.0% at 64"
    )


def test_a_cache_that_is_full_at_the_knee_refutes() -> None:
    finding = named(NAME, at_once([64, 128, 130, 131], [0.5, 1.0, 1.0, 1.0]))
    assert finding.verdict == "refuted once"
    assert finding.sentence.startswith(
        "From 128 to 512 throughput changes by +2.3%, while the KV peak as seen does not grow either:"
    )


def test_throughput_that_repeats_cannot_tell_apart_at_the_end_cannot_be_judged() -> None:
    kv = [0.1, 0.2, 0.4, 0.8]
    finding = named(NAME, [*at_once([1, 2, 4, 8], kv), *at_once([1, 2, 4, 3.9], kv)])
    assert finding.verdict == "cannot tell"
    assert finding.sentence.startswith("Throughput may still grow at the largest")


def test_throughput_that_falls_has_stopped_growing() -> None:
    finding = named(NAME, at_once([1, 2, 4, 3], [0.1, 0.2, 0.4, 0.8]))
    assert finding.verdict == "confirmed once"
    assert finding.sentence.startswith(
        "From 256 to 512 throughput changes by -25.0%, while the KV peak as seen grows on"
    )


def test_two_values_are_too_few() -> None:
    assert named(NAME, at_once([64, 128, 130, 131], [0.1] * 4)[:2]).verdict == "cannot tell"


def test_one_batch_and_all_at_once_are_not_mixed() -> None:
    together = find("max_num_seqs", [*ALL_AT_ONCE, *ONE_BATCH])
    assert together == [*find("max_num_seqs", ALL_AT_ONCE), *find("max_num_seqs", ONE_BATCH)]


def test_a_fixed_number_of_users_is_a_fixed_load_even_where_it_equals_max_num_seqs() -> None:
    place = {"level": 64.0, "unit": "users"}
    rows = at_once([64, 128, 130, 131], [0.1, 0.2, 0.3, 0.4], place=place)
    assert named(NAME, rows).verdict == "confirmed once"


def test_loads_are_judged_apart() -> None:
    rows = [*at_once([1, 2, 2, 2], [0.1, 0.2, 0.3, 0.4], "all"), *at_once([1, 2, 4, 8], [0.1] * 4, "some")]
    assert named(f"{NAME} (chat, all)", rows).verdict == "confirmed once"
    assert named(f"{NAME} (chat, some)", rows).verdict == "refuted once"


def test_latency_that_does_not_grow_with_the_batch_refutes() -> None:
    flat = [
        Row(
            row.run,
            row.workload,
            {**row.numbers, "mean_e2el_ms": 100.0},
            None,
            None,
            row.level,
            "users",
            row.factors,
        )
        for row in ONE_BATCH
    ]
    assert named("concurrency = max-num-seqs: latency grows with it", flat).verdict == "refuted once"


def a_search(level: int | None, missed_at: int | None) -> dict[str, Any]:
    levels = [{"level": 4, "findings": [{"slo": "max_e2el_ms<20000"}]}]
    why = {"reason": "the first level missed"}
    return {"unit": "users", "level": level, "missed_at": missed_at, "levels": levels, **why}


def test_what_searches_answered_stands_beside_each_other() -> None:
    rows = [
        a_row("seqs-64", place={}, capacity=a_search(12, 16)),
        a_row("seqs-128", place={}, capacity=a_search(8, None)),
        a_row("seqs-256", place={}, capacity=a_search(None, 4)),
    ]
    assert find("max_num_seqs", rows) == [
        Finding(
            "largest load with max_e2el_ms<20000 (chat)",
            "note",
            "seqs-64 holds it at 12 users, 16 miss it; seqs-128 holds it at 8 users (the "
            "first level missed); seqs-256 holds it at "
            "no load "
            "(the first level missed).",
        )
    ]


def test_a_level_above_one_that_missed_does_not_hold_the_budget() -> None:
    outcomes = {4: "met", 8: "missed", 12: "met"}
    rows = [
        a_row(
            "m",
            place={"level": float(users), "unit": "users", "phase": 0},
            slo=[{"slo": "x<1", "outcome": word}],
        )
        for users, word in outcomes.items()
    ]
    (finding,) = find("max_num_seqs", rows)
    assert finding.sentence == "Loads up to 4 met it: met at 4, missed at 8 and met at 12."
    (none,) = find("max_num_seqs", rows[1:])
    assert none.sentence == "Already 8 did not meet it: missed at 8 and met at 12."


def test_ladders_of_several_workloads_have_an_answer_each() -> None:
    held = {"chat": 8, "rag": 1}
    rows = [
        a_row(
            "m",
            name,
            place={"level": float(users), "unit": "users", "phase": 0},
            slo=[{"slo": "x<1", "outcome": "met" if users <= most else "missed"}],
        )
        for name, most in held.items()
        for users in (1, 2, 4, 8)
    ]
    told = {finding.name: finding.sentence for finding in find("max_num_seqs", rows)}
    for name, most in held.items():
        assert told[f"largest load with x<1 (m, {name})"].startswith(f"Loads up to {most} met it")


def test_batches_of_several_caches_are_no_repeats_of_each_other() -> None:
    rows = [
        replace(row, run=f"{row.run}-{size}", factors={**row.factors, "block-size": size})
        for size, rates in ((16, [1.0, 2.0, 3.0, 4.0]), (32, [10.0, 20.0, 20.0, 20.0]))
        for row in at_once(rates, [0.1, 0.2, 0.3, 0.4])
    ]
    verdicts = {size: named(f"{NAME} (chat, all, block-size={size})", rows).verdict for size in (16, 32)}
    assert verdicts == {16: "refuted once", 32: "confirmed once"}


def test_runs_without_it_tell_nothing() -> None:
    assert [finding.verdict for finding in find("max_num_seqs", [a_row()])] == ["cannot tell"]


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_least_latency_of_one_run_each_may_be_chance(repeats: int) -> None:
    latencies = {16: 100.0, 32: 200.0}
    rows = [
        a_row(f"seqs-{seqs}#{repeat}", factors={"max-num-seqs": seqs, "repeat": repeat}, mean_e2el_ms=latency)
        for seqs, latency in latencies.items()
        for repeat in range(1, repeats + 1)
    ]
    sentence = named("latency over max-num-seqs", rows).sentence
    assert "least at 16" in sentence
    assert sentence.endswith("least at 16 (seen once: chance may have made the order).") is (repeats == 1)
