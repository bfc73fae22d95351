"""The grammar, and the three outcomes of an objective."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.core.made_records import an_ok
from vllm_locust.core import validity
from vllm_locust.core.percentile import Interval
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import Slo, evaluate, parse_goodput, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.errors import UsageError


def of(ttfts_s, percentiles=()) -> dict:
    recording = Recording()
    for i, ttft_s in enumerate(ttfts_s):
        recording.add(an_ok(sent_s=float(i), arrivals_s=[i + ttft_s, i + ttft_s + 1.0]))
    return summarize(recording, percentiles=percentiles)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p99_ttft_ms<500", Slo("p99_ttft_ms", "<", 500.0, 99.0, "ttft")),
        (" p99.9_itl_ms <= 1e3 ", Slo("p99.9_itl_ms", "<=", 1000.0, 99.9, "itl")),
        ("p50.0_e2el_ms>=1", Slo("p50_e2el_ms", ">=", 1.0, 50.0, "e2el")),
        ("p95_ttft_from_plan_ms<1", Slo("p95_ttft_from_plan_ms", "<", 1.0, 95.0, "ttft_from_plan")),
        ("failed==0", Slo("failed", "==", 0.0)),
        ("error_rate<.01", Slo("error_rate", "<", 0.01)),
        ("median_tpot_ms>-1", Slo("median_tpot_ms", ">", -1.0, family="tpot")),
        ("max_e2el_ms<20000", Slo("max_e2el_ms", "<", 20000.0, family="e2el")),
        ("max_ttft_from_plan_ms<=1", Slo("max_ttft_from_plan_ms", "<=", 1.0, family="ttft_from_plan")),
        ("requests.dropped==0", Slo("requests.dropped", "==", 0.0)),
    ],
)
def test_the_grammar(text, expected):
    assert parse_slo(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99_ttft_ms",
        "<5",
        "p99_ttft_ms<",
        "failed=0",
        "failed<1<2",
        "failed<nan",
        "failed<1e999",
        "failed<1-",
        "failed=<1",
    ],
)
def test_what_is_malformed_is_the_users_mistake(text):
    with pytest.raises(UsageError, match="KEY OP NUMBER"):
        parse_slo(text)


def test_an_unknown_key_names_its_neighbours_and_all_families():
    with pytest.raises(UsageError, match=r"did you mean p99_ttft_ms.*error_rate.*mean_.*e2el_from_plan"):
        parse_slo("p99_tfft_ms<5")
    with pytest.raises(UsageError, match=r"did you mean max_e2el_ms.*mean_, median_, std_, max_ or pXX_"):
        parse_slo("max_e2l_ms<5")
    with pytest.raises(UsageError, match="no key 'nonsense'"):
        parse_slo("nonsense<5")


@pytest.mark.parametrize("text", ["p0_ttft_ms<1", "p100_ttft_ms<1", "p250_ttft_ms<1"])
def test_a_percentile_lies_between_0_and_100(text):
    with pytest.raises(UsageError, match="between 0 and 100"):
        parse_slo(text)


def test_percentiles_that_are_not_printed_can_be_asked_for():
    slos = [parse_slo("p75_ttft_ms<1000"), parse_slo("failed==0"), parse_slo("p75_itl_ms<1")]
    assert percentiles_of(slos) == (75.0,)
    judgement = evaluate(slos[0], of([0.5] * 50, percentiles_of(slos)))
    assert (judgement.outcome, judgement.value) == ("met", pytest.approx(500))


@pytest.mark.parametrize(
    ("text", "about_failures"),
    [
        ("failed==0", True),
        ("error_rate<0.01", True),
        ("requests.failed<5", True),
        ("requests.dropped==0", False),
        ("completed>5", False),
        ("p99_ttft_ms<500", False),
    ],
)
def test_which_objectives_are_about_failures(text, about_failures):
    assert parse_slo(text).about_failures == about_failures


@given(st.sampled_from(["<", "<=", ">", ">=", "=="]), st.integers(0, 4))
def test_a_plain_number_is_compared_as_python_does(op, bound):
    value = 2  # completed
    slo = parse_slo(f"completed{op}{bound}")
    assert slo.holds(value) == eval(f"{value}{op}{bound}")
    assert (evaluate(slo, of([0.1] * value)).outcome == "met") == slo.holds(value)


@pytest.mark.parametrize(
    ("n", "text", "outcome"),
    [
        (400, "p99_ttft_ms<500", "met"),
        (400, "p99_ttft_ms<300", "missed"),
        (100, "p99_ttft_ms<500", "undetermined"),
        (100, "p99_ttft_ms<=500", "undetermined"),
        (100, "p99_ttft_ms<100", "missed"),  # even the lower end of the interval misses
        (100, "p99_ttft_ms>100", "met"),
        (100, "p99_ttft_ms>500", "undetermined"),
        (100, "p1_ttft_ms>=200", "undetermined"),
        (100, "p1_ttft_ms>=500", "missed"),  # even the upper end misses
        (100, "p1_ttft_ms<500", "met"),
        (100, "p99_ttft_ms==400", "undetermined"),
        (3, "p50_ttft_ms<500", "undetermined"),
        (3, "median_ttft_ms<500", "undetermined"),
        (3, "mean_ttft_ms<500", "met"),
        (400, "request_goodput>=1", "undetermined"),
    ],
)
def test_met_missed_or_too_few_samples(n, text, outcome):
    """TTFTs spread evenly over 200..400 ms."""
    slo = parse_slo(text)
    ttfts_s = [0.2 + 0.2 * i / (n - 1) for i in range(n)]
    judgement = evaluate(slo, of(ttfts_s, percentiles_of([slo])))
    assert judgement.outcome == outcome
    assert outcome in judgement.sentence


def test_a_single_slow_request_among_nine_does_not_fail_a_p99():
    assert evaluate(parse_slo("p99_ttft_ms<500"), of([0.1] * 8 + [2.0])).outcome == "undetermined"


def test_one_slow_request_misses_a_maximum_however_few_there_are():
    slo = parse_slo("max_ttft_ms<500")
    assert evaluate(slo, of([0.1] * 8 + [2.0])).outcome == "missed"
    assert evaluate(slo, of([0.1])).outcome == "met"
    assert evaluate(slo, of([])).outcome == "undetermined"


def test_a_value_that_is_not_there_is_undetermined():
    recording = Recording()
    recording.add(an_ok(arrivals_s=[0.5]))
    judgement = evaluate(parse_slo("p99_tpot_ms<50"), summarize(recording))
    assert judgement.to_dict() == {
        "slo": "p99_tpot_ms<50",
        "outcome": "undetermined",
        "value": None,
        "low": None,
        "high": None,
        "sentence": "p99_tpot_ms<50 is undetermined: p99_tpot_ms has no value",
    }


def judge(text, ttfts_s, means=None):
    slo = parse_slo(text)
    return evaluate(slo, of(ttfts_s, percentiles_of([slo])), means)


def test_a_percentile_comes_with_its_interval():
    """100 TTFTs of 1..100 ms: the p50 lies between the 40th and the 61st of them."""
    ttfts_s = [i / 1000 for i in range(1, 101)]
    judgement = judge("p50_ttft_ms<200", ttfts_s)
    assert (judgement.interval.low, judgement.interval.high) == pytest.approx((40.0, 61.0))
    assert judgement.to_dict()["low"] == pytest.approx(40.0)
    assert (
        judgement.sentence
        == "p50_ttft_ms<200 is met: 50.5, 95 % interval if requests were independent [40 .. 61]"
    )
    assert judge("median_ttft_ms<200", ttfts_s).interval == judgement.interval
    assert judge("max_ttft_ms<200", ttfts_s).sentence == "max_ttft_ms<200 is met: 100"


@pytest.mark.parametrize(
    ("text", "outcome", "close"),
    [
        ("p50_ttft_ms<39", "missed", False),
        ("p50_ttft_ms<45", "missed", True),
        ("p50_ttft_ms<55", "met", True),
        ("p50_ttft_ms<62", "met", False),
        ("p50_ttft_ms>55", "missed", True),
        ("p50_ttft_ms==49", "missed", False),
    ],
)
def test_a_bound_inside_the_interval_is_too_close_to_call_but_decided(text, outcome, close):
    judgement = judge(text, [i / 1000 for i in range(1, 101)])
    assert judgement.outcome == outcome
    assert ("does not exclude the bound: too close to call, run longer" in judgement.sentence) == close


def test_an_interval_with_one_end_is_shown_too():
    judgement = judge("p99_ttft_ms<500", [0.1] * 8 + [0.2])
    assert judgement.sentence == (
        "p99_ttft_ms<500 is undetermined: 192, 95 % interval if requests were independent [100 .. ?], "
        "from too few requests (it takes 368): run longer"
    )


@pytest.mark.parametrize(
    "text", ["p50_ttft_ms<500", "median_ttft_ms<500", "p1_ttft_ms>50", "p97.5_ttft_ms<500"]
)
def test_as_many_requests_as_the_sentence_asks_for_are_enough(text):
    found = re.search(r"it takes (\d+)", judge(text, [0.1] * 2).sentence)
    fewest = int(found[1])
    assert judge(text, [0.1] * fewest).outcome == "met"
    assert judge(text, [0.1] * (fewest - 1)).outcome == "undetermined"


@pytest.mark.parametrize(("failed", "ok"), [(0, 50), (3, 97), (20, 20), (7, 0)])
def test_the_error_rate_has_the_interval_of_clopper_and_pearson(failed, ok):
    recording = Recording()
    for i in range(failed + ok):
        recording.add(an_ok(sent_s=float(i), outcome="http_500" if i < failed else "ok"))
    judgement = evaluate(parse_slo("error_rate<0.05"), summarize(recording))
    expected = stats.binomtest(failed, failed + ok).proportion_ci(0.95, method="exact")
    assert (judgement.interval.low, judgement.interval.high) == pytest.approx((expected.low, expected.high))
    assert judgement.outcome == ("met" if failed / (failed + ok) < 0.05 else "missed")


def test_no_finished_request_has_no_error_rate():
    assert evaluate(parse_slo("error_rate<0.05"), summarize(Recording())).outcome == "undetermined"


def test_a_mean_has_an_interval_where_one_is_known_and_is_decided_without():
    known = judge("mean_ttft_ms<150", [0.1] * 20, {"mean_ttft_ms": Interval(90.0, 160.0)})
    assert (known.outcome, known.interval) == ("met", Interval(90.0, 160.0))
    assert "too close to call" in known.sentence
    assert judge("mean_ttft_ms<150", [0.1] * 20).sentence == "mean_ttft_ms<150 is met: 100"


def test_what_is_known_of_requests_that_are_alike_goes_before_the_interval_of_independent_ones():
    wider = {"p50_ttft_ms": Interval(20.0, 220.0)}
    judgement = judge("median_ttft_ms<200", [i / 1000 for i in range(1, 101)], wider)
    assert (judgement.outcome, judgement.interval) == ("met", wider["p50_ttft_ms"])
    assert "too close to call" in judgement.sentence
    few = judge("p50_ttft_ms<200", [0.1] * 5, wider)
    assert few.outcome == "undetermined", "the sample is too small all the same"


def test_requests_of_the_whole_run_can_be_asked_for():
    assert evaluate(parse_slo("requests.planned>=2"), of([0.1, 0.2])).outcome == "met"


def test_goodput_limits():
    assert parse_goodput(["ttft:500", "tpot:50.5"]) == {"ttft": 500.0, "tpot": 50.5}
    assert parse_goodput([]) == {}


def test_all_mistakes_in_goodput_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        parse_goodput(["itl:5", "ttft", "ttft:x", "tpot:-1", "e2el:5", "e2el:6", "tpot:nan"])
    assert len(caught.value.problems) == 6


def test_a_percentile_with_a_dot_is_no_block():
    slo = parse_slo("p99.9_ttft_ms<80")
    judgement = evaluate(slo, of([0.05] * 5000, percentiles_of([slo])))
    assert (judgement.outcome, judgement.value) == ("met", pytest.approx(50))


def with_unsent(*waits_s):
    """Ten requests with a TTFT of 100 ms, and some that were given up after so long."""
    recording = Recording()
    for i in range(10):
        recording.add(an_ok(sent_s=float(i), arrivals_s=[i + 0.1, i + 0.2]))
    for wait_s in waits_s:
        recording.add(RequestRecord(0, "s", "p", "dropped", 0.0, ended_s=wait_s))
    return summarize(recording)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("mean_ttft_from_plan_ms<500", "undetermined"),  # (10 * 100 + 2000) / 11 = 273 at least
        ("mean_ttft_from_plan_ms<200", "missed"),
        ("max_ttft_from_plan_ms<2500", "undetermined"),
        ("mean_ttft_from_plan_ms>200", "met"),
        ("mean_ttft_from_plan_ms>500", "undetermined"),
        ("mean_ttft_ms<500", "met"),  # from when it was sent: an unsent one has none
    ],
)
def test_what_was_never_sent_decides_an_objective_from_the_plan_by_its_wait_alone(text, outcome):
    judgement = evaluate(parse_slo(text), with_unsent(2.0))
    assert judgement.outcome == outcome
    assert ("at least" in judgement.sentence) == ("from_plan" in text)


def test_how_far_latencies_scatter_is_not_known_with_requests_that_were_never_sent():
    """100 ms ten times, and 100 ms or more: with 100 nothing scatters, with 1200 it is 316 ms."""
    judgement = evaluate(parse_slo("std_ttft_from_plan_ms<500"), summary := with_unsent(0.1))
    assert judgement.sentence == (
        "std_ttft_from_plan_ms<500 is undetermined: std_ttft_from_plan_ms is not known, since 1 request was "
        "never sent"
    )
    assert (summary["std_ttft_from_plan_ms"], summary["std_e2el_from_plan_ms"]) == (None, None)
    assert summary["error_bounds"]["std_e2el_from_plan_ms"] == [None, None]
    assert summary["std_ttft_ms"] == with_unsent()["std_ttft_from_plan_ms"] == pytest.approx(0)


def test_no_failures_are_said_with_the_requests_that_were_dropped():
    judgement = evaluate(parse_slo("failed==0"), with_unsent(1.0, 2.0))
    assert judgement.sentence == (
        "failed==0 is met: 0, though 2 more were dropped, never sent (to gate them: dropped==0)"
    )
    assert evaluate(parse_slo("dropped==0"), with_unsent(1.0, 2.0)).outcome == "missed"
    unsent = Recording()
    for _ in range(2):
        unsent.add(RequestRecord(0, "s", "p", "dropped", 0.0, ended_s=1.0))
    assert evaluate(parse_slo("failed==0"), summarize(unsent)).sentence == (
        "failed==0 is undetermined: no request was answered in the measured window: 2 were never sent"
    )
    assert evaluate(parse_slo("dropped==0"), with_unsent()).outcome == "met"


@pytest.mark.parametrize(
    ("text", "ends", "close"),
    [
        ("p50_ttft_ms<500", (90.0, None), True),
        ("p50_ttft_ms>50", (90.0, None), False),
        ("p50_ttft_ms<500", (None, 120.0), False),
        ("p50_ttft_ms>50", (None, 120.0), True),
    ],
)
def test_an_end_that_is_not_known_excludes_nothing(text, ends, close):
    judgement = judge(text, [0.1] * 20, {"p50_ttft_ms": Interval(*ends)})
    assert judgement.outcome == "met"
    assert ("too close to call" in judgement.sentence) == close
    assert "if requests were independent" not in judgement.sentence


def slow(bound_s, count=400, **fields):
    """Requests with a TTFT of 262 ms that may be too large by so much, and gaps of 1 s."""
    recording = Recording()
    for i in range(count):
        arrivals_s = [i + 0.262, i + 1.262]
        recording.add(an_ok(sent_s=float(i), arrivals_s=arrivals_s, bounds_s=[bound_s, 0.0], **fields))
    return recording


def on(recording, text, **more):
    slo = parse_slo(text)
    return evaluate(slo, summarize(recording, {"ttft": 250.0}, percentiles_of([slo])), **more)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("p99_ttft_ms<500", "met"),
        ("p99_ttft_ms<250", "undetermined"),  # 222 to 262 ms
        ("p99_ttft_ms<200", "missed"),
        ("median_ttft_ms<250", "undetermined"),
        ("mean_ttft_ms>230", "undetermined"),
        ("max_ttft_ms<=262.1", "met"),
        ("std_ttft_ms<30", "undetermined"),
        ("p99_e2el_ms<1300", "met"),  # its last token has a stamp of its own
        ("mean_itl_ms<1030", "undetermined"),  # 1000 to 1040 ms
        ("request_goodput>=0.5", "undetermined"),  # none are good, or all
    ],
)
def test_an_objective_is_decided_where_both_ends_agree(text, outcome):
    assert on(slow(0.04), text).outcome == outcome


def test_what_the_client_may_have_added_is_told_in_the_sentence():
    judgement = on(slow(0.04), "p99_ttft_ms<250")
    assert judgement.sentence == (
        "p99_ttft_ms<250 is undetermined: 262 ms, but the client's own error may be up to 40 ms: it may be "
        "met or missed"
    )


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("request_throughput>=0.4", "met"),  # 2 requests in 3.8 to 5 s: 0.4 to 0.526 a second
        ("request_throughput>=0.5", "undetermined"),
        ("request_throughput>=0.6", "missed"),
        ("request_throughput<0.5", "undetermined"),
        ("output_throughput<4.5", "undetermined"),
        ("duration<4", "undetermined"),
        ("duration<3", "missed"),
    ],
)
def test_an_objective_on_a_rate_is_decided_where_both_ends_agree(text, outcome):
    recording = Recording()
    recording.add(an_ok(0.0, 2.0, tokens=10, send_bound_s=0.2))
    recording.add(an_ok(1.0, 5.0, tokens=10, ended_bound_s=1.0))
    assert on(recording, text).outcome == outcome


def test_a_rate_without_a_higher_end_may_be_anything():
    recording = Recording()
    recording.add(an_ok(0.0, 2.0, ended_bound_s=2.0))
    assert on(recording, "request_throughput>=0.5").outcome == "met"
    assert on(recording, "request_throughput>=1e6").sentence == (
        "request_throughput>=1e+06 is undetermined: 0.5, but the client's own error may be of any size: "
        "it may be met or missed"
    )


def late_by(seconds, **more):
    recording = slow(0.0, intended_s=-seconds)
    return recording, validity.judge(validity.Measured.of(recording.total()), {}, "kernel", **more)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("p99_ttft_ms<500", "met"),  # from when they were sent
        ("p99_ttft_ms<200", "missed"),
        ("request_throughput>=0.5", "met"),  # so much the server did, whatever it was asked
        ("request_throughput>=5", "undetermined"),  # it may be able to do more
        ("request_throughput>5", "undetermined"),
        ("request_throughput<0.5", "undetermined"),  # 1 a second, of requests sent too late and at once
        ("request_throughput<5", "undetermined"),
        ("request_goodput<=0.5", "undetermined"),
        ("output_throughput<1", "undetermined"),
        ("total_token_throughput==5", "undetermined"),
        ("duration<100", "undetermined"),
        ("completed<=100", "undetermined"),
        ("completed==500", "undetermined"),
        ("completed>=1000", "undetermined"),  # more might have been sent in time
        ("completed>=2", "met"),
        ("max_concurrent_requests<=6", "undetermined"),  # those sent too late were sent at once
        ("max_concurrent_requests>=500", "undetermined"),
        ("mean_ttft_from_plan_ms<1e9", "met"),
        ("mean_ttft_from_plan_ms<500", "undetermined"),
    ],
)
def test_a_load_that_was_not_as_planned_concerns_throughput_and_the_plan(text, outcome):
    recording, client = late_by(9.0)
    assert (client.verdict, client.load.verdict) == ("valid", "invalid")
    judgement = on(recording, text, client=client)
    assert judgement.outcome == outcome
    assert ("the load was not as planned" in judgement.sentence) == (outcome == "undetermined")


def test_in_a_closed_loop_no_objective_suffers_from_lateness():
    recording, client = late_by(9.0, loop="closed")
    assert on(recording, "request_throughput>=5", client=client).outcome == "missed"


def test_with_requests_that_are_not_accounted_for_only_failures_can_be_missed():
    recording, client = late_by(0.0, lost=2)
    for text in ("p99_ttft_ms<500", "p99_ttft_ms<200", "failed==0"):
        assert on(recording, text, client=client).outcome == "undetermined", text
    assert on(recording, "failed>0", client=client).outcome == "missed"


def test_over_nothing_no_objective_is_met():
    """All three ended before the window did: there is no answer, and no failure either."""
    recording = Recording()
    recording.begin_phase(0, 0.0, 100.0)
    for i in range(3):
        recording.add(an_ok(sent_s=float(i)))
    recording.close_phase(0, 110.0)
    for text in ("p99_ttft_ms<500", "request_throughput>=1", "request_throughput<1", "failed==0"):
        judgement = on(recording, text)
        assert judgement.outcome == "undetermined"
        assert judgement.sentence == (
            f"{text} is undetermined: no request was answered in the measured window: 3 ended outside it"
        )
    assert on(recording, "completed>=1").outcome == "missed"


def test_over_failures_alone_what_is_counted_may_be_missed_but_is_not_met():
    recording = Recording()
    for i in range(3):
        recording.add(an_ok(sent_s=float(i), outcome="timeout"))
    assert on(recording, "failed==0").outcome == "missed"
    for text in ("failed<5", "dropped==0", "request_throughput>=1"):
        assert on(recording, text).sentence == (
            f"{text} is undetermined: no request was answered in the measured window: 3 failed"
        )


def test_a_value_and_a_bound_that_differ_are_never_printed_alike():
    """500.0003 ms is not inside 500 ms, though both have the same six digits."""
    judgement = judge("p50_ttft_ms<500", [0.5000003] * 100)
    assert judgement.sentence == (
        "p50_ttft_ms<500 is missed: 500.0003, 95 % interval if requests were independent "
        "[500.0003 .. 500.0003]"
    )
    assert judge("p50_ttft_ms<=500", [0.5] * 100).sentence.startswith("p50_ttft_ms<=500 is met: 500, ")
    assert judge("max_ttft_ms<500.0000001", [0.5]).sentence == "max_ttft_ms<500.0000001 is met: 500"
    assert str(parse_slo("p50_ttft_ms<1e9")) == "p50_ttft_ms<1e+09"
