"""The budget of tokens per step: when its hypotheses are refuted, and when they cannot be told."""

from dataclasses import replace

from tests.report.findings.made_rows import CHUNKED_PREFILL, a_row
from vllm_locust.report.findings import Finding, find
from vllm_locust.results.rows import Row


def rounds(ttft: list[float], itl: list[float]) -> list[Row]:
    return [
        a_row(
            f"on-{budget}",
            factors={"enable-chunked-prefill": True, "max_num_batched_tokens": budget},
            mean_ttft_ms=ttft_ms,
            mean_itl_ms=itl_ms,
            completed=100,
        )
        for budget, ttft_ms, itl_ms in zip((64, 256, 1024, 4096), ttft, itl, strict=True)
    ]


def named(name: str, rows: list[Row]) -> Finding:
    return next(finding for finding in find("token_budget", rows) if finding.name == name)


def test_latencies_that_stay_or_go_the_other_way_refute() -> None:
    rows = rounds([100, 200, 300, 400], [20, 20, 20, 20])
    assert named("smaller budget, longer TTFT", rows) == Finding(
        "smaller budget, longer TTFT",
        "refuted once",
        "Mean TTFT goes from 100.0 ms at 64 tokens to 400.0 ms at 4096; 0 of 6 pairs agree and 6 "
        "disagree; rank "
        "correlation -1.00.",
    )
    assert named("smaller budget, shorter ITL", rows).verdict == "refuted once"


def test_repeats_that_overlap_cannot_tell() -> None:
    rows = [*rounds([400, 300, 200, 100], [10, 20, 30, 40]), *rounds([90, 190, 290, 390], [11, 21, 31, 41])]
    assert named("smaller budget, longer TTFT", rows).verdict == "cannot tell"
    assert named("smaller budget, shorter ITL", rows).verdict == "confirmed"


def test_no_plateau_while_the_largest_budgets_differ() -> None:
    finding = named("past which budget nothing moves", rounds([400, 300, 200, 100], [20, 20, 20, 20]))
    assert finding.verdict == "refuted once"
    assert finding.sentence == "Between 1024 and 4096 tokens there is still: TTFT 200.0 ms and 100.0 ms."


def test_the_plateau_begins_after_the_last_budget_that_differs() -> None:
    # 64 is like 4096, but 256 between them is not: it is no plateau from 64 on.
    finding = named("past which budget nothing moves", rounds([100, 150, 105, 100], [20, 20, 20, 20]))
    assert finding.verdict == "confirmed once"
    assert finding.sentence.startswith("From 1024 tokens on all means stay within 10% of those at 4096")


def test_two_budgets_are_no_trend() -> None:
    rows = rounds([400, 300, 200, 100], [10, 20, 30, 40])[:2]
    finding = named("smaller budget, longer TTFT", rows)
    assert finding.verdict == "cannot tell"
    assert finding.sentence == "2 budgets with chunked prefill to compare: a trend needs 3."


def test_rounds_that_are_left_out_say_why() -> None:
    """Three of four were invalid, and in the fourth requests failed: it is not failures alone."""
    rows = rounds([400, 300, 200, 100], [10, 20, 30, 40])
    for row in rows[:3]:
        row.numbers["client"] = {"verdict": "invalid"}  # type: ignore[index]
    rows[3].numbers["failed"] = 7  # type: ignore[index]
    finding = named("smaller budget, longer TTFT", rows)
    assert finding.sentence == (
        "0 budgets with chunked prefill to compare: a trend needs 3. Of 4 rounds, in 1 requests failed "
        "and of 3 the client could not measure."
    )


def test_with_repeats_a_trend_is_no_matter_of_one_day() -> None:
    once = rounds([400, 300, 200, 100], [10, 20, 30, 40])
    twice = [*once, *(replace(row, run=f"{row.run}#2", factors={**row.factors, "repeat": 2}) for row in once)]
    verdicts = [named("smaller budget, longer TTFT", rows).verdict for rows in (once, twice)]
    assert verdicts == ["confirmed once", "confirmed"]


def test_failures_with_chunking_are_not_the_budgets() -> None:
    factors = {"enable-chunked-prefill": True, "max-num-batched-tokens": 32}
    name = "without chunking, requests beyond the budget fail"
    for kind, verdict in (("http_400", "refuted once"), ("timeout", "cannot tell")):
        failures = {"failed": 3, "failures": {kind: 3}}
        also_on = [*CHUNKED_PREFILL, a_row("on-32", "sharegpt", factors, **failures)]
        assert named(name, also_on).verdict == verdict
    off = [row for row in CHUNKED_PREFILL if row.run in ("off-2048", "off-4096")]
    assert named(name, off) == Finding(
        name, "refuted once", "No request was refused in 2 rounds without chunked prefill."
    )
    on = [row for row in CHUNKED_PREFILL if row.run.startswith("on")]
    assert named(name, on) == Finding(name, "cannot tell", "No run of a server without chunked prefill.")


def test_a_timeout_is_no_refusal() -> None:
    factors = {"enable-chunked-prefill": False, "max-num-batched-tokens": 256}
    rows = [a_row("off-256", "sharegpt", factors, failed=3, failures={"timeout": 3}, completed=97)]
    finding = named("without chunking, requests beyond the budget fail", rows)
    assert finding.verdict == "cannot tell"
    assert finding.sentence == (
        "No request was refused in 1 round without chunked prefill. Failed: 3 of 100 in off-256 (timeout)."
    )


def test_durations_that_are_alike_have_no_order() -> None:
    rows = [
        a_row(f"on-{budget}", "w", {"max-num-batched-tokens": budget}, duration=100.0, request_throughput=1.0)
        for budget in (64, 128)
    ]
    assert named("duration", rows).sentence == (
        "Of 2 measured configurations without failures none is known to be quicker than another: "
        "100.0 s to 100.0 s."
    )


def test_workloads_are_judged_apart() -> None:
    other = [
        Row(row.run, "code", row.numbers, factors=row.factors, unit="requests/s") for row in CHUNKED_PREFILL
    ]
    names = [finding.name for finding in find("token_budget", [*CHUNKED_PREFILL, *other])]
    assert "duration (sharegpt)" in names
    assert "duration (code)" in names


def test_without_budgets_nothing_can_be_told() -> None:
    assert [finding.verdict for finding in find("token_budget", [a_row()])] == ["cannot tell"]


def test_budgets_of_several_batch_sizes_are_no_repeats_of_each_other() -> None:
    rows = [
        replace(row, run=f"{row.run}-{seqs}", factors={**row.factors, "max-num-seqs": seqs})
        for seqs, ttft in ((64, [400, 300, 200, 100]), (256, [1200, 900, 600, 300]))
        for row in rounds([float(ms) for ms in ttft], [10, 15, 20, 30])
    ]
    for seqs in (64, 256):
        assert named(f"smaller budget, longer TTFT, max-num-seqs={seqs}", rows).verdict == "confirmed once"
