"""The printed block against lines that `vllm bench serve` printed, and what must never be printed."""

import re

import numpy as np
import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.record import DROPPED, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import Measured, judge
from vllm_locust.report.text import render, render_phases

# Printed by vllm 0.32; the values are in SEEN_VALUES.
SEEN = """\
============ Serving Benchmark Result ============
Successful requests:                     50        
Failed requests:                         0         
Maximum request concurrency:             8         
Benchmark duration (s):                  2.44      
Total input tokens:                      6903      
Total generated tokens:                  3200      
Request throughput (req/s):              20.53     
Request goodput (req/s):                 16.42     
Output token throughput (tok/s):         1313.73   
Peak output token throughput (tok/s):    1424.00   
Peak concurrent requests:                29.00     
Total token throughput (tok/s):          4147.70   
---------------Time to First Token----------------
Mean TTFT (ms):                          191.08    
Median TTFT (ms):                        176.31    
P50 TTFT (ms):                           176.31    
P99 TTFT (ms):                           377.82    
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          2.76      
P99 TPOT (ms):                           5.55      
---------------Inter-token Latency----------------
Mean ITL (ms):                           2.79      
P95 ITL (ms):                            5.78      
----------------End-to-end Latency----------------
Mean E2EL (ms):                          364.99    
P90 E2EL (ms):                           427.27    
==================================================
"""  # noqa: W291
SEEN_VALUES = {
    "completed": 50,
    "failed": 0,
    "max_concurrency": 8,
    "duration": 2.4354,
    "total_input_tokens": 6903,
    "total_output_tokens": 3200,
    "request_throughput": 20.53,
    "request_goodput": 16.42,
    "output_throughput": 1313.73,
    "max_output_tokens_per_s": 1424,
    "max_concurrent_requests": 29,
    "total_token_throughput": 4147.7,
    "mean_ttft_ms": 191.08,
    "median_ttft_ms": 176.31,
    "p50_ttft_ms": 176.31,
    "p99_ttft_ms": 377.82,
    "mean_tpot_ms": 2.76,
    "p99_tpot_ms": 5.55,
    "mean_itl_ms": 2.79,
    "p95_itl_ms": 5.78,
    "mean_e2el_ms": 364.99,
    "p90_e2el_ms": 427.27,
}


def summary_of(made, percentiles=(), phases=None, clock_bound_s=0.0) -> dict:
    recording = Recording(clock_bound_s=clock_bound_s)
    for record in made:
        recording.add(record)
    return summarize(recording, percentiles=percentiles, phases=phases)


def steady(n: int) -> list[RequestRecord]:
    rng = np.random.default_rng(6)
    return [
        an_ok(sent_s=float(i), arrivals_s=[i + t, i + t + 0.5]) for i, t in enumerate(rng.gamma(9, 0.02, n))
    ]


def value_of(label: str, text: str) -> str:
    """As `grep LABEL | cut -d: -f2` does."""
    (line,) = [line for line in text.splitlines() if line.startswith(label + ":")]
    return line[len(label) + 1 :].strip()


def test_the_lines_of_vllm_are_printed_as_it_prints_them():
    lines = iter(render(summary_of(steady(50)) | SEEN_VALUES).splitlines())
    for seen in SEEN.splitlines():
        # In order, and each line as vLLM's up to the notes behind it.
        assert any(line.startswith(seen) for line in lines), seen


def test_a_duration_that_may_truly_be_shorter_says_so():
    made = [an_ok(0.0, 5.0, ended_bound_s=1.0), an_ok(0.0, 3.0)]
    duration = value_of("Benchmark duration (s)", render(summary_of(made)))
    assert duration.split(maxsplit=1) == ["5.00", "(in truth 4.00 at least)"]
    assert value_of("Benchmark duration (s)", render(summary_of(made[1:]))) == "3.00"


def test_clocks_of_several_processes_widen_the_duration_both_ways():
    made = [an_ok(0.0, 5.0, ended_bound_s=1.0)]
    duration = value_of("Benchmark duration (s)", render(summary_of(made, clock_bound_s=0.25)))
    assert duration.split(maxsplit=1) == ["5.00", "(in truth 3.50 to 5.50)"]


def test_nothing_measured_prints_as_not_known():
    text = render(summary_of([]))
    assert "0.00" not in text
    assert value_of("Mean TTFT (ms)", text) == value_of("Request throughput (req/s)", text) == "n/a"
    assert value_of("Successful requests", text) == "0"


def test_a_percentile_says_how_sure_it_is():
    text = render(summary_of(steady(100), [99.9]))
    assert re.fullmatch(r"\d+\.\d\d +\[\d+\.\d\d \.\. \d+\.\d\d\]", value_of("P95 TTFT (ms)", text))
    assert value_of("P99 TTFT (ms)", text).endswith("(too few samples)")
    assert value_of("P99.9 ITL (ms)", text).endswith("(too few samples)")


def test_failures_are_printed_by_kind_with_an_example():
    failed = an_ok(outcome="http_503", error="overloaded,\ntry later")
    dropped = RequestRecord(0, "s", "p", DROPPED, 0.0)
    text = render(summary_of([*steady(3), failed, failed, dropped]))
    assert value_of("Failed requests", text) == "2"
    assert value_of("  http_503", text) == "2          overloaded, try later"
    assert value_of("Dropped requests (never sent)", text) == "1          of 6 planned"
    assert value_of("Error rate (%)", text) == "40.00"


def test_failures_outside_the_window_do_not_vanish():
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    recording.add(an_ok(outcome="timeout", ended_s=5.0))
    recording.add(an_ok(ended_s=15.0))
    text = render(summarize(recording))
    assert value_of("Failed requests", text) == "0"
    assert value_of("Failed requests in the whole run", text) == "1"
    assert value_of("Requests outside the window", text) == "1"


def test_latencies_from_the_plan_are_printed_when_they_differ():
    assert "from plan" not in render(summary_of(steady(10)))
    text = render(summary_of([an_ok(intended_s=1.0, sent_s=4.0, arrivals_s=[5.0, 7.0])]))
    assert value_of("Mean TTFT from plan (ms)", text) == "4000.00"
    assert value_of("P99 E2EL from plan (ms)", text) == "6000.00    (too few samples)"


@pytest.mark.parametrize(
    ("rate", "printed"), [(5, "5.00"), (12.5, "12.50"), ("1-64:120s", "1-64:120s"), ("inf", "inf")]
)
def test_an_open_loop_tells_its_rate_and_both_truths(rate, printed):
    text = render(summary_of(steady(10)) | {"request_rate": rate, "max_concurrency": 64})
    assert value_of("Request rate configured (RPS)", text) == printed
    assert value_of("Maximum request concurrency", text) == "64"
    assert value_of("Mean TTFT from plan (ms)", text) == value_of("Mean TTFT (ms)", text)


def test_processes_are_counted_and_lost_ones_are_told():
    def worker(number, lost_after_s=None):
        return {
            "worker": number,
            "name": f"host_{number}",
            "requests": 100 * number,
            "cpu_share": 0.4,
            "lost_after_s": lost_after_s,
            "unaccounted": 7 if lost_after_s else 0,
        }

    assert "processes" not in render(summary_of(steady(3)))
    text = render(summary_of(steady(3)) | {"workers": [worker(1), worker(2)]})
    assert value_of("Load-generating processes", text) == "2"
    assert "lost" not in text
    text = render(summary_of(steady(3)) | {"workers": [worker(1), worker(2), worker(3, 12.345)]})
    assert value_of("Load-generating processes", text) == "3"
    assert [line for line in text.splitlines() if "lost" in line] == [
        "  - Worker 3 (host_3) was lost after 12.3 s: 300 requests it had finished are counted, "
        "up to 7 are not accounted for"
    ]


def test_the_verdict_on_the_client_is_in_words():
    recording = Recording()
    recording.add(an_ok(bounds_s=[0.0, 0.0]))
    client = judge(Measured.of(recording.total()), {"client": 0.97}, "kernel").to_dict()
    text = render(summarize(recording) | {"client": client})
    assert value_of("Client measurement", text) == "valid"
    assert value_of("The load, as planned", text) == "invalid"
    assert (
        "  TTFT:                                  valid      mean 0.00 ms off at most, p99 0.00 ms\n" in text
    )
    assert value_of("CPU of client (% of a core)", text) == "97.00"
    assert value_of("P99 of the lag of reading (ms)", text) == "n/a"
    assert "  - the process 'client' used 97 % of a core\n" in text


def test_tokens_that_were_counted_and_cached_ones_are_told():
    text = render(summary_of([an_ok(tokens_counted=True, prompt_tokens=32, cached_tokens=16)]))
    assert value_of("  counted by events, in requests", text) == "1"
    assert value_of("Total cached input tokens", text).split() == ["16", "(50.0", "%)"]


@pytest.fixture
def phases() -> list[dict]:
    made = [an_ok(sent_s=100.0 * i, ended_s=100.0 * i + 99, profile="short_short") for i in range(400)]
    made += [an_ok(sent_s=0.0, arrivals_s=[0.1], phase=1, profile="a_profile_with_a_rather_long_name")]
    return summary_of(made)["phases"]


def test_the_phases_are_one_aligned_table_of_at_most_120_columns(phases):
    groups, names, first, second, *legend = render_phases(phases).splitlines()
    assert len({len(groups), len(names), len(first), len(second)}) == 1
    assert max(map(len, [names, *legend])) <= 120
    assert names.split()[:4] == ["phase", "profile", "ok", "failed"]
    assert " ".join(first.split()) == (
        "1 short_short 400 0 49500 49500 49500 49500 49500 49500 99000 99000 0.02"
    )
    assert " ".join(second.split()).startswith(
        "2 a_profile_with_a_~ 1 0 100.0 100.0* 100.0* n/a n/a n/a 100.0 100.0* "
    )
    assert "TTFT to the first token" in legend[0]


def ends_of(line: str) -> list[int]:
    return [match.end() for match in re.finditer(r"\S+", line)]


def test_columns_end_where_their_headings_end(phases):
    groups, names, first, *_ = render_phases(phases).splitlines()
    ends = ends_of(names)[2:]
    assert ends == ends_of(first)[2:]
    assert all(end in ends for end in ends_of(groups))


def ladder(levels: list[dict], made: list[RequestRecord]) -> list[str]:
    return render_phases(summary_of(made, phases=dict(enumerate(levels)))["phases"]).splitlines()


def test_the_steps_of_a_ladder_begin_with_their_level_and_tell_what_came_of_it():
    """Step n: n users, each with 100 requests of 2 s one after another."""
    made = [
        an_ok(sent_s=1000.0 * step + 2 * i, ended_s=1000.0 * step + 2 * i + 2, phase=step, profile="ss")
        for step in range(3)
        for i in range(100)
        for _ in range(step + 1)
    ]
    groups, names, *rows, _, _, legend = ladder([{"users": n} for n in (1, 2, 3)], made)
    assert groups.split() == ["plan", "requests", "TTFT", "TPOT", "ITL", "E2EL", "output"]
    assert names.split()[:7] == ["phase", "users", "profile", "ok", "failed", "req/s", "peak"]
    assert [row.split()[:7] for row in rows] == [
        ["1", "1", "ss", "100", "0", "0.50", "1"],
        ["2", "2", "ss", "200", "0", "1.00", "2"],
        ["3", "3", "ss", "300", "0", "1.50", "3"],
    ]
    assert all(ends_of(row)[3:] == ends_of(names)[3:] for row in rows)
    assert "peak = the most that were open at one time" in legend


def test_rates_are_levels_too_and_may_be_words():
    levels = [{"request_rate": 2.5}, {"request_rate": "1-64:120s"}, {"request_rate": "inf"}, {}]
    _, names, *rows = ladder(levels, [an_ok(phase=phase) for phase in range(4)])
    assert names.split()[1] == "req/s"
    assert [row.split()[1] for row in rows[:4]] == ["2.5", "1-64:120s", "inf", "-"]


def test_profiles_of_a_phase_stand_below_it():
    made = [an_ok(sent_s=float(i), ended_s=i + 1.0, profile=("ss", "ll")[i % 3 == 0]) for i in range(9)]
    made.append(an_ok(phase=1, profile="ss"))
    _, names, *rows = ladder([{"name": "mix", "users": 1}, {"users": 2}], made)
    assert [row[: names.index("ok")].split() for row in rows[:4]] == [
        ["1", "1", "mix"],
        ["ll"],
        ["ss"],
        ["2", "2", "ss"],
    ]
    assert rows[1].index("ll") == rows[2].index("ss") == names.index("profile") + 2
    assert [row.split()[3] for row in rows[:1]] == ["9"]
    assert [row.split()[1] for row in rows[1:3]] == ["3", "6"]


def test_a_phase_in_which_nothing_happened_has_a_row():
    recording = Recording()
    recording.begin_phase(0, 0.0)
    _, _, row, *_ = render_phases(summarize(recording)["phases"]).splitlines()
    assert row.split() == ["1", "-", "0", "0", *9 * ["n/a"]]


@pytest.mark.parametrize("magnitude", [1, 600, 1_000_000])
def test_a_ladder_of_slow_answers_still_fits(magnitude):
    """Answers of 1 s, of the ten minutes that are allowed and of many days, with all marks that there are."""
    made = [
        an_ok(
            sent_s=0.0,
            arrivals_s=[magnitude * 0.9, magnitude * 0.95, magnitude * 1.0],
            tokens=100_000,
            phase=phase,
            profile=("short_short", "a_profile_with_a_rather_long_name")[i % 2],
        )
        for phase in range(2)
        for i in range(99)
    ]
    lines = ladder([{"request_rate": "1-64:120s"}, {"request_rate": 12345.678}], made)
    assert max(map(len, lines)) <= 120
    assert any("short_" in line for line in lines)


# -- the server's side ------------------------------------------------------------------------------------


def a_server(**more) -> dict:
    """A block `server` as `core.server_window` and `core.reconciliation` make it, as far as it is printed."""
    means = {"client_mean_ms": 191.08, "server_mean_ms": 169.125}
    return {
        "sources": [{"source": "a:8000", "up": True, "problem": None}],
        "samples": 9,
        "kv_cache_usage_peak": 0.4057,
        "kv_cache_usage_mean": 0.1486,
        "requests_running_peak": 16,
        "requests_waiting_peak": 8,
        "preemptions": 3,
        "prefix_cache_hit_rate": None,
        "reconciliation": {
            "ttft": means,
            "itl": {"client_mean_ms": None, "server_mean_ms": 2.5},
            "e2el": {"client_mean_ms": 365.0, "server_mean_ms": None},
            "queue": {"server_mean_ms": 5.019},
            "tokens": {
                "prompt": {"client": 40338, "server": 40340},
                "generation": {"client": None, "server": 20224},
            },
            "sentences": ["They differ."],
        },
        **more,
    }


def printed_server(server) -> list[str]:
    lines = render({**summary_of(steady(3)), "server": server}).splitlines()
    (begin,) = (i for i, line in enumerate(lines) if "The Server's Side" in line)
    return [line.rstrip() for line in lines[begin + 1 : -1]]


def test_both_sides_are_printed_beside_each_other():
    assert printed_server(a_server()) == [
        "KV cache usage, peak (%):                40.57      at least",
        "KV cache usage, mean (%):                14.86",
        "Running requests, peak:                  16         at least",
        "Waiting requests, peak:                  8          at least",
        "Preemptions:                             3",
        "Prefix cache hit rate (%):               n/a",
        "Mean TTFT, client / server (ms):         191.08 / 169.12",
        "Mean ITL, client / server (ms):          n/a / 2.50",
        "Mean E2EL, client / server (ms):         n/a",
        "Mean time in the server's queue (ms):    5.02",
        "Prompt tokens, client / server:          40338 / 40340",
        "Generation tokens, client / server:      n/a / 20224",
        "  - They differ.",
    ]


def test_a_hit_rate_that_a_log_told_is_not_of_this_run_alone():
    """vLLM's log has no counters, and speaks of its latest requests, those of earlier runs among them."""
    printed = printed_server(a_server(prefix_cache_hit_rate_told_mean=0.34))
    (line,) = (line for line in printed if "hit rate" in line)
    assert line == "Prefix cache hit rate (%):               34.00      (of its latest requests, as it says)"


def test_what_is_not_known_is_not_at_least_anything():
    lines = printed_server(a_server(requests_running_peak=None))
    assert "Running requests, peak:                  n/a" in lines


def test_a_server_that_told_nothing_says_why():
    silent = {"sources": [{"source": "a:8000", "up": False, "problem": "it answers 404"}]}
    assert printed_server(silent) == ["  - a:8000: it answers 404"]


def test_a_server_that_was_not_asked_has_no_section():
    assert "Server's Side" not in render({**summary_of(steady(3)), "server": None})


def test_steps_end_with_what_the_server_told_of_itself():
    made = [*steady(4), *(an_ok(500.0 + i, phase=1) for i in range(4))]
    phases = summary_of(made, phases={0: {"users": 1}, 1: {"users": 2}})["phases"]
    phases[0]["server"] = {"requests_waiting_peak": 12, "kv_cache_usage_peak": 0.4057}
    phases[1]["server"] = None
    groups, names, first, second, *legend = render_phases(phases).splitlines()
    assert groups.endswith("server")
    assert names.split()[-3:] == ["wait", "KV", "%"]
    assert first.split()[-2:] == ["12", "40.6"]
    assert second.split()[-2:] == ["n/a", "n/a"]
    assert {len(line) for line in (names, first, second)} == {len(names)}
    assert any("KV cache" in line for line in legend)


def test_dropped_requests_stand_in_every_table_and_mark_latencies_from_the_plan():
    summary = summary_of([*steady(3), RequestRecord(0, "s", "p", "dropped", 0.0, ended_s=9.0)])
    assert "at least" in value_of("Mean TTFT from plan (ms)", render({**summary, "request_rate": 5.0}))
    heads, row = [line.split() for line in render_phases(summary["phases"]).splitlines()[1:3]]
    assert row[heads.index("dropped")] == "1"
