"""Which exit code a run ends with, case by case."""

from dataclasses import replace
from typing import Any

import pytest

from vllm_locust.core.slo import Judgement, parse_slo
from vllm_locust.load.verdict import Verdict, exit_code

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
    ("level", "ended", "code"),
    [
        (13, "narrowed", 0),
        (13, "collapsed", 0),  # what failed above is what was looked for
        (13, "client", 0),
        (13, "running", 4),  # it was interrupted
        (None, "none", 3),
        (None, "collapsed", 3),
        (None, "client", 4),
    ],
)
def test_exit_codes_of_a_search(level: float | None, ended: str, code: int) -> None:
    verdict = verdict_of("valid", 3, slos={})
    searched = replace(verdict, summary={**verdict.summary, "capacity": {"level": level, "ended": ended}})
    assert exit_code(searched, user_errors=False) == code
