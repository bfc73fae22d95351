"""What is known of an objective, and of all of a probe, in numbers and in words."""

import math

import pytest

from tests.core.made_recordings import a_recording, bounded, concluded, spread
from tests.core.made_records import an_ok
from vllm_locust.core.evidence import conclude
from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.record import DROPPED, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import Measured, judge


def finding(outcome, close=False, value=1.0, key="p99_ttft_ms", needed=0.99) -> Finding:
    return Finding(Slo(key, "<", 1.0, 99.0), outcome, value, 100, 100.0, 99.0, needed, close=close)


@pytest.mark.parametrize(
    ("findings", "outcome", "close"),
    [
        ([("met", False), ("met", False)], "met", False),
        ([("met", False), ("met", True)], "met", True),
        ([("met", True), ("missed", False)], "missed", False),
        ([("missed", True), ("missed", False)], "missed", False),
        ([("missed", True), ("met", False)], "missed", True),
        ([("open", False), ("met", False)], "open", False),
        ([("open", False), ("missed", False)], "missed", False),
    ],
)
def test_all_objectives_together(findings, outcome, close):
    evidence = Evidence(tuple(finding(*one) for one in findings))
    assert (evidence.outcome, evidence.close) == (outcome, close)


def test_the_worst_miss_comes_first():
    mild, bad = finding("missed", value=1.2), finding("missed", value=3.0)
    broken = finding("missed", value=None, needed=1.0)
    fine = finding("met", value=0.5)
    assert Evidence((mild, fine, broken, bad)).missed == (broken, bad, mild)
    assert mild.excess == pytest.approx(1.2)
    too_little = Finding(Slo("request_throughput", ">=", 10.0), "missed", 4.0)
    assert too_little.excess == pytest.approx(2.5)
    assert Finding(Slo("request_throughput", ">=", 10.0), "missed", 0.0).excess == math.inf


def test_a_finding_in_words_and_for_json():
    end = concluded("p95_ttft_ms<500", a_recording(spread(1000, 100)))
    assert end.sentence == "p95_ttft_ms<500: 900 ms, 90 % of requests inside, 95 % needed"
    assert end.to_dict() == {
        "slo": "p95_ttft_ms<500",
        "outcome": "missed",
        "close": False,
        "few": False,
        "takes": None,
        "blur": None,
        "value": pytest.approx(900),
        "values": [],
        "share": 0.9,
        "needed": 0.95,
        "low": end.low,
        "high": end.high,
        "trials": 1000,
        "worth": end.worth,
        "worth_known": True,
        "failed": 0,
        "surely": 900.0,
        "possibly": 900.0,
        "sentence": end.sentence,
    }
    almost = Finding(Slo("p99_ttft_ms", "<", 5.0, 99.0), "met", 4.0, 30000, 30000, 29999, 0.99)
    assert "99.99 % of requests inside" in almost.sentence


def test_what_no_request_has_is_said_to_be_nothing():
    recording = Recording()
    for second in range(40):
        recording.add(an_ok(float(second), arrivals_s=[second + 0.1]))  # one token has no TPOT
    end = concluded("p99_tpot_ms<50", recording)
    assert (end.outcome, end.close, end.of_nothing) == ("missed", True, True)
    assert end.sentence == "p99_tpot_ms<50: no request has a value for it"


@pytest.mark.parametrize(
    ("text", "ttft_ms", "bound_ms", "outcome", "torn"),
    [
        ("p99_ttft_ms<500", 178, 19, "met", False),
        ("p99_ttft_ms<500", 490, 200, "met", False),  # a stamp is late and never early
        ("p99_ttft_ms<500", 510, 20, "missed", True),
        ("p99_ttft_ms<500", 600, 20, "missed", False),
        ("max_e2el_ms<500", 510, 40, "missed", True),
        ("max_e2el_ms<500", 510, 20, "missed", False),
        ("p99_tpot_ms<50", 100, 60, "met", False),  # 10 ms, and 60 for the two tokens after the first
        ("p99_tpot_ms<30", 100, 60, "met", True),
        ("p99_itl_ms<50", 100, 30, "met", False),
        ("p99_itl_ms<50", 100, 60, "met", True),
        ("mean_ttft_ms<500", 510, 20, "missed", True),
        ("mean_ttft_ms<500", 510, 5, "missed", False),
    ],
)
def test_an_outcome_that_the_clients_own_error_may_turn_is_none(text, ttft_ms, bound_ms, outcome, torn):
    recording = bounded(ttft_ms, bound_ms)
    slo = parse_slo(text)
    numbers = summarize(recording, percentiles=percentiles_of([slo]))
    evidence = conclude([slo], recording.phase(0), numbers)
    (finding,) = evidence.findings
    assert (finding.outcome, finding.torn, finding.close) == (outcome, torn, torn)
    assert (evidence.blur is not None) == torn


def test_a_blur_in_words():
    recording = bounded(510, 20)
    for second in range(20):
        recording.add(an_ok(600.0 + second, arrivals_s=[600.9 + second, 601.0 + second]))
    slos = [parse_slo("p99_ttft_ms<500")]
    evidence = conclude(slos, recording.phase(0), summarize(recording))
    assert evidence.blur is None, "3 % are outside for certain"
    slos = [parse_slo("p95_ttft_ms<500")]
    assert conclude(slos, recording.phase(0), summarize(recording)).blur == (
        "the client's own error leaves it open whether p95_ttft_ms<500 is met: 0 to 96.77 % of requests were "
        "inside, 95 % needed"
    )


def test_what_is_missed_for_certain_is_not_blurred_by_another_objective():
    recording = bounded(510, 20)
    slos = [parse_slo("p99_ttft_ms<500"), parse_slo("p99_e2el_ms<100")]
    evidence = conclude(slos, recording.phase(0), summarize(recording))
    assert (evidence.outcome, evidence.blur) == ("missed", None)


def test_a_request_that_was_never_sent_may_have_been_inside_from_the_plan_or_not():
    recording = a_recording([100.0] * 300)
    for second in range(30):
        recording.add(
            RequestRecord(0, "s", profile="p", outcome=DROPPED, intended_s=second, ended_s=second + 0.2)
        )
    end = concluded("p95_ttft_from_plan_ms<500", recording)
    assert (end.trials, end.surely, end.possibly, end.torn) == (330, 300, 330, True)
    assert Evidence((end,)).blur == (
        "how long 30 requests that were never sent would have taken leaves it open whether "
        "p95_ttft_from_plan_ms<500 is met: 90.9 to 100 % of requests were inside, 95 % needed"
    )
    end = concluded("p95_ttft_from_plan_ms<150", recording)
    assert (end.surely, end.possibly, end.outcome) == (300, 300, "missed")


def test_an_error_is_no_smaller_for_a_sample_that_leaves_more_open():
    """11 of 200 requests took 510 ms, 20 of which may be the client's own: 94.5 to 100 % inside."""
    recording = Recording()
    for second in range(200):
        ttft_s, bound_s = (0.51, 0.02) if second % 19 == 0 else (0.1, 0.0)
        arrivals_s = [second + ttft_s + i / 100 for i in range(3)]
        recording.add(an_ok(float(second), arrivals_s=arrivals_s, bounds_s=[bound_s] * 3))
    end = concluded("p95_ttft_ms<500", recording)
    assert (end.surely, end.possibly, end.high - end.low > 0.1) == (189, 200, True)
    assert (end.torn, end.takes, end.few) == (True, None, False)
    assert Evidence((end,)).blur == (
        "the client's own error leaves it open whether p95_ttft_ms<500 is met: 94.5 to 100 % of requests "
        "were inside, 95 % needed"
    )


def test_a_throughput_that_a_client_without_cpu_missed_says_nothing():
    recording = a_recording([100.0] * 60)
    measured = Measured.of(recording.phase(0))
    slos, numbers = [parse_slo("request_throughput>=50")], summarize(recording)
    busy = judge(measured, {"client": 0.97}, "kernel", loop="closed")
    assert conclude(slos, recording.phase(0), numbers, busy).blur == (
        "it cannot be told whether request_throughput>=50 is met: 1.01488, but the load was not as planned, "
        "by the client's fault: the process 'client' used 97 % of a core"
    )
    calm = judge(measured, {"client": 0.2}, "kernel", loop="closed")
    assert conclude(slos, recording.phase(0), numbers, calm).blur is None


@pytest.mark.parametrize(
    ("requests", "text", "takes"),
    [(15, "p99_ttft_ms<500", 450), (16, "p99_ttft_ms<500", 450), (5, "p95_ttft_ms<500", 90)],
)
def test_how_many_would_do_does_not_hang_on_how_few_there_are(requests, text, takes):
    """Some 410 independent ones for a p99, 81 for a p95; what fewer than 16 are worth is not known."""
    end = concluded(text, a_recording([100.0] * requests))
    assert (end.few, end.worth_known) == (True, requests >= 16)
    assert 0.9 * takes < end.takes < 1.1 * takes
    assert share_interval(end.takes, end.takes, end.needed)[0] > end.needed


def test_a_thousandth_takes_thousands_however_few_were_asked():
    assert 4000 < concluded("p99.9_ttft_ms<500", a_recording([100.0] * 3)).takes < 5000
