"""Each limit from both sides, and the words."""

import json
import math

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.record import DROPPED, TIMEOUT, RequestRecord
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.validity import Measured, judge, named_parts, perhaps_shorter, told_apart


def of(made: list[RequestRecord]) -> Measured:
    recording = Recording()
    for record in made:
        recording.add(record)
    return Measured.of(recording.total())


def measured(ttft_s=0.02, gap_s=0.02, **fields) -> Measured:
    """100 equal requests of 3 tokens."""
    arrivals_s = [ttft_s, ttft_s + gap_s, ttft_s + 2 * gap_s]
    return of([an_ok(arrivals_s=arrivals_s, **fields)] * 100)


def verdict_on(metric: str, what: Measured) -> str:
    return judge(what, {}, "kernel").metrics[metric].judged.verdict


def verdict(what: Measured, **more) -> str:
    return judge(what, **({"cpu_shares": {}, "stamps": "kernel"} | more)).verdict


def test_a_good_measurement_is_valid_and_needs_no_reasons():
    result = judge(measured(bounds_s=[0.0] * 3, lags_s=[1e-4]), {"client": 0.5}, "kernel")
    assert (result.verdict, result.reasons) == ("valid", ())


@pytest.mark.parametrize(
    ("bound_ms", "expected"), [(0.99, "valid"), (1.01, "degraded"), (4.99, "degraded"), (5.01, "invalid")]
)
def test_the_possible_error_of_ttft(bound_ms, expected):
    made = measured(bounds_s=[bound_ms / 1000, 0.0, 0.0], gap_s=1.0)
    assert verdict(made) == verdict_on("ttft", made) == expected


@pytest.mark.parametrize(
    ("bound_ms", "expected"), [(19, "valid"), (21, "degraded"), (99, "degraded"), (101, "invalid")]
)
def test_the_possible_error_may_be_a_share_of_a_long_ttft(bound_ms, expected):
    """1 s: 2 % are 20 ms, 10 % are 100 ms."""
    assert verdict(measured(ttft_s=1.0, bounds_s=[bound_ms / 1000, 0.0, 0.0], gap_s=10.0)) == expected


@pytest.mark.parametrize(
    ("slow_ms", "expected"), [(1.9, "valid"), (2.1, "degraded"), (9.9, "degraded"), (10.1, "invalid")]
)
def test_the_possible_error_of_the_p99(slow_ms, expected):
    """Of the three slowest of 100 requests: far too few for the mean, enough for the p99."""
    fine = an_ok(arrivals_s=[0.02, 1.02], bounds_s=[0.0, 0.0])
    late = an_ok(arrivals_s=[0.04, 1.02], bounds_s=[slow_ms / 1000, 0.0])
    assert verdict_on("ttft", of([fine] * 97 + [late] * 3)) == expected


def test_errors_that_leave_the_numbers_as_they_are_spoil_no_verdict():
    """Two of 100 equal TTFTs may have been shorter: the mean was 19.9 ms at least, and the p99 was 20 ms."""
    fine = an_ok(arrivals_s=[0.02, 1.02], bounds_s=[0.0, 0.0])
    late = an_ok(arrivals_s=[0.02, 1.02], bounds_s=[0.005, 0.0])
    metric = judge(of([fine] * 98 + [late] * 2), {}, "kernel").metrics["ttft"]
    assert (metric.mean_error_ms, metric.p99_error_ms) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-9))
    assert metric.judged.verdict == "valid"


@pytest.mark.parametrize(("bound_ms", "expected"), [(0.99, "valid"), (1.01, "degraded"), (5.1, "invalid")])
def test_the_possible_error_of_itl_concerns_no_other_metric(bound_ms, expected):
    made = measured(bounds_s=[0.0, bound_ms / 1000, 0.0])
    assert verdict(made) == verdict_on("itl", made) == expected
    assert {verdict_on(name, made) for name in ("ttft", "tpot", "e2el")} == {"valid"}


def test_each_metric_is_valid_by_itself_and_none_is_where_requests_were_lost():
    of_itl = measured(bounds_s=[0.0, 0.0051, 0.0])
    assert judge(of_itl, {}, "kernel").valid_metrics == {"ttft", "tpot", "e2el"}
    assert judge(of_itl, {}, "kernel", lost=1).valid_metrics == set()


def test_the_errors_of_each_metric_by_hand():
    """Answers of 3 tokens after 20, 40 and 60 ms, the first up to 4 ms too late and the last up to 6 ms.

    TTFT [16, 20], E2EL [54, 60], TPOT [(54 - 20) / 2, (60 - 16) / 2] = [17, 22], gaps [20, 24] and [14, 20];
    their mean is that of TPOT.
    """
    metrics = judge(measured(bounds_s=[0.004, 0.0, 0.006]), {}, "kernel").metrics
    assert {name: metric.mean_error_ms for name, metric in metrics.items()} == pytest.approx(
        {"ttft": 4.0, "e2el": 6.0, "tpot": 3.0, "itl": 3.0}
    )
    assert {name: metric.p99_error_ms for name, metric in metrics.items()} == pytest.approx(
        {"ttft": 4.0, "e2el": 6.0, "tpot": 3.0, "itl": 4.0}, rel=0.01
    )


def test_a_reason_never_says_that_a_number_is_beyond_itself():
    assert told_apart(1.5712, 1.5698) == ("1.571", "1.57")
    assert told_apart(12.0, 1.0) == ("12", "1")
    assert told_apart(0.1, 0.1) == ("0.1", "0.1")
    assert told_apart(0.3, 0.1 + 0.2) == ("0.3", "0.30000000000000004")
    assert told_apart(1293.0, 2.0) == ("1290", "2")
    (reason,) = judge(measured(bounds_s=[0.00100001, 0.0, 0.0], gap_s=1.0), {}, "kernel").reasons
    assert reason == "the mean TTFT may be 1.00001 ms off, beyond the 1 ms of a valid measurement"


def test_stamps_that_contradicted_are_counted_and_shown():
    validity = judge(
        of([an_ok(contradictions=2), an_ok(), an_ok(outcome=TIMEOUT, contradictions=1)]), {}, "kernel"
    )
    assert validity.to_dict()["contradictions"] == 3
    assert [remark[:21] for remark in validity.remarks] == ["3 reads had a stamp t"]


@pytest.mark.parametrize(("shorter_s", "remarks"), [(0.09, 0), (0.11, 1)])
def test_a_shorter_time_that_would_make_throughputs_2_percent_higher_is_a_remark(shorter_s, remarks):
    sentence = "the measured 5 s may have been 4.89 s, and throughputs as much higher"
    assert list(perhaps_shorter(Window(1.0, 6.0, slack_s=shorter_s))) == [sentence] * remarks


@pytest.mark.parametrize(("lag_ms", "remarks"), [(9.9, 0), (10.1, 1), (101, 1)])
def test_lag_is_a_remark(lag_ms, remarks):
    validity = judge(measured(lags_s=[lag_ms / 1000]), {}, "kernel")
    assert (validity.verdict, validity.load.verdict, len(validity.remarks)) == ("valid", "valid", remarks)


@pytest.mark.parametrize(("late_ms", "expected"), [(9.9, "valid"), (10.1, "degraded"), (101, "invalid")])
def test_lateness_of_sending_concerns_the_load_of_an_open_loop(late_ms, expected):
    late = measured(intended_s=-late_ms / 1000)
    open_loop = judge(late, {}, "kernel")
    assert (open_loop.verdict, open_loop.load.verdict, open_loop.remarks) == ("valid", expected, ())
    for loop in ("closed", "capped"):
        other = judge(late, {}, "kernel", loop=loop)
        assert (other.verdict, other.load.verdict) == ("valid", "valid")
        assert len(other.remarks) == (expected != "valid")


def test_a_load_is_as_late_as_it_may_be():
    """On its way 60 ms later than it says, at most, and intended up to 50 ms earlier; answers take 60 ms."""
    perhaps_late = measured(send_bound_s=0.06, intended_bound_s=0.05)
    validity = judge(perhaps_late, {}, "kernel")
    assert validity.load.verdict == "invalid"
    assert validity.load.reasons[0].startswith("the p99 of how late requests were sent may be 110 ms, beyond")
    assert validity.send_lateness_p99_ms == 0
    assert validity.send_lateness_p99_high_ms == pytest.approx(110, rel=2e-3)
    never = of([an_ok(outcome=TIMEOUT, sent_s=1.0, ended_s=1.5, send_bound_s=math.inf)])  # nothing went out
    assert judge(never, {}, "kernel").send_lateness_p99_high_ms == pytest.approx(500, rel=2e-3)


def test_lag_of_failed_requests_counts():
    assert len(judge(of([an_ok(outcome=TIMEOUT, lags_s=[0.5])]), {}, "kernel").remarks) == 1


@pytest.mark.parametrize(
    ("share", "expected"), [(0.80, "valid"), (0.81, "degraded"), (0.95, "degraded"), (0.97, "invalid")]
)
def test_cpu_concerns_the_load(share, expected):
    validity = judge(measured(), {"client": 0.1, "worker 2": share}, "kernel")
    assert (validity.verdict, validity.load.verdict) == ("valid", expected)


@pytest.mark.parametrize(("dropped", "expected"), [(0, "valid"), (1, "degraded"), (2, "invalid")])
def test_dropped_requests_are_the_load_s_fault_and_the_client_s_without_a_cap(dropped, expected):
    """Up to 1 % of what was planned; with a cap the load is not as planned either, as the user wanted it."""
    made = [an_ok()] * 100 + [RequestRecord(0, "s", "p", DROPPED, 0.0)] * dropped
    validity = judge(of(made), {}, "kernel")
    assert (validity.verdict, validity.load.verdict) == ("valid", expected)
    capped = judge(of(made), {}, "kernel", loop="capped")
    reason = f"{dropped} of {100 + dropped} planned requests found no place, and were never sent"
    told = ("degraded", (reason,), dropped) if dropped else ("valid", (), 0)
    assert (capped.load.verdict, capped.load.reasons, capped.dropped) == told


def test_stamps_of_reading_are_degraded_at_best():
    assert verdict(measured(), stamps="read") == "degraded"


def test_few_or_no_requests_are_no_fault_of_the_client():
    assert verdict(of([an_ok()])) == verdict(of([])) == "valid"


def test_every_fault_is_a_reason_in_words_and_the_worst_decides():
    made = [an_ok(arrivals_s=[0.5], lags_s=[0.05], bounds_s=[0.06])] * 98 + [
        RequestRecord(0, "s", "p", DROPPED, 0.0)
    ] * 2
    result = judge(of(made), {"client": 0.97}, "read")
    assert (result.verdict, result.load.verdict) == ("invalid", "invalid")
    assert result.reasons == (
        *(
            f"the {word} {metric} may be 60 ms off, beyond the {limit} ms of a valid measurement"
            for metric in ("TTFT", "E2EL")
            for word, limit in (("mean", "10"), ("p99", "10"))
        ),
        "arrival times are the moments of reading: this platform gave no kernel time stamps",
    )
    assert result.load.reasons == (
        "2 of 100 planned requests could not be sent",
        "the process 'client' used 97 % of a core",
    )
    assert result.remarks == (
        "the p99 of the lag between arrival and reading is 50 ms, beyond 10 ms, which moves no stamp",
    )


def test_the_numbers_behind_the_verdict_are_kept():
    block = judge(
        measured(bounds_s=[0.002, 0.0, 0.001], lags_s=[0.003]), {"client": 0.25}, "kernel"
    ).to_dict()
    assert json.loads(json.dumps(block)) == block
    assert block["ttft_bound_mean_ms"] == pytest.approx(2.0)
    assert block["ttft_bound_p99_ms"] == pytest.approx(2.0)
    assert block["itl_bound_mean_ms"] == pytest.approx(1.5)
    assert block["lag_p99_ms"] == pytest.approx(3.0)
    assert block["send_lateness_p99_ms"] == 0.0
    assert block["cpu_shares"] == {"client": 0.25}
    nothing = judge(of([]), {}, "kernel").to_dict()
    assert [nothing["ttft_bound_mean_ms"], nothing["itl_bound_p99_ms"], nothing["lag_p99_ms"]] == [None] * 3


def test_each_part_must_hold_for_itself():
    """18 ms of possible error are nothing to answers of 2 s, and all there is to answers of 20 ms."""
    parts = Recording()
    for i in range(100):
        parts.add(an_ok(sent_s=float(i), arrivals_s=[i + 0.02], tokens=1, bounds_s=[0.018], profile="ss"))
        parts.add(
            an_ok(sent_s=float(i), arrivals_s=[i + 2.0], tokens=1, bounds_s=[0.0], phase=1, profile="ll")
        )
    named = {profile: Measured.of(group) for (_, profile), group in parts.groups.items()}
    assert judge(Measured.of(parts.total()), {}, "kernel").verdict != "invalid"
    validity = judge(Measured.of(parts.total()), {}, "kernel", parts=named)
    assert validity.verdict == "invalid"
    assert all(reason.startswith("ss: ") for reason in validity.reasons)


def test_a_cap_excuses_lateness_and_nothing_else_of_any_part():
    parts = Recording()
    parts.add(an_ok(profile="a", intended_s=-9.0, bounds_s=[0.5]))
    parts.add(an_ok(profile="b", intended_s=-9.0))
    named = {profile: Measured.of(group) for (_, profile), group in parts.groups.items()}
    validity = judge(Measured.of(parts.total()), {}, "kernel", parts=named, loop="capped")
    assert (validity.verdict, validity.load.verdict) == ("invalid", "valid")
    assert all(reason.startswith("a: the ") for reason in validity.reasons)
    assert [remark.partition(" is ")[0] for remark in validity.remarks] == [
        f"{name}: the p99 of how late requests were sent" for name in "ab"
    ]
    assert validity.send_lateness_p99_ms == pytest.approx(9000, rel=1e-3)


def test_a_lost_process_makes_the_verdict_degraded_and_is_told():
    sentence = "worker 3 was lost after 12.3 s"
    validity = judge(measured(), {}, "kernel", lost_workers=[sentence])
    assert (validity.verdict, validity.reasons) == ("degraded", (sentence,))
    both = judge(measured(), {}, "kernel", lost=1, lost_workers=[sentence])
    assert (both.verdict, len(both.reasons)) == ("invalid", 2)


def test_what_was_lost_spoils_the_verdict():
    validity = judge(of([]), {}, "kernel", lost=2)
    assert (validity.verdict, validity.reasons) == (
        "invalid",
        ("2 requests were handed out and not accounted for",),
    )


def test_parts_are_named_as_a_reader_knows_them():
    """By the profile alone while there is only one phase; phases are counted from 1 and stand in order."""
    one, two, three = measured(), measured(ttft_s=1.0), measured(ttft_s=2.0)
    assert named_parts({(0, "b"): one, (0, "a"): two}) == {"a": two, "b": one}
    named = named_parts({(10, "a"): one, (2, "b"): two, (2, "a"): three})
    assert list(named.items()) == [("phase 3, a", three), ("phase 3, b", two), ("phase 11, a", one)]


def test_what_is_judged_by_hand():
    """Two requests with TTFT 1 s and 3 s, two gaps of 1 s; one dropped."""
    one = an_ok(arrivals_s=[1.0, 2.0], bounds_s=[0.25, 0.0], lags_s=[0.5])
    two = an_ok(arrivals_s=[3.0, 4.0], bounds_s=[0.75, 0.0], intended_s=-2.0)
    what = of([one, two, RequestRecord(0, "s", "p", DROPPED, 0.0)])
    assert [what.means[name].value_s for name in ("ttft", "itl", "e2el")] == pytest.approx([2.0, 1.0, 3.0])
    assert [what.p99s[name].value_s for name in ("ttft", "itl")] == pytest.approx([2.98, 1.0])
    assert (what.means["ttft"].low_s, what.means["ttft"].high_s) == pytest.approx((1.5, 2.0))
    assert (what.ttft_bound_mean_s, what.itl_bound_mean_s) == pytest.approx((0.5, 0.5))
    assert (what.ttft_bound_p99_s, what.itl_bound_p99_s) == pytest.approx((0.745, 0.745), rel=1e-3)
    assert what.lateness_p99 is not None
    assert (what.lag_p99_s, what.lateness_p99.value_s) == pytest.approx((0.5, 1.98), rel=1e-3)
    assert (what.planned, what.dropped) == (3, 1)
    nothing = of([])
    assert (nothing.means["ttft"], nothing.lag_p99_s, nothing.planned) == (None, None, 0)
