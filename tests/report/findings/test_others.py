"""Packing, A/B, the best configuration, and the table of conclusions."""

from itertools import permutations

import pytest

from tests.report.findings.made_rows import a_row, repeats
from vllm_locust.errors import UsageError
from vllm_locust.report.findings import FINDINGS, Finding, find
from vllm_locust.results.rows import Row


def named(conclusions: str, name: str, rows: list[Row]) -> Finding:
    return next(finding for finding in find(conclusions, rows) if finding.name == name)


def imdb(kind: str, rate: float, run: str = "c", **factors: str | int) -> Row:
    return a_row(run, f"imdb.{kind}", factors, request_throughput=rate, completed=10)


QUICKER = "one review per prompt is quicker than packing"


@pytest.mark.parametrize(
    ("single", "told", "verdict"),
    [(20.0, "20.0", "confirmed once"), (10.2, "10.2", "refuted once"), (5.0, "5.00", "refuted once")],
)
def test_reviews_are_compared_not_requests(single: float, told: str, verdict: str) -> None:
    finding = named("packing", QUICKER, [imdb("packed", 1.0, n="10"), imdb("single", single)])
    sentence = f"Reviews per second: 10.0 packed, {told} single at n = 10."
    assert finding == Finding(QUICKER, verdict, sentence)  # type: ignore[arg-type]


def test_packings_whose_repeats_overlap_cannot_be_told_apart() -> None:
    rates = {"packed": (1.0, 1.2), "single": (11.0, 14.0)}
    rows = [imdb(kind, rate, n="10") for kind, some in rates.items() for rate in some]
    assert named("packing", QUICKER, rows).verdict == "cannot tell"


def test_the_reviews_of_a_request_are_counted_from_its_answers_where_nothing_says_them() -> None:
    packed = a_row("c", "imdb.packed", request_throughput=2.0, completed=5, total_output_tokens=200)
    finding = named("packing", QUICKER, [packed, imdb("single", 70.0)])
    assert finding.sentence == "Reviews per second: 80.0 packed, 70.0 single at n = 40."


def test_configurations_are_no_repeats_of_each_other() -> None:
    rows = [
        imdb(kind, rate, run, n=n) for run in "ab" for kind, rate, n in (("packed", 1, 4), ("single", 9, 1))
    ]
    assert [finding.name for finding in find("packing", rows)][:1] == [f"{QUICKER} (a)"]
    assert named("packing", f"{QUICKER} (b)", rows).verdict == "confirmed once"


def test_duplicates_tell_what_the_prefix_cache_gave() -> None:
    many = a_row(
        "c",
        "imdb.single",
        {"copies": "10"},
        request_throughput=50.0,
        completed=100,
        total_cached_tokens=900,
        total_input_tokens=1000,
    )
    finding = named("packing", "duplicates, single", [imdb("single", 10.0), many])
    assert finding == Finding(
        "duplicates, single",
        "confirmed once",
        "Each request 10 times: 50.0 req/s against 10.0 (x5.00); 90% of the prompt tokens came from the "
        "prefix "
        "cache.",
    )


def test_without_both_packings_nothing_can_be_told() -> None:
    assert named("packing", QUICKER, []).verdict == "cannot tell"
    assert named("packing", QUICKER, [imdb("single", 1.0)]).verdict == "cannot tell"


def test_a_b_tells_each_number_and_leaves_significance_to_compare() -> None:
    rows = [
        *repeats([100.0, 110.0], "base", "p50_ttft_ms", error_rate=0.0),
        *repeats([210.0, 210.0], "new", "p50_ttft_ms", error_rate=0.01),
    ]
    assert named("ab", "TTFT P50", rows).sentence == (
        "base 105.0 ms (100.0 ms to 110.0 ms in 2 repeats), new 210.0 ms (210.0 ms to 210.0 ms in 2 repeats) "
        "(+100.0%)."
    )
    assert named("ab", "failed requests", rows).sentence.endswith("new 1.00% (1.00% to 1.00% in 2 repeats).")
    assert named("ab", "TTFT P99", rows).verdict == "cannot tell"
    assert "vllm-locust compare" in named("ab", "significance", rows).sentence


def test_a_b_needs_two_configurations() -> None:
    assert [finding.verdict for finding in find("ab", repeats([1.0], "base", "p50_ttft_ms"))] == [
        "cannot tell"
    ]


GOAL = "highest output throughput"


def of(**runs: list[float]) -> list[Row]:
    return [row for run, values in runs.items() for row in repeats(values, run, "output_throughput")]


def test_the_best_of_four_repeats_each_is_confirmed_when_none_overlap() -> None:
    finding = named("best", GOAL, of(a=[100, 110, 105, 105], b=[90, 80, 85, 85], c=[10, 10, 10, 10]))
    assert finding.verdict == "confirmed"
    assert finding.sentence == (
        "a, 105.0 tok/s (100.0 tok/s to 110.0 tok/s in 4 repeats), before b, 85.0 tok/s (80.0 tok/s to "
        "90.0 tok/s "
        "in 4 repeats): 23.5% apart; no run of the one is like one of the other, by chance in 1 of 35 times."
    )


def test_three_repeats_each_are_too_few() -> None:
    """Of 720 orders of six runs that are alike 72 have those of one before all of the other."""
    apart = [order for order in permutations("aaabbb") if order[0] == order[1] == order[2]]
    assert len(apart) / 720 == 1 / 10
    finding = named("best", GOAL, of(a=[100, 110, 105], b=[90, 80, 85]))
    assert finding.verdict == "cannot tell"
    assert finding.sentence.endswith("by chance in 1 of 10 times.")


def test_repeats_that_overlap_make_no_best() -> None:
    assert named("best", GOAL, of(a=[100, 110, 84], b=[90, 80, 85])).sentence.endswith("overlap.")
    assert named("best", GOAL, of(a=[100, 110, 84], b=[90, 80, 85])).verdict == "cannot tell"


def test_the_lowest_latency_is_the_best() -> None:
    rows = [row for run, ms in {"a": 30.0, "b": 20.0}.items() for row in repeats([ms], run, "p99_ttft_ms")]
    finding = named("best", "lowest p99 TTFT", rows)
    assert finding.verdict == "note"
    assert finding.sentence.startswith("b, 20.0 ms, before a, 30.0 ms: 33.3% apart.")


def test_configurations_with_failures_do_not_compete() -> None:
    rows = [*of(a=[100], b=[90]), *repeats([500], "c", "output_throughput", failed=1)]
    assert named("best", GOAL, rows).sentence.startswith("a, 100.0 tok/s, before b")
    assert named("best", GOAL, of(a=[1])).verdict == "cannot tell"
    assert find("best", []) == [Finding("best configuration", "cannot tell", "There are no runs.")]


def test_unknown_conclusions_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"there are no conclusions 'x': allowed are profiles, token_budget"):
        find("x", [])


@pytest.mark.parametrize("name", FINDINGS)
def test_nothing_is_concluded_from_nothing(name: str) -> None:
    assert {finding.verdict for finding in find(name, [])} == {"cannot tell"}
