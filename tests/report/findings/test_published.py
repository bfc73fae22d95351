"""What the authors of published experiments concluded, from their own numbers."""

import pytest

from tests.report.findings.made_rows import (
    ALL_AT_ONCE,
    CHUNKED_PREFILL,
    IMDB,
    IMDB_COPIED,
    IMDB_FILLED,
    ONE_BATCH,
    WITHIN_20_S,
)
from vllm_locust.report.findings import Finding, find
from vllm_locust.results.rows import Row


def found(conclusions: str, rows: list[Row]) -> dict[str, Finding]:
    return {finding.name: finding for finding in find(conclusions, rows)}


def test_the_smaller_the_budget_the_longer_ttft_and_the_shorter_itl() -> None:
    findings = found("token_budget", CHUNKED_PREFILL)
    # Of the four budgets from 512 on no two differ by 5 %: six pairs.
    assert findings["smaller budget, longer TTFT"] == Finding(
        "smaller budget, longer TTFT",
        "confirmed once",
        "Mean TTFT goes from 220.1 s at 64 tokens to 145.2 s at 8192; 15 of 21 pairs agree and 6 differ "
        "by less "
        "than 5%; rank correlation 0.71.",
    )
    assert findings["smaller budget, shorter ITL"].verdict == "confirmed once"
    assert findings["smaller budget, shorter TPOT"].verdict == "confirmed once"


def test_past_2048_nothing_moves() -> None:
    finding = found("token_budget", CHUNKED_PREFILL)["past which budget nothing moves"]
    assert finding.verdict == "confirmed once"
    assert finding.sentence == (
        "From 2048 tokens on all means stay within 10% of those at 8192: TTFT 145.6 s and 145.2 s, TPOT "
        "546.5 ms "
        "and 590.1 ms and ITL 440.1 ms and 439.7 ms."
    )


def test_without_chunking_requests_longer_than_the_budget_fail() -> None:
    finding = found("token_budget", CHUNKED_PREFILL)["without chunking, requests beyond the budget fail"]
    assert finding.verdict == "confirmed once"
    assert finding.sentence == (
        "Failed: 704 of 1000 in off-256 (HTTP 400: context length) and 300 of 1000 in off-512 (HTTP 400: "
        "context "
        "length); none from 2048 tokens on. Latencies and durations of these rounds are those of the other "
        "requests and must not be compared."
    )


def test_rounds_in_which_requests_failed_are_not_the_quickest() -> None:
    finding = found("token_budget", CHUNKED_PREFILL)["duration"]
    assert finding.sentence == (
        "Of 10 measured configurations without failures on-256 is the quickest with 390.7 s (2.56 req/s), "
        "on-64 the slowest with 458.1 s (2.18 req/s) (seen once: chance may have made the order)."
    )
    best = found("best", CHUNKED_PREFILL)["highest output throughput"]
    assert best.verdict == "note"
    assert best.sentence.startswith("on-256, 508.8 tok/s, before on-512, 505.4 tok/s: 0.7% apart")
    assert best.sentence.endswith(
        "Left out for failures or a client that could not measure: off-256, off-512."
    )


def test_throughput_stops_growing_with_max_num_seqs_while_kv_usage_goes_on() -> None:
    findings = found("max_num_seqs", ALL_AT_ONCE)
    finding = findings["throughput stops growing, KV usage goes on"]
    assert finding.verdict == "confirmed once"
    assert finding.sentence.startswith(
        "From 256 to 512 throughput changes by +0.4%, while the KV peak as seen grows on:"
    )
    assert "11.4 req/s, KV peak at least 68.7% at 512" in finding.sentence
    assert findings["latency over max-num-seqs"].sentence == (
        "Mean E2EL is 51.6 s at 64, 49.8 s at 128, 52.7 s at 256 and 60.4 s at 512: least, and hardly "
        "different, "
        "at 64 and 128 (seen once: chance may have made the order)."
    )


def test_with_concurrency_equal_to_max_num_seqs_latency_grows() -> None:
    finding = found("max_num_seqs", ONE_BATCH)["concurrency = max-num-seqs: latency grows with it"]
    assert finding.verdict == "confirmed once"
    assert "6.01 s and 9.94 req/s at 64" in finding.sentence
    assert "6 of 6 pairs agree" in finding.sentence


def test_twelve_users_keep_the_longest_latency_below_20_s() -> None:
    (finding,) = find("max_num_seqs", WITHIN_20_S)
    assert finding == Finding(
        "largest load with max_e2el_ms<20000 (mistral)",
        "note",
        "Loads up to 12 met it: met at 4, met at 8, met at 12 and missed at 16.",
    )


def test_one_review_per_prompt_is_quicker_than_packing() -> None:
    assert found("packing", IMDB)["one review per prompt is quicker than packing"] == Finding(
        "one review per prompt is quicker than packing",
        "confirmed once",
        # 4 x 8.01 and 32.03, 40 x 1.02 and 73.27, 400 x 0.04 and 65.75
        "Reviews per second: 32.0 packed, 32.0 single at n = 4, 40.8 packed, 73.3 single at n = 40 and 16.0 "
        "packed, 65.8 single at n = 400.",
    )


def test_four_reviews_to_a_prompt_fill_the_batch_best_but_hardly_more_than_one() -> None:
    assert found("packing", IMDB_FILLED)["best reviews per prompt"].sentence == (
        "Most reviews per second came at n = 4, hardly more than at 1: 20.0 at 400, 71.3 at 40, 80.8 at "
        "20, 88.4 at 4 and 85.0 at 1 (seen once: chance may have made the order)."
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("duplicates, packed, n = 40", "Each request 100 times: 2.47 req/s against 1.02 (x2.42)."),
        ("duplicates, single", "Each request 100 times: 703.7 req/s against 73.3 (x9.60)."),
    ],
)
def test_duplicates_are_quicker(name: str, sentence: str) -> None:
    assert found("packing", [*IMDB, *IMDB_COPIED])[name] == Finding(name, "confirmed once", sentence)
