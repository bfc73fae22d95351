"""What the charts show against numbers computed another way; what is left out never is an extreme."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tests.results.made_lines import a_failed, a_folder, a_line
from vllm_locust.report.page.charts import band, line, numbers, scale, thinned
from vllm_locust.report.page.distributions import ecdf, in_window, itl_curve, percentile_curve
from vllm_locust.report.page.waterfall import waterfall
from vllm_locust.results.folder import read_results
from vllm_locust.results.requests import read_lines

values = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=700).map(np.array)


@given(values)
def test_an_ecdf_says_how_many_are_at_most_so_large(ms) -> None:
    shown = ecdf(ms, most_points=60)
    assert len(shown.ms) <= 62
    assert (shown.ms[0], shown.ms[-1], shown.share[-1]) == (ms.min(), ms.max(), 1.0)
    ordered = sorted(ms)
    for value, share in zip(shown.ms, shown.share, strict=True):
        assert ordered[round(share * len(ms)) - 1] == value


def test_an_ecdf_of_few_values_leaves_none_out() -> None:
    shown = ecdf(np.array([3.0, np.nan, 1.0, 2.0]))
    assert shown.ms.tolist() == [1, 2, 3]
    assert shown.share.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert ecdf(np.array([np.nan])) is None
    assert percentile_curve(np.array([])) is None


def test_percentiles_with_the_interval_of_order_statistics() -> None:
    ms = np.random.default_rng(3).lognormal(3, 1, 400)
    curve, ordered = percentile_curve(ms), np.sort(ms)
    assert curve.one_in[0] == 1
    assert curve.one_in[-1] == pytest.approx(400)
    for q, value, low, high in zip(curve.q, curve.ms, curve.low_ms, curve.high_ms, strict=True):
        assert value == pytest.approx(np.percentile(ms, q))
        if not math.isnan(low) and not math.isnan(high):
            below, above = np.searchsorted(ordered, low), np.searchsorted(ordered, high)
            assert low <= value <= high
            assert binom.cdf(above, 400, q / 100) - binom.cdf(below, 400, q / 100) >= 0.95
    nines = np.flatnonzero(np.isclose(curve.q, 90))
    assert len(nines) == 1
    assert math.isnan(curve.high_ms[-1])  # 400 values say nothing about how large one in 400 may be


def test_only_what_ended_in_the_window_of_its_phase_counts(tmp_path) -> None:
    lines = [a_line(at_s, phase=phase) for phase, at_s in ((0, 0.5), (0, 2.5), (1, 2.5), (1, 0.5))]
    phases = [{"phase": 0, "start_s": 0, "end_s": 1}, {"phase": 1, "start_s": 2, "end_s": 3}]
    made = b"".join([*lines, a_failed("timeout", 0.1)])
    run = read_results(a_folder(tmp_path / "r", made, summary={"phases": phases}))
    assert in_window(run)["phase"].tolist() == [0, 1]
    assert in_window(run)["sent_s"].tolist() == [0.5, 2.5]
    killed = read_results(a_folder(tmp_path / "k", made))
    assert len(in_window(killed)) == 4
    whole = read_results(a_folder(tmp_path / "w", made, summary={"start_s": 0, "end_s": 1.0}))
    assert in_window(whole)["sent_s"].tolist() == [0.5, 0.5]


def test_the_curve_of_itl_is_the_summarys() -> None:
    q, ms = itl_curve({"itl_curve_ms": [[0.0, 1.0], [50.0, 2.0], [100.0, 9.0]]})
    assert (q.tolist(), ms.tolist()) == ([0, 50, 100], [1, 2, 9])
    assert itl_curve({}) is None


spells = st.lists(st.tuples(st.floats(0, 20), st.floats(0.001, 5)), min_size=1, max_size=60)


@given(spells)
def test_requests_in_one_lane_never_overlap_and_lanes_are_the_most_at_once(made) -> None:
    shown = waterfall(read_lines([a_line(at_s, ttft_s=lasts) for at_s, lasts in made]).requests)
    start, end = shown.due_s, shown.requests["ended_s"]
    for lane in range(shown.lanes):
        mine = np.flatnonzero(shown.lane == lane)
        assert (end[mine][:-1] <= start[mine][1:]).all()
    assert shown.lanes == max(int(((start <= at) & (end > at)).sum()) for at in start)


def test_of_more_requests_there_are_whole_stretches() -> None:
    lines = [a_line(float(i), ttft_s=2.5) for i in reversed(range(1000))]
    shown = waterfall(read_lines(lines).requests, most=200)
    assert (shown.of, shown.stretches, len(shown.lane), shown.lanes) == (1000, 40, 200, 3)
    assert (shown.due_s[0], shown.due_s[-1]) == (0, 999)
    steps = np.diff(shown.due_s)
    assert (steps == 1).sum() == 160
    assert (steps[steps != 1] > 10).all()
    every = waterfall(read_lines(lines).requests)
    assert shown.lane.tolist() == every.lane[shown.due_s.astype(int)].tolist()
    assert waterfall(read_lines([]).requests) is None


def test_stages_of_a_waterfall() -> None:
    lines = [
        a_line(1.0, late_s=0.5, ttft_s=0.25, index=7),
        a_failed("dropped", 2.0),
        a_failed("timeout", 3.0),
    ]
    assert waterfall(read_lines(lines).requests).data() == {
        "lanes": 1,
        "lane": [0, -1, 0],
        "due": [1.0, 2.0, 3.0],
        "sent": [1.5, None, 3.0],
        "first": [1.75, None, None],
        "ended": [1.75, None, 4.0],
        "about": [0, 1, 2],
        "words": [["a", "ok"], ["a", "dropped"], ["a", "timeout"]],
        "index": [7, 0, 0],
    }


@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=900))
def test_thinning_keeps_the_extremes(made) -> None:
    y = np.array(made)
    x = np.arange(len(y), dtype=np.float64)
    few_x, few_y = thinned(x, y, most=90)
    assert len(few_x) <= 95
    assert (few_x[0], few_x[-1]) == (0, len(y) - 1)
    assert np.array_equal(y[few_x.astype(int)], few_y, equal_nan=True)
    if not np.isnan(y).all():
        assert (np.nanmin(few_y), np.nanmax(few_y)) == (np.nanmin(y), np.nanmax(y))
    assert np.isnan(few_y).any() == np.isnan(y).any()


def test_numbers_colours_and_scales() -> None:
    assert numbers([1.23456789, None, math.nan, math.inf]) == [1.23457, None, None, None]
    assert line("<b>&", [1], [2], 9)["name"] == "&lt;b&gt;&amp;"
    assert len(line("x" * 99, [1], [2], 9)["name"]) == 48
    assert line("x", [1], [2], 9)["line"] == {"color": "--c1", "width": 2, "dash": "dash"}
    assert scale("ms", [1, 2, 100])["type"] == "log"
    assert "type" not in scale("ms", [1, 2, 3])
    nothing = np.array([math.nan])
    assert band(np.array([1.0]), nothing, nothing, 0) == []
