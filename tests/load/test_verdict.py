"""Which exit code a run ends with, case by case."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from tests.core.made_records import an_error, an_ok
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import Judgement, parse_slo
from vllm_locust.load.outside import Outside
from vllm_locust.load.settings import Settings
from vllm_locust.load.verdict import Generators, Verdict, conclude, exit_code, unaccepted, why_inconclusive

LATENCY, FAILURES = "p99_ttft_ms<500", "failed==0"


def verdict_of(client: str, failed: int, **outcomes: Any) -> Verdict:
    judgements = [Judgement(parse_slo(text), outcome, 1.0, "") for text, outcome in outcomes["slos"].items()]
    summary = {
        "client": {"verdict": client, "reasons": ["a fault"]},
        "completed": 10,
        "requests": {"planned": 20, "failed": failed, "dropped": outcomes.get("dropped", 0)},
        "workers": [],
    }
    return Verdict(summary, judgements, "")


@pytest.mark.parametrize(
    ("client", "failed", "slos", "code"),
    [
        ("valid", 0, {}, None),
        ("degraded", 0, {}, None),
        ("invalid", 0, {}, 4),
        ("valid", 3, {}, None),  # Locust makes that 1
        ("invalid", 3, {}, None),
        ("valid", 0, {LATENCY: "met"}, None),
        ("valid", 0, {LATENCY: "missed"}, 3),
        ("valid", 3, {LATENCY: "missed"}, 3),
        ("invalid", 0, {LATENCY: "missed"}, 3),  # for certain: what the client may have added is in it
        ("invalid", 0, {LATENCY: "met"}, None),  # something else is what it could not measure
        ("valid", 0, {LATENCY: "undetermined"}, 4),
        ("valid", 0, {LATENCY: "undetermined", "mean_itl_ms<5": "missed"}, 3),
        ("valid", 3, {FAILURES: "missed"}, 3),
        ("invalid", 3, {FAILURES: "missed"}, 3),
        ("valid", 3, {"error_rate<0.5": "met"}, 0),
        ("invalid", 3, {"error_rate<0.5": "met"}, 0),
        ("valid", 0, {FAILURES: "undetermined"}, 4),
    ],
)
def test_exit_codes(client: str, failed: int, slos: dict[str, str], code: int | None) -> None:
    assert exit_code(verdict_of(client, failed, slos=slos), user_errors=False) == code


@pytest.mark.parametrize(
    ("slos", "failed", "code", "why"),
    [
        ({}, 0, None, "of 20 requests 7 were dropped, never sent"),  # which Locust makes 1
        ({FAILURES: "met"}, 0, None, "of 20 requests 7 were dropped, never sent"),
        ({LATENCY: "met"}, 3, None, "of 20 requests 3 failed and 7 were dropped, never sent"),
        ({"dropped<9": "met"}, 0, 0, None),
        ({"dropped<9": "met"}, 3, None, "of 20 requests 3 failed"),
        ({"requests.dropped==0": "missed"}, 0, 3, None),
        ({"dropped<9": "met", "failed<5": "met"}, 3, 0, None),
    ],
)
def test_dropped_requests_are_not_green_unless_an_objective_says_so(
    slos: dict[str, str], failed: int, code: int | None, why: str | None
) -> None:
    verdict = verdict_of("valid", failed, slos=slos, dropped=7)
    assert (exit_code(verdict, user_errors=False), unaccepted(verdict)) == (code, why)


def test_what_lost_workers_had_in_flight_may_have_failed() -> None:
    lost = {
        "worker": 0,
        "name": "a",
        "lost_after_s": 2.0,
        "was_missing": False,
        "unaccounted": 4,
        "requests": 9,
    }
    left = {**lost, "worker": 1, "lost_after_s": None, "unaccounted": 0}
    verdict = concluded(recorded(0.2), "failed==0", "completed>100", workers=[lost, left])
    assert [judgement.outcome for judgement in verdict.judgements] == ["undetermined", "met"]
    assert why_inconclusive(verdict) == (
        "failed==0 is undetermined: 0, but what became of up to 4 requests of lost workers is not known"
    )


def test_tasks_that_raise_are_not_excused_by_an_error_budget() -> None:
    verdict = verdict_of("valid", 3, slos={"error_rate<0.5": "met"})
    assert exit_code(verdict, user_errors=True) is None


@pytest.mark.parametrize(
    ("level", "undecided", "code"),
    [
        (13, None, 0),  # what failed above is what was looked for
        (13, "at 16 the client could not send 200 of 1200 requests", 4),
        (13, "the search was broken off before its end", 4),
        (None, None, 3),
        (None, "that 1 missed is close", 4),
    ],
)
def test_exit_codes_of_a_search(level: float | None, undecided: str | None, code: int) -> None:
    verdict = verdict_of("valid", 3, slos={})
    found = {"level": level, "undecided": undecided}
    searched = replace(verdict, summary={**verdict.summary, "capacity": found})
    assert exit_code(searched, user_errors=False) == code


def recorded(*levels_s: float, requests: int = 400) -> Recording:
    """A phase for each level, in which every second TTFT is that, and the others 1 ms less."""
    recording = Recording()
    for phase, ttft_s in enumerate(levels_s):
        for i in range(requests):
            sent_s = phase * 1000 + i
            arrivals_s = [sent_s + ttft_s - i % 2 / 1000, sent_s + 0.9]
            recording.add(an_ok(sent_s=sent_s, arrivals_s=arrivals_s, phase=phase))
    return recording


def concluded(
    recording: Recording,
    *slos: str,
    workers: Sequence[Mapping[str, Any]] = (),
    warming_s: float | None = None,
) -> Verdict:
    settings = Settings(slos=[parse_slo(slo) for slo in slos])
    identity = {"scenario": "s", "request_rate": None}
    generators = Generators({"client": 0.1}, "kernel", 0, Outside(called=True), workers, warming_s)
    return conclude(recording, settings, identity, generators, {})


def test_the_gates_are_the_last_lines_with_their_intervals() -> None:
    verdict = concluded(recorded(0.2), "p99_ttft_ms<500", "mean_ttft_ms<100", "failed==0")
    assert verdict.text.splitlines()[-3:] == [
        "SLO p99_ttft_ms<500 is met: 200, 95 % interval [200 .. 200]",
        "SLO mean_ttft_ms<100 is missed: 199.5, 95 % interval [199.489 .. 199.511]",
        "SLO failed==0 is met: 0",
    ]
    assert [entry["outcome"] for entry in verdict.summary["slo"]] == ["met", "missed", "met"]
    assert "slo" not in verdict.summary["phases"][0], "it is the whole run"


def test_the_interval_of_a_percentile_allows_for_requests_that_are_alike() -> None:
    """The level of the latency changes every 20 requests, so 960 of them are not 960 measurements."""
    rng = Random(3)
    recording = Recording()
    for i in range(960):
        if i % 20 == 0:
            level_s = rng.uniform(0.1, 0.3)
        recording.add(an_ok(sent_s=i, arrivals_s=[i + level_s + rng.uniform(0, 0.01), i + 0.9]))
    verdict = concluded(recording, "p90_ttft_ms<500")
    (entry,) = verdict.summary["slo"]
    low, high = verdict.summary["intervals"]["p90_ttft_ms"]
    assert entry["low"] < low
    assert entry["high"] > high
    assert entry["high"] - entry["low"] > 2 * (high - low)


def test_each_step_of_a_ladder_is_judged_too() -> None:
    verdict = concluded(recorded(0.1, 0.2, 0.6), "p50_ttft_ms<500", "mean_ttft_ms<500")
    assert verdict.text.splitlines()[-4:] == [
        "SLO p50_ttft_ms<500 is met: 199.5, 95 % interval if requests were independent [199 .. 200]",
        "    by phase: met in 1, 2; missed in 3",
        "SLO mean_ttft_ms<500 is met: 299.5",  # of several levels of load: of nothing that has an interval
        "    by phase: met in 1, 2; missed in 3",
    ]
    steps = [phase["slo"] for phase in verdict.summary["phases"]]
    assert [[entry["outcome"] for entry in step] for step in steps] == [["met"] * 2] * 2 + [["missed"] * 2]
    assert steps[2][1]["low"] == pytest.approx(599.489, abs=0.001)
    assert exit_code(verdict, user_errors=False) is None, "the whole run decides"


@pytest.mark.parametrize(("late", "failed", "why"), [(4, 0, "4 ended outside it"), (0, 6, "6 failed")])
def test_a_step_in_which_nothing_was_measured_is_not_green(late: int, failed: int, why: str) -> None:
    recording = recorded(0.1)
    recording.close_phase(0, 999.0)
    recording.begin_phase(1, 1000.0, warmup_s=1.0)
    for _ in range(failed):
        recording.add(an_error(1005.0, phase=1))
    recording.close_phase(1, 1010.0)
    for _ in range(late):
        recording.add(an_ok(1004.0, 1011.0, phase=1))
    verdict = concluded(recording, "failed<=100", "p50_ttft_ms<500", "completed>399")
    nothing = (
        f"{failed} of all phases together, but in phase 2 no request was answered in the measured window"
    )
    more = " (and 1 more, see above)" if late else ""
    assert why_inconclusive(verdict) == f"failed<=100 is undetermined: {nothing}: {why}{more}"
    assert exit_code(verdict, user_errors=False) == 4
    by_phase = [[entry["outcome"] for entry in phase["slo"]] for phase in verdict.summary["phases"]]
    # Six failures are enough to miss a median, and to have completed nothing is no 400.
    assert by_phase == [["met"] * 3, ["undetermined", "undetermined" if late else "missed", "missed"]]
    together = [entry["outcome"] for entry in verdict.summary["slo"]]
    assert together == ["undetermined", "undetermined" if late else "met", "met"]


def test_without_gates_nothing_is_said_of_them() -> None:
    verdict = concluded(recorded(0.1, 0.2))
    assert "SLO" not in verdict.text
    assert all("slo" not in phase for phase in verdict.summary["phases"])


def test_with_code_4_there_is_a_sentence_that_says_why() -> None:
    """Every second TTFT may be too large by 50 ms, so that the mean lies between 174.5 and 199.5 ms."""
    recording = Recording()
    for i in range(400):
        arrivals_s = [i + 0.2 - i % 2 / 1000, i + 0.9]
        recording.add(an_ok(sent_s=i, arrivals_s=arrivals_s, bounds_s=[0.05 * (i % 2), 0.0]))
    unclear = concluded(recording, "mean_ttft_ms<180", "failed==0")
    assert exit_code(unclear, user_errors=False) == 4
    assert why_inconclusive(unclear) == (
        "mean_ttft_ms<180 is undetermined: 199.5 ms, but the client's own error may be up to 25 ms: it may "
        "be met or missed"
    )
    certain = concluded(recording, "mean_ttft_ms<150", "failed==0")
    assert (exit_code(certain, user_errors=False), why_inconclusive(certain)) == (3, None)
    ungated = concluded(recording)
    assert exit_code(ungated, user_errors=False) == 4
    assert why_inconclusive(ungated) == (
        "the measurement is invalid: the mean TTFT may be 25 ms off, beyond the 3.99 ms of a valid "
        "measurement (and 4 more, see above)"
    )
    other = concluded(recording, "p99_e2el_ms<1000", "failed==0")
    assert (exit_code(other, user_errors=False), why_inconclusive(other)) == (0, None)


def test_a_run_that_was_over_while_the_cache_was_warmed_does_not_blame_the_server() -> None:
    why = "no request was sent: warming the prefix cache took 8.0 s of the run's time, so give it more (-t)"
    nothing = concluded(Recording(), warming_s=8.04)
    assert exit_code(nothing, user_errors=False) == 4
    assert why_inconclusive(nothing) == why
    assert nothing.summary["warming_s"] == 8.04
    assert f"  - N{why[1:]}" in nothing.text
    assert (why_inconclusive(concluded(Recording(), LATENCY, warming_s=8.04)) or "").endswith(why)
    assert why_inconclusive(concluded(recorded(0.2, requests=400), warming_s=8.04)) is None


def test_a_load_that_nobody_was_left_to_make_is_not_green() -> None:
    verdict = concluded(recorded(0.2, requests=400), "p50_ttft_ms<500")
    assert exit_code(verdict, user_errors=False) is None
    one, other = {"lost_after_s": 2.0}, {"lost_after_s": 3.5}
    abandoned = replace(verdict, summary={**verdict.summary, "workers": [one, other]})
    assert exit_code(abandoned, user_errors=False) == 4
    assert why_inconclusive(abandoned) == (
        "all 2 load-generating processes were lost, the last one after 3.5 s"
    )
    left = replace(verdict, summary={**verdict.summary, "workers": [one, {"lost_after_s": None}]})
    assert exit_code(left, user_errors=False) is None


def test_too_few_requests_say_how_many_would_do() -> None:
    few = concluded(recorded(0.2, requests=9), "p99_ttft_ms<500")
    assert exit_code(few, user_errors=False) == 4
    assert "it takes 368" in (why_inconclusive(few) or "")


def test_a_run_that_measured_nothing_says_so_and_passes_no_gate() -> None:
    recording = Recording()
    recording.begin_phase(0, 0.0, 100.0)
    recording.add(an_ok())
    recording.close_phase(0, 110.0)
    nothing = "no request was answered in the measured window: 1 ended outside it"
    assert "  - N" + nothing[1:] in concluded(recording).text.splitlines()
    assert exit_code(concluded(recording), user_errors=False) == 4
    assert why_inconclusive(concluded(recording)) == nothing
    for slo in ("p99_ttft_ms<500", "failed==0"):
        gated = concluded(recording, slo)
        assert exit_code(gated, user_errors=False) == 4
        assert why_inconclusive(gated) == f"{slo} is undetermined: {nothing}"
