"""The fold of a server's samples against a naive way that keeps them all."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_samples import engine, of, running, sample, tokens
from vllm_locust.core.server import HistogramState
from vllm_locust.core.server_recording import ServerRecording
from vllm_locust.core.server_window import Level, WindowSums, histogram_growth

quarters = st.integers(0, 200).map(lambda n: n / 4)  # exact, so that sums may be compared


@st.composite
def courses(draw):
    """Samples of two sources in order of time; each engine's counters and histogram grow, or begin anew."""
    times = sorted(draw(st.lists(st.tuples(quarters, st.sampled_from("ab")), max_size=25, unique=True)))
    times = draw(st.sampled_from([[(-1.0, "a"), (-1.0, "b")], []])) + times  # before all phases, or not
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
                    1.0,  # one process, however often its counters begin anew
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


def is_late(samples, start_s):
    """Whether a source with counters was first looked at when a window had begun."""
    first = [next((each for each in samples if each.source == source), None) for source in "ab"]
    return any(look.engines and look.at_s > start_s for look in first if look is not None)


@settings(max_examples=30)
@given(courses(), plans())
def test_the_fold_is_what_a_naive_way_finds(samples, plan):
    recording = fold(samples, plan)
    for number, begin_s, warmup_s, _ in plan:
        window = recording.phase(number)
        expected = naive_growth(samples, plan, number)
        covered_s, sums, usages, peak_sum, peak_usage = naive_gauges(samples, plan, number)
        if window is None:
            assert expected is None
            assert covered_s == 0
            continue
        assert window.covered_s == pytest.approx(covered_s)
        if expected is None or is_late(samples, begin_s + warmup_s):
            assert (window.counters, window.histograms) == ({}, {})
        else:
            assert window.counters["generation_tokens"] == expected[0]
            assert window.histograms["itl"].counts == expected[1]
        if sums:
            assert window.gauges["running"].mean == pytest.approx(sum(sums) / len(sums))
            assert window.gauges["kv_cache_usage"].mean == pytest.approx(sum(usages) / len(usages))
            # A sample at the very end of a window holds there for no time, and is a peak all the same.
            assert window.gauges["running"].peak >= peak_sum
            assert window.gauges["kv_cache_usage"].peak >= peak_usage


@settings(max_examples=20)
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
    whole = [] if total.first_look_late_s else parts
    for name in {name for part in whole for name in part.counters}:
        assert total.counters[name] == sum(part.counters.get(name, 0) for part in parts)
    for name in {name for part in whole for name in part.histograms}:
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
