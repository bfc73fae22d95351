"""The fold of records: the window, the columns, and merging against recording everything in one place."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, RequestRecord
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.summary import summarize

many = st.lists(records(), max_size=12)


def of(made: list[RequestRecord], **window: float) -> Recording:
    recording = Recording(**window)
    for record in made:
        recording.add(record)
    return recording


def comparable(recording: Recording) -> dict:
    """What a recording holds, apart from the order in which it came."""
    groups = {}
    for key, group in recording.groups.items():
        data = group.to_dict()
        groups[key] = {
            name: sorted(value) if isinstance(value, list) else value for name, value in data.items()
        }
    return groups


@settings(max_examples=50)
@given(many, many, st.sampled_from([None, 20.0]))
def test_merging_two_recordings_is_recording_all_their_records(some, others, warmup_until_s):
    together = of(some, warmup_until_s=warmup_until_s)
    together.merge(of(others, warmup_until_s=warmup_until_s))
    whole = of(some + others, warmup_until_s=warmup_until_s)
    assert comparable(together) == comparable(whole)
    assert summarize(together) == summarize(whole)


@settings(max_examples=50)
@given(many, st.sampled_from([None, 20.0]))
def test_a_round_trip_through_json_loses_nothing(made, warmup_until_s):
    recording = of(made, warmup_until_s=warmup_until_s)
    recording.close_window(30.0)
    copy = Recording.from_dict(json.loads(json.dumps(recording.to_dict(), allow_nan=False)))
    assert copy.to_dict() == recording.to_dict()
    assert summarize(copy) == summarize(recording)


@given(many)
def test_every_record_is_counted_exactly_once(made):
    total = of(made, warmup_until_s=20.0).total()
    assert total.planned == len(made) == total.ok + total.failed + total.dropped
    assert total.planned - total.dropped == total.completed + total.failed_in_window + total.outside_window


def test_without_a_warmup_the_window_goes_from_the_first_sent_to_the_last_ended():
    recording = of([an_ok(sent_s=5.0, ended_s=9.0), an_ok(sent_s=4.0, ended_s=6.0)])
    recording.close_window(5.5)
    assert recording.window() == Window(4.0, 9.0)
    assert recording.total().completed == 2


def test_with_a_warmup_requests_belong_to_the_window_they_end_in():
    """By hand: warm-up until 10, load until 20; the four requests end at 9, 12, 20 and 21."""
    recording = Recording(warmup_until_s=10.0)
    recording.add(an_ok(sent_s=1.0, ended_s=9.0, tokens=100))
    recording.add(an_ok(sent_s=2.0, ended_s=12.0, tokens=200))
    recording.close_window(20.0)
    recording.add(an_ok(sent_s=11.0, ended_s=20.0, tokens=300))
    recording.add(an_ok(sent_s=19.0, ended_s=21.0, tokens=400))
    summary = summarize(recording)
    assert recording.window() == Window(10.0, 20.0)
    assert summary["completed"] == 2
    assert summary["total_output_tokens"] == 500
    assert summary["output_throughput"] == 50.0
    assert summary["requests"] == {"planned": 4, "ok": 4, "failed": 0, "dropped": 0, "outside_window": 2}


def test_what_was_counted_before_the_window_was_closed_stays_inside():
    recording = Recording(warmup_until_s=1.0)
    recording.add(an_ok(sent_s=1.0, ended_s=9.0))
    recording.close_window(8.0)
    assert recording.window() == Window(1.0, 9.0)


def test_a_run_shorter_than_its_warmup_has_no_window():
    recording = of([an_ok(sent_s=1.0, ended_s=9.0)], warmup_until_s=10.0)
    recording.close_window(9.5)
    assert recording.window() is None
    assert summarize(recording)["request_throughput"] is None


def steady(users: int, seconds: int) -> list[RequestRecord]:
    """A closed loop in which each of the users finishes a request of 10 tokens per second, staggered."""
    made = []
    for user in range(users):
        for k in range(seconds):
            sent_s = k + user / users
            made.append(an_ok(sent_s=sent_s, ended_s=sent_s + 1.0, tokens=10))
    return sorted(made, key=lambda record: record.ended_s)


def test_trimming_a_uniform_run_leaves_its_throughput_unchanged():
    run = steady(users=20, seconds=200)
    whole = summarize(of(run))
    trimmed_run = of([record for record in run if record.ended_s <= 190.0], warmup_until_s=10.0)
    trimmed_run.close_window(190.0)
    for record in run:
        if record.ended_s > 190.0:
            trimmed_run.add(record)
    trimmed = summarize(trimmed_run)
    for key in ("request_throughput", "output_throughput", "total_token_throughput"):
        assert trimmed[key] == pytest.approx(whole[key], rel=0.01)
    assert trimmed["output_throughput"] == pytest.approx(20 * 10, rel=0.001)
    assert trimmed["duration"] == 180.0
    assert trimmed["requests"]["planned"] == whole["completed"] == 20 * 200


def test_recordings_of_clocks_that_stand_elsewhere_merge_on_the_axis_of_the_run():
    here = Recording(warmup_until_s=1010.0, origin_s=1000.0)
    there = Recording(warmup_until_s=60.0, origin_s=50.0)
    here.add(an_ok(sent_s=1008.0, ended_s=1012.0))
    there.add(an_ok(sent_s=61.0, ended_s=65.0))
    there.close_window(66.0)
    merged = Recording()
    merged.merge(Recording.from_dict(here.to_dict()))
    merged.merge(Recording.from_dict(there.to_dict()))
    assert merged.window() == Window(10.0, 16.0)
    assert merged.total().sent_s.tolist() == [8.0, 11.0]


def test_one_with_a_warmup_and_one_without_do_not_merge():
    with pytest.raises(ValueError, match="warm-up"):
        of([an_ok()], warmup_until_s=1.0).merge(of([an_ok()]))


def test_a_successor_continues_the_same_window():
    first = of([an_ok(sent_s=11.0, ended_s=12.0)], warmup_until_s=10.0)
    first.close_window(20.0)
    second = first.successor()
    second.add(an_ok(sent_s=19.0, ended_s=21.0))
    assert second.total().outside_window == 1
    first.merge(second)
    assert first.window() == Window(10.0, 20.0)


def test_profiles_of_a_phase_share_its_window_and_phases_do_not_share_theirs():
    recording = of(
        [
            an_ok(sent_s=0.0, ended_s=4.0, profile="a"),
            an_ok(sent_s=1.0, ended_s=5.0, profile="b"),
            an_ok(sent_s=6.0, ended_s=9.0, phase=1),
            an_ok(sent_s=9.5, ended_s=12.0, phase=2),
        ]
    )
    assert recording.phase_window(0) == Window(0.0, 5.0)
    assert recording.phase_window(1) == Window(6.0, 9.0)
    assert recording.phase_window(2) == Window(9.5, 12.0)
    assert recording.phase_window(3) is None
    assert sum(recording.phase(0).ttft_s) == sum(sum(recording.groups[0, p].ttft_s) for p in "ab")


def test_the_first_failure_of_a_kind_is_its_example():
    late = RequestRecord(0, "s", "p", CONNECT, 1.0, ended_s=9.0, error="late")
    early = RequestRecord(1, "s", "p", CONNECT, 1.0, ended_s=3.0, error="early " + 1000 * "x")
    failure = of([late, early]).total().failures[CONNECT]
    assert (failure.count, failure.example[:5]) == (2, "early")
    assert len(failure.example) == 300


def test_lags_and_lateness_are_taken_of_failed_requests_too_but_latencies_are_not():
    failed = an_ok(outcome=CANCELLED, sent_s=2.0, intended_s=1.5, lags_s=[0.25, 0.5])
    total = of([failed]).total()
    assert (total.lag.count, total.lag.max_s, total.lateness.max_s) == (2, 0.5, 0.5)
    assert (total.completed, total.itl.count, len(total.connect_s), total.ttft_bound.count) == (0, 0, 0, 0)


def test_a_dropped_request_leaves_only_its_count():
    recording = of([RequestRecord(0, "s", "p", DROPPED, 1.0, ended_s=7.0)])
    assert (recording.total().planned, recording.total().dropped) == (1, 1)
    assert recording.window() is None


def test_tokens_are_binned_by_the_second_in_which_they_arrived():
    arrivals = [1.5, 2.2, 2.9, 4.0]
    even = an_ok(arrivals_s=arrivals, tokens=4)
    told = an_ok(arrivals_s=arrivals, tokens=10, event_tokens=[1, 2, 3, 4])
    spread = an_ok(arrivals_s=arrivals, tokens=10)
    assert of([even]).total().tokens_by_second == {1: 1, 2: 2, 4: 1}
    assert of([told]).total().tokens_by_second == {1: 1, 2: 5, 4: 4}
    assert of([spread]).total().tokens_by_second == {1: 2, 2: 5, 4: 3}


@given(st.integers(0, 500), st.integers(1, 60))
def test_spreading_tokens_over_events_loses_none(tokens, events):
    record = an_ok(arrivals_s=np.linspace(0.5, 7.0, events).tolist(), tokens=tokens)
    assert sum(of([record]).total().tokens_by_second.values()) == tokens


def test_gaps_per_token_share_the_gap_before_their_event():
    """By hand: 1 token, then 3 after 0.6 s, none after 0.1 s, 2 after another 0.3 s."""
    record = an_ok(arrivals_s=[1.0, 1.6, 1.7, 2.0], tokens=6, event_tokens=[1, 3, 0, 2])
    total = of([record]).total()
    assert total.itl.count == 3
    assert total.itl_per_token.count == 5
    assert total.itl_per_token.sum_s == pytest.approx(1.0, abs=1e-8)
    assert total.itl_per_token.value_at_rank(4) == pytest.approx(0.2, rel=1e-3)


def test_the_bound_of_a_gap_is_the_larger_one_of_its_ends():
    record = an_ok(arrivals_s=[1.0, 1.1, 1.2, 1.3], bounds_s=[0.008, 0.0, 0.004, 0.002])
    total = of([record]).total()
    assert total.ttft_bound.max_s == 0.008
    assert [total.itl_bound.value_at_rank(rank) for rank in range(3)] == pytest.approx(
        [0.004, 0.004, 0.008], rel=1e-3
    )


def test_an_ok_request_without_a_first_token_is_refused():
    with pytest.raises(ValueError, match="req_000001"):
        Recording().add(RequestRecord(0, "s", "p", "ok", 0.0, sent_s=0.0))
