"""What requests say about objectives, counted by hand; and when a server counts as broken down."""

import json
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_recordings import a_recording, bounded, concluded, spread
from tests.core.made_records import an_error, an_ok, records
from vllm_locust.core.collapse import collapsed
from vllm_locust.core.evidence import HANDFUL, conclude, pool, weigh
from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.group import Group
from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, TIMEOUT, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo, evaluate, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import Measured, judge


def weighed(text: str, recording: Recording) -> Finding:
    (finding,) = weigh([parse_slo(text)], recording.phase(0)).findings
    return finding


@pytest.mark.parametrize(
    ("inside", "outside", "outcome"),
    [
        (10, 0, "open"),
        (400, 0, "open"),
        (600, 0, "met"),
        (1500, 1, "met"),
        (990, 10, "open"),
        (950, 50, "missed"),
        (30, 30, "missed"),
    ],
)
def test_a_percentile_is_decided_by_the_share_of_requests_inside(inside, outside, outcome):
    finding = weighed("p99_ttft_ms<500", a_recording(spread(inside + outside, outside)))
    assert finding.outcome == outcome
    assert (finding.trials, finding.inside, finding.needed) == (inside + outside, inside, 0.99)
    assert finding.share == inside / (inside + outside)
    assert finding.worth <= finding.trials
    expected = share_interval(finding.share * finding.worth, finding.worth, 0.99)
    assert (finding.low, finding.high) == expected
    assert not finding.close


@pytest.mark.parametrize("failed", [0, 60])
def test_a_failed_request_is_one_outside(failed):
    finding = weighed("p95_ttft_ms<500", a_recording(spread(300), failed))
    assert finding.outcome == ("missed" if failed else "met")
    assert (finding.trials, finding.inside, finding.failed) == (300 + failed, 300, failed)
    assert finding.value < 200
    if failed:
        assert finding.sentence == (
            f"p95_ttft_ms<500: {finding.value:.6g} ms, 83.33 % of requests inside, 95 % needed, 60 failed"
        )
        assert finding.excess == pytest.approx((60 / 360) / 0.05)


def test_the_bound_itself_is_inside_only_when_the_objective_says_so():
    recording = Recording()
    for second in range(20):
        recording.add(an_ok(float(second), arrivals_s=[second + 0.5, second + 0.75]))
    assert weighed("p50_ttft_ms<500", recording).inside == 0
    assert weighed("p50_ttft_ms<=500", recording).inside == 20
    assert weighed("max_itl_ms<250", recording).outcome == "missed"
    assert weighed("max_itl_ms<=250", recording).outcome == "open"


@given(
    st.lists(records(), min_size=1, max_size=30),
    st.sampled_from(["<", "<="]),
    st.sampled_from([0, 900, 3000]),
)
def test_every_family_counts_as_its_definition_says(made, op, bound_ms):
    recording = Recording()
    for record in sorted(made, key=lambda record: record.ended_s):
        recording.add(record)
    ok = [record for record in made if record.outcome == "ok" and record.phase == 0]
    failed = sum(r.outcome not in ("ok", DROPPED) and r.phase == 0 for r in made)
    late = {id(record): record.sent_s - record.intended_s for record in ok}
    values = {
        "ttft": [record.ttft_s for record in ok],
        "e2el": [record.e2el_s for record in ok],
        "tpot": [record.tpot_s for record in ok if record.tpot_s is not None],
        "ttft_from_plan": [record.ttft_s + late[id(record)] for record in ok],
        "e2el_from_plan": [record.e2el_s + late[id(record)] for record in ok],
    }
    pieces = sum(
        record.last_token_s - record.first_token_s < 50e-6 * (len(record.arrivals_s) - 1) for record in ok
    )
    waits = [r.ended_s - r.intended_s for r in made if r.outcome == DROPPED and r.phase == 0]
    values["ttft_from_plan"] += waits
    values["e2el_from_plan"] += waits
    for family, seconds in values.items():
        unknown = pieces if family == "tpot" else 0
        if any(abs(value * 1000 - bound_ms) < 1e-6 for value in seconds):
            continue  # on the bound, where rounding decides
        for word in ("p90", "median", "max"):
            finding = weighed(f"{word}_{family}_ms{op}{bound_ms}", recording)
            assert finding.trials == len(seconds) + failed + unknown
            assert finding.inside == sum(value * 1000 < bound_ms for value in seconds)
            assert finding.needed == {"p90": 0.9, "median": 0.5, "max": 1.0}[word]
            assert finding.failed == failed
            q = {"p90": 90, "median": 50, "max": 100}[word]
            if seconds:
                assert finding.value == pytest.approx(np.percentile(seconds, q) * 1000)
            else:
                assert finding.value is None


def test_the_gaps_of_a_stream_are_one_trial_by_their_share():
    recording = Recording()
    for second in range(100):
        # Four gaps, of which three are 10 ms and one is 100 ms.
        steps = [0.01, 0.01, 0.01, 0.1]
        Random(second).shuffle(steps)
        arrivals_s = np.cumsum([second + 0.05, *steps]).tolist()
        recording.add(an_ok(float(second), arrivals_s=arrivals_s))
    recording.add(an_ok(100.0, arrivals_s=[100.5]))  # has no gap and is no trial
    for text in ("p90_itl_ms<50", "p90_itl_ms<=50"):
        finding = weighed(text, recording)
        assert (finding.trials, finding.inside) == (100, pytest.approx(75))
        assert finding.outcome == "missed"
    assert weighed("p50_itl_ms<50", recording).outcome == "met"
    assert concluded("p75_itl_ms<50", recording).outcome == "met"
    assert concluded("p75_itl_ms<50", recording).close


@pytest.mark.parametrize("text", ["max_ttft_ms<500", "max_e2el_ms<800", "max_tpot_ms<50", "max_itl_ms<50"])
def test_the_first_request_outside_decides_a_maximum_and_none_proves_it(text):
    fine = a_recording([100] * 20)
    assert weighed(text, fine).outcome == "open"
    end = concluded(text, fine)
    assert (end.outcome, end.close, end.final) == ("met", False, False)
    one = a_recording([100] * 20)
    one.add(an_ok(20.0, arrivals_s=[21.0, 21.1]))
    assert weighed(text, one).outcome == "missed"
    assert concluded(text, one).final
    failed = a_recording([100] * 20, failed=1)
    assert weighed(text, failed).outcome == "missed"


def test_a_maximum_says_how_many_were_outside():
    recording = a_recording([100.0] * 299 + [900.0])
    assert concluded("max_ttft_ms<500", recording).sentence == (
        "max_ttft_ms<500: 900 ms, 1 of 300 requests outside"
    )


def test_a_handful_proves_no_maximum():
    assert concluded("max_ttft_ms<500", a_recording([100] * (HANDFUL - 1))).close
    assert not concluded("max_ttft_ms<500", a_recording([100] * HANDFUL)).close


@pytest.mark.parametrize(
    "text", ["failed==0", "failed<=0", "failed<1", "requests.failed==0", "error_rate<=0"]
)
def test_an_objective_of_no_failures(text):
    assert weighed(text, a_recording([100] * 20)).outcome == "open"
    assert concluded(text, a_recording([100] * 20)).outcome == "met"
    missed = weighed(text, a_recording([100] * 20, failed=1))
    assert (missed.outcome, missed.final) == ("missed", True)
    assert missed.sentence == f"{missed.slo}: 1 of 21 requests failed"


@pytest.mark.parametrize(
    ("ok", "failed", "outcome"), [(100, 0, "open"), (600, 0, "met"), (300, 30, "missed"), (297, 3, "open")]
)
def test_an_error_rate_is_a_share_of_requests(ok, failed, outcome):
    finding = weighed("error_rate<0.01", a_recording([100] * ok, failed))
    assert (finding.outcome, finding.trials, finding.worth) == (outcome, ok + failed, ok + failed)
    assert finding.value == failed / (ok + failed)
    assert (finding.low, finding.high) == share_interval(ok, ok + failed, 0.99)


def test_at_the_bound_of_an_error_rate_its_operator_decides():
    assert concluded("error_rate<0.01", a_recording([100] * 99, failed=1)).outcome == "missed"
    assert concluded("error_rate<=0.01", a_recording([100] * 99, failed=1)).outcome == "met"


def test_a_count_of_failures_is_missed_when_it_has_grown_too_large():
    assert weighed("failed<5", a_recording([100] * 20, failed=4)).outcome == "open"
    assert concluded("failed<5", a_recording([100] * 20, failed=4)).outcome == "met"
    assert weighed("failed<5", a_recording([100] * 20, failed=5)).outcome == "missed"


@pytest.mark.parametrize(
    "text",
    [
        "mean_ttft_ms<500",
        "mean_ttft_ms<50",
        "std_ttft_ms<=1000",
        "output_throughput>=1e9",
        "request_throughput>0.1",
        "completed==60",
        "requests.dropped==0",
        "p90_ttft_ms>1",
        "p90_ttft_ms>=1e6",
        "median_e2el_ms==3",
        "max_ttft_ms>1",
        "max_connect_ms<5",
        "mean_ttft_ms<5",
        "std_e2el_ms<=5",
        "max_concurrent_requests<=5",
        "error_rate>=0",
        "error_rate<=7",
        "failed>3",
        "duration>1",
    ],
)
def test_other_objectives_are_open_until_the_end_and_then_judged_by_value(text):
    recording = a_recording(spread(60))
    assert weighed(text, recording).outcome == "open"
    end = concluded(text, recording)
    slo = parse_slo(text)
    judgement = evaluate(slo, summarize(recording, percentiles=percentiles_of([slo])))
    if judgement.outcome == "undetermined":
        assert end.close
    else:
        assert (end.outcome, end.close) == (judgement.outcome, False)
    assert end.value == judgement.value


def test_a_value_that_its_own_interval_leaves_open_is_close():
    slow = concluded("p99_ttft_ms>500", a_recording([100] * 50))
    assert (slow.outcome, slow.close) == ("missed", True)


def test_numbers_of_a_running_probe_are_shown_and_decide_nothing():
    recording = a_recording([100] * 20)
    slo = parse_slo("mean_ttft_ms<500")
    (finding,) = weigh([slo], recording.phase(0), summarize(recording)).findings
    assert (finding.outcome, finding.value) == ("open", pytest.approx(100))


@pytest.mark.parametrize(("outside", "outcome"), [(0, "met"), (1, "met"), (2, "missed")])
def test_what_is_open_at_the_end_goes_by_the_share_and_is_close(outside, outcome):
    end = concluded("p99_ttft_ms<500", a_recording(spread(100, outside)))
    assert (end.outcome, end.close) == (outcome, True)


@given(st.integers(1, 400), st.integers(0, 20), st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]))
def test_the_share_at_the_end_is_compared_without_rounding(inside, outside, q):
    group = Group()
    for second in range(inside + outside):
        ttft_s = 0.1 if second < inside else 0.9
        group.add(an_ok(float(second), arrivals_s=[second + ttft_s, second + 2.0]), 0.0, True)
    (finding,) = conclude([parse_slo(f"p{q:g}_ttft_ms<500")], group, {}).findings
    tenths_of_percent = round(q * 10)
    exactly = inside * 1000 >= (inside + outside) * tenths_of_percent
    assert (finding.outcome == "met") == exactly


def test_without_any_request_nothing_is_met():
    empty = Recording()
    for text in ("p99_ttft_ms<500", "max_e2el_ms<5", "mean_ttft_ms<5", "p90_itl_ms<5", "error_rate<0.1"):
        assert weighed(text, empty).outcome == "open"
        end = concluded(text, empty)
        assert (end.outcome, end.close, end.value) == ("missed", True, None)
        assert end.sentence == f"{text}: no request has a value for it"
        assert json.dumps(end.to_dict(), allow_nan=False)
    assert concluded("failed==0", empty).close


@given(
    st.lists(records(), max_size=30),
    st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(
                "p99_ttft_ms p50_tpot_ms median_itl_ms max_itl_ms p9_itl_per_token_ms max_connect_ms "
                "mean_tpot_ms p90_e2el_from_plan_ms std_e2el_ms failed requests.failed error_rate "
                "completed request_goodput".split()
            ),
            st.sampled_from(["<", "<=", ">", ">=", "=="]),
            st.sampled_from(["0", "1", "0.5", "-3", "700"]),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_anything_can_be_weighed_and_nothing_is_open_at_the_end(made, texts):
    recording = Recording()
    for record in made:
        recording.add(record)
    slos = list(map(parse_slo, texts))
    group = recording.phase(0)
    evidence = weigh(slos, group)
    end = conclude(slos, group, summarize(recording, percentiles=percentiles_of(slos)))
    assert end.outcome in ("met", "missed")
    for before, after in zip(evidence.findings, end.findings, strict=True):
        assert after.outcome != "open"
        assert before.outcome in ("open", after.outcome)
        assert after.sentence.startswith(str(after.slo))
        assert json.dumps(after.to_dict(), allow_nan=False)
        assert after.excess >= 0 or after.outcome == "met" or after.slo.bound < 0
    assert [finding.excess for finding in end.missed] == sorted((f.excess for f in end.missed), reverse=True)


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
    many = replace(end, low=0.90, high=1.0)  # as of a longer run of the same
    assert Evidence((many,)).blur == (
        "how long 30 requests that were never sent would have taken leaves it open whether "
        "p95_ttft_from_plan_ms<500 is met: 90.9 to 100 % of requests were inside, 95 % needed"
    )
    end = concluded("p95_ttft_from_plan_ms<150", recording)
    assert (end.surely, end.possibly, end.outcome) == (300, 300, "missed")


def stalled(stall: bool) -> Recording:
    """Ten requests a second for 60 s, and one second in which all take a second more."""
    recording = Recording()
    for i in range(600):
        sent_s = i / 10
        slow = 1.0 if stall and 30 <= sent_s < 31 else 0.0
        ttft_s = 0.1 + slow + i % 7 / 1000
        recording.add(an_ok(sent_s, arrivals_s=[sent_s + ttft_s, sent_s + ttft_s + 0.05]))
    return recording


def test_requests_outside_of_one_stretch_of_time_are_a_hiccup():
    evidence = conclude([parse_slo("p99_ttft_ms<500")], stalled(True).phase(0), {})
    assert evidence.outcome == "missed"
    assert evidence.hiccup == (
        "10 of the 10 requests outside were under way in one stretch of 3.0 s for p99_ttft_ms<500"
    )
    assert conclude([parse_slo("p99_ttft_ms<500")], stalled(False).phase(0), {}).hiccup is None
    assert conclude([parse_slo("p95_ttft_ms<500")], stalled(True).phase(0), {}).outcome == "met"


@pytest.mark.parametrize("outside", [12, 60, 600])
def test_requests_outside_all_over_are_none(outside):
    evidence = conclude([parse_slo("p99_ttft_ms<500")], a_recording(spread(600, outside)).phase(0), {})
    assert (evidence.outcome, evidence.hiccup) == ("missed", None)


@pytest.mark.parametrize(
    ("failed_at_s", "hiccup"),
    [
        ([30.9], "11 of the 11 requests outside"),  # one of those that were under way in it
        ([55.0], "10 of the 11 requests outside"),  # one that alone would have been no miss
        ([10.0, 20.0, 40.0, 50.0], None),  # not three quarters of those outside
    ],
)
def test_a_failure_in_a_hiccup_is_a_part_of_it(failed_at_s, hiccup):
    recording = stalled(True)
    for ended_s in failed_at_s:
        recording.add(an_error(ended_s))
    said = conclude([parse_slo("p99_ttft_ms<500")], recording.phase(0), {}).hiccup
    assert said == (hiccup and f"{hiccup} were under way in one stretch of 3.0 s for p99_ttft_ms<500")


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


def test_pooled_probes_count_together():
    slos = [parse_slo("p95_ttft_ms<500"), parse_slo("max_ttft_ms<950"), parse_slo("mean_ttft_ms<500")]

    def probe(count, outside):
        recording = a_recording(spread(count, outside))
        return conclude(slos, recording.phase(0), summarize(recording))

    first, second = probe(60, 3), probe(180, 3)
    pooled = pool([first, second])
    share, most, mean = pooled.findings
    assert first.close
    assert (share.trials, share.inside) == (240, 234)
    assert share.worth == first.findings[0].worth + second.findings[0].worth
    assert (share.low, share.high) == share_interval(234 / 240 * share.worth, share.worth, 0.95)
    assert (share.outcome, share.close) == ("met", True)
    assert most.value == pytest.approx(900)
    assert (most.outcome, most.close) == ("met", False)
    assert (share.value, mean.value) == (None, None), "that of all 240 does not follow from the two"
    assert mean.values == tuple(probe.findings[2].value for probe in (first, second))
    assert mean.sentence == "mean_ttft_ms<500: 16.0326 to 47.0542 ms in 2 probes"
    low, high = sorted(f"{probe.findings[0].value:.6g}" for probe in (first, second))
    assert share.sentence == (
        f"p95_ttft_ms<500: {low} to {high} ms in 2 probes, 97.5 % of requests inside, 95 % needed"
    )
    assert pool([first]) == first


@pytest.mark.parametrize(
    ("text", "failed", "sentence", "outcome"),
    [
        ("failed==0", (3, 21), "24 of 124 requests failed", "missed"),
        ("failed<5", (4, 4), "8 of 108 requests failed", "met"),  # in each of the two
        ("failed<5", (4, 6), "10 of 110 requests failed", "missed"),
        ("error_rate<0.1", (1, 21), "22 of 122 requests failed", "missed"),
    ],
)
def test_pooled_failures_are_those_of_all_probes(text, failed, sentence, outcome):
    slos = [parse_slo(text)]
    recordings = [a_recording([100] * 50, count) for count in failed]
    (pooled,) = pool([conclude(slos, one.phase(0), summarize(one)) for one in recordings]).findings
    assert (pooled.sentence, pooled.outcome) == (f"{pooled.slo}: {sentence}", outcome)
    assert pooled.value in (None, pytest.approx(22 / 122))


def test_values_that_disagree_are_what_most_of_them_are_and_in_doubt_missed():
    def pooled(*values: float) -> Finding:
        slo = Slo("dropped", "==", 0.0)
        findings = [Finding(slo, "met" if value == 0 else "missed", value, 50) for value in values]
        return pool([Evidence((one,)) for one in findings]).findings[0]

    assert (pooled(0, 0, 21).outcome, pooled(0, 0, 21).close) == ("met", True)
    assert (pooled(0, 21).outcome, pooled(3, 21).close) == ("missed", False)
    assert pooled(3, 21).sentence == "dropped==0: 3 to 21 in 2 probes"
    assert pooled(3, 3).sentence == "dropped==0: 3"
    assert pooled(3, 21).excess == math.inf


def test_pooling_can_decide_what_no_probe_could():
    slo = parse_slo("p99_ttft_ms<500")
    ends = [conclude([slo], a_recording(spread(300)).phase(0), {}) for _ in range(3)]
    assert all(end.close for end in ends)
    pooled = pool(ends)
    assert (pooled.outcome, pooled.close) == ("met", False)


def test_a_broken_maximum_stays_broken_in_the_pool():
    slos = [parse_slo("max_ttft_ms<500")]
    good = conclude(slos, a_recording([100] * 50).phase(0), {})
    bad = conclude(slos, a_recording([100] * 50 + [900]).phase(0), {})
    assert pool([good, bad, good]).final


def test_only_the_same_objectives_can_be_pooled():
    one = conclude([parse_slo("max_ttft_ms<500")], Group(), {})
    other = conclude([parse_slo("max_ttft_ms<501")], Group(), {})
    with pytest.raises(ValueError, match="different objectives"):
        pool([one, other])


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


def failing_for_a_moment(answered: int = 600, failed: int = 12) -> Recording:
    """Ten requests a second, and some that failed together halfway."""
    recording = Recording()
    for i in range(answered):
        recording.add(an_ok(i / 10, arrivals_s=[i / 10 + 0.1, i / 10 + 0.2]))
    for i in range(failed):
        recording.add(an_error(30.0 + i / 10))
    return recording


@pytest.mark.parametrize("text", ["failed==0", "error_rate<0.01", "requests.failed<1"])
def test_failures_of_one_stretch_of_time_are_a_hiccup(text):
    end = concluded(text, failing_for_a_moment())
    assert (end.outcome, Evidence((end,)).hiccup) == (
        "missed",
        f"12 of the 12 requests outside were under way in one stretch of 3.0 s for {end.slo}",
    )
    assert concluded(text, failing_for_a_moment(failed=4)).hiccup is None, "a handful is 5"


def test_a_maximum_that_one_stretch_of_time_broke_was_broken_by_a_hiccup():
    end = conclude([parse_slo("max_ttft_ms<500")], stalled(True).phase(0), summarize(stalled(True)))
    assert (end.outcome, end.hiccup is not None) == ("missed", True)
    twice = stalled(True)
    twice.add(an_ok(5.0, arrivals_s=[5.9, 6.0]))
    assert concluded("max_ttft_ms<500", twice).hiccup is None, "it would have missed without, too"


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


def test_what_no_request_has_is_said_to_be_nothing():
    recording = Recording()
    for second in range(40):
        recording.add(an_ok(float(second), arrivals_s=[second + 0.1]))  # one token has no TPOT
    end = concluded("p99_tpot_ms<50", recording)
    assert (end.outcome, end.close, end.of_nothing) == ("missed", True, True)
    assert end.sentence == "p99_tpot_ms<50: no request has a value for it"


def moody(count: int) -> list[float]:
    """TTFTs that drift slowly up and down."""
    return [200 + 100 * math.sin(i / 20) + Random(i).random() for i in range(count)]


def test_what_requests_are_worth_goes_by_time_and_not_by_profile():
    """Two profiles that take turns, one slow and one quick: their columns stand one behind the other."""
    calm, wild = Recording(), Recording()
    for recording, values in ((calm, spread(800)), (wild, moody(800))):
        for second, ttft_ms in enumerate(values):
            profile, first_s = "ab"[second % 2], second + ttft_ms / 1000 + second % 2
            record = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1], profile=profile)
            recording.add(record)
    assert weighed("p99_ttft_ms<1500", calm).worth > 400
    assert weighed("p99_ttft_ms<1500", wild).worth < 150


def test_what_requests_are_worth_goes_by_their_own_ends_however_many_others_failed():
    """Of two profiles only one has failures, so that the ends of the others lie unevenly among all ends."""
    alone, among = Recording(), Recording()
    for profile in "ab":
        for second, ttft_ms in enumerate(moody(400)):
            first_s = second + ttft_ms / 1000
            made = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1], profile=profile)
            alone.add(made)
            among.add(made)
            for i in range(5 if profile == "b" and second > 200 else 0):
                among.add(an_error(second + 0.5 + i / 100, profile=profile))
    finding = weighed("p50_ttft_ms<200", among)
    assert finding.trials / finding.worth == pytest.approx(800 / weighed("p50_ttft_ms<200", alone).worth)


@pytest.mark.parametrize("failed_every", [None, 9])
def test_the_times_are_found_behind_a_warm_up_and_past_the_end(failed_every):
    """The same requests are worth the same in a window that is only a part of the run."""
    whole, part = Recording(), Recording()
    part.begin_phase(0, 0.0, warmup_s=100.0)
    for second, ttft_ms in enumerate(moody(1000)):
        if second == 900:
            part.close_phase(0, 900.0)
        if failed_every and second % failed_every == 0:
            record = an_error(second + 0.5)
        else:
            first_s = second + ttft_ms / 1000
            record = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1])
        part.add(record)
        if 100 <= second < 900:
            whole.add(record)
    inner, outer = weighed("p50_ttft_ms<200", part), weighed("p50_ttft_ms<200", whole)
    assert inner.trials == outer.trials == 800
    assert inner.inside == outer.inside
    assert inner.worth == pytest.approx(outer.worth)


def failing(outcomes: str, kind: str = "http_503") -> Group:
    """A request a second, `+` for one that was answered and `-` for one that failed."""
    group = Group()
    for second, mark in enumerate(outcomes):
        ok = an_ok(float(second), arrivals_s=[second + 0.1, second + 0.2])
        group.add(ok if mark == "+" else an_error(second + 0.5, kind), 0.0, True)
    return group


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        ("", None),
        ("----", None),
        ("-----", "all 5 requests failed, most with http_503 (overloaded)"),
        ("+" * 50, None),
        ("+" * 50 + "-" * 9, None),
        ("+" * 50 + "-" * 10, "10 of the last 10 requests failed, most with http_503 (overloaded)"),
        ("+" * 500 + "-+-" * 10, "20 of the last 30 requests failed, most with http_503 (overloaded)"),
        ("-+" * 50, None),
        ("+++-" * 50, None),
    ],
)
def test_a_server_that_breaks_down(outcomes, sentence):
    assert collapsed(failing(outcomes)) == sentence


def test_requests_that_we_cancelled_are_no_collapse():
    assert collapsed(failing("-" * 50, CANCELLED)) is None
    group = failing("+" * 20 + "-" * 6 + "+" * 3)
    for i in range(30):
        group.add(an_error(29.5 + i / 100, CANCELLED), 0.0, True)
    assert collapsed(group) is None
    for second in range(40, 44):
        group.add(an_error(float(second), TIMEOUT), 0.0, True)
    assert collapsed(group) == "10 of the last 13 requests failed, most with http_503 (overloaded)"


def test_requests_that_could_not_even_be_sent_count_and_dropped_ones_do_not():
    group = failing("+" * 20)
    for second in range(20, 40):
        dropped = RequestRecord(0, "s", "p", DROPPED, float(second), ended_s=float(second))
        group.add(dropped, 0.0, True)
    assert collapsed(group) is None
    for second in range(40, 52):
        group.add(an_error(float(second), CONNECT, "refused\nby the host", sent_s=None), 0.0, True)
    assert collapsed(group) == "12 of the last 12 requests failed, most with connect (refused by the host)"
