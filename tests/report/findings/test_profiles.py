"""H1 to H4: each confirmed, refuted, and not to be told."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.report.findings.made_rows import a_row, at_level
from vllm_locust.report.findings import Finding, find
from vllm_locust.results.rows import Row

PROFILES = ("short_short", "short_long", "long_short", "long_long")
QUIET = {"short_short": 10.0, "short_long": 10.0, "long_short": 50.0, "long_long": 50.0}
BUSY = {"short_short": 200.0, "short_long": 900.0, "long_short": 400.0, "long_long": 800.0}


def ladder(quiet: Mapping[str, float] = QUIET, busy: Mapping[str, float] = BUSY, **more: Any) -> list[Row]:
    """Profiles at 1 and 32 users with these TTFTs, and a TPOT of 5 and of 20 ms."""
    at_1 = [at_level(name, 1, mean_ttft_ms=quiet[name], mean_tpot_ms=5.0, completed=50) for name in quiet]
    at_32 = [
        at_level(name, 32, mean_ttft_ms=busy[name], mean_tpot_ms=20.0, completed=50, **more) for name in busy
    ]
    return [*at_1, *at_32]


def named(name: str, rows: list[Row]) -> Finding:
    return next(finding for finding in find("profiles", rows) if finding.name == name)


def test_h1_ttft_grows_with_the_prompt() -> None:
    assert named("H1", ladder()) == Finding(
        "H1",
        "confirmed once",
        "TTFT grows with the prompt: with short answers at 1 user 50.0 ms for long prompts against 10.0 "
        "ms for "
        "short ones (x5.00) and with long answers at 1 user 50.0 ms for long prompts against 10.0 ms for "
        "short "
        "ones (x5.00).",
    )


def test_h1_is_refuted_by_one_pair() -> None:
    finding = named("H1", ladder({**QUIET, "long_long": 10.2}))
    assert finding.verdict == "refuted once"
    assert "TTFT does not always grow with the prompt" in finding.sentence


def test_h1_cannot_be_told_without_a_pair_nor_from_repeats_that_overlap() -> None:
    assert named("H1", ladder({"short_short": 10, "long_long": 50}, {})).verdict == "cannot tell"
    overlap = [at_level("short_short", 1, mean_ttft_ms=one, completed=9) for one in (10.0, 30.0)]
    overlap += [at_level("long_short", 1, mean_ttft_ms=one, completed=9) for one in (20.0, 40.0)]
    assert named("H1", overlap).verdict == "cannot tell"


def test_h2_tpot_worsens_with_concurrency_and_the_prompt_hardly_touches_it() -> None:
    finding = named("H2", ladder())
    assert finding.verdict == "confirmed once"
    assert "short_short from 5.00 ms at 1 to 20.0 ms at 32 users (1 of 1 pair agrees" in finding.sentence
    assert "a long prompt makes TPOT x1.00 and TTFT x5.00 with long answers" in finding.sentence


def test_h2_is_refuted_when_tpot_stays() -> None:
    rows = [at_level("short_long", users, mean_tpot_ms=5.0, completed=50) for users in (1, 8, 32)]
    assert named("H2", rows).verdict == "refuted once"


def test_h2_is_refuted_when_the_prompt_moves_tpot_as_much_as_ttft() -> None:
    rows = [
        at_level(name, users, mean_ttft_ms=ttft, mean_tpot_ms=tpot * users, completed=50)
        for name, ttft, tpot in (("short_long", 10.0, 5.0), ("long_long", 20.0, 15.0))
        for users in (1, 8)
    ]
    finding = named("H2", rows)
    assert finding.verdict == "refuted once"
    assert (
        "It is not only decode's: at 1 user a long prompt makes TPOT x3.00 and TTFT x2.00" in finding.sentence
    )


def test_h2_cannot_be_told_when_the_prompt_moves_neither() -> None:
    """By 1 % and 2 %, and another day the other way round."""
    rows = [
        at_level(name, users, mean_ttft_ms=ttft, mean_tpot_ms=tpot * users, completed=50)
        for name, ttft, tpot in (("short_long", 10.0, 5.0), ("long_long", 10.1, 5.1))
        for users in (1, 8)
    ]
    finding = named("H2", rows)
    assert finding.verdict == "cannot tell"
    assert (
        "Whether it is decode's cannot be told: at 1 user a long prompt makes TPOT x1.02" in finding.sentence
    )


def test_h2_cannot_be_told_whole_without_profiles_that_differ_in_the_prompt() -> None:
    rows = [at_level("short_long", users, mean_tpot_ms=5.0 * users, completed=50) for users in (1, 8)]
    finding = named("H2", rows)
    assert finding.verdict == "cannot tell"
    assert "TPOT worsens with concurrency" in finding.sentence
    assert "whether TPOT is decode's cannot be told" in finding.sentence


def test_h2_cannot_be_told_from_one_level() -> None:
    assert named("H2", [at_level("short_long", 1, mean_tpot_ms=5.0, completed=9)]).verdict == "cannot tell"


def test_h3_by_the_servers_queue() -> None:
    waits = {"mean_queue_ms": 150.0, "mean_ttft_ms": 200.0}
    finding = named("H3", [at_level("short_short", 32, waits, mean_ttft_ms=210.0, completed=40)])
    assert finding.verdict == "confirmed once"
    assert finding.sentence == (
        "At 32 users waiting is most of TTFT: short_short 75% (queue 150.0 ms of 200.0 ms)."
    )
    prefill = {"mean_queue_ms": 20.0, "mean_ttft_ms": 200.0}
    refuted = named("H3", [at_level("short_short", 32, prefill, mean_ttft_ms=210.0, completed=40)])
    assert refuted.verdict == "refuted once"
    assert "not most" in refuted.sentence


def test_h3_without_a_server_is_not_told_from_slower_steps() -> None:
    finding = named("H3", ladder())
    assert finding.verdict == "cannot tell"
    assert "short_short 95% (all that 200.0 ms has more than the 10.0 ms at 1 user)" in finding.sentence
    assert finding.sentence.endswith("How much of that is waiting the server did not tell.")


def test_h3_cannot_be_told_from_one_level_without_a_server() -> None:
    rows = [at_level("short_short", 32, mean_ttft_ms=200.0, completed=40)]
    assert named("H3", rows).verdict == "cannot tell"


@pytest.mark.parametrize(
    ("short_long", "verdict"), [(900.0, "confirmed once"), (810.0, "cannot tell"), (500.0, "refuted once")]
)
def test_h3_which_ttft_is_largest(short_long: float, verdict: str) -> None:
    finding = named("H3, largest TTFT", ladder(busy={**BUSY, "short_long": short_long}))
    assert finding.verdict == verdict
    assert f"short_long {short_long:.1f} ms" in finding.sentence


def test_h4_answers_of_one_token_have_no_tpot() -> None:
    one = at_level("short_short", 1, completed=60, total_output_tokens=60, mean_tpot_ms=None)
    assert named("H4", [one]) == Finding(
        "H4", "confirmed", "Answers of one token have no TPOT: null in 1 row of such answers (60 requests)."
    )
    wrong = at_level("short_short", 1, completed=60, total_output_tokens=60, mean_tpot_ms=3.0)
    assert named("H4", [wrong]).verdict == "refuted"
    eight = at_level("short_short", 1, completed=60, total_output_tokens=480, mean_tpot_ms=3.0)
    assert named("H4", [eight]).verdict == "cannot tell"


def test_h4_counts_requests_once_where_a_run_has_a_row_of_its_own() -> None:
    numbers = {"completed": 60, "total_output_tokens": 60, "mean_tpot_ms": None}
    rows = [a_row("run", "huge", **numbers), at_level("short_short", 1, **numbers)]
    assert (
        "(60 requests)" in next(one for one in find("profiles", rows) if one.verdict == "confirmed").sentence
    )


def test_groups_of_profiles_are_judged_apart() -> None:
    rows = [*ladder(), *(Row("run", "huge.x", row.numbers, 0, row.profile, 1.0, "users") for row in ladder())]
    assert {finding.name for finding in find("profiles", rows) if finding.name.startswith("H1")} == {
        "H1 (tiny)",
        "H1 (huge)",
    }


def test_rows_of_a_client_at_its_limit_and_windows_that_were_too_short_say_nothing() -> None:
    invalid = a_row("run", client={"verdict": "invalid"})
    *findings, left_out = find("profiles", [invalid, *ladder()])
    assert {finding.verdict for finding in findings} == {"cannot tell"}
    why = "The client could not measure well enough to say anything of run (chat)."
    assert left_out == Finding("left out", "note", why)
    short = [at_level(name, 64, mean_ttft_ms=1e6, mean_tpot_ms=1e6, completed=63) for name in PROFILES]
    assert find("profiles", [*ladder(), *short]) == find("profiles", ladder())


def test_configurations_are_judged_apart() -> None:
    slower = {name: 10 * ms for name, ms in QUIET.items()}, {name: 10 * ms for name, ms in BUSY.items()}
    rows = [replace(row, run="fast") for row in ladder()]
    rows += [replace(row, run="slow") for row in ladder(*slower)]
    assert [named(f"H1 (tiny, {name})", rows).verdict for name in ("fast", "slow")] == ["confirmed once"] * 2
