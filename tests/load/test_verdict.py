"""Which exit code a run ends with, case by case."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import Judgement, parse_slo
from vllm_locust.load.settings import Settings
from vllm_locust.load.verdict import Generators, Verdict, conclude, exit_code

LATENCY, FAILURES = "p99_ttft_ms<500", "failed==0"


def verdict_of(client: str, failed: int, **outcomes: Any) -> Verdict:
    judgements = [Judgement(parse_slo(text), outcome, 1.0, "") for text, outcome in outcomes["slos"].items()]
    summary = {"client": {"verdict": client}, "requests": {"failed": failed}}
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
        ("invalid", 0, {LATENCY: "missed"}, 4),  # the client may be to blame
        ("valid", 0, {LATENCY: "undetermined"}, 4),
        ("valid", 0, {LATENCY: "undetermined", "mean_itl_ms<5": "missed"}, 3),
        ("valid", 3, {FAILURES: "missed"}, 3),
        ("invalid", 3, {FAILURES: "missed"}, 3),
        ("valid", 3, {"error_rate<0.5": "met"}, 0),
        ("invalid", 3, {"error_rate<0.5": "met"}, 4),
    ],
)
def test_exit_codes(client: str, failed: int, slos: dict[str, str], code: int | None) -> None:
    assert exit_code(verdict_of(client, failed, slos=slos), user_errors=False) == code


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


def concluded(recording: Recording, *slos: str) -> Verdict:
    settings = Settings(slos=[parse_slo(slo) for slo in slos])
    identity = {"scenario": "s", "request_rate": None}
    return conclude(recording, settings, identity, Generators({"client": 0.1}, "kernel", lost=0), {})


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


def test_without_gates_nothing_is_said_of_them() -> None:
    verdict = concluded(recorded(0.1, 0.2))
    assert "SLO" not in verdict.text
    assert all("slo" not in phase for phase in verdict.summary["phases"])
