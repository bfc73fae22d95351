"""The windows of a recording, of its phases, and of the whole run."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_recordings import recorded
from tests.core.made_records import an_ok, records
from vllm_locust.core.record import DROPPED, RequestRecord
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.summary import summarize


def test_without_a_warmup_the_window_goes_from_the_first_sent_to_the_last_ended():
    recording = recorded([an_ok(sent_s=5.0, ended_s=9.0), an_ok(sent_s=4.0, ended_s=6.0)])
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
    recording = recorded([an_ok(sent_s=1.0, ended_s=9.0)], warmup_s=1.0)
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
    recording = recorded([an_ok(sent_s=1.0, ended_s=9.0)], warmup_s=10.0)
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
    whole = summarize(recorded(run))
    trimmed_run = recorded([record for record in run if record.ended_s <= 190.0], warmup_s=10.0)
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
    recording = recorded([record for record in made if record.phase == 0], warmup_s)
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


def test_profiles_of_a_phase_share_its_window_and_phases_do_not_share_theirs():
    recording = recorded(
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


def unsent(intended_s, given_up_s):
    return RequestRecord(0, "s", "p", DROPPED, intended_s, ended_s=given_up_s)


def test_a_dropped_request_counts_from_the_plan_as_the_time_it_waited():
    """Two answered in 1 s of their intended start, one that waited 6 s and was given up."""
    summary = summarize(recorded([an_ok(sent_s=0.0), an_ok(sent_s=5.0), unsent(4.0, 10.0)]))
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
