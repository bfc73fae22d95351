"""Arrivals have the distribution they are said to have, and n workers share one schedule to the last bit."""

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from vllm_locust.core.arrival import (
    CHUNK,
    Arrival,
    Schedule,
    unit_arrivals,
)
from vllm_locust.core.rate import parse_rate

SHAPES = (0.3, 1.0, 4.0)


def units(seed: int, phase: int, burstiness: float, count: int) -> np.ndarray:
    chunks = islice(unit_arrivals(seed, phase, burstiness), -(-count // CHUNK))
    return np.concatenate(list(chunks))[:count]


def gaps(seed: int, burstiness: float, count: int = 20_000, phase: int = 0) -> np.ndarray:
    return np.diff(units(seed, phase, burstiness, count), prepend=0.0)


def schedule(rate="10", burstiness=1.0, seed=1, phase=0, **bounds) -> Schedule:
    return Schedule(parse_rate(rate), burstiness, seed, phase, **bounds)


def popped(schedule: Schedule, before_s: float = math.inf, limit: int = 100_000) -> list[Arrival]:
    """What arrives before a time, popped."""
    arrivals: list[Arrival] = []
    while (arrival := schedule.peek()) is not None and arrival.at_s < before_s and len(arrivals) < limit:
        assert schedule.pop() == arrival
        arrivals.append(arrival)
    return arrivals


def times(arrivals: list[Arrival]) -> np.ndarray:
    return np.array([arrival.at_s for arrival in arrivals])


# -- the distribution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("burstiness", SHAPES)
def test_gaps_are_gamma_with_mean_1(burstiness):
    law = stats.gamma(burstiness, scale=1 / burstiness)
    p_values = [stats.kstest(gaps(seed, burstiness, 3_000), law.cdf).pvalue for seed in range(40)]
    # Not only none too bad: p-values of the true law are uniform, so none are too good either.
    assert min(p_values) > 1e-4
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_gaps_of_burstiness_1_are_exponential():
    assert stats.kstest(gaps(3, 1.0), "expon").pvalue > 0.01


@pytest.mark.parametrize(("burstiness", "wrong"), [(0.3, 0.36), (1.0, 0.85), (1.0, 1.2), (4.0, 3.3)])
def test_a_wrong_shape_would_be_found(burstiness, wrong):
    law = stats.gamma(wrong, scale=1 / wrong)
    assert stats.kstest(gaps(1, burstiness), law.cdf).pvalue < 1e-6


@pytest.mark.parametrize("burstiness", SHAPES)
def test_gaps_between_chunks_are_like_all_others(burstiness):
    between = gaps(4, burstiness, 500 * CHUNK)[CHUNK::CHUNK]
    assert stats.kstest(between, stats.gamma(burstiness, scale=1 / burstiness).cdf).pvalue > 0.01


@pytest.mark.parametrize("burstiness", SHAPES)
def test_gaps_do_not_depend_on_each_other(burstiness):
    ranks = stats.rankdata(gaps(5, burstiness, 40_000))
    for lag in (1, 2, CHUNK):
        assert abs(stats.pearsonr(ranks[:-lag], ranks[lag:])[0]) < 4 / math.sqrt(len(ranks))


def test_constant_arrivals_are_one_per_unit_from_0_on():
    assert units(1, 0, math.inf, 3 * CHUNK).tolist() == list(range(3 * CHUNK))
    assert times(popped(schedule("4", math.inf), before_s=2.0)).tolist() == [i / 4 for i in range(8)]


@pytest.mark.parametrize("burstiness", [0.0, -1.0, math.nan])
def test_burstiness_is_more_than_0(burstiness):
    with pytest.raises(ValueError, match="burstiness must be more than 0"):
        next(unit_arrivals(0, 0, burstiness))


def dispersion(at_s: np.ndarray, window_s: float) -> float:
    """The variance of the counts in windows, over their mean."""
    counts = np.bincount((at_s / window_s).astype(int))[:-1]
    return float(counts.var(ddof=1) / counts.mean())


@pytest.mark.parametrize("burstiness", [0.3, 0.5, 1.0, 4.0, 20.0])
def test_the_dispersion_of_counts_is_that_of_renewal_theory(burstiness):
    """Var N(t) / t = v + (1 - v^2) / 6t + o(1/t), v = 1 / burstiness the variance of a gap of mean 1.

    D. R. Cox, Renewal Theory, 1962, section 4.5, with the third moment of the gamma distribution. The
    estimate from n windows has a relative standard error of about sqrt(2 / n): 2 % here.
    """
    window, windows = 40, 5_000
    v = 1 / burstiness
    expected = v + (1 - v * v) / (6 * window)
    measured = dispersion(units(7, 0, burstiness, window * windows), window)
    assert measured == pytest.approx(expected, rel=4 * math.sqrt(2 / windows))


def test_the_dispersion_of_constant_arrivals_is_0():
    assert dispersion(units(7, 0, math.inf, 20_000), 40) == 0


def test_the_dispersion_of_what_all_workers_send_together_is_1():
    """Not 8, as when every worker draws from the same seed."""
    together = []
    for position in range(8):
        mine = schedule("100", 1.0)
        mine.members_from(0.0, position, 8)
        together += popped(mine, limit=2_500)
    assert dispersion(np.sort(times(together)), 0.2) == pytest.approx(1, abs=4 * math.sqrt(2 / 1_000))


@pytest.mark.parametrize("rate", ["7.3", "2-12:3000s", "1^30:3000s"])
def test_arrivals_do_not_cluster_on_whole_seconds(rate):
    at_s = times(popped(schedule(rate), limit=20_000))
    counts = np.bincount((at_s % 1 * 50).astype(int), minlength=50)
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    "rate", ["1-64:120s", "64-0:120s", "1^64:120s", "64^1:120s", "5:9s,0:5s,1-60:90s,3:9s"]
)
@pytest.mark.parametrize("burstiness", SHAPES)
def test_under_a_ramp_the_gaps_keep_their_law_in_operational_time(rate, burstiness):
    operational = [parse_rate(rate).expected(t) for t in times(popped(schedule(rate, burstiness, seed=2)))]
    law = stats.gamma(burstiness, scale=1 / burstiness)
    assert len(operational) > 500
    assert stats.kstest(np.diff(operational, prepend=0.0), law.cdf).pvalue > 0.001


def test_the_gaps_of_a_ramp_are_not_those_of_a_constant_rate():
    at_s = times(popped(schedule("1-64:120s")))
    assert stats.kstest(np.diff(at_s) * len(at_s) / 120, "expon").pvalue < 1e-6


def test_each_stage_has_its_count():
    rate = parse_rate("5:30s,0:10s,20:30s,1-9:30s,9^1:30s")
    ends = np.cumsum([0, *(stage.duration_s for stage in rate.stages)])
    expected = np.diff([rate.expected(end) for end in ends])
    regular = times(popped(schedule(str(rate), math.inf)))
    assert np.all(np.abs(np.histogram(regular, ends)[0] - expected) < 1)
    runs = [times(popped(schedule(str(rate), 1.0, seed=seed))) for seed in range(50)]
    counts = np.histogram(np.concatenate(runs), ends)[0]
    assert counts[1] == 0
    assert np.all(np.abs(counts - 50 * expected) <= 4 * np.sqrt(50 * expected))


@example(49, 30)
@example(11, 120)
@example(22, 15)
@given(st.integers(1, 500), st.integers(1, 120))
def test_a_constant_stage_has_exactly_as_many_requests_as_it_says(tenths, seconds):
    """However rate and time are rounded: 4.9 per second for 30 s are 147, and not a 148th at 29.999... s."""
    rate = f"{tenths / 10}:{seconds}s"
    arrivals = popped(schedule(rate, math.inf))
    assert len(arrivals) == -(-tenths * seconds // 10)
    assert popped(schedule(str(tenths / 10), math.inf, seconds=seconds)) == arrivals


# -- seeds ------------------------------------------------------------------------------------------------


def test_the_same_seed_and_phase_repeat():
    assert popped(schedule("10", 0.5, seed=3, phase=2), 60.0) == popped(
        schedule("10", 0.5, seed=3, phase=2), 60.0
    )


def test_seeds_and_phases_differ_and_do_not_resemble_each_other():
    """A seed of more than 32 bits must not turn into another seed of another phase."""
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (2**32 + 1, 0), (2**32, 1), (2**64, 0), (12345, 0)]
    drawn = [gaps(seed, 1.0, 4_000, phase) for seed, phase in keys]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 4.5 / math.sqrt(len(one))


# -- bounds -----------------------------------------------------------------------------------------------


def test_the_number_of_requests_is_bounded():
    for requests in (0, 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        assert [arrival.i for arrival in popped(schedule(requests=requests))] == list(range(requests))


def test_time_is_bounded():
    everything = popped(schedule(), before_s=12.5)
    bounded = schedule(seconds=12.5)
    assert popped(bounded) == everything
    assert bounded.end_s == 12.5
    assert popped(schedule("10:12.5s")) == everything
    assert schedule("10:12.5s", seconds=99.0).end_s == 12.5
    assert schedule().end_s == math.inf
    assert schedule(seconds=0.0).peek() is None


def test_the_tighter_bound_counts():
    assert len(popped(schedule("10", math.inf, requests=5, seconds=2.0))) == 5
    assert len(popped(schedule("10", math.inf, requests=50, seconds=2.0))) == 20


def test_nothing_can_be_popped_that_is_not_due():
    for empty in (schedule(requests=0), schedule(scale=0.0)):
        with pytest.raises(ValueError, match="no arrival is due"):
            empty.pop()


def test_an_infinite_rate_sends_everything_at_once():
    assert popped(schedule("inf", requests=3)) == [Arrival(0, 0.0), Arrival(1, 0.0), Arrival(2, 0.0)]
    shared = schedule("inf", requests=1000)
    shared.members_from(0.0, 3, 4)
    shared.members_from(5.0, None, 4)
    shared.scale_from(5.0, 0.5)
    assert popped(shared) == [Arrival(i, 0.0) for i in range(3, 1000, 4)]


def test_an_infinite_rate_waits_for_users():
    waiting = schedule("inf", scale=0.0, requests=2)
    assert waiting.peek() == Arrival(0, math.inf)
    waiting.scale_from(3.0, 0.1)
    assert popped(waiting) == [Arrival(0, 3.0), Arrival(1, 3.0)]


# -- amendments -------------------------------------------------------------------------------------------


def test_a_scale_is_a_share_of_the_rate():
    assert times(popped(schedule("10", 0.7, scale=0.5), 60.0)) == pytest.approx(
        times(popped(schedule("5", 0.7), 60.0)), rel=1e-12
    )


@given(st.floats(0, 30), st.floats(0, 3), st.sampled_from([0.3, 1.0, math.inf]))
def test_a_scale_changes_nothing_before_its_time(at_s, scale, burstiness):
    rate = "2-20:15s,20:5s"
    before = popped(schedule(rate, burstiness))
    amended = schedule(rate, burstiness)
    amended.peek()
    amended.scale_from(at_s, scale)
    after = popped(amended, before_s=math.inf if scale else 1e9)
    unchanged = [arrival for arrival in before if arrival.at_s < at_s]
    assert after[: len(unchanged)] == unchanged
    assert all(arrival.at_s >= at_s for arrival in after[len(unchanged) :])
    if scale == 0 and at_s < 20:
        assert amended.peek() == Arrival(len(unchanged), math.inf)


def test_a_scale_that_comes_late_holds_from_the_last_arrival_on():
    late = schedule("10", math.inf)
    assert popped(late, before_s=2.05)[-1] == Arrival(20, 2.0)
    late.scale_from(0.5, 0.5)
    assert late.pop() == Arrival(21, pytest.approx(2.2))


def test_workers_that_change_late_change_from_the_last_arrival_on():
    late = schedule("10", math.inf)
    late.members_from(0.0, 0, 2)
    late.members_from(1.0, 0, 4)
    assert popped(late, before_s=1.5)[-1].i == 12
    late.members_from(0.3, 1, 2)
    assert late.pop().i == 13


def test_arrivals_wait_while_there_are_no_users():
    paused = schedule("10", math.inf)
    paused.scale_from(1.0, 0.0)
    assert times(popped(paused, before_s=5.0)) == pytest.approx(np.arange(10) / 10)
    assert paused.peek() == Arrival(10, math.inf)
    paused.scale_from(7.0, 1.0)
    assert paused.peek() == Arrival(10, 7.0)
    paused.scale_from(6.0, 0.0)
    paused.scale_from(9.0, 2.0)
    assert times(popped(paused, before_s=9.11)) == pytest.approx([9.0, 9.05, 9.1])


def test_a_larger_scale_brings_back_what_lay_behind_the_end():
    slow = schedule("1", math.inf, seconds=10.0, scale=0.01)
    assert slow.pop() == Arrival(0, 0.0)
    assert slow.peek() is None
    slow.scale_from(5.0, 1.0)
    assert times(popped(slow)) == pytest.approx([5.95, 6.95, 7.95, 8.95, 9.95])
    slow.scale_from(9.96, 0.0)
    assert slow.peek() == Arrival(6, math.inf)
    slow.scale_from(11.0, 1.0)
    assert slow.peek() == Arrival(6, math.inf)


def test_without_a_position_nothing_is_mine_yet():
    other = schedule("10", math.inf, requests=40)
    other.members_from(0.0, None, 0)
    assert other.peek().at_s == math.inf
    other.members_from(2.0, 1, 2)
    assert other.peek() == Arrival(21, pytest.approx(2.1))
    other.members_from(3.0, None, 1)
    assert [arrival.i for arrival in popped(other, before_s=9.0)] == [21, 23, 25, 27, 29]
    assert other.peek().at_s == math.inf


def test_who_was_nobody_for_long_finds_the_right_arrival():
    late = schedule("100")
    late.members_from(0.0, None, 3)
    late.members_from(200.0, 2, 3)
    assert late.peek() == next(a for a in popped(schedule("100")) if a.at_s >= 200 and a.i % 3 == 2)


def test_nothing_is_mine_either_when_the_rate_is_over_or_never_was():
    ended = schedule("10:3s", math.inf)
    ended.members_from(5.0, None, 2)
    assert len(popped(ended)) == 30
    assert ended.peek() is None


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_is_one_of_the_workers(position):
    with pytest.raises(ValueError, match="no worker"):
        schedule().members_from(0.0, position, 3)


stages = st.sampled_from(["5:4s", "0:1s", "0-40:6s", "40-0:6s", "1^50:8s", "50^1:8s", "30:700ms"])
rates = st.builds(
    lambda head, last: ",".join([*head, last]), st.lists(stages, max_size=3), st.sampled_from(["3", "17.3"])
)
moments = st.floats(0, 25).map(lambda t: round(t, 2)) | st.floats(0, 25)
amendments = st.lists(
    st.tuples(
        moments,
        st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 2.5]) | st.none(),
        st.integers(1, 8),
        st.integers(0, 7),
    ),
    max_size=6,
).map(lambda found: sorted(found, key=lambda amendment: amendment[0]))


@settings(max_examples=15)
@given(
    rate=rates,
    burstiness=st.sampled_from([0.3, 1.0, math.inf]),
    workers=st.integers(1, 8),
    amendments=amendments,
    notice_s=st.lists(st.floats(0, 5), min_size=8, max_size=8),
    start=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_workers_share_exactly_the_arrivals_of_one(rate, burstiness, workers, amendments, notice_s, start):
    """However the scale and the workers change, and however early each worker is told."""
    alone = schedule(rate, burstiness, seconds=30.0, scale=start)
    for at_s, scale, _, _ in amendments:
        if scale is not None:
            alone.scale_from(at_s, scale)
    expected = popped(alone, before_s=1e9)

    together: list[Arrival] = []
    for worker in range(workers):
        share = schedule(rate, burstiness, seconds=30.0, scale=start)
        share.members_from(0.0, worker, workers)
        for at_s, scale, members, turn in amendments:
            together += popped(share, before_s=at_s - notice_s[worker])
            if scale is not None:
                share.scale_from(at_s, scale)
            members = min(members, workers)
            position = (worker + turn) % workers
            share.members_from(at_s, position if position < members else None, members)
        together += popped(share, before_s=1e9)
    assert sorted(together, key=lambda arrival: arrival.i) == expected


@given(st.lists(st.floats(0, 20), min_size=1, max_size=700).map(sorted), st.integers(1, 8), st.floats(0, 20))
def test_workers_share_a_trace(trace, workers, at_s):
    together = []
    for worker in range(workers):
        share = Schedule.of_trace(trace)
        share.members_from(0.0, worker, workers)
        share.members_from(at_s, (worker + 1) % workers, workers)
        together += popped(share)
    assert sorted(together, key=lambda arrival: arrival.i) == [Arrival(i, t) for i, t in enumerate(trace)]


# -- traces -----------------------------------------------------------------------------------------------


def test_a_trace_arrives_at_its_own_times():
    trace = [0.0, 0.0, 0.25, 3.0, 3.1]
    assert times(popped(Schedule.of_trace(trace))).tolist() == trace
    assert times(popped(Schedule.of_trace(trace, requests=2))).tolist() == trace[:2]
    assert times(popped(Schedule.of_trace(trace, seconds=3.0))).tolist() == trace[:3]
    assert Schedule.of_trace([]).peek() is None


def test_a_scale_stretches_a_trace():
    trace = [0.0, 1.0, 2.0, 3.0]
    assert times(popped(Schedule.of_trace(trace, scale=0.5))).tolist() == [0, 2, 4, 6]
    half_way = Schedule.of_trace(trace)
    half_way.scale_from(1.5, 0.25)
    assert times(popped(half_way)).tolist() == [0, 1, 3.5, 7.5]


def test_a_trace_with_a_period_begins_again_and_again():
    trace = [0.0, 0.0, 0.25, 3.0]
    looped = popped(Schedule.of_trace(trace, 4.0), limit=11)
    assert times(looped).tolist() == [0, 0, 0.25, 3, 4, 4, 4.25, 7, 8, 8, 8.25]
    assert [arrival.i for arrival in looped] == list(range(11))


def test_a_trace_with_a_period_keeps_to_scale_and_bounds():
    trace = [0.0, 1.0]
    assert times(popped(Schedule.of_trace(trace, 1.5, scale=0.5), limit=5)).tolist() == [0, 2, 3, 5, 6]
    assert times(popped(Schedule.of_trace(trace, 1.5, requests=3))).tolist() == [0, 1, 1.5]
    assert times(popped(Schedule.of_trace(trace, 1.5, seconds=3.0))).tolist() == [0, 1, 1.5, 2.5]
    assert times(popped(Schedule.of_trace(trace, 1.0), before_s=3.5)).tolist() == [0, 1, 1, 2, 2, 3, 3]
    half_way = Schedule.of_trace(trace, 1.5)
    half_way.scale_from(1.25, 0.5)
    assert times(popped(half_way, limit=4)).tolist() == [0, 1, 1.75, 3.75]
    assert Schedule.of_trace([], 1.0).peek() is None


def test_a_trace_longer_than_a_chunk_begins_again():
    trace = np.arange(2 * CHUNK + 3) / 8
    period_s = len(trace) / 8
    looped = popped(Schedule.of_trace(trace, period_s), limit=3 * len(trace))
    assert times(looped).tolist() == [i / 8 for i in range(3 * len(trace))]


@pytest.mark.parametrize(("trace", "period_s"), [([0.0, 2.0], 1.9), ([5.0], 0.0), ([1.0, 2.0], -1.0)])
def test_a_trace_cannot_begin_again_before_its_end(trace, period_s):
    with pytest.raises(ValueError, match="cannot begin again after"):
        Schedule.of_trace(trace, period_s)


@given(
    st.lists(st.floats(0, 20), min_size=1, max_size=9).map(sorted),
    st.integers(1, 5),
    st.floats(0, 60),
    st.floats(0.1, 4),
)
def test_workers_share_a_trace_with_a_period(trace, workers, at_s, scale):
    period_s = trace[-1] - trace[0] + 0.5
    expected = popped(Schedule.of_trace(trace, period_s, seconds=100.0, scale=scale))
    together = []
    for worker in range(workers):
        share = Schedule.of_trace(trace, period_s, seconds=100.0, scale=scale)
        share.members_from(0.0, worker, workers)
        share.members_from(at_s, (worker + 1) % workers, workers)
        together += popped(share)
    assert sorted(together, key=lambda arrival: arrival.i) == expected
