"""The summary against a plain re-implementation of vLLM's formulas over the same records."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from vllm_locust.core.record import CANCELLED, DROPPED, OK, TRUNCATED, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.summary import (
    COUNTS,
    CURVE,
    FAMILIES,
    REQUESTS,
    STATISTICS,
    percentile_word,
    summarize,
    summarize_phase,
)

LIMITS_MS = {"ttft": 900.0, "tpot": 300.0, "e2el": 4000.0}
many = st.lists(records(), min_size=1, max_size=15)


def of(made: list[RequestRecord]) -> Recording:
    recording = Recording()
    for record in made:
        recording.add(record)
    return recording


def parts_of(summary: dict) -> list[dict]:
    """The summary and those in it."""
    profiles = [profile for phase in summary["phases"] for profile in phase.get("profiles", ())]
    return [summary, *summary["phases"], *profiles]


def stats_ms(family: str, values_s: list[float]) -> dict:
    """vLLM's statistics of one metric; None where it has nothing to take them of."""
    names = {f"mean_{family}_ms": np.mean, f"median_{family}_ms": np.median, f"std_{family}_ms": np.std}
    for q in (50, 90, 95, 99):
        names[f"p{q}_{family}_ms"] = lambda v, q=q: np.percentile(v, q)
    return {name: float(f(values_s)) * 1000 if values_s else None for name, f in names.items()}


def as_vllm_does(made: list[RequestRecord]) -> dict:
    """`vllm bench serve` over a whole run: one pass over the successful requests, in plain Python."""
    ttfts, tpots, itls, e2els, good = [], [], [], [], 0
    sent = [record for record in made if record.sent_s is not None]
    ends = [r.ended_s for r in made if r.outcome not in (DROPPED, CANCELLED)]
    duration = max(ends) - min(r.sent_s for r in sent)
    ok = [record for record in made if record.outcome == OK]
    for r in ok:
        ttft, e2el = r.first_token_s - r.sent_s, r.last_token_s - r.sent_s
        tpot = 0.0
        in_one_piece = e2el - ttft < 50e-6 * (len(r.arrivals_s) - 1)
        first = r.event_tokens[0] if r.event_tokens else 1  # vLLM says 1
        if r.output_tokens > first and len(r.arrivals_s) > 1:
            tpot = (e2el - ttft) / (r.output_tokens - first)
            if in_one_piece:  # vLLM says 0
                tpot = math.inf
            elif tpot >= 50e-6:
                tpots.append(tpot)
            else:  # usage counts tokens that did not come between the events
                tpot = 0.0
        ttfts.append(ttft)
        e2els.append(e2el)
        if not in_one_piece:
            itls += [b - a for a, b in zip(r.arrivals_s, r.arrivals_s[1:], strict=False)]
        good += ttft * 1000 <= 900.0 and tpot * 1000 <= 300.0 and e2el * 1000 <= 4000.0
    inputs, outputs = sum(r.prompt_tokens for r in ok), sum(r.output_tokens for r in ok)
    return {
        "completed": len(ok),
        "failed": sum(r.outcome not in (OK, DROPPED) for r in made),
        "duration": duration,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(ok) / duration,
        "request_goodput": good / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        **stats_ms("ttft", ttfts),
        **stats_ms("tpot", tpots),
        **stats_ms("itl", itls),
        **stats_ms("e2el", e2els),
    }


@given(many)
def test_the_keys_of_vllm_follow_its_formulas(made):
    ends = [r.ended_s for r in made if r.outcome not in (DROPPED, CANCELLED)]
    assume(ends and max(ends) > min((r.sent_s for r in made if r.sent_s is not None), default=math.inf))
    summary = summarize(of(made), LIMITS_MS)
    for key, expected in as_vllm_does(made).items():
        # The ITL percentiles come out of a histogram.
        tolerance = 1.01e-3 if "_itl_" in key else 1e-6
        expected = expected if expected is None else pytest.approx(expected, rel=tolerance, abs=2e-6)
        assert summary[key] == expected, key


def test_a_cancelled_request_does_not_stretch_the_run():
    """How long we wait before we lose patience is our own choice, no part of the server's throughput."""
    good = [an_ok(sent_s=i / 10, arrivals_s=[i / 10 + 0.05], tokens=1) for i in range(100)]
    open_to_the_end = an_ok(outcome=CANCELLED, sent_s=9.0, ended_s=70.0, arrivals_s=[9.5], tokens=1)
    alone, both = summarize(of(good)), summarize(of([*good, open_to_the_end]))
    assert both["output_throughput"] == alone["output_throughput"]
    assert (both["duration"], both["failed"]) == (alone["duration"], 1)


@settings(max_examples=12)
@given(many)
def test_planned_is_ok_and_failed_and_dropped(made):
    summary = summarize(of(made))
    for part in parts_of(summary):
        requests = part["requests"]
        assert requests["planned"] == requests["ok"] + requests["failed"] + requests["dropped"]
        assert requests["failed"] == sum(part["failures"].values())
    assert summary["requests"]["planned"] == len(made)
    assert (
        pd.Series([r.outcome for r in made if r.outcome not in (OK, DROPPED)]).value_counts().to_dict()
        == (summary["failures"])
    )


@settings(max_examples=12)
@given(many, st.sampled_from([CANCELLED, TRUNCATED, "http_500"]))
def test_failures_with_partial_tokens_change_no_latency(made, kind):
    before = summarize(of(made))
    after = summarize(
        of([*made, an_ok(outcome=kind, sent_s=0.0, ended_s=50.0, arrivals_s=[1.0, 49.0], tokens=9)])
    )
    assert after["failed"] == before["failed"] + 1
    for key in before:
        if key.endswith("_ms"):
            assert after[key] == before[key], key


@settings(max_examples=12)
@given(many)
def test_a_summary_is_json_and_has_every_key_whatever_happened(made):
    summary = summarize(of(made), LIMITS_MS, [99.9])
    json.dumps(summary, allow_nan=False)
    for part in parts_of(summary):
        assert set(COUNTS) <= set(part)
        assert set(REQUESTS) == set(part["requests"])
        for family in FAMILIES:
            for word in (*STATISTICS, "p50", "p90", "p95", "p99", "p99.9"):
                assert f"{word}_{family}_ms" in part


@given(many)
def test_the_peak_of_concurrency_is_exact(made):
    sent = [r for r in made if r.sent_s is not None and r.ended_s > r.sent_s and r.outcome != CANCELLED]
    assume(sent)
    at_once = [sum(r.sent_s <= moment.sent_s < r.ended_s for r in sent) for moment in sent]
    assert summarize(of(sent))["max_concurrent_requests"] == max(at_once)


def test_the_peak_of_concurrency_counts_what_overlaps_the_window_only():
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    recording.add(an_ok(sent_s=1.0, ended_s=8.0))
    recording.add(an_ok(sent_s=2.0, ended_s=8.0))
    recording.add(an_ok(sent_s=3.0, ended_s=12.0))
    recording.close_phase(0, 20.0)
    recording.add(an_ok(sent_s=12.0, ended_s=25.0))
    recording.add(an_ok(sent_s=21.0, ended_s=25.0))
    assert summarize(recording)["max_concurrent_requests"] == 1


def test_an_empty_recording_has_no_zeros_where_nothing_is_known():
    summary = summarize(Recording())
    assert (summary["completed"], summary["failed"], summary["total_output_tokens"]) == (0, 0, 0)
    for key in ("error_rate", "duration", "request_throughput", "max_output_tokens_per_s", "mean_ttft_ms"):
        assert summary[key] is None, key
    assert summary["intervals"]["p99_ttft_ms"] == [None, None]
    assert summary["phases"] == []


def test_a_request_of_one_token_has_no_tpot_but_is_good():
    summary = summarize(of([an_ok(sent_s=0.0, arrivals_s=[0.2], tokens=1)]), {"tpot": 1.0})
    assert (summary["mean_tpot_ms"], summary["p99_tpot_ms"], summary["mean_itl_ms"]) == (None, None, None)
    assert summary["mean_ttft_ms"] == summary["mean_e2el_ms"] == pytest.approx(200.0)
    assert summary["request_goodput"] == summary["request_throughput"]


def test_goodput_needs_limits():
    assert summarize(of([an_ok()]))["request_goodput"] is None


def test_unknown_token_counts_make_totals_unknown():
    summary = summarize(of([an_ok(), an_ok(sent_s=1.0, prompt_tokens=None)]))
    assert (summary["total_input_tokens"], summary["total_token_throughput"]) == (None, None)
    assert summary["total_output_tokens"] == 4
    assert summary["total_cached_tokens"] is None


def test_a_request_without_a_count_of_cached_tokens_had_none_when_others_have_one():
    summary = summarize(of([an_ok(cached_tokens=32), an_ok(sent_s=1.0)]))
    assert summary["total_cached_tokens"] == 32


def test_requests_without_usage_are_counted():
    assert summarize(of([an_ok(tokens_counted=True), an_ok()]))["completed_without_usage"] == 1


def test_latencies_from_the_plan_start_when_the_plan_said():
    """By hand: planned at 1, sent at 4, tokens at 5 and 7."""
    summary = summarize(of([an_ok(intended_s=1.0, sent_s=4.0, arrivals_s=[5.0, 7.0])]))
    assert (summary["mean_ttft_ms"], summary["mean_ttft_from_plan_ms"]) == (1000.0, 4000.0)
    assert (summary["p99_e2el_ms"], summary["p99_e2el_from_plan_ms"]) == (3000.0, 6000.0)


def test_the_maximum_is_exact_also_of_gaps():
    """By hand: after 0.25 s two gaps of 0.5 and 0.123456789 s; after 1 s one of 0.1 s; sent 3 s late."""
    first = an_ok(sent_s=4.0, arrivals_s=[4.25, 4.75, 4.873456789], intended_s=1.0, connect_s=0.01)
    summary = summarize(of([first, an_ok(sent_s=0.0, arrivals_s=[1.0, 1.1], connect_s=0.02)]))
    assert summary["max_ttft_ms"] == 1000.0
    assert summary["max_itl_ms"] == 500.0
    assert summary["max_tpot_ms"] == pytest.approx(623.456789 / 2)
    assert summary["max_e2el_ms"] == 1100.0
    assert summary["max_ttft_from_plan_ms"] == 3250.0
    assert summary["max_e2el_from_plan_ms"] == pytest.approx(3873.456789)
    assert summary["max_connect_ms"] == 20.0
    assert summary["max_itl_per_token_ms"] is None


def test_the_peak_counts_tokens_not_chunks():
    """Two chunks of 8 tokens in one second."""
    record = an_ok(sent_s=0.0, arrivals_s=[1.1, 1.9, 2.5], tokens=17, event_tokens=[8, 8, 1])
    assert summarize(of([record]))["max_output_tokens_per_s"] == 16


def test_the_peak_looks_at_the_seconds_of_the_window():
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    recording.add(an_ok(sent_s=1.0, arrivals_s=[2.0, 2.5], tokens=500))
    recording.add(an_ok(sent_s=11.0, arrivals_s=[12.0, 12.5], tokens=30))
    recording.close_phase(0, 20.0)
    recording.add(an_ok(sent_s=18.0, arrivals_s=[22.0, 22.5], tokens=900))
    assert summarize(recording)["max_output_tokens_per_s"] == 30


def test_peaks_pass_over_the_warmups_between_phases():
    """Measured from 5 to 10 and from 15 to 20: two requests at one time, and none of those 900 tokens."""
    recording = Recording()
    for phase, begun_s in enumerate((0.0, 10.0)):
        recording.begin_phase(phase, begun_s, warmup_s=5.0)
        for _ in range(3):
            recording.add(an_ok(sent_s=begun_s + 1, arrivals_s=[begun_s + 2.0], tokens=300, phase=phase))
        for _ in range(1 + phase):
            recording.add(an_ok(sent_s=begun_s + 6, arrivals_s=[begun_s + 7.0], tokens=20, phase=phase))
        recording.close_phase(phase, begun_s + 10)
    summary = summarize(recording)
    assert (summary["max_concurrent_requests"], summary["max_output_tokens_per_s"]) == (2, 40)
    assert [phase["max_concurrent_requests"] for phase in summary["phases"]] == [1, 2]


def test_each_phase_has_a_summary_and_so_have_its_profiles_which_add_up():
    made = [an_ok(sent_s=i / 10, profile="ab"[i % 2], phase=i // 20) for i in range(40)]
    made.append(an_ok(sent_s=9.0, profile="c", phase=7))
    summary = summarize(of(made))
    phases = summary["phases"]
    assert [(p["phase"], p["profile"]) for p in phases] == [(0, None), (1, None), (7, "c")]
    assert [(p["start_s"], p["end_s"]) for p in phases] == [(0.0, 2.9), (2.0, 4.9), (9.0, 10.0)]
    assert sum(p["completed"] for p in phases) == summary["completed"]
    assert "profiles" not in phases[2]
    for phase in phases[:2]:
        profiles = phase["profiles"]
        assert [p["profile"] for p in profiles] == ["a", "b"]
        assert {(p["start_s"], p["end_s"]) for p in profiles} == {(phase["start_s"], phase["end_s"])}
        for key in ("completed", "request_throughput", "total_output_tokens", "output_throughput"):
            assert sum(p[key] for p in profiles) == pytest.approx(phase[key]), key


def test_a_phase_says_what_is_known_of_it():
    recording = of([an_ok(), an_ok(phase=1)])
    recording.begin_phase(2, 50.0)
    known = {0: {"name": "tiny.p", "users": 8}, 1: {"name": "p", "request_rate": 5.0}, 5: {"name": "late"}}
    first, second, third = summarize(recording, phases=known)["phases"]
    assert list(first)[:4] == ["phase", "name", "users", "profile"]
    assert (first["phase"], first["name"], first["users"], first["profile"]) == (0, "tiny.p", 8, "p")
    assert (second["name"], second["request_rate"], second["completed"]) == ("p", 5.0, 1)
    assert (third["phase"], third["profile"], third["completed"], third["duration"]) == (2, None, 0, None)
    assert summarize_phase(recording, 1) | known[1] == second


def test_one_phase_of_one_profile_is_the_whole_run():
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=5.0)
    for i in range(20):
        recording.add(an_ok(sent_s=float(i)))
    recording.close_phase(0, 30.0)
    summary = summarize(recording)
    (phase,) = summary.pop("phases")
    assert phase == summary | {"phase": 0, "profile": "p"}


def test_intervals_are_in_ms_around_the_percentile_and_open_when_samples_are_few():
    rng = np.random.default_rng(5)
    made = [
        an_ok(sent_s=float(i), arrivals_s=[i + t, i + t + 1]) for i, t in enumerate(rng.gamma(2, 0.1, 100))
    ]
    summary = summarize(of(made))
    low, high = summary["intervals"]["p90_ttft_ms"]
    assert low <= summary["p90_ttft_ms"] <= high
    low, high = summary["intervals"]["p99_ttft_ms"]
    assert low <= summary["p99_ttft_ms"]
    assert high is None
    assert summary["intervals"]["p99_itl_ms"][1] is None


def test_the_curve_of_gaps_is_numpys_within_the_error_of_the_histogram():
    rng = np.random.default_rng(3)
    gaps = rng.lognormal(-4.0, 0.7, size=(50, 40))
    made = [an_ok(sent_s=float(i), arrivals_s=[i, *(i + np.cumsum(row))]) for i, row in enumerate(gaps)]
    summary = summarize(of(made))
    percentiles, curve_ms = zip(*summary["itl_curve_ms"], strict=True)
    assert list(percentiles) == sorted(CURVE)
    assert (percentiles[0], percentiles[-1]) == (0.0, 100.0)
    assert list(curve_ms) == sorted(curve_ms)
    expected = np.percentile(gaps * 1000, percentiles)
    assert curve_ms == pytest.approx(expected, rel=1.01e-3)
    assert dict(summary["itl_curve_ms"])[99.0] == summary["p99_itl_ms"]


def test_every_part_has_a_curve_of_its_own_and_none_without_gaps():
    """By hand: profile a has gaps of 100 and 300 ms, profile b answers of one token."""
    made = [
        an_ok(sent_s=0.0, arrivals_s=[1.0, 1.1, 1.4], profile="a"),
        an_ok(sent_s=0.0, arrivals_s=[1.0], tokens=1, profile="b"),
    ]
    summary = summarize(of(made))
    (phase,) = summary["phases"]
    a, b = phase["profiles"]
    assert b["itl_curve_ms"] == []
    assert a["itl_curve_ms"] == phase["itl_curve_ms"] == summary["itl_curve_ms"]
    known = dict(a["itl_curve_ms"])
    assert [known[q] for q in (0.0, 50.0, 100.0)] == pytest.approx([100.0, 200.0, 300.0], rel=1.01e-3)


def test_percentiles_are_named_as_vllm_names_them():
    assert [percentile_word(q) for q in (50.0, 99, 99.9, 99.99999)] == ["p50", "p99", "p99.9", "p99.99999"]


def test_error_rate_is_failed_of_finished():
    made = [an_ok(), an_ok(outcome=TRUNCATED), an_ok(outcome=CANCELLED), an_ok(outcome="http_503")]
    dropped = RequestRecord(0, "s", "p", DROPPED, 0.0)
    assert math.isclose(summarize(of([*made, dropped]))["error_rate"], 0.75)


def test_promised_lengths_are_held_against_the_usage():
    made = [
        an_ok(prompt_tokens=100, planned_prompt_tokens=100),
        an_ok(prompt_tokens=101, planned_prompt_tokens=100),
        an_ok(prompt_tokens=7),
        an_ok(prompt_tokens=100, planned_prompt_tokens=100, tokens_counted=True),  # the server said nothing
        RequestRecord(0, "s", "p", TRUNCATED, 0.0, sent_s=0.0, ended_s=0.5, planned_prompt_tokens=100),
    ]
    assert summarize(of(made))["prompt_lengths"] == {"promised": 2, "exact": 1}


def test_the_most_tokens_in_a_second_lie_between_what_surely_and_what_perhaps_came_in_one():
    """Of 6 tokens stamped at 2.1 s 4 may have come since 0.9 s; one came at 1.5 s."""
    record = an_ok(arrivals_s=[0.5, 1.5, *[2.1] * 6], bounds_s=[0.0] * 4 + [1.2] * 4)
    summary = summarize(of([record]))
    assert summary["max_output_tokens_per_s"] == 6
    assert summary["error_bounds"]["max_output_tokens_per_s"] == [2, 6]
    late = an_ok(arrivals_s=[0.5, 1.5, *[2.1] * 6], bounds_s=[0.0] * 2 + [0.2] * 6)
    assert summarize(of([late]))["error_bounds"]["max_output_tokens_per_s"] == [1, 7]
