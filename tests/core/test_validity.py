"""Each limit from both sides, and the words."""

import json

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.record import DROPPED, TIMEOUT, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.validity import Measured, judge, named_parts


def of(made: list[RequestRecord]) -> Measured:
    recording = Recording()
    for record in made:
        recording.add(record)
    return Measured.of(recording.total())


def measured(ttft_s=0.02, gap_s=0.02, **fields) -> Measured:
    """100 equal requests of 3 tokens."""
    arrivals_s = [ttft_s, ttft_s + gap_s, ttft_s + 2 * gap_s]
    return of([an_ok(arrivals_s=arrivals_s, **fields)] * 100)


def verdict(what: Measured, **more) -> str:
    return judge(what, **({"cpu_shares": {}, "stamps": "kernel"} | more)).verdict


def test_a_good_measurement_is_valid_and_needs_no_reasons():
    result = judge(measured(bounds_s=[0.0] * 3, lags_s=[1e-4]), {"client": 0.5}, "kernel")
    assert (result.verdict, result.reasons) == ("valid", ())


@pytest.mark.parametrize(
    ("bound_ms", "expected"), [(0.99, "valid"), (1.01, "degraded"), (4.99, "degraded"), (5.01, "invalid")]
)
def test_the_possible_error_of_ttft(bound_ms, expected):
    assert verdict(measured(bounds_s=[bound_ms / 1000, 0.0, 0.0], gap_s=1.0)) == expected


@pytest.mark.parametrize(
    ("bound_ms", "expected"), [(19, "valid"), (21, "degraded"), (99, "degraded"), (101, "invalid")]
)
def test_the_possible_error_may_be_a_share_of_a_long_ttft(bound_ms, expected):
    """1 s: 2 % are 20 ms, 10 % are 100 ms."""
    assert verdict(measured(ttft_s=1.0, bounds_s=[bound_ms / 1000, 0.0, 0.0], gap_s=10.0)) == expected


@pytest.mark.parametrize(
    ("slow_ms", "expected"), [(1.9, "valid"), (2.1, "degraded"), (9.9, "degraded"), (10.1, "invalid")]
)
def test_the_possible_error_of_the_slowest_ttfts(slow_ms, expected):
    """Two of 100 requests: far too few for the mean, enough for the p99."""
    fine = an_ok(arrivals_s=[0.02, 1.02], bounds_s=[0.0, 0.0])
    late = an_ok(arrivals_s=[0.02, 1.02], bounds_s=[slow_ms / 1000, 0.0])
    assert verdict(of([fine] * 98 + [late] * 2)) == expected


@pytest.mark.parametrize(("bound_ms", "expected"), [(0.99, "valid"), (1.01, "degraded"), (5.01, "invalid")])
def test_the_possible_error_of_itl(bound_ms, expected):
    assert verdict(measured(bounds_s=[0.0, bound_ms / 1000, 0.0])) == expected


@pytest.mark.parametrize(("lag_ms", "expected"), [(9.9, "valid"), (10.1, "degraded"), (101, "invalid")])
def test_lag(lag_ms, expected):
    assert verdict(measured(lags_s=[lag_ms / 1000])) == expected


@pytest.mark.parametrize(("late_ms", "expected"), [(9.9, "valid"), (10.1, "degraded"), (101, "invalid")])
def test_lateness_of_sending_counts_unless_requests_were_queued_on_purpose(late_ms, expected):
    late = measured(intended_s=-late_ms / 1000)
    assert verdict(late) == expected
    assert verdict(late, queued=True) == "valid"


def test_lag_of_failed_requests_counts():
    assert verdict(of([an_ok(outcome=TIMEOUT, lags_s=[0.5])])) == "invalid"


@pytest.mark.parametrize(
    ("share", "expected"), [(0.80, "valid"), (0.81, "degraded"), (0.95, "degraded"), (0.97, "invalid")]
)
def test_cpu(share, expected):
    assert verdict(measured(), cpu_shares={"client": 0.1, "worker 2": share}) == expected


@pytest.mark.parametrize(("dropped", "expected"), [(0, "valid"), (1, "degraded"), (2, "invalid")])
def test_dropped_requests_count_unless_they_were_queued_on_purpose(dropped, expected):
    """Up to 1 % of what was planned."""
    made = [an_ok()] * 100 + [RequestRecord(0, "s", "p", DROPPED, 0.0)] * dropped
    assert verdict(of(made)) == expected
    queued = judge(of(made), {}, "kernel", queued=True)
    assert (queued.verdict, queued.reasons, queued.dropped) == ("valid", (), dropped)


def test_stamps_of_reading_are_degraded_at_best():
    assert verdict(measured(), stamps="read") == "degraded"


def test_few_or_no_requests_are_no_fault_of_the_client():
    assert verdict(of([an_ok()])) == verdict(of([])) == "valid"


def test_every_fault_is_a_reason_in_words_and_the_worst_decides():
    made = [an_ok(lags_s=[0.05])] * 98 + [RequestRecord(0, "s", "p", DROPPED, 0.0)] * 2
    result = judge(of(made), {"client": 0.97}, "read")
    assert result.verdict == "invalid"
    assert result.reasons == (
        "the p99 of the lag between arrival and reading is 50 ms, beyond the 20 ms of a valid measurement",
        "the process 'client' used 97 % of a core",
        "2 of 100 planned requests could not be sent",
        "arrival times are the moments of reading: this platform gave no kernel time stamps",
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


def test_a_queue_on_purpose_excuses_nothing_else_of_any_part():
    parts = Recording()
    parts.add(an_ok(profile="a", intended_s=-9.0, lags_s=[0.2]))
    parts.add(an_ok(profile="b", intended_s=-9.0))
    named = {profile: Measured.of(group) for (_, profile), group in parts.groups.items()}
    validity = judge(Measured.of(parts.total()), {}, "kernel", parts=named, queued=True)
    assert validity.verdict == "invalid"
    assert [reason.partition(" is ")[0] for reason in validity.reasons] == [
        "a: the p99 of the lag between arrival and reading"
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
    assert (what.ttft_mean_s, what.ttft_p99_s, what.e2el_mean_s) == pytest.approx((2.0, 2.98, 3.0))
    assert (what.itl_mean_s, what.itl_p99_s) == pytest.approx((1.0, 1.0))
    assert (what.ttft_bound_mean_s, what.itl_bound_mean_s) == pytest.approx((0.5, 0.5))
    assert (what.ttft_bound_p99_s, what.itl_bound_p99_s) == pytest.approx((0.745, 0.745), rel=1e-3)
    assert (what.lag_p99_s, what.lateness_p99_s) == pytest.approx((0.5, 1.98), rel=1e-3)
    assert (what.planned, what.dropped) == (3, 1)
    nothing = of([])
    assert (nothing.ttft_mean_s, nothing.lag_p99_s, nothing.planned) == (None, None, 0)
