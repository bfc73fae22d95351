"""The fold of records into columns and histograms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_recordings import recorded
from tests.core.made_records import an_ok, records
from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, RequestRecord
from vllm_locust.core.recording import Recording


@given(st.lists(records(), max_size=12))
def test_every_record_is_counted_exactly_once(made):
    total = recorded(made, warmup_s=20.0).total()
    assert total.planned == len(made) == total.ok + total.failed + total.dropped
    assert total.planned - total.dropped == total.completed + total.failed_in_window + total.outside_window


def test_the_first_failure_of_a_kind_is_its_example():
    late = RequestRecord(0, "s", "p", CONNECT, 1.0, ended_s=9.0, error="late")
    early = RequestRecord(1, "s", "p", CONNECT, 1.0, ended_s=3.0, error="early " + 1000 * "x")
    failure = recorded([late, early]).total().failures[CONNECT]
    assert (failure.count, failure.example[:5]) == (2, "early")
    assert len(failure.example) == 300


def test_lags_and_lateness_are_taken_of_failed_requests_too_but_latencies_are_not():
    failed = an_ok(outcome=CANCELLED, sent_s=2.0, intended_s=1.5, lags_s=[0.25, 0.5])
    total = recorded([failed]).total()
    assert (total.lag.count, total.lag.max_s, total.lateness.max_s) == (2, 0.5, 0.5)
    assert (total.completed, total.itl.count, len(total.connect_s), len(total.first_bound_s)) == (0, 0, 0, 0)


def test_a_dropped_request_leaves_only_its_count():
    recording = recorded([RequestRecord(0, "s", "p", DROPPED, 1.0, ended_s=7.0)])
    assert (recording.total().planned, recording.total().dropped) == (1, 1)
    assert recording.window() is None


def test_tokens_are_binned_by_the_second_in_which_they_arrived():
    arrivals = [1.5, 2.2, 2.9, 4.0]
    even = an_ok(arrivals_s=arrivals, tokens=4)
    told = an_ok(arrivals_s=arrivals, tokens=10, event_tokens=[1, 2, 3, 4])
    spread = an_ok(arrivals_s=arrivals, tokens=10)
    assert recorded([even]).total().tokens_by_second == {1: 1, 2: 2, 4: 1}
    assert recorded([told]).total().tokens_by_second == {1: 1, 2: 5, 4: 4}
    assert recorded([spread]).total().tokens_by_second == {1: 2, 2: 5, 4: 3}


@given(st.integers(0, 500), st.integers(1, 60))
def test_spreading_tokens_over_events_loses_none(tokens, events):
    record = an_ok(arrivals_s=np.linspace(0.5, 7.0, events).tolist(), tokens=tokens)
    assert sum(recorded([record]).total().tokens_by_second.values()) == tokens


def test_gaps_per_token_share_the_gap_before_their_event():
    """By hand: 1 token, then 3 after 0.6 s, none after 0.1 s, 2 after another 0.3 s."""
    record = an_ok(arrivals_s=[1.0, 1.6, 1.7, 2.0], tokens=6, event_tokens=[1, 3, 0, 2])
    total = recorded([record]).total()
    assert total.itl.count == 3
    assert total.itl_per_token.count == 5
    assert total.itl_per_token.sum_s == pytest.approx(1.0, abs=1e-8)
    assert total.itl_per_token.value_at_rank(4) == pytest.approx(0.2, rel=1e-3)


def test_the_ends_of_a_gap_by_hand():
    """100 ms each: the event behind it may have come earlier, and so may the one before."""
    record = an_ok(arrivals_s=[1.0, 1.1, 1.2, 1.3], bounds_s=[0.008, 0.0, 0.004, 0.002])
    total = recorded([record]).total()
    assert (list(total.first_bound_s), list(total.last_bound_s)) == ([0.008], [0.002])
    for histogram, expected in (
        (total.itl_low, [0.096, 0.098, 0.1]),
        (total.itl_high, [0.1, 0.104, 0.108]),
    ):
        assert [histogram.value_at_rank(rank) for rank in range(3)] == pytest.approx(expected, rel=1e-3)


def test_nothing_arrives_before_its_request_was_sent():
    total = recorded([an_ok(sent_s=1.0, arrivals_s=[1.25, 1.5], bounds_s=[3.0, 4.0])]).total()
    assert (list(total.first_bound_s), list(total.last_bound_s)) == ([0.25], [0.5])


def test_the_bound_of_a_gap_is_the_larger_one_of_its_ends():
    record = an_ok(arrivals_s=[1.0, 1.1, 1.2, 1.3], bounds_s=[0.008, 0.0, 0.004, 0.002])
    total = recorded([record]).total()
    assert [total.itl_bound.value_at_rank(rank) for rank in range(3)] == pytest.approx(
        [0.004, 0.004, 0.008], rel=1e-3
    )


def test_an_ok_request_without_a_first_token_is_refused():
    with pytest.raises(ValueError, match="req_000001"):
        Recording().add(RequestRecord(0, "s", "p", "ok", 0.0, sent_s=0.0))
