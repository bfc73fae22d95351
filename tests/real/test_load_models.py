"""Open loops, many processes and searches against a real vLLM."""

from pathlib import Path

import numpy as np
import pytest

from tests.locust_command import (
    assert_ended_with,
    assert_nothing_is_lost,
    column,
    counters,
    growth,
    in_processes,
    run_locust,
    wait_until,
)

SHORT = ("--headless", "--scenario", "ss", "--max-tokens", "16", "--only-summary")


def test_an_open_loop_of_two_processes_is_what_vllm_counted(vllm_url: str, tmp_path: Path) -> None:
    before = counters(vllm_url)
    run = run_locust(
        *SHORT, "-u", "2", "-r", "2", *in_processes(2), "--host", vllm_url, "--request-rate", "20:6s",
        folder=tmp_path / "results",
    )  # fmt: skip
    counted = growth(before, counters(vllm_url))
    assert_nothing_is_lost(run)
    summary = run.summary
    assert summary["requests"]["planned"] == summary["completed"] == counted["vllm:request_success_total"]
    assert summary["total_output_tokens"] == counted["vllm:generation_tokens_total"]
    assert summary["total_input_tokens"] == counted["vllm:prompt_tokens_total"]
    assert {request["worker"] for request in run.requests} == {0, 1}
    gaps = np.diff(sorted(column(run.requests, "intended_s")))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.35)
    late = np.array(column(run.requests, "sent_s")) - np.array(column(run.requests, "intended_s"))
    assert late.min() >= 0


def test_requests_that_are_cancelled_at_the_end_leave_vllm_at_rest(vllm_url: str, tmp_path: Path) -> None:
    run = run_locust(
        *SHORT[:3], "-u", "8", "-r", "8", *in_processes(2), "--host", vllm_url, "--max-tokens", "1500",
        "-t", "2s", "--stop-timeout", "1", folder=tmp_path / "results",
    )  # fmt: skip
    assert_nothing_is_lost(run)
    counts = run.summary["requests"]
    assert counts["planned"] == counts["ok"] + run.summary["failures"].get("cancelled", 0)
    wait_until(lambda: counters(vllm_url)["vllm:num_requests_running"] == 0, "vLLM at rest")


def test_a_search_ends_between_a_rate_that_meets_and_one_that_misses(vllm_url: str, tmp_path: Path) -> None:
    run = run_locust(
        *SHORT, "--host", vllm_url, "--slo", "p90_e2el_ms<400", "--levels", "rate", "--request-rate", "2000",
        "--step-time", "3s", folder=tmp_path / "results", locustfile="capacity.py", limit_s=200,
    )  # fmt: skip
    assert_ended_with(0, run)
    assert_nothing_is_lost(run)
    found = run.summary["capacity"]
    assert 1 <= found["level"] < found["missed_at"] <= 2000
    at_edge = [probe for probe in found["probes"] if probe["level"] == found["missed_at"]]
    assert any(probe["findings"][0]["value"] > 400 for probe in at_edge)
