"""Whatever the truth is inside the bounds of the events, each number of it lies between the ends."""

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.core.made_records import an_error, an_ok
from vllm_locust.core.group import Group
from vllm_locust.core.latencies import Family, Values, families_of, lateness_of
from vllm_locust.core.record import CANCELLED, OK, TIMEOUT
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import FAMILIES, summarize

GOODPUT_MS = {"ttft": 900.0, "tpot": 300.0, "e2el": 3000.0}


@st.composite
def claims_and_truths(draw: st.DrawFn) -> tuple[Any, Any]:
    """A record as stamped, and the same request as it may have been."""
    sent_s = draw(st.floats(0, 5))
    gaps = draw(st.lists(st.sampled_from([0.0, 1e-4, 0.02, 0.3, 1.5]), min_size=1, max_size=8))
    arrivals = [sent_s + 0.01 + sum(gaps[: i + 1]) for i in range(len(gaps))]
    bounds, truths, before = [], [], sent_s
    for arrival in arrivals:
        bounds.append(draw(st.sampled_from([0.0, 1e-4, 0.05, 0.4, 3.0])))
        earliest = max(arrival - bounds[-1], before)  # an event comes behind the one before
        before = earliest + draw(st.floats(0, 1)) * (arrival - earliest)
        truths.append(before)
    told = [1, *(draw(st.integers(0, 3)) for _ in gaps[1:])]
    tokens = sum(told)
    common = {
        "profile": draw(st.sampled_from("ab")),
        "outcome": draw(st.sampled_from([OK, OK, OK, OK, TIMEOUT, CANCELLED])),
        "cached_tokens": draw(st.sampled_from([None, 3])),
        "tokens_counted": draw(st.booleans()),
        "event_tokens": draw(st.sampled_from([(), told])),
    }
    ended_s, intended_s, connect_s = arrivals[-1] + 0.1, sent_s - 0.25, draw(st.sampled_from([None, 0.5]))
    ends = {
        "intended_bound_s": draw(st.sampled_from([0.0, 1e-4, 0.4, 3.0])),
        "send_bound_s": draw(st.sampled_from([0.0, 1e-4, 0.4, math.inf])),
        "ended_bound_s": 0.0
        if common["outcome"] == CANCELLED
        else draw(st.sampled_from([0.0, 1e-4, 0.4, 3.0])),
        "connect_bound_s": draw(st.sampled_from([0.0, 1e-4, 0.4])),
    }

    def part_of(bound: str) -> float:
        return draw(st.floats(0, 1)) * min(ends[bound], 9.0)

    times = {"intended_s": intended_s, "connect_s": connect_s}
    claim = an_ok(sent_s, ended_s, tokens, arrivals, bounds_s=bounds, **times, **ends, **common)
    truth = an_ok(
        min(sent_s + part_of("send_bound_s"), truths[0]),
        max(ended_s - part_of("ended_bound_s"), truths[-1]),
        tokens,
        truths,
        intended_s=intended_s - part_of("intended_bound_s"),
        connect_s=None if connect_s is None else connect_s - part_of("connect_bound_s"),
        **common,
    )
    assume(not claim.in_one_piece and not truth.in_one_piece)  # of those nobody knows a gap
    # Where the last event was perhaps read late, nobody knows either whether there is a TPOT.
    assume(claim.tpot_s is None or truth.later_tokens is not None)
    return claim, truth


def recorded(records: list[Any]) -> Recording:
    recording = Recording()
    for record in records:
        recording.add(record)
    return recording


def shipped(recording: Recording) -> Recording:
    return Recording.from_dict(msgpack.loads(msgpack.dumps(recording.to_dict())))


def measured(records: list[Any], from_s: float, to_s: float) -> Recording:
    """With a warm-up until `from_s` and an end of the load."""
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=from_s)
    for record in sorted(records, key=lambda record: record.ended_s):
        if record.ended_s > to_s:
            recording.close_phase(0, to_s)
        recording.add(record)
    recording.close_phase(0, to_s)
    return recording


def assert_the_truth_lies_between(claimed: dict[str, Any], truth: dict[str, Any], *keys: str) -> None:
    for key, (low, high) in claimed["error_bounds"].items():
        if keys and key not in keys:
            continue
        if claimed[key] is None:
            assert high is None, key
            continue
        if high is None:  # all of it may have taken no time
            assert claimed["error_bounds"]["duration"][0] == 0
            high = math.inf
        # Of gaps the histogram's own error of the true value comes on top.
        slack = 1e-6 + (1.1e-3 * truth[key] if "_itl_" in key else 0.0)
        assert low - slack <= truth[key] <= high + slack, key
        assert low - slack <= claimed[key] <= high + slack, key


def assert_lateness_lies_between(claimed: Recording, truth: Recording) -> None:
    late, truly = (lateness_of(recording.total()) for recording in (claimed, truth))
    for q in (0, 50, 99, 100):
        bounded, value_s = late.percentile(q), truly.measured.percentile(q)
        assert bounded is not None
        assert value_s is not None
        slack_s = 1e-6 + 1.1e-3 * value_s
        assert bounded.low_s - slack_s <= value_s <= bounded.high_s + slack_s


@settings(max_examples=25, deadline=None)
@given(st.lists(claims_and_truths(), min_size=1, max_size=12), st.integers(0, 12))
def test_every_true_number_lies_between_its_ends_after_merging_too(made: list[Any], cut: int) -> None:
    claims, truths = [claim for claim, _ in made], [truth for _, truth in made]
    merged = Recording()
    for part in (claims[:cut], claims[cut:]):
        merged.merge(shipped(recorded(part)))
    claimed = summarize(merged, GOODPUT_MS, (99.9,))
    truth = summarize(recorded(truths), GOODPUT_MS, (99.9,))
    assert_the_truth_lies_between(claimed, truth)
    assert_lateness_lies_between(merged, recorded(truths))
    for phase, true_phase in zip(claimed["phases"], truth["phases"], strict=True):
        assert_the_truth_lies_between(phase, true_phase)
        for part, true_part in zip(phase.get("profiles", ()), true_phase.get("profiles", ()), strict=True):
            assert_the_truth_lies_between(part, true_part)
    assert claimed["error_bounds"].keys() == {
        f"{word}_{family}_ms"
        for word in ("mean", "std", "max", "p50", "p90", "p95", "p99", "p99.9")
        for family in (
            "ttft",
            "tpot",
            "itl",
            "e2el",
            "ttft_from_plan",
            "e2el_from_plan",
            "itl_per_token",
            "connect",
        )
    } | {
        "completed",
        "completed_without_usage",
        "failed",
        "error_rate",
        "total_input_tokens",
        "total_output_tokens",
        "total_cached_tokens",
        "duration",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(claims_and_truths(), min_size=1, max_size=12))
def test_the_true_rates_of_a_window_lie_between_their_ends(made: list[Any]) -> None:
    """Who ended on which side of a border is not known either."""
    claims, truths = (measured([pair[i] for pair in made], from_s=2.0, to_s=4.0) for i in (0, 1))
    rates = ("request_throughput", "request_goodput", "output_throughput", "total_token_throughput")
    claimed, truth = summarize(shipped(claims), GOODPUT_MS), summarize(truths, GOODPUT_MS)
    assert_the_truth_lies_between(claimed, truth, "duration", "completed", "failed", *rates)
    known = [key for key in claimed["intervals"] if None not in (claimed[key], truth[key])]
    known += ["completed_without_usage", *(f"total_{what}_tokens" for what in ("input", "output", "cached"))]
    known += ["error_rate", *(f"{word}_{name}_ms" for word in ("mean", "max") for name in FAMILIES)]
    known = [key for key in known if None not in (claimed[key], truth[key])]
    if known:
        assert_the_truth_lies_between(claimed, truth, *known)


def test_the_ends_of_rates_by_hand() -> None:
    """The first one was sent 0.2 s later at most, and the last one ended 1 s earlier: in 3.8 to 5 s."""
    first = an_ok(0.0, 2.0, tokens=10, prompt_tokens=20, send_bound_s=0.2, ended_bound_s=0.5)
    last = an_ok(1.0, 5.0, tokens=9, prompt_tokens=30, send_bound_s=0.4, ended_bound_s=1.0)
    bounds = summarize(recorded([first, last]), {"e2el": 4500.0})["error_bounds"]
    expected = {
        "duration": [3.8, 5.0],
        "request_throughput": [2 / 5, 2 / 3.8],
        "request_goodput": [2 / 5, 2 / 3.8],
        "output_throughput": [19 / 5, 19 / 3.8],
        "total_token_throughput": [69 / 5, 69 / 3.8],
        "max_concurrent_requests": [2, 2],
    }
    assert {key: bounds[key] for key in expected} == {k: pytest.approx(v) for k, v in expected.items()}


def test_requests_at_the_borders_of_a_window_by_hand() -> None:
    """From 2 to 4 s: one perhaps ended before it, one certainly inside, one perhaps before its end."""
    made = [
        an_ok(0.5, 2.1, tokens=10, ended_bound_s=0.2),
        an_ok(1.0, 3.0, tokens=20, ended_bound_s=0.2),
        an_ok(1.5, 4.1, tokens=40, ended_bound_s=0.2),
    ]
    summary = summarize(shipped(measured(made, from_s=2.0, to_s=4.0)))
    assert (summary["duration"], summary["output_throughput"]) == (2.0, 15.0)
    bounds = summary["error_bounds"]
    assert bounds["duration"] == [2.0, 2.0]
    assert bounds["request_throughput"] == [1 / 2, 3 / 2]
    assert bounds["output_throughput"] == [20 / 2, 70 / 2]
    assert (summary["total_output_tokens"], bounds["total_output_tokens"]) == (30, [20, 70])
    assert (summary["total_input_tokens"], bounds["total_input_tokens"]) == (14, [7, 21])
    assert bounds["total_cached_tokens"] == [None, None]


def test_what_may_have_ended_in_the_window_and_was_not_counted_leaves_no_highest_total() -> None:
    """From 2 to 4 s, and of one that perhaps ended in it the server did not tell the prompt's tokens."""
    inside = an_ok(1.0, 3.0, tokens=20, cached_tokens=5)
    behind = an_ok(1.5, 4.1, tokens=40, prompt_tokens=None, tokens_counted=True, ended_bound_s=0.2)
    bounds = summarize(shipped(measured([inside, behind], from_s=2.0, to_s=4.0)))["error_bounds"]
    assert bounds["total_input_tokens"] == [7, None]
    assert bounds["total_output_tokens"] == [20, 60]
    assert bounds["total_cached_tokens"] == [5, 5]
    assert bounds["completed_without_usage"] == [0, 1]
    assert bounds["total_token_throughput"] == [27 / 2, None]


def test_who_belongs_to_the_window_moves_latencies_and_failures_by_hand() -> None:
    """From 10 to 20 s: eight of 5 s in it that perhaps ended before, four of 0.1 s, one perhaps after it.

    That one took 1 s. Of two failures one is certain, and one more perhaps came in time.
    """
    slow = [an_ok(4.5, 10.1, arrivals_s=[9.5], ended_bound_s=0.5) for _ in range(8)]
    fast = [an_ok(11 + i, 11.3 + i, arrivals_s=[11.1 + i]) for i in range(4)]
    behind = an_ok(19.0, 20.2, arrivals_s=[20.0], ended_bound_s=0.4)
    failures = [
        an_error(10.2, ended_bound_s=0.4),
        an_error(15.0),
        an_error(20.1, ended_bound_s=0.2),
    ]
    summary = summarize(shipped(measured([*slow, *fast, behind, *failures], from_s=10.0, to_s=20.0)))
    bounds = summary["error_bounds"]
    assert (summary["completed"], summary["failed"]) == (12, 2)
    assert (bounds["completed"], bounds["failed"]) == ([4, 13], [1, 3])
    assert bounds["error_rate"] == [1 / 14, 3 / 7]
    # The four fast ones are all that is sure to be there, so there may be few others or all of them.
    assert bounds["max_ttft_ms"] == pytest.approx([100.0, 5000.0])
    assert bounds["p50_ttft_ms"] == pytest.approx([100.0, 5000.0])
    assert bounds["mean_ttft_ms"] == pytest.approx([100.0, 5000.0])


def test_who_was_in_flight_with_whom_is_not_known_either() -> None:
    """The second was sent before the first ended, by the stamps; that one may have ended before."""
    made = [an_ok(0.0, 2.0, ended_bound_s=0.5), an_ok(1.8, 3.0)]
    assert summarize(recorded(made))["error_bounds"]["max_concurrent_requests"] == [1, 2]


def test_a_peak_at_the_end_may_be_behind_it() -> None:
    """Measured until 5.05 s, or 0.1 s less; ten tokens at 5.5 s are of one that is cancelled later."""
    made = [
        an_ok(0.0, 5.05, arrivals_s=[1.0, 4.9], ended_bound_s=0.1),
        an_ok(0.5, 6.0, arrivals_s=[5.5] * 10, outcome=CANCELLED),
    ]
    summary = summarize(recorded(made))
    assert summary["max_output_tokens_per_s"] == 10
    assert summary["error_bounds"]["max_output_tokens_per_s"] == [1, 10]


def test_the_ends_by_hand() -> None:
    """Sent at 0 and planned 50 ms before, tokens at 100, 200 and 400 ms, up to 10, 0 and 60 ms too late."""
    recording = recorded([an_ok(arrivals_s=[0.1, 0.2, 0.4], bounds_s=[0.01, 0.0, 0.06], intended_s=-0.05)])
    bounds = summarize(recording, {"e2el": 350.0})["error_bounds"]
    expected = {
        "mean_ttft_ms": [90, 100],
        "p99_e2el_ms": [340, 400],
        "max_tpot_ms": [(340 - 100) / 2, (400 - 90) / 2],
        "p50_ttft_from_plan_ms": [140, 150],
        "max_e2el_from_plan_ms": [390, 450],
        "max_itl_ms": [140, 200],  # gaps [100, 110] and [140, 200]
        "mean_itl_ms": [120, 155],  # (340 - 100) / 2 and (400 - 90) / 2: better known than the gaps
        "std_ttft_ms": [0, 10],
        "request_goodput": [0, 1 / 0.4],
    }
    assert {key: bounds[key] for key in expected} == {
        key: pytest.approx(ends, rel=1e-6) for key, ends in expected.items()
    }


ENDS_BY_HAND = {
    "ttft": [140.0, 250.0],
    "e2el": [380.0, 500.0],
    "tpot": [230.0, 260.0],
    "ttft_from_plan": [740.0, 750.0],
    "connect": [20.0, 50.0],
}


def test_what_the_client_lost_before_sending_is_in_ttft_and_e2el_alone() -> None:
    """Tokens after 0.25 and 0.5 s, 10 and 20 ms sooner at best; sent 0.1 s later."""
    record = an_ok(
        sent_s=1.0,
        intended_s=0.5,
        arrivals_s=[1.25, 1.5],
        bounds_s=[0.01, 0.02],
        send_bound_s=0.1,
        connect_s=0.05,
        connect_bound_s=0.03,
    )
    ends = summarize(shipped(recorded([record])))["error_bounds"]
    assert {name: ends[f"max_{name}_ms"] for name in ENDS_BY_HAND} == {
        name: pytest.approx(expected) for name, expected in ENDS_BY_HAND.items()
    }


def test_no_request_is_sent_behind_its_first_token() -> None:
    record = an_ok(sent_s=1.0, arrivals_s=[1.25, 1.5], bounds_s=[0.01, 0.02], send_bound_s=0.4)
    ends = summarize(recorded([record]))["error_bounds"]
    assert ends["max_ttft_ms"] == [0.0, 250.0]
    assert ends["max_e2el_ms"] == pytest.approx([80.0, 500.0])


def test_the_ends_allow_for_answers_that_were_perhaps_read_late() -> None:
    """Three TPOTs of 20 ms, and 11 tokens at once, the first of which came up to 300 ms before the last."""
    streamed = an_ok(arrivals_s=[0.1, 0.12])
    late = an_ok(arrivals_s=[0.5] * 11, bounds_s=[0.3] * 11)
    unreadable = an_ok(arrivals_s=[0.5] * 11)
    summary = summarize(recorded([streamed] * 3 + [late, unreadable]), {"tpot": 25.0, "ttft": 600.0})
    bounds = summary["error_bounds"]
    expected = {
        "mean_tpot_ms": [60 / 4, (60 + 300 / 10) / 4],
        "p50_tpot_ms": [20, 20],
        "max_tpot_ms": [20, 30],
        "std_tpot_ms": [0, 15],
        "mean_itl_ms": [60 / 13, (60 + 300) / 3],
        "p50_itl_ms": [0, 300],
        "max_itl_ms": [20, 300],
        "request_goodput": [3 / 0.5, 4 / 0.5],
    }
    assert {key: bounds[key] for key in expected} == {
        key: pytest.approx(ends, rel=1e-6) for key, ends in expected.items()
    }
    assert (summary["mean_tpot_ms"], summary["request_goodput"]) == pytest.approx((20, 6))


def test_the_ends_allow_for_more_tokens_than_events_that_were_perhaps_read_late() -> None:
    """Ten tokens after the first in 0.1 ms, which is too fast; the first event came up to 300 ms earlier."""
    late = an_ok(arrivals_s=[0.5, 0.5001], tokens=11, bounds_s=[0.3, 0.0])
    too_many = an_ok(arrivals_s=[0.5, 0.5001], tokens=11, bounds_s=[0.0003, 0.0])
    assert (late.tpot_s, late.later_tokens, late.in_one_piece) == (None, 10, False)
    assert (too_many.tpot_s, too_many.later_tokens) == (None, None)  # 0.4 ms for ten is too fast, too
    streamed = an_ok(arrivals_s=[0.1, 0.12])
    summary = summarize(recorded([streamed, late, too_many]), {"tpot": 40.0})
    bounds = summary["error_bounds"]
    assert (summary["max_tpot_ms"], summary["answers"]["tpot_unknown"]) == (pytest.approx(20), 2)
    assert bounds["max_tpot_ms"] == pytest.approx([20, 300.1 / 10])
    assert bounds["mean_tpot_ms"] == pytest.approx([20 / 2, (20 + 300.1 / 10) / 2])
    assert bounds["request_goodput"] == pytest.approx([1 / 0.5001, 2 / 0.5001])


@pytest.mark.parametrize(
    ("tokens", "bound_s", "later_tokens"),
    [
        (3, 0.0, None),  # ten events in one piece, whatever usage says of them
        (1, 0.0, None),
        (3, 0.3, 2),  # perhaps read late
    ],
)
def test_fewer_tokens_than_events_in_one_piece_have_no_tpot(
    tokens: int, bound_s: float, later_tokens: int | None
) -> None:
    """0.3 ms for two tokens would be a TPOT, but nine events came in it."""
    piece = [0.5, *[0.5003] * 9]
    record = an_ok(arrivals_s=piece, tokens=tokens, bounds_s=[bound_s] * 10)
    assert (record.tpot_s, record.later_tokens, record.in_one_piece) == (None, later_tokens, True)
    streamed = an_ok(arrivals_s=[0.1, 0.12])
    summary = summarize(shipped(recorded([streamed, record])), {"tpot": 200.0})
    most = [20, (300.3 if bound_s else 20) / (2 if bound_s else 1)]
    assert summary["error_bounds"]["max_tpot_ms"] == pytest.approx(most)
    assert summary["request_goodput"] == pytest.approx(1 / 0.5003)


def test_a_late_answer_that_would_lower_a_number_may_as_well_not_belong_there() -> None:
    slow, late = an_ok(arrivals_s=[0.1, 0.3]), an_ok(arrivals_s=[0.5] * 11, bounds_s=[0.3] * 11)
    bounds = summarize(recorded([slow, late]))["error_bounds"]
    assert bounds["mean_tpot_ms"] == pytest.approx([100, 200])
    assert bounds["max_tpot_ms"] == pytest.approx([200, 200])


def test_gaps_per_token_of_a_late_answer() -> None:
    """Gaps of 100 ms, and two tokens whose gaps lie between 0 and 300 ms."""
    streamed = an_ok(arrivals_s=[0.1, 0.2], event_tokens=[1, 1])
    late = an_ok(arrivals_s=[0.5, 0.5], bounds_s=[0.3, 0.0], event_tokens=[1, 2], tokens=3)
    bounds = summarize(recorded([streamed, late]))["error_bounds"]
    assert bounds["p50_itl_per_token_ms"] == pytest.approx([0, 300])


def test_the_ends_of_gaps_allow_for_the_error_of_the_histogram() -> None:
    """900.608 ms is in a bucket whose middle is 0.3 ms more."""
    gaps_s = [0.5, *[0.900608] * 9, 1.5]
    arrivals_s = [0.1 + sum(gaps_s[:i]) for i in range(len(gaps_s) + 1)]
    summary = summarize(recorded([an_ok(arrivals_s=arrivals_s)]))
    low, high = summary["error_bounds"]["p50_itl_ms"]
    assert summary["p50_itl_ms"] == pytest.approx(900.879, abs=1e-3)
    assert low <= 900.608 <= high
    assert (low, high) == pytest.approx((900.879 * 0.999, 900.879 * 1.001), abs=2e-3)


def test_a_part_of_a_gap_is_off_by_no_more_than_the_largest_error_of_any_gap() -> None:
    made = an_ok(arrivals_s=[0.1, 0.2, 0.4], bounds_s=[0.01, 0.0, 0.06], event_tokens=[1, 2, 1], tokens=4)
    bounds = summarize(recorded([made]))["error_bounds"]
    assert bounds["max_itl_per_token_ms"] == pytest.approx([140, 260])
    assert bounds["p50_itl_per_token_ms"] == pytest.approx([0, 110], rel=1e-3)


def test_without_a_value_there_are_no_ends() -> None:
    families = families_of(Group())
    assert {family.mean for family in families.values()} == {None}
    assert summarize(Recording())["error_bounds"]["p99_ttft_ms"] == [None, None]


def test_a_number_may_be_off_as_far_as_its_farther_end() -> None:
    def values(*numbers: float) -> Values:
        return Values.of(np.array(numbers))

    mean = Family(values(2.0, 4.0), values(1.5, 3.9), values(2.0, 4.2)).mean
    assert mean is not None
    assert (mean.low_s, mean.high_s, mean.error_s) == pytest.approx((2.7, 3.1, 0.3))
