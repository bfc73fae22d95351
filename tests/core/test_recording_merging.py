"""What several processes recorded, merged and shipped, against recording everything in one place."""

import itertools
import math

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_recordings import recorded
from tests.core.made_records import an_ok, records
from vllm_locust.core.record import CANCELLED
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.summary import summarize

many = st.lists(records(), max_size=12)


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
    together = recorded(some, warmup_s)
    together.merge(recorded(others, warmup_s))
    assert_same(together, recorded(some + others, warmup_s))


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
    recording = recorded(made, warmup_s)
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
    recording = recorded([an_ok()])
    with pytest.raises(ValueError, match="warm-up"):
        recording.merge(recorded([an_ok()], warmup_s=1.0))
    assert recording.total().planned == 1
    recording.merge(recorded([an_ok(phase=1)], warmup_s=1.0))
    assert recording.total().planned == 2


def test_a_process_that_had_nothing_to_do_in_a_phase_does_not_matter():
    idle, busy = Recording(), recorded([an_ok(sent_s=11.0, ended_s=12.0)], warmup_s=10.0)
    idle.begin_phase(0, 0.0)
    idle.merge(busy)
    assert idle.window() == busy.window() == Window(10.0, 12.0)


def test_a_successor_continues_the_same_window():
    first = recorded([an_ok(sent_s=11.0, ended_s=12.0)], warmup_s=10.0)
    first.close_phase(0, 20.0)
    second = first.successor()
    second.add(an_ok(sent_s=19.0, ended_s=21.0))
    assert second.total().outside_window == 1
    first.merge(second)
    assert first.window() == Window(10.0, 20.0)


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
