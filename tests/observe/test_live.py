"""A live run against the recording of the same records: everything said of it must be the same."""

import math
import re
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from tests.observe.made_runs import GOODPUT_MS, a_run, delta_of, identity, requests, whole_and_deltas
from vllm_locust.core.record import TIMEOUT
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import Measured, judge, named_parts
from vllm_locust.observe.live import OTHER_PROFILES, LiveRun, LoadState, rates

CLOSE = 1.001e-3

many = st.lists(records(), max_size=20)
warmups = st.tuples(*[st.sampled_from([0.0, 5.0, 20.0])] * 2)
closings = st.tuples(*[st.sampled_from([10.0, 25.0, 1e9])] * 2)


def folded(made, cuts, warmups_s=(0.0, 0.0), closed_s=(1e9, 1e9), **more):
    whole, deltas = whole_and_deltas(made, cuts, warmups_s, closed_s)
    live = LiveRun(identity(**more))
    for delta in deltas:
        live.add(delta)
    return whole, live


def assert_close(ours_s, theirs_ms, rel=CLOSE):
    assert (ours_s is None) == (theirs_ms is None)
    assert ours_s is None or ours_s * 1000 == pytest.approx(theirs_ms, rel=rel)


def assert_same_numbers(summary, tally, window, goodput_ms):
    """What a summary says, and a tally of the same requests."""
    block = summary["requests"]
    assert (tally.planned, tally.ok, tally.failed) == (block["planned"], block["ok"], block["failed"])
    assert (tally.dropped, tally.outside_window) == (block["dropped"], block["outside_window"])
    assert tally.failures == summary["failures"]
    assert (tally.completed, tally.failed_in_window) == (summary["completed"], summary["failed"])
    assert tally.output_tokens == summary["total_output_tokens"]
    assert tally.prompt_tokens == summary["total_input_tokens"]
    assert (window.duration_s if window else None) == summary["duration"]
    for name, value in rates(tally, window, goodput_ms).items():
        assert value == summary[name], name
    for family in ("ttft", "tpot", "itl", "e2el"):
        histogram = tally.latency(family)
        for q in (50, 99):
            assert_close(histogram.percentile(q), summary[f"p{q}_{family}_ms"])
        assert_close(histogram.mean_s, summary[f"mean_{family}_ms"], 1e-4)


@settings(max_examples=30)
@given(many, st.sets(st.integers(0, 20)), warmups, closings)
def test_what_is_said_of_deltas_is_what_the_summary_says_of_the_whole(made, cuts, warmups_s, closed_s):
    whole, live = folded(made, cuts, warmups_s, closed_s, goodput_ms=GOODPUT_MS)
    summary = summarize(whole, GOODPUT_MS)
    assert_same_numbers(summary, live.total(), live.window(), GOODPUT_MS)
    with_records = {phase for phase, _ in whole.groups}
    phases = {phase["phase"]: phase for phase in summary["phases"] if phase["phase"] in with_records}
    assert [phase.number for phase in live.last_phases] == list(phases)
    for phase in live.last_phases:
        numbers, expected = live.numbers_of(phase), phases[phase.number]
        for name in ("request_throughput", "output_throughput", "request_goodput"):
            assert getattr(numbers, name) == expected[name], name
        assert numbers.error_ratio == expected["error_rate"]
        for family in ("ttft", "tpot", "itl", "e2el"):
            for q in (50, 90, 99):
                assert_close(numbers.quantiles_s[family][q], expected[f"p{q}_{family}_ms"])


def verdicts(validity):
    """All of them, and what their sentences are about."""
    judged = {"general": validity.general, "load": validity.load}
    judged |= {name: metric.judged for name, metric in validity.metrics.items()}
    about = {name: (one.verdict, [_about(r) for r in one.reasons]) for name, one in judged.items()}
    return validity.verdict, about, [_about(remark) for remark in validity.remarks]


def _about(sentence):
    return re.split(" is | may be ", sentence)[0]


@settings(max_examples=20)
@given(many, st.sets(st.integers(0, 20)), warmups, st.sampled_from(["open", "closed", "capped"]))
def test_the_verdict_is_that_of_the_whole(made, cuts, warmups_s, loop):
    whole, live = folded(made, cuts, warmups_s, loop=loop)
    live.state(30.0, LoadState(cpu_shares={"client": 0.9}, stamps="read"))
    parts = named_parts({key: Measured.of(group) for key, group in whole.groups.items()})
    expected = judge(Measured.of(whole.total()), {"client": 0.9}, "read", parts=parts, loop=loop)
    said = live.verdict()
    assert verdicts(said) == verdicts(expected)
    assert said.lag_p99_ms == expected.lag_p99_ms
    assert (said.ttft_bound_p99_ms or 0.0) == pytest.approx(expected.ttft_bound_p99_ms or 0.0, rel=CLOSE)
    assert said.itl_bound_mean_ms == expected.itl_bound_mean_ms
    assert said.send_lateness_p99_ms == expected.send_lateness_p99_ms
    assert (said.dropped, said.cpu_shares) == (expected.dropped, {"client": 0.9})
    live.end(31.0)
    assert live.verdict() == said


def test_many_requests_and_the_values_that_numpy_computes():
    made = requests(2000, Random(1))
    whole, live = a_run(made, goodput_ms=GOODPUT_MS)
    assert_same_numbers(summarize(whole, GOODPUT_MS), live.total(), live.window(), GOODPUT_MS)
    ok = [record for record in made if record.outcome == "ok"]
    ttfts, tpots = ([getattr(r, name) for r in ok] for name in ("ttft_s", "tpot_s"))
    tpots = [value for value in tpots if value is not None]
    gaps = np.concatenate([np.diff(record.arrivals_s) for record in ok])
    tally = live.total()
    for family, values in (("ttft", ttfts), ("tpot", tpots), ("itl", gaps)):
        assert tally.latency(family).count == len(values)
        assert tally.latency(family).percentile(90) == pytest.approx(np.percentile(values, 90), rel=CLOSE)
    good = sum(r.ttft_s <= 0.06 and (r.tpot_s or 0.0) <= 0.03 for r in ok)
    assert tally.good == good
    assert 0 < good < len(ok)


def test_without_limits_nothing_is_good():
    _, live = a_run([an_ok()])
    (phase,) = live.last_phases
    assert live.numbers_of(phase).request_goodput is None


def test_tokens_that_nobody_told_make_no_sum():
    _, live = a_run([an_ok(), an_ok(prompt_tokens=None)])
    assert (live.total().prompt_tokens, live.total().output_tokens) == (None, 4)


def test_the_phase_that_is_on():
    live = LiveRun(identity())
    assert live.phase is None
    live.begin_phase(0, "ss, 1 user", 1.0, "users", at_s=0.5, of=2)
    live.begin_phase(1, "ss, 2 users", 2.0, "users", at_s=10.0, of=2)
    assert (live.phase.number, live.phase.title, live.phase.level) == (1, "ss, 2 users", 2.0)
    assert live.phases_planned == 2
    assert [phase.began_s for phase in live.last_phases] == [0.5, 10.0]


def test_a_delta_may_come_before_its_phase_is_told():
    live = LiveRun(identity())
    live.add(delta_of(an_ok(phase=3)))
    live.begin_phase(3, "late", None, "users", at_s=0.0)
    (phase,) = live.last_phases
    assert (phase.number, phase.title, live.numbers_of(phase).request_throughput) == (3, "late", 1.0)


def test_a_phase_is_closed_when_the_next_has_been_on_for_two_minutes():
    live = LiveRun(identity())
    live.begin_phase(0, "one", at_s=0.0)
    live.begin_phase(1, "two", at_s=10.0)
    live.add(delta_of(an_ok(0.0, 2.0)))
    live.state(130.0, LoadState())
    live.add(delta_of(an_ok(0.0, 4.0)))
    first, second = live.last_phases
    assert (first.closed, live.numbers_of(first).request_throughput) == (False, 0.5)
    live.state(130.1, LoadState())
    assert (first.closed, first.parts, second.closed) == (True, {}, False)
    live.add(delta_of(an_ok(0.0, 8.0)))
    assert live.numbers_of(first).request_throughput == 0.5
    assert (live.total().completed, live.window().duration_s) == (3, 8.0)


def test_phases_with_many_profiles_are_closed_early_so_that_memory_stays_bounded():
    live = LiveRun(identity())
    profiles = [f"p{i}" for i in range(20)]
    for number in range(5):
        live.begin_phase(number, f"step {number}", at_s=float(number))
        live.add(delta_of(*(an_ok(phase=number, profile=profile) for profile in profiles)))
    live.state(6.0, LoadState())
    assert [phase.closed for phase in live.last_phases] == [True, True, True, True, False]
    assert [live.numbers_of(phase).request_throughput for phase in live.last_phases] == [20.0] * 5


def test_the_last_64_phases_are_kept_and_what_comes_for_older_ones_counts_for_the_run():
    live = LiveRun(identity())
    for number in range(100):
        live.begin_phase(number, f"step {number}", at_s=float(number))
        live.add(delta_of(an_ok(float(number), phase=number)))
    live.add(delta_of(an_ok(phase=3)))
    assert [phase.number for phase in live.last_phases] == list(range(36, 100))
    assert (live.total().completed, live.window().duration_s) == (101, 100.0)


def test_a_fault_of_a_phase_that_is_long_over_still_spoils_the_verdict():
    live = LiveRun(identity())
    for number in range(100):
        live.begin_phase(number, f"step {number}", at_s=float(number))
        bound_s = 0.5 if number == 2 else 0.0
        live.add(delta_of(*[an_ok(float(number), phase=number, bounds_s=[bound_s])] * 100))
    live.state(500.0, LoadState())
    validity = live.verdict()
    assert validity.verdict == "invalid"
    assert validity.reasons[0].startswith("phase 3, p: the mean TTFT may be 500 ms off")


def test_too_many_profiles_are_one():
    live = LiveRun(identity())
    live.add(delta_of(*(an_ok(profile=f"p{i}") for i in range(200))))
    assert len(live.profiles) == 65
    assert live.profiles[OTHER_PROFILES].tally.completed == 136
    assert live.total().completed == 200


def test_what_was_lost_is_in_the_verdict():
    live = LiveRun(identity())
    live.state(1.0, LoadState(lost=2, lost_workers=["worker 3 was lost after 1.0 s"]))
    assert live.verdict().verdict == "invalid"
    assert len(live.verdict().reasons) == 2


def test_the_end():
    _, live = a_run([an_ok()])
    live.state(1.0, LoadState(users=8, in_flight=3, request_rate_target=5.0))
    live.end(2.0)
    assert live.load == LoadState(load_state="done")
    assert (live.ended_s, all(phase.closed for phase in live.last_phases)) == (2.0, True)


def test_memory_does_not_grow_with_requests():
    """Counted in what is kept: the same objects after one delta and after a thousand requests more."""
    live = LiveRun(identity())
    live.add(delta_of(an_ok(), an_ok(outcome=TIMEOUT)))

    def kept():
        extent = live._windows.groups[0, ""]
        assert (len(extent.sent_s), len(extent.ttft_s), extent.itl.count) == (0, 0, 0)
        return len(live.profiles), len(live.last_phases), len(live._windows.groups)

    before = kept()
    for _ in range(10):
        live.add(delta_of(*[an_ok()] * 100))
    assert kept() == before
    assert math.isclose(live.window().duration_s, 1.0)


def test_planned_profiles_are_there_from_the_begin_until_something_else_is_asked():
    live = LiveRun(identity(profiles=["a", "b"]))
    assert list(live.profiles) == ["a", "b"]
    live.add(delta_of(an_ok(profile="a")))
    assert list(live.profiles) == ["a", "b"]
    live.add(delta_of(an_ok(profile="chat")))
    assert list(live.profiles) == ["a", "chat"]
