"""What requests say about objectives, counted by hand."""

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_recordings import a_recording, concluded, spread, weighed
from tests.core.made_records import an_ok, records
from vllm_locust.core.evidence import HANDFUL, conclude, weigh
from vllm_locust.core.group import Group
from vllm_locust.core.record import DROPPED
from vllm_locust.core.recording import Recording
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import evaluate, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize


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
