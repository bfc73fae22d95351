"""The fold of a server's samples: windows, growth, restarts, gauges over time; and against a naive way."""

import gc
import json
import math
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.core.server import EngineState, GpuState, HistogramState, ServerSample
from vllm_locust.core.server_recording import ServerRecording
from vllm_locust.core.server_window import Level, WindowSums, histogram_growth, histogram_sum


def engine(name="0", gauges=None, counters=None, **histograms):
    return EngineState(name, "m", gauges or {}, counters or {}, histograms)


def sample(at_s, *engines, source="a", gpus=()):
    return ServerSample(source, at_s, tuple(engines), tuple(gpus))


def counted(at_s, tokens, source="a"):
    """A look at a server that has generated so many tokens."""
    return sample(at_s, engine(counters={"generation_tokens": tokens}), source=source)


def running(at_s, requests, source="a"):
    return sample(at_s, engine(gauges={"running": requests}), source=source)


def tokens(recording, phase=None):
    window = recording.total() if phase is None else recording.phase(phase)
    return None if window is None else window.counters.get("generation_tokens")


def of(*samples, begin_s=0.0, warmup_s=0.0):
    """A recording of one phase, number 1."""
    recording = ServerRecording()
    recording.begin_phase(1, begin_s, warmup_s)
    for each in samples:
        recording.add(each)
    return recording


# -- windows ----------------------------------------------------------------------------------------------


def test_without_a_warm_up_a_phase_lasts_until_the_next_and_includes_its_draining():
    recording = of(counted(0, 100), counted(1, 110), counted(2, 130))
    recording.close_phase(1, 2.0)
    recording.begin_phase(2, 3.0)
    recording.add(counted(3, 170))
    recording.add(counted(4, 250))
    assert tokens(recording, 1) == 70
    assert tokens(recording, 2) == 80
    assert tokens(recording) == 150
    assert recording.phase(1).samples == 3
    assert recording.phase(2).samples == 2
    assert recording.phase(1).covered_s == 3


def test_with_a_warm_up_it_lasts_from_its_end_to_the_close():
    recording = of(counted(0, 0), counted(1, 1), counted(2, 3), counted(3, 7), warmup_s=2.0)
    recording.close_phase(1, 3.2)
    recording.close_phase(1, 9.0)  # only the first call counts
    recording.add(counted(4, 100))
    assert tokens(recording, 1) == 4
    assert recording.phase(1).samples == 2
    assert recording.phase(1).covered_s == pytest.approx(1.2)


def test_growth_belongs_to_the_phase_with_the_middle_of_the_time_between_two_looks():
    recording = of(counted(0, 0))
    recording.begin_phase(2, 1.2)
    recording.add(counted(2, 10))
    recording.add(counted(3, 15))
    assert tokens(recording, 1) == 10
    assert tokens(recording, 2) == 5


def test_what_was_before_the_first_phase_is_in_none():
    recording = ServerRecording()
    recording.add(counted(0, 0))
    recording.add(counted(1, 5))
    assert recording.total() is None
    assert recording.phase(1) is None
    recording.begin_phase(1, 1.0)
    recording.begin_phase(1, 50.0)  # a second call changes nothing
    assert recording.phase(1) is None
    recording.add(counted(2, 6))
    assert tokens(recording) == 1


def test_a_phase_that_nobody_looked_at():
    recording = of(counted(0, 0))
    recording.begin_phase(2, 100.0)
    recording.begin_phase(3, 101.0)
    recording.add(counted(102, 7))
    assert recording.phase(2) is None
    assert tokens(recording, 1) == 7  # the middle of the gap
    assert recording.phase(3).counters == {}
    assert recording.phase(3).samples == 1


# -- growth -----------------------------------------------------------------------------------------------


def test_a_single_look_knows_no_growth():
    window = of(counted(1, 100)).phase(1)
    assert window.counters == {}
    assert window.to_dict()["generation_tokens"] is None


def test_a_counter_that_stands_still_grew_by_zero():
    assert tokens(of(counted(1, 100), counted(2, 100))) == 0


def test_an_engine_or_a_counter_that_appears_later_grew_from_zero():
    recording = of(
        sample(0, engine(counters={"generation_tokens": 1000})),
        sample(
            1,
            engine(counters={"generation_tokens": 1001, "preemptions": 3}),
            engine("1", None, {"preemptions": 4}),
        ),
    )
    assert recording.total().counters == {"generation_tokens": 1, "preemptions": 7}


def test_one_that_appears_in_the_middle_of_a_gap_belongs_there():
    recording = of(counted(0, 0), counted(4, 0))
    recording.begin_phase(2, 4.4)
    recording.add(sample(5, engine("1", None, {"generation_tokens": 9})))
    assert tokens(recording, 2) == 9


def test_a_restart():
    recording = of(counted(0, 100), counted(1, 150), counted(2, 20), counted(3, 25))
    assert tokens(recording) == 50 + 20 + 5
    assert recording.total().restarts == 1


def test_the_restart_of_a_server_with_many_engines_is_one():
    def both(at_s, n):
        return sample(at_s, engine("0", None, {"preemptions": n}), engine("1", None, {"preemptions": n}))

    window = of(both(0, 9), both(1, 2), both(2, 1)).total()
    assert (window.restarts, window.counters["preemptions"]) == (2, 6)


def test_what_a_source_did_while_it_was_away_counts():
    recording = of(counted(0, 0), counted(1, 5), counted(100, 50))
    assert tokens(recording) == 50
    assert recording.total().covered_s == 6  # 5 s at most are held


def test_a_page_that_lacks_something_for_once():
    recording = of(counted(0, 10), sample(1, engine()), counted(2, 30))
    assert tokens(recording) == 20
    assert recording.total().restarts == 0


def test_sources_are_kept_apart():
    recording = of(counted(0, 10), counted(0.5, 1000, "b"), counted(1, 11), counted(1.5, 1002, "b"))
    assert tokens(recording) == 3


def test_an_old_sample_is_ignored():
    recording = of(counted(0, 10), counted(2, 20), counted(1, 500), counted(3, 21))
    assert tokens(recording) == 11
    assert recording.total().samples == 3


BOUNDS = (0.1, 1.0)


def timed(at_s, counts, sum_s, bounds=BOUNDS):
    return sample(at_s, engine(ttft=HistogramState(bounds, counts, sum_s)))


def test_histograms_grow_bucket_by_bucket():
    window = of(timed(0, (5, 5, 5), 10.0), timed(1, (6, 5, 7), 14.0), timed(2, (6, 6, 7), 14.5)).total()
    assert window.histograms["ttft"] == HistogramState(BOUNDS, (1, 1, 2), 4.5)
    assert window.mean_ms("ttft") == 1125
    assert window.mean_ms("itl") is None


@pytest.mark.parametrize(
    ("counts", "sum_s", "bounds"),
    [
        ((1, 2, 1), 3.0, BOUNDS),  # fewer
        ((9, 1, 9), 30.0, BOUNDS),  # more, but not in each bucket
        ((5, 6, 5), 9.0, BOUNDS),  # more in less time
        ((5, 6, 9), 90.0, (0.1, 2.0)),  # between other bounds
    ],
)
def test_a_histogram_that_began_anew(counts, sum_s, bounds):
    window = of(timed(0, (5, 5, 5), 10.0), timed(1, counts, sum_s, bounds)).total()
    assert window.histograms["ttft"] == HistogramState(bounds, counts, sum_s)
    assert window.restarts == 1


def test_growth_between_other_bounds_is_added_between_those_that_both_have():
    window = of(
        timed(0, (0, 0, 0), 0.0), timed(1, (1, 2, 3), 9.0), timed(2, (1, 1, 1, 1), 2.0, (0.1, 0.5, 1.0))
    ).total()
    assert window.histograms["ttft"] == HistogramState(BOUNDS, (2, 4, 4), 11.0)
    nothing_shared = histogram_sum(HistogramState((1.0,), (1, 2), 3.0), HistogramState((2.0,), (3, 4), 5.0))
    assert nothing_shared == HistogramState((), (10,), 8.0)


# -- gauges -----------------------------------------------------------------------------------------------


def test_a_gauge_holds_until_the_next_sample():
    window = of(running(0, 2), running(1, 8), running(4, 0), running(5, 0)).total()
    assert window.gauges["running"] == Level(8, (2 * 1 + 8 * 3 + 0 * 1) / 5)


def test_for_five_seconds_at_most():
    window = of(running(0, 4), running(100, 1), running(101, 1)).total()
    assert window.gauges["running"] == Level(4, (4 * 5 + 1 * 1) / 6)


def test_it_holds_over_the_border_of_a_window():
    recording = of(running(0, 6), running(1, 6))
    recording.begin_phase(2, 1.5, 0.25)
    recording.close_phase(2, 2.5)
    recording.add(running(2, 2))
    recording.add(running(3, 9))
    assert recording.phase(1).gauges["running"] == Level(6, 6)
    assert recording.phase(1).covered_s == 1.5
    assert recording.phase(2).gauges["running"] == Level(6, (6 * 0.25 + 2 * 0.5) / 0.75)


def test_one_value_is_its_own_mean():
    assert of(running(1, 7)).total().gauges["running"] == Level(7, 7)


def test_a_peak_is_one_however_short():
    assert of(running(1, 1), running(2, 50)).total().gauges["running"].peak == 50


def test_requests_are_summed_over_engines_and_sources():
    def look(at_s, source, *requests):
        return sample(at_s, *(engine(str(i), {"waiting": n}) for i, n in enumerate(requests)), source=source)

    window = of(look(0, "a", 1, 2), look(0, "b", 10), look(1, "a", 3, 4), look(2, "b", 0)).total()
    assert window.gauges["waiting"] == Level(17, (13 + 17) / 2)
    assert window.engines["a", "0", "m"]["waiting"] == Level(3, 2)
    assert window.engines["a", "1", "m"]["waiting"] == Level(4, 3)
    assert window.engines["b", "0", "m"]["waiting"] == Level(10, 10)


def test_of_ratios_the_highest_makes_the_peak_and_the_mean_over_engines_the_mean():
    window = of(
        sample(0, engine("0", {"kv_cache_usage": 0.25}), engine("1", {"kv_cache_usage": 0.75})),
        sample(1, engine("0", {"kv_cache_usage": 0.5}), engine("1", {"kv_cache_usage": 0.0})),
        sample(2),
    ).total()
    assert window.gauges["kv_cache_usage"] == Level(0.75, (0.5 + 0.25) / 2)


def test_an_engine_that_went_is_not_held():
    window = of(
        sample(0, engine("0", {"running": 1}), engine("1", {"running": 1})),
        sample(1, engine("0", {"running": 1})),
        sample(2),
    ).total()
    assert window.gauges["running"] == Level(2, 1.5)


def test_a_sample_of_another_source_may_come_late():
    window = of(running(0, 1), running(2, 1), running(1.5, 10, "b"), running(4, 1)).total()
    assert window.gauges["running"] == Level(11, (1 * 2 + 11 * 2) / 4)


def test_gpus():
    window = of(
        sample(0, gpus=[GpuState("0", 0.5, 10.0, 80.0), GpuState("1")]),
        sample(1, gpus=[GpuState("0", 1.0, 30.0, 80.0), GpuState("1")]),
        sample(4),
    ).total()
    assert window.to_dict()["gpus"] == {
        "a/0": {
            "utilization_peak": 1.0,
            "utilization_mean": (0.5 + 3 * 1.0) / 4,
            "memory_used_bytes_peak": 30,
            "memory_used_bytes_mean": (10 + 3 * 30) / 4,
            "memory_total_bytes": 80,
        },
        "a/1": {
            "utilization_peak": None,
            "utilization_mean": None,
            "memory_used_bytes_peak": None,
            "memory_used_bytes_mean": None,
            "memory_total_bytes": None,
        },
    }


# -- the block of the summary -----------------------------------------------------------------------------


def test_the_block_of_the_summary():
    def look(at_s, n, usage):
        counters = {"prefix_cache_queries": 8 * n, "prefix_cache_hits": 2 * n, "preemptions": n}
        gauges = {"kv_cache_usage": usage, "running": 3, "waiting": 1}
        ttft = HistogramState(BOUNDS, (n, 0, 0), 0.05 * n)
        return sample(
            at_s, engine("0", gauges, counters, ttft=ttft, queue=HistogramState(BOUNDS, (0, 0, 0), 0))
        )

    block = of(look(0, 1, 0.5), look(2, 5, 0.25), look(3, 5, 0.0)).total().to_dict()
    assert json.loads(json.dumps(block)) == block
    assert block == {
        "samples": 3,
        "covered_s": 3,
        "engines": [{"source": "a", "engine": "0", "model_name": "m"}],
        "restarts": 0,
        "kv_cache_usage_peak": 0.5,
        "kv_cache_usage_mean": pytest.approx((0.5 * 2 + 0.25) / 3),
        "requests_running_peak": 3,
        "requests_running_mean": 3,
        "requests_waiting_peak": 1,
        "requests_waiting_mean": 1,
        "preemptions": 4,
        "prefix_cache_hit_rate": 0.25,
        "prompt_tokens": None,
        "generation_tokens": None,
        "requests_finished": None,
        "admission_rejections": None,
        "mean_ttft_ms": pytest.approx(50),
        "mean_itl_ms": None,
        "mean_tpot_ms": None,
        "mean_e2e_ms": None,
        "mean_queue_ms": None,
        "mean_prefill_ms": None,
        "mean_decode_ms": None,
        "mean_inference_ms": None,
        "gpus": {},
    }


def test_without_queries_there_is_no_hit_rate():
    counters = {"prefix_cache_queries": 5, "prefix_cache_hits": 5}
    window = of(sample(0, engine("0", None, counters)), sample(1, engine("0", None, counters))).total()
    assert window.prefix_cache_hit_rate is None


# -- against a naive way ----------------------------------------------------------------------------------

quarters = st.integers(0, 200).map(lambda n: n / 4)  # exact, so that sums may be compared


@st.composite
def courses(draw):
    """Samples of two sources in order of time; each engine's counters and histogram grow, or begin anew."""
    times = sorted(draw(st.lists(st.tuples(quarters, st.sampled_from("ab")), max_size=25, unique=True)))
    states: dict = {}
    samples = []
    for at_s, source in times:
        engines = []
        for name in sorted(draw(st.sets(st.sampled_from("01")))):
            if draw(st.integers(0, 5)) == 0:
                states.pop((source, name), None)
            total, counts = states.get((source, name), (0, (0, 0)))
            total += draw(st.integers(0, 9))
            counts = tuple(n + draw(st.integers(0, 3)) for n in counts)
            states[source, name] = total, counts
            engines.append(
                engine(
                    name,
                    {"running": draw(st.integers(0, 9)), "kv_cache_usage": draw(st.integers(0, 4)) / 4},
                    {"generation_tokens": float(total)},
                    itl=HistogramState((0.1,), counts, float(sum(counts))),
                )
            )
        samples.append(sample(at_s, *engines, source=source))
    return samples


@st.composite
def plans(draw):
    """Begin, warm-up and close of up to three phases, one after the other."""
    plan, at_s = [], draw(quarters) / 4
    for number in range(1, draw(st.integers(0, 3)) + 1):
        warmup_s, length_s = draw(st.sampled_from([0.0, 0.0, 2.0])), draw(st.integers(1, 60)) / 4
        plan.append((number, at_s, warmup_s, at_s + length_s))
        at_s += length_s + draw(st.sampled_from([0.0, 3.0]))
    return plan


def fold(samples, plan):
    """As a run does: everything is told when it happens."""
    recording = ServerRecording()
    events = [(begin_s, 1, (number, warmup_s)) for number, begin_s, warmup_s, _ in plan]
    events += [(close_s, 0, number) for number, _, _, close_s in plan]
    events += [(each.at_s, 2, each) for each in samples]
    for at_s, kind, what in sorted(events, key=lambda event: event[:2]):
        if kind == 2:
            recording.add(what)
        elif kind == 1:
            recording.begin_phase(what[0], at_s, what[1])
        else:
            recording.close_phase(what, at_s)
    return recording


def phase_at(plan, at_s):
    """The number of the phase whose window holds a time."""
    for (number, begin_s, warmup_s, close_s), after in zip(plan, [*plan[1:], None], strict=True):
        end_s = math.inf if after is None else after[1]
        if warmup_s:
            end_s = min(end_s, close_s)
        if begin_s + warmup_s <= at_s < end_s:
            return number
    return None


def naive_growth(samples, plan, number):
    """Tokens and counts per bucket, engine by engine over all its states."""
    total, counts, known = 0.0, [0, 0], False
    for source in "ab":
        looks = [each for each in samples if each.source == source]
        for name in "01":
            last, last_s = None, None
            for i, look in enumerate(looks):
                found = [e for e in look.engines if e.engine == name]
                if not found:
                    continue
                now = found[0]
                if last is None and i > 0:
                    last, last_s = engine(counters={"generation_tokens": 0}), looks[i - 1].at_s
                if last is not None and phase_at(plan, (last_s + look.at_s) / 2) == number:
                    known = True
                    after, before = now.counters["generation_tokens"], last.counters["generation_tokens"]
                    total += after - before if after >= before else after
                    late = now.histograms["itl"]
                    early = last.histograms.get("itl", HistogramState((0.1,), (0, 0), 0.0))
                    grew = histogram_growth(early, late) or late
                    counts = [a + b for a, b in zip(counts, grew.counts, strict=True)]
                last, last_s = now, look.at_s
    return (total, tuple(counts)) if known else None


def naive_gauges(samples, plan, number):
    """In steps of 1/16 s: everything that is drawn lies on a multiple of that."""
    end_s = max((each.at_s for each in samples), default=0.0)
    sums, usages, peak_sum, peak_usage, covered = [], [], -1, -1, 0
    for step in range(int(end_s * 16)):
        at_s = step / 16 + 1 / 32
        if phase_at(plan, at_s) != number:
            continue
        engines, alive = [], False
        for source in "ab":
            latest = [each for each in samples if each.source == source and each.at_s <= at_s][-1:]
            if latest and at_s - latest[0].at_s < 5:
                alive = True
                engines += latest[0].engines
        covered += alive
        if engines:
            sums.append(sum(e.gauges["running"] for e in engines))
            usages.append(sum(e.gauges["kv_cache_usage"] for e in engines) / len(engines))
            peak_sum = max(peak_sum, sums[-1])
            peak_usage = max(peak_usage, *(e.gauges["kv_cache_usage"] for e in engines))
    return covered / 16, sums, usages, peak_sum, peak_usage


@settings(max_examples=150)
@given(courses(), plans())
def test_the_fold_is_what_a_naive_way_finds(samples, plan):
    recording = fold(samples, plan)
    for number, *_ in plan:
        window = recording.phase(number)
        expected = naive_growth(samples, plan, number)
        covered_s, sums, usages, peak_sum, peak_usage = naive_gauges(samples, plan, number)
        if window is None:
            assert expected is None
            assert covered_s == 0
            continue
        assert window.covered_s == pytest.approx(covered_s)
        if expected is None:
            assert "generation_tokens" not in window.counters
        else:
            assert window.counters["generation_tokens"] == expected[0]
            assert window.histograms["itl"].counts == expected[1]
        if sums:
            assert window.gauges["running"].mean == pytest.approx(sum(sums) / len(sums))
            assert window.gauges["kv_cache_usage"].mean == pytest.approx(sum(usages) / len(usages))
            # A sample at the very end of a window holds there for no time, and is a peak all the same.
            assert window.gauges["running"].peak >= peak_sum
            assert window.gauges["kv_cache_usage"].peak >= peak_usage


@settings(max_examples=80)
@given(courses(), plans())
def test_the_whole_is_the_sum_of_its_phases(samples, plan):
    recording = fold(samples, plan)
    total = recording.total()
    parts = [window for number, *_ in plan if (window := recording.phase(number)) is not None]
    assert (total is None) == (not parts)
    if total is None:
        return
    assert total.samples == sum(part.samples for part in parts)
    assert total.restarts == sum(part.restarts for part in parts)
    assert total.covered_s == pytest.approx(sum(part.covered_s for part in parts))
    for name in {name for part in parts for name in part.counters}:
        assert total.counters[name] == sum(part.counters.get(name, 0) for part in parts)
    for name in {name for part in parts for name in part.histograms}:
        state = total.histograms[name]
        assert state.count == sum(p.histograms[name].count for p in parts if name in p.histograms)
    for name in {name for part in parts for name in part.gauges}:
        levels = [part.gauges[name] for part in parts if name in part.gauges]
        assert total.gauges[name].peak == max(level.peak for level in levels)
        assert min(level.mean for level in levels) - 1e-9 <= total.gauges[name].mean
        assert total.gauges[name].mean <= max(level.mean for level in levels) + 1e-9


@given(courses())
def test_however_a_run_is_cut_into_phases_what_grew_stays(samples):
    """Without a reset counted twice or a gap forgotten: cuts at any times give the same growth in all."""
    whole = fold(samples, [(1, 0.0, 0.0, 100.0)])
    cut = fold(samples, [(n, float(n) * 7, 0.0, float(n) * 7 + 7) for n in range(8)])
    assert tokens(whole) == tokens(cut)
    assert (whole.total() is None) == (cut.total() is None)
    if whole.total() is not None:
        assert whole.total().restarts == cut.total().restarts
        assert whole.total().covered_s == pytest.approx(cut.total().covered_s)


def test_windows_merge_in_any_order():
    recording = of(running(0, 1), running(2, 5))
    recording.begin_phase(2, 2.0)
    recording.add(running(5, 3))
    sums = [phase.sums for phase in recording._phases]
    merged = []
    for order in (sums, sums[::-1]):
        union = WindowSums()
        for each in order:
            union.merge(each)
        merged.append(union.window())
    assert merged[0] == merged[1]
    assert merged[0].gauges["running"] == Level(5, (1 * 2 + 5 * 3) / 5)


def test_a_long_run_takes_no_more_memory_than_a_short_one():
    recording = ServerRecording()
    recording.begin_phase(1, 0.0)

    def add(begin, end):
        for i in range(begin, end):
            histogram = HistogramState(BOUNDS, (i, i, i), float(i))
            recording.add(
                sample(float(i), engine("0", {"running": i % 7}, {"preemptions": float(i)}, ttft=histogram))
            )

    add(0, 200)
    tracemalloc.start()
    add(200, 300)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    add(300, 3000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096
    assert recording.total().counters["preemptions"] == 2999


def test_times_of_looks_need_not_be_regular():
    looks = [0.0, 0.1, 0.1, 3.0, 3.5]
    recording = of(*(counted(at_s, 10 * i) for i, at_s in enumerate(looks)))
    assert tokens(recording) == sum(10 for _ in pairwise(looks))
