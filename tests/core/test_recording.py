"""The fold of records: the windows, the columns, and merging against recording everything in one place."""

import itertools
import math

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, RequestRecord
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.summary import summarize

many = st.lists(records(), max_size=12)


def of(made: list[RequestRecord], warmup_s: float = 0.0) -> Recording:
    """All of `made`; the phase 0, if it has a warm-up, begins at 0."""
    recording = Recording()
    if warmup_s:
        recording.begin_phase(0, 0.0, warmup_s)
    for record in made:
        recording.add(record)
    return recording


def shipped(recording: Recording) -> Recording:
    """What arrives when a recording is sent to another process."""
    return Recording.from_dict(msgpack.loads(msgpack.dumps(recording.to_dict())))


def comparable(recording: Recording) -> dict:
    """What a recording holds, apart from the order in which it came."""
    groups = {}
    for key, group in recording.groups.items():
        values = {
            n: np.nan_to_num(getattr(group, n), nan=-1) if isinstance(v, bytes) else v
            for n, v in group.to_dict().items()
        }
        groups[key] = {n: v if isinstance(v, int | float | dict) else sorted(v) for n, v in values.items()}
    return groups


def assert_same(recording: Recording, whole: Recording) -> None:
    assert comparable(recording) == comparable(whole)
    assert summarize(recording) == summarize(whole)
    assert recording.window() == whole.window()
    assert [recording.phase_window(n) for n in recording.phases] == [
        whole.phase_window(n) for n in whole.phases
    ]


@settings(max_examples=15)
@given(many, many, st.sampled_from([0.0, 20.0]))
def test_merging_two_recordings_is_recording_all_their_records(some, others, warmup_s):
    together = of(some, warmup_s)
    together.merge(of(others, warmup_s))
    assert_same(together, of(some + others, warmup_s))


@settings(max_examples=15)
@given(many, st.tuples(*[st.sampled_from([0.0, 5.0, 20.0])] * 2), st.data())
def test_the_parts_of_a_recording_merge_in_any_order_to_the_whole(made, warmups_s, data):
    """Phases begin with their first request and end some time later; parts are shipped at any time."""
    made = sorted(made, key=lambda record: record.ended_s)
    closed_s = data.draw(st.tuples(st.floats(0, 40), st.floats(0, 40)))
    shipped_after = data.draw(st.sets(st.integers(0, len(made))))
    whole, parts, part = Recording(), [], Recording()
    for i, record in enumerate(made):
        for recording in (whole, part):
            for phase in (0, 1):
                if record.ended_s > closed_s[phase]:
                    recording.close_phase(phase, closed_s[phase])
            recording.begin_phase(record.phase, 0.0, warmups_s[record.phase])
            recording.add(record)
        if i in shipped_after:
            parts.append(shipped(part))
            part = part.successor()
    merged = Recording()
    for each in data.draw(st.permutations([*parts, part])):
        merged.merge(each)
    assert_same(merged, whole)


def test_clocks_that_disagree_a_little_make_the_wider_window_in_any_order():
    recordings = []
    for begun_s, closed_s in [(0.0, 30.2), (0.1, 30.1), (0.05, None)]:
        recording = Recording()
        recording.begin_phase(0, begun_s, 10.0)
        if closed_s is not None:
            recording.close_phase(0, closed_s)
        recordings.append(recording)
    for order in itertools.permutations(recordings):
        merged = Recording()
        for recording in order:
            merged.merge(recording)
        assert merged.window() == merged.phase_window(0) == Window(10.0, 30.2)


@settings(max_examples=15)
@given(many, st.sampled_from([0.0, 20.0]))
def test_a_round_trip_through_message_pack_loses_nothing(made, warmup_s):
    recording = of(made, warmup_s)
    recording.close_phase(0, 30.0)
    copy = shipped(recording)
    assert copy.to_dict() == recording.to_dict()
    assert summarize(copy) == summarize(recording)


def test_what_a_process_ships_at_a_time_is_small():
    """100 requests in four profiles, 200 gaps each over six decades, all measured in all ways."""
    rng = np.random.default_rng(7)
    first = Recording()
    first.begin_phase(0, 0.0, 1.0)
    part = first.successor()
    for i in range(100):
        sent_s = 1 + i / 20
        part.add(
            an_ok(
                sent_s=sent_s,
                arrivals_s=(sent_s + np.cumsum(rng.lognormal(-4, 2, 201))).tolist(),
                event_tokens=rng.integers(1, 3, 201).tolist(),
                bounds_s=rng.lognormal(-6, 2, 201).tolist(),
                lags_s=rng.lognormal(-8, 2, 201).tolist(),
                intended_s=sent_s - rng.lognormal(-6, 2),
                connect_s=rng.random(),
                prompt_tokens=int(rng.integers(1, 100_000)),
                cached_tokens=int(rng.integers(1, 100_000)),
                profile="abcd"[i % 4],
            )
        )
    assert len(part.groups) == 4
    assert len(msgpack.dumps(part.to_dict())) < 64 * 1024


@given(many)
def test_every_record_is_counted_exactly_once(made):
    total = of(made, warmup_s=20.0).total()
    assert total.planned == len(made) == total.ok + total.failed + total.dropped
    assert total.planned - total.dropped == total.completed + total.failed_in_window + total.outside_window


def test_without_a_warmup_the_window_goes_from_the_first_sent_to_the_last_ended():
    recording = of([an_ok(sent_s=5.0, ended_s=9.0), an_ok(sent_s=4.0, ended_s=6.0)])
    recording.begin_phase(0, 3.0)
    recording.close_phase(0, 5.5)
    assert recording.window() == recording.phase_window(0) == Window(4.0, 9.0)
    assert recording.total().completed == 2


def test_with_a_warmup_requests_belong_to_the_window_they_end_in():
    """By hand: warm-up until 10, load until 20; the four requests end at 9, 12, 20 and 21."""
    recording = Recording()
    recording.begin_phase(0, 1.0, warmup_s=9.0)
    recording.add(an_ok(sent_s=1.0, ended_s=9.0, tokens=100))
    recording.add(an_ok(sent_s=2.0, ended_s=12.0, tokens=200))
    recording.close_phase(0, 20.0)
    recording.add(an_ok(sent_s=11.0, ended_s=20.0, tokens=300))
    recording.add(an_ok(sent_s=19.0, ended_s=21.0, tokens=400))
    summary = summarize(recording)
    assert recording.window() == recording.phase_window(0) == Window(10.0, 20.0)
    assert summary["completed"] == 2
    assert summary["total_output_tokens"] == 500
    assert summary["output_throughput"] == 50.0
    assert summary["requests"] == {"planned": 4, "ok": 4, "failed": 0, "dropped": 0, "outside_window": 2}


def test_what_was_counted_before_the_window_was_closed_stays_inside():
    recording = of([an_ok(sent_s=1.0, ended_s=9.0)], warmup_s=1.0)
    recording.close_phase(0, 8.0)
    assert recording.window() == Window(1.0, 9.0)


def test_a_phase_begins_and_ends_once():
    recording = Recording()
    recording.close_phase(0, 5.0)
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    recording.begin_phase(0, 1.0, warmup_s=20.0)
    recording.close_phase(0, 40.0)
    recording.close_phase(0, 50.0)
    assert recording.window() == Window(10.0, 40.0)


def test_a_run_shorter_than_its_warmup_has_no_window():
    recording = of([an_ok(sent_s=1.0, ended_s=9.0)], warmup_s=10.0)
    recording.close_phase(0, 9.5)
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
    trimmed_run = of([record for record in run if record.ended_s <= 190.0], warmup_s=10.0)
    trimmed_run.close_phase(0, 190.0)
    for record in run:
        if record.ended_s > 190.0:
            trimmed_run.add(record)
    trimmed = summarize(trimmed_run)
    for key in ("request_throughput", "output_throughput", "total_token_throughput"):
        assert trimmed[key] == pytest.approx(whole[key], rel=0.01)
    assert trimmed["output_throughput"] == pytest.approx(20 * 10, rel=0.001)
    assert trimmed["duration"] == 180.0
    assert trimmed["requests"]["planned"] == whole["completed"] == 20 * 200


def replayed(made: list[RequestRecord], phases: list[tuple[float, float, float]]) -> Recording:
    """A run as it happened: its phases each begin, have a warm-up and are closed, and requests end."""
    recording = Recording()
    happened = [(record.ended_s, 1, lambda record=record: recording.add(record)) for record in made]
    for n, (begun_s, warmup_s, closed_s) in enumerate(phases):
        happened.append((begun_s, 0, lambda n=n, b=begun_s, w=warmup_s: recording.begin_phase(n, b, w)))
        happened.append((closed_s, 2, lambda n=n, c=closed_s: recording.close_phase(n, c)))
    for _, _, step in sorted(happened, key=lambda happening: happening[:2]):
        step()
    return recording


def assert_rate(summary: dict, rate: float, windows: int) -> None:
    """Requests and tokens agree with the rate to one request per window."""
    assert summary["completed"] == pytest.approx(rate * summary["duration"], abs=windows + 1e-6)
    assert summary["request_throughput"] == summary["completed"] / summary["duration"]
    assert summary["output_throughput"] == pytest.approx(10 * summary["request_throughput"])


@settings(max_examples=15)
@given(
    st.integers(1, 20),
    st.floats(0.05, 3.0),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0.5, 10)), min_size=1, max_size=3),
)
def test_however_a_steady_load_is_cut_into_phases_with_warmups_its_rate_stays(rate, latency_s, cuts):
    """One request every 1/rate s, over all phases; those of a phase drain while the next one warms up."""
    phases, now_s = [], 0.0
    for extra_s, measured_s in cuts:
        warmup_s = latency_s + extra_s
        phases.append((now_s, warmup_s, now_s + warmup_s + measured_s))
        now_s += warmup_s + measured_s
    starts = [begun_s for begun_s, _, _ in phases]
    made = []
    for i in range(math.ceil(now_s * rate)):
        sent_s = i / rate
        phase = int(np.searchsorted(starts, sent_s, side="right")) - 1
        made.append(an_ok(sent_s=sent_s, ended_s=sent_s + latency_s, tokens=10, phase=phase))
    summary = summarize(replayed(made, phases))
    for phase, (_, measured_s) in zip(summary["phases"], cuts, strict=True):
        assert phase["duration"] == pytest.approx(measured_s)
        assert_rate(phase, rate, windows=1)
    assert summary["duration"] == pytest.approx(sum(measured_s for _, measured_s in cuts))
    assert_rate(summary, rate, windows=len(cuts))


@settings(max_examples=15)
@given(
    st.floats(0.01, 5.0),
    st.lists(
        st.tuples(st.integers(1, 40), st.one_of(st.just(0.0), st.floats(0.01, 0.9))), min_size=1, max_size=4
    ),
)
def test_however_one_steady_user_is_cut_into_phases_its_rate_stays(latency_s, cuts):
    """Request after request, each phase so many of them; some phases have a warm-up, some have none."""
    made, phases = [], []
    for phase, (requests, warmup_share) in enumerate(cuts):
        begun_s = len(made) * latency_s
        for _ in range(requests):
            sent_s = len(made) * latency_s
            made.append(an_ok(sent_s=sent_s, ended_s=sent_s + latency_s, tokens=10, phase=phase))
        phases.append((begun_s, warmup_share * requests * latency_s, made[-1].ended_s))
    summary = summarize(replayed(made, phases))
    for phase, (_, warmup_share) in zip(summary["phases"], cuts, strict=True):
        assert_rate(phase, 1 / latency_s, windows=1 if warmup_share else 0)
    assert_rate(summary, 1 / latency_s, windows=sum(share > 0 for _, share in cuts))


@given(st.lists(records(), max_size=12), st.sampled_from([0.0, 5.0, 20.0]), st.booleans())
def test_the_window_of_the_only_phase_is_that_of_the_run(made, warmup_s, closed):
    recording = of([record for record in made if record.phase == 0], warmup_s)
    if closed:
        recording.close_phase(0, 25.0)
    assert recording.window() == recording.phase_window(0)


def test_the_warmups_between_phases_are_no_part_of_the_window():
    """By hand: measured from 10 to 20 and from 25 to 40; a request of the first phase ends in the second."""
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    recording.add(an_ok(sent_s=9.0, ended_s=15.0, tokens=100))
    recording.close_phase(0, 20.0)
    recording.begin_phase(1, 20.0, warmup_s=5.0)
    recording.add(an_ok(sent_s=20.5, ended_s=24.0, tokens=1000, phase=1))
    recording.add(an_ok(sent_s=19.0, ended_s=26.0, tokens=2000))
    recording.add(an_ok(sent_s=24.5, ended_s=30.0, tokens=150, phase=1))
    recording.close_phase(1, 40.0)
    window = recording.window()
    assert window == Window(10.0, 40.0, (Window(10.0, 20.0), Window(25.0, 40.0)))
    assert window.duration_s == 25.0
    summary = summarize(recording)
    assert (summary["start_s"], summary["end_s"], summary["duration"]) == (10.0, 40.0, 25.0)
    assert (summary["completed"], summary["output_throughput"]) == (2, 10.0)
    assert [phase["output_throughput"] for phase in summary["phases"]] == [10.0, 10.0]
    assert [phase["requests"]["outside_window"] for phase in summary["phases"]] == [1, 1]


def test_time_that_windows_share_counts_once():
    """By hand: a phase without a warm-up drains until 12, the next one is measured from 11 to 20."""
    recording = Recording()
    recording.begin_phase(0, 0.0)
    recording.close_phase(0, 10.0)
    recording.begin_phase(1, 10.0, warmup_s=1.0)
    recording.add(an_ok(sent_s=2.0, ended_s=12.0))
    recording.add(an_ok(sent_s=12.0, ended_s=14.0, phase=1))
    recording.close_phase(1, 20.0)
    assert recording.phase_window(0) == Window(2.0, 12.0)
    assert recording.phase_window(1) == Window(11.0, 20.0)
    assert recording.window() == Window(2.0, 20.0)


def test_a_phase_in_which_nothing_ended_was_measured_nevertheless():
    recording = Recording()
    for phase in (0, 1, 2):
        recording.begin_phase(phase, 10.0 * phase, warmup_s=3.0 if phase < 2 else 0.0)
        recording.close_phase(phase, 10.0 * phase + 10.0)
    recording.add(an_ok(sent_s=1.0, ended_s=8.0))
    assert recording.phases == [0, 1, 2]
    assert recording.phase_window(1) == Window(13.0, 20.0)
    assert recording.phase_window(2) is None
    assert recording.window().duration_s == 14.0


def test_recordings_of_clocks_that_stand_elsewhere_merge_on_the_axis_of_the_run():
    here, there = Recording(origin_s=1000.0), Recording(origin_s=50.0)
    here.begin_phase(0, 1000.0, warmup_s=10.0)
    there.begin_phase(0, 50.0, warmup_s=10.0)
    here.add(an_ok(sent_s=1008.0, ended_s=1012.0))
    there.add(an_ok(sent_s=61.0, ended_s=65.0))
    there.close_phase(0, 66.0)
    merged = Recording()
    merged.merge(shipped(here))
    merged.merge(shipped(there))
    assert merged.window() == Window(10.0, 16.0)
    assert merged.total().sent_s.tolist() == [8.0, 11.0]


def test_records_of_a_phase_with_a_warmup_and_without_do_not_merge():
    recording = of([an_ok()])
    with pytest.raises(ValueError, match="warm-up"):
        recording.merge(of([an_ok()], warmup_s=1.0))
    assert recording.total().planned == 1
    recording.merge(of([an_ok(phase=1)], warmup_s=1.0))
    assert recording.total().planned == 2


def test_a_process_that_had_nothing_to_do_in_a_phase_does_not_matter():
    idle, busy = Recording(), of([an_ok(sent_s=11.0, ended_s=12.0)], warmup_s=10.0)
    idle.begin_phase(0, 0.0)
    idle.merge(busy)
    assert idle.window() == busy.window() == Window(10.0, 12.0)


def test_a_successor_continues_the_same_window():
    first = of([an_ok(sent_s=11.0, ended_s=12.0)], warmup_s=10.0)
    first.close_phase(0, 20.0)
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


def test_the_columns_of_successful_requests_stand_in_line():
    """Two requests a part, the second without a TPOT; the failed one between them has no place there."""
    total = Recording(origin_s=100.0)
    for profile, sent_s in (("a", 104.0), ("b", 102.0)):
        part = Recording(origin_s=100.0)
        part.add(an_ok(sent_s=sent_s, ended_s=sent_s + 4, tokens=5, profile=profile))
        part.add(an_ok(outcome=CANCELLED, sent_s=sent_s, ended_s=sent_s + 5, profile=profile))
        part.add(an_ok(sent_s=sent_s, ended_s=sent_s + 6, tokens=1, profile=profile))
        total.merge(shipped(part))
    group = total.total()
    assert group.e2el_s.tolist() == [4.0, 6.0, 4.0, 6.0]
    assert group.ok_ended_s.tolist() == [8.0, 10.0, 6.0, 8.0]
    assert group.tpot_s == pytest.approx([0.5, math.nan, 0.5, math.nan], nan_ok=True)


def test_lags_and_lateness_are_taken_of_failed_requests_too_but_latencies_are_not():
    failed = an_ok(outcome=CANCELLED, sent_s=2.0, intended_s=1.5, lags_s=[0.25, 0.5])
    total = of([failed]).total()
    assert (total.lag.count, total.lag.max_s, total.lateness.max_s) == (2, 0.5, 0.5)
    assert (total.completed, total.itl.count, len(total.connect_s), len(total.first_bound_s)) == (0, 0, 0, 0)


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


def test_the_ends_of_a_gap_by_hand():
    """100 ms each: the event behind it may have come earlier, and so may the one before."""
    record = an_ok(arrivals_s=[1.0, 1.1, 1.2, 1.3], bounds_s=[0.008, 0.0, 0.004, 0.002])
    total = of([record]).total()
    assert (list(total.first_bound_s), list(total.last_bound_s)) == ([0.008], [0.002])
    for histogram, expected in (
        (total.itl_low, [0.096, 0.098, 0.1]),
        (total.itl_high, [0.1, 0.104, 0.108]),
    ):
        assert [histogram.value_at_rank(rank) for rank in range(3)] == pytest.approx(expected, rel=1e-3)


def test_nothing_arrives_before_its_request_was_sent():
    total = of([an_ok(sent_s=1.0, arrivals_s=[1.25, 1.5], bounds_s=[3.0, 4.0])]).total()
    assert (list(total.first_bound_s), list(total.last_bound_s)) == ([0.25], [0.5])


def test_the_bound_of_a_gap_is_the_larger_one_of_its_ends():
    record = an_ok(arrivals_s=[1.0, 1.1, 1.2, 1.3], bounds_s=[0.008, 0.0, 0.004, 0.002])
    total = of([record]).total()
    assert [total.itl_bound.value_at_rank(rank) for rank in range(3)] == pytest.approx(
        [0.004, 0.004, 0.008], rel=1e-3
    )


def test_an_ok_request_without_a_first_token_is_refused():
    with pytest.raises(ValueError, match="req_000001"):
        Recording().add(RequestRecord(0, "s", "p", "ok", 0.0, sent_s=0.0))


def unsent(intended_s, given_up_s):
    return RequestRecord(0, "s", "p", DROPPED, intended_s, ended_s=given_up_s)


def test_a_dropped_request_counts_from_the_plan_as_the_time_it_waited():
    """Two answered in 1 s of their intended start, one that waited 6 s and was given up."""
    summary = summarize(of([an_ok(sent_s=0.0), an_ok(sent_s=5.0), unsent(4.0, 10.0)]))
    assert summary["mean_e2el_from_plan_ms"] == pytest.approx((1000 + 1000 + 6000) / 3)
    assert summary["max_ttft_from_plan_ms"] == pytest.approx(6000)
    assert summary["mean_ttft_ms"] == pytest.approx(500)
    assert (summary["unsent_in_from_plan"], summary["dropped"], summary["failed"]) == (1, 1, 0)


def test_what_is_given_up_at_the_end_of_the_load_was_dropped_in_the_window():
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=2.0)
    recording.add(an_ok(sent_s=3.0))
    recording.add(unsent(0.5, 1.5))
    recording.close_phase(0, 10.0)
    recording.add(unsent(4.0, 10.1))
    summary = summarize(recording)
    assert (summary["unsent_in_from_plan"], summary["dropped"]) == (1, 2)
    assert summary["max_e2el_from_plan_ms"] == pytest.approx(6100)
