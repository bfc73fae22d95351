"""Time lines against brute force: every token and every request second is in exactly one bin."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.results.made_lines import a_failed, a_line
from vllm_locust.results.requests import read_lines
from vllm_locust.results.timeline import amounts, client_timeline, read_server_metrics, server_timeline

HEAD = (
    "time_s,source,engine,model_name,running,waiting,kv_cache_usage,"
    "generation_tokens_total,gpu,gpu_utilization\n"
)
moments = st.floats(0, 20)
spells = st.lists(st.tuples(moments, st.floats(0, 5), st.integers(1, 50)), min_size=1, max_size=30)


def seen(folder: Path, rows: str):
    path = folder / "server_metrics.csv"
    path.write_text(HEAD + rows)
    return server_timeline(read_server_metrics(path))


@given(spells)
def test_what_is_spread_over_time_is_all_there(made) -> None:
    start, length, weight = (np.array(column, float) for column in zip(*made, strict=True))
    edges = np.arange(27.0)
    found = amounts(start, start + length, weight, edges, per_s=False)
    assert found.sum() == pytest.approx(weight.sum())
    for place in range(26):
        expected = 0.0
        for begin, lasts, amount in made:
            if lasts > 1e-4:
                inside = min(begin + lasts, place + 1) - max(begin, place)
                expected += max(inside, 0) / lasts * amount
            elif int(begin) == place:
                expected += amount
        assert found[place] == pytest.approx(expected, abs=1e-5)


@given(spells)
def test_the_client_against_brute_force(made) -> None:
    lines = [
        a_line(
            begin,
            ttft_s=0.25,
            last_token_s=begin + 0.25 + lasts,
            ended_s=begin + 0.25 + lasts,
            output_tokens=n,
        )
        for begin, lasts, n in made
    ]
    requests = read_lines(lines).requests
    shown = client_timeline(requests, most_bins=40)
    width_s = shown.edges_s[1]
    assert len(shown.ttft.p50_ms) <= 41
    assert (shown.output_tokens_per_s * width_s).sum() == pytest.approx(sum(n for *_, n in made))
    held_s = (requests["ended_s"] - requests["sent_s"]).sum()
    assert (shown.in_flight_mean * width_s).sum() == pytest.approx(held_s, abs=1e-3)
    bins = np.minimum((requests["sent_s"] / width_s).astype(int), len(shown.edges_s) - 2)
    for place in range(len(shown.edges_s) - 1):
        mine = requests["ttft_s"][bins == place] * 1000
        if not len(mine):
            assert math.isnan(shown.ttft.p99_ms[place])
            continue
        assert shown.ttft.p50_ms[place] == pytest.approx(np.percentile(mine, 50))
        assert shown.ttft.p99_ms[place] == pytest.approx(np.percentile(mine, 99))
        assert shown.ttft.max_ms[place] == mine.max()


def test_most_at_once_counts_an_end_before_a_start() -> None:
    times = [(0.0, 1.0), (0.5, 2.0), (1.0, 1.5)]
    lines = [a_line(sent, ttft_s=0.1, ended_s=ended) for sent, ended in times]
    assert client_timeline(read_lines(lines).requests).in_flight_max.max() == 2


def test_failures_by_kind_dropped_ones_last() -> None:
    lines = [
        a_failed("dropped", 0.5),
        a_failed("timeout", 1.0),
        a_failed("timeout", 1.0),
        a_failed("http 503", 3.0),
    ]
    shown = client_timeline(read_lines(lines).requests)
    assert {kind: int(counts.sum()) for kind, counts in shown.failures.items()} == {
        "http 503": 1,
        "timeout": 2,
        "dropped": 1,
    }
    assert list(shown.failures)[-1] == "dropped"
    assert shown.edges_s[np.flatnonzero(shown.failures["timeout"])[0]] == pytest.approx(2.0)
    assert client_timeline(read_lines([]).requests) is None


def test_engines_are_added_and_the_fullest_cache_counts(tmp_path: Path) -> None:
    rows = "".join(
        f"{t},h,0,m,{t + 1},0,0.25,{100 * t},,\n{t},h,1,m,2,1,0.5,{10 * t},,\n"
        f"{t},h,,,,,,,0,0.4\n{t},h,,,,,,,1,0.8\n"
        for t in range(4)
    )
    shown = seen(tmp_path, rows)
    assert shown.running.tolist()[:4] == [3, 4, 5, 6]
    assert shown.waiting.tolist()[:4] == [1, 1, 1, 1]
    assert shown.kv_cache_usage.tolist()[:4] == [0.5] * 4
    assert shown.generation_tokens_per_s[1:4].tolist() == pytest.approx([110] * 3)
    assert shown.gpu_utilization.tolist()[:4] == pytest.approx([0.6] * 4)


def test_silence_and_a_restart_are_gaps(tmp_path: Path) -> None:
    rows = "".join(
        f"{t},h,0,m,1,0,0.1,{tokens},,\n" for t, tokens in ((0, 0), (1, 10), (2, 20), (9, 5), (10, 15))
    )
    shown = seen(tmp_path, rows)
    by_time = dict(zip(shown.time_s.tolist(), shown.running.tolist(), strict=True))
    assert math.isnan(by_time[5.5])  # 3.5 usual intervals after the last look before the silence
    rates = dict(zip(shown.time_s.tolist(), shown.generation_tokens_per_s.tolist(), strict=True))
    assert (rates[1], rates[10]) == (10, 10)
    assert math.isnan(rates[9])


@pytest.mark.parametrize("seed", range(40))
def test_a_server_that_was_dead_for_28_s_is_a_gap_whatever_its_times_are_rounded_to(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    begin_s = 3 * rng.random()
    alive = [begin_s + i + 0.01 * rng.random() for i in (*range(30), *range(57, 67))]
    shown = seen(tmp_path, "".join(f"{t:.3f},h,0,m,1,0,0.1,5,,\n" for t in alive))
    dead = (shown.time_s > alive[29] + 1) & (shown.time_s < alive[30] - 1)
    assert dead.any()
    assert np.isnan(shown.running[dead]).all()


def test_a_table_that_is_torn_or_missing(tmp_path: Path) -> None:
    assert read_server_metrics(tmp_path / "none.csv") is None
    assert seen(tmp_path, "") is None
    shown = seen(tmp_path, "0,h,0,m,1,0,0.1,5,,\n1,h,0,m,2,oops,0.1,9,,\n2,h,0")
    assert shown.running.tolist() == [1, 2]
    assert math.isnan(shown.waiting[1])
    (tmp_path / "old.csv").write_text("time_s,source,engine,running\n0,h,0,3\n1,h,0,4\n")
    older = server_timeline(read_server_metrics(tmp_path / "old.csv"))
    assert older.running.tolist() == [3, 4]
    assert np.isnan(older.kv_cache_usage).all()
