"""Open loops and many processes against a real vLLM."""

from pathlib import Path

import numpy as np
import pytest

from tests.locust_command import (
    PATIENT,
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
        folder=tmp_path / "results", locustfile=PATIENT,
    )  # fmt: skip
    counted = growth(before, counters(vllm_url))
    assert_nothing_is_lost(run)
    summary = run.summary
    # On a busy machine the last ones may be dropped.
    sent = [request for request in run.requests if request["outcome"] != "dropped"]
    assert len(sent) == summary["completed"] == counted["vllm:request_success_total"]
    assert summary["total_output_tokens"] == counted["vllm:generation_tokens_total"]
    assert summary["total_input_tokens"] == counted["vllm:prompt_tokens_total"]
    assert {request["worker"] for request in run.requests} == {0, 1}
    gaps = np.diff(sorted(column(run.requests, "intended_s")))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.35)
    assert all(request["sent_s"] >= request["intended_s"] for request in sent)


def test_requests_that_are_cancelled_at_the_end_leave_vllm_at_rest(vllm_url: str, tmp_path: Path) -> None:
    run = run_locust(
        *SHORT[:3], "-u", "8", "-r", "8", *in_processes(2), "--host", vllm_url, "--max-tokens", "1500",
        "-t", "6s", "--stop-timeout", "1", folder=tmp_path / "results", locustfile=PATIENT,
    )  # fmt: skip
    assert_nothing_is_lost(run)
    counts = run.summary["requests"]
    assert counts["planned"] == counts["ok"] + run.summary["failures"].get("cancelled", 0)
    wait_until(lambda: counters(vllm_url)["vllm:num_requests_running"] == 0, "vLLM at rest")
