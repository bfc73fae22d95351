"""Which numbers reach a plot, by hand; and that a figure shows them and is written."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.report.findings.made_rows import (
    ALL_AT_ONCE,
    CHUNKED_PREFILL,
    a_row,
    at_level,
    repeats,
)
from vllm_locust.report.plot_data import Curve, Panel, configuration_plots, level_plots
from vllm_locust.report.plots import write_plots
from vllm_locust.results.rows import Row

PNG = b"\x89PNG\r\n\x1a\n"


def panel(plots: Any, plot: str, title: str) -> Panel:
    return next(one for one in plots[plot][1] if one.title == title)


def points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x, curve.y, strict=True))


def a_ladder() -> list[Row]:
    return [
        at_level(
            profile,
            users,
            mean_ttft_ms=ttft * users,
            p99_ttft_ms=2 * ttft * users,
            mean_tpot_ms=5.0,
            mean_e2el_ms=100.0,
            request_throughput=min(users, 4) / ttft,
            completed=100,
            intervals={
                "p50_ttft_ms": [1.0, 2.0],
                "p99_ttft_ms": [ttft * users, 3 * ttft * users if users > 1 else None],
            },
        )
        for profile, ttft in (("short", 10.0), ("long", 50.0))
        for users in (1, 2, 4, 8, 16)
    ]


def test_a_profile_is_a_curve_over_the_users() -> None:
    mean = panel(level_plots(a_ladder()), "latency", "TTFT, mean")
    assert (mean.unit, mean.along) == ("ms", "users")
    assert [curve.name for curve in mean.curves] == ["short", "long"]
    assert points(mean.curves[1]) == [(1, 50), (2, 100), (4, 200), (8, 400), (16, 800)]


def test_a_percentile_has_its_interval_and_is_unsure_without_one() -> None:
    short = panel(level_plots(a_ladder()), "latency", "TTFT, p99").curves[0]
    assert list(short.unsure) == [True, False, False, False, False]
    assert list(short.low)[:2] == [10, 20]
    assert math.isnan(short.high[0])
    assert list(short.high)[1:] == [60, 120, 240, 480]


def test_what_no_row_has_makes_no_panel() -> None:
    titles = [one.title for one in level_plots(a_ladder())["latency"][1]]
    assert titles == ["TTFT, mean", "TPOT, mean", "E2EL (total), mean", "TTFT, p99"]
    assert [one.title for one in level_plots(a_ladder())["throughput"][1]] == ["Requests"]


def test_repeats_are_a_mean_with_the_smallest_and_the_largest() -> None:
    rows = [at_level("p", users, mean_ttft_ms=float(ms), completed=99) for users in (1, 2) for ms in (10, 30)]
    (curve,) = panel(level_plots(rows), "latency", "TTFT, mean").curves
    assert (list(curve.y), list(curve.low), list(curve.high)) == ([20, 20], [10, 10], [30, 30])


def test_a_window_that_was_too_short_for_its_users_is_no_point() -> None:
    rows = [at_level("p", users, request_throughput=9.0, completed=8) for users in (1, 8, 16)]
    assert points(panel(level_plots(rows), "throughput", "Requests").curves[0]) == [(1, 9), (8, 9)]


def test_one_load_is_no_curve() -> None:
    assert level_plots([at_level("p", 4, mean_ttft_ms=1.0, completed=9)]) == {}
    assert level_plots([]) == {}


def test_scenarios_and_ways_of_load_are_plots_of_their_own() -> None:
    rows = [
        *a_ladder(),
        *(Row("run", "huge.x", row.numbers, 0, row.profile, row.level, "users") for row in a_ladder()),
    ]
    assert set(level_plots(rows)) == {"latency_tiny", "throughput_tiny", "latency_huge", "throughput_huge"}
    rates = [
        a_row(place={"level": rate, "unit": "requests/s"}, mean_ttft_ms=1.0, completed=9)
        for rate in (1.0, 2.0)
    ]
    assert set(level_plots(rates)) == {"latency_rate"}
    assert panel(level_plots(rates), "latency_rate", "TTFT, mean").along == "requests per second asked for"


def test_several_configurations_are_the_curves_and_each_profile_is_a_plot() -> None:
    rows = [
        Row(run, "tiny.x", {**row.numbers}, 0, row.profile, row.level, "users")
        for run in ("a", "b")
        for row in a_ladder()
    ]
    plots = level_plots(rows)
    assert [curve.name for curve in panel(plots, "latency_short", "TTFT, mean").curves] == ["a", "b"]
    assert plots["latency_long"][0] == "Latency over load, long"


def test_metrics_over_rounds() -> None:
    plots = configuration_plots(CHUNKED_PREFILL)
    ttft = panel(plots, "configurations", "TTFT")
    assert ttft.ticks is not None
    assert list(ttft.ticks)[-2:] == ["off-4096", "off-8192"]
    assert [curve.name for curve in ttft.curves] == ["mean", "p99"]
    assert ttft.curves[0].y[0] == 220089
    # Of rounds in which requests failed the numbers are of the others: not drawn as if they were as good.
    assert [tick for tick, is_so in zip(ttft.ticks, ttft.curves[0].unsure, strict=True) if is_so] == [
        "off-256",
        "off-512",
    ]
    assert panel(plots, "configurations", "Failed requests").curves[0].y[7] == 704


def test_the_servers_side_is_in_percent() -> None:
    kv = panel(configuration_plots(ALL_AT_ONCE), "server", "KV cache usage")
    assert list(kv.curves[0].y) == pytest.approx([10.4, 21.3, 40.0, 68.7])


def test_one_configuration_is_nothing_side_by_side() -> None:
    assert configuration_plots(repeats([1.0, 2.0], "a", "mean_ttft_ms")) == {}


def test_a_search_is_of_no_load_and_not_side_by_side() -> None:
    searches = [
        a_row(run, place={}, mean_ttft_ms=1.0, phases=[{"users": 1}, {"users": 2}]) for run in ("a", "b")
    ]
    assert configuration_plots(searches) == {}


def test_pngs_are_written_for_all_that_there_is(tmp_path: Path) -> None:
    written = write_plots(tmp_path / "plots", [*a_ladder(), *CHUNKED_PREFILL])
    assert sorted(path.name for path in written) == ["configurations.png", "latency.png", "throughput.png"]
    for path in written:
        content = path.read_bytes()
        assert content.startswith(PNG)
        assert len(content) > 10_000


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    assert write_plots(tmp_path / "plots", [a_row()]) == []
    assert not (tmp_path / "plots").exists()


def test_the_figure_has_the_points_and_the_knee_of_the_data(tmp_path: Path, monkeypatch: Any) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    write_plots(tmp_path, a_ladder())
    latency, throughput = figures
    ttft = latency.axes[0]
    assert (ttft.get_title(), ttft.get_ylabel(), ttft.get_xlabel()) == ("TTFT, mean", "ms", "users")
    drawn = {line.get_label(): list(line.get_ydata()) for line in ttft.get_lines()}
    assert drawn["long"] == [50, 100, 200, 400, 800]
    assert [text.get_text() for text in latency.legends[0].get_texts()][:2] == ["short", "long"]
    requests = throughput.axes[0]
    # Users get what they ask for up to 4.
    assert {text.get_text() for text in requests.texts} == {"knee at 4"}
