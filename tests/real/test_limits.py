"""What holds requests up in a real vLLM where looks suggest another limit: the report names none alone."""

import csv
from pathlib import Path
from urllib.request import Request, urlopen

from tests.locust_command import (
    Outcome,
    assert_ended_well,
    assert_nothing_is_lost,
    run_locust,
    started,
    wait_until,
)
from tests.real.adapters import ADAPTERS
from tests.real.conftest import SmallVllm
from vllm_locust.report.waiting import CAUSES, describe_waiting


def said(outcome: Outcome) -> str:
    """What the report says of waiting, of a run that saw some."""
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    server = outcome.summary["server"]
    assert server["requests_waiting_peak"] >= 1
    sentences = describe_waiting(server)
    assert "What held them up is not known from these" in sentences
    return sentences


def test_memory_that_holds_one_request_has_room_to_see(small_vllm: SmallVllm, tmp_path: Path) -> None:
    """25 of 36 blocks: the next request does not fit, though 30 % of the cache is free."""
    outcome = run_locust(
        "--headless", "-u", "4", "-r", "4", "--host", small_vllm.url, "--server-metrics-url", small_vllm.url,
        "--server-metrics-interval", "0.2", "--scenario", "random", "--endpoint-type", "completions",
        "--input-len", "3000", "--max-tokens", "150", "--num-prompts", "4", folder=tmp_path / "results",
    )  # fmt: skip
    sentences = said(outcome)
    (engine,) = outcome.summary["server"]["engines"]
    assert engine["requests_running_peak"] == 1
    assert engine["when_waiting"]["kv_cache_usage_most"] < 0.75
    assert "memory, a place in the batch" in sentences


def test_requests_that_wait_for_a_slot_of_an_adapter(small_vllm: SmallVllm, tmp_path: Path) -> None:
    """Memory and batch have places: while one adapter is asked, requests for the other are passed over."""
    outcome = run_locust(
        "--headless", "-u", "4", "-r", "4", "--host", small_vllm.url, "--server-metrics-url", small_vllm.url,
        "--server-metrics-interval", "0.2", "--scenario", "ss", "--max-tokens", "100", "--num-prompts", "8",
        "--lora-modules", *ADAPTERS, "--lora-assignment", "round-robin", folder=tmp_path / "results",
    )  # fmt: skip
    sentences = said(outcome)
    server = outcome.summary["server"]
    assert server["requests_waiting_deferred_peak"] >= 1
    assert server["engines"][0]["when_waiting"]["kv_cache_usage_most"] < 0.75
    assert "a slot of a LoRA adapter that is not free" in sentences


def test_a_server_that_rests_is_said_to_lack_nothing(small_vllm: SmallVllm, tmp_path: Path) -> None:
    """It counts nothing meanwhile, neither what waits nor what runs: its last figures stay."""
    results = tmp_path / "results"
    looks = results / "server_metrics.csv"
    with started(
        "--headless", "-u", "4", "-r", "4", "--host", small_vllm.url, "--server-metrics-url", small_vllm.url,
        "--server-metrics-interval", "0.2", "--scenario", "ss", "--max-tokens", "20", folder=results,
    ) as locust:  # fmt: skip
        wait_until(lambda: len(set(tokens_at(looks))) > 1, "the first answers")
        post(f"{small_vllm.url}/pause?mode=wait")
        try:
            wait_until(lambda: rests(tokens_at(looks)), "ten looks at which nothing had changed")
            at_rest = tokens_at(looks)[-1]
        finally:
            post(f"{small_vllm.url}/resume")
        wait_until(lambda: tokens_at(looks)[-1] > at_rest, "answers after the pause")
        outcome = locust.stop()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    seen = describe_waiting(outcome.summary["server"]).replace(CAUSES, "")
    assert not [cause for cause in ("memory", "batch", "--max-num-seqs", "tokens of a step") if cause in seen]


def rests(tokens: list[float]) -> bool:
    return len(tokens) >= 10 and len(set(tokens[-10:])) == 1


def tokens_at(looks: Path) -> list[float]:
    """How many tokens the server had made, look by look."""
    if not looks.exists():
        return []
    with looks.open(newline="") as lines:
        return [float(row["generation_tokens_total"] or 0) for row in csv.DictReader(lines)]


def post(url: str) -> None:
    with urlopen(Request(url, data=b"{}", headers={"Content-Type": "application/json"}), timeout=60):
        pass
