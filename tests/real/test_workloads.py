"""Workloads on a real vLLM: prompts as long as planned, and cached as far as they are alike."""

import re
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.locust_command import Outcome, assert_ended_well, column, run_locust
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.prefix import SharedPrefix
from vllm_locust.workloads.scenario import Context

LONGEST = 4096
"""What the tiny model takes, prompt and answer together."""
ALONE = ("--headless", "-u", "1", "-r", "1")
COMPLETIONS = ("--endpoint-type", "completions")


def run(url: str, folder: Path, *options: str, locustfile: str = "chat.py") -> Outcome:
    outcome = run_locust(*options, "--host", url, folder=folder / "results", locustfile=locustfile)
    assert_ended_well(outcome)
    assert {request["outcome"] for request in outcome.requests} == {"ok"}
    return outcome


def block_size(url: str) -> int:
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        (size,) = set(re.findall(r'cache_config_info\{[^}]*\bblock_size="(\d+)"', answer.read().decode()))
    return int(size)


@pytest.mark.parametrize(
    ("options", "lengths", "requests"),
    [
        (COMPLETIONS, "1-3", 20),
        (COMPLETIONS, f"1-{LONGEST - 1}", 16),
        (COMPLETIONS, f"{LONGEST - 2}-{LONGEST - 1}", 6),
        ((), "60-400", 40),
        ((), f"{LONGEST - 40}-{LONGEST - 1}", 8),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_prompts_are_exactly_as_long_as_planned(
    vllm_url: str, tmp_path: Path, options: tuple[str, ...], lengths: str, requests: int
) -> None:
    outcome = run(
        vllm_url, tmp_path, "--headless", "-u", "4", "-r", "4", "--scenario", "worst_case", *options,
        "--input-len", lengths, "--max-tokens", "1", "--num-prompts", str(requests),
    )  # fmt: skip
    planned = column(outcome.requests, "planned_prompt_tokens")
    assert column(outcome.requests, "prompt_tokens") == planned
    assert len(planned) == requests
    assert outcome.summary["prompt_lengths"] == {"promised": requests, "exact": requests}
    low, _, high = lengths.partition("-")
    assert all(int(low) <= tokens <= int(high or low) for tokens in planned)


def test_one_token_more_than_the_model_takes_is_refused_before_the_run(vllm_url: str, tmp_path: Path) -> None:
    outcome = run_locust(
        *ALONE, *COMPLETIONS, "--scenario", "worst_case", "--input-len", str(LONGEST), "--max-tokens", "1",
        "--host", vllm_url, folder=tmp_path / "results",
    )  # fmt: skip
    assert outcome.code == 2
    (problem,) = outcome.problems
    assert f"All requests of worst_case are more than the {LONGEST} tokens that tiny takes" in problem


@pytest.mark.parametrize("endpoint_type", ["completions", "chat"])
def test_shared_prefixes_are_cached_as_computed(vllm_url: str, tmp_path: Path, endpoint_type: str) -> None:
    settings = {"prefix_len": "700", "prefixes": "3", "input_len": "50", "output_len": "2"}
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    outcome = run(
        vllm_url, tmp_path, *ALONE, "--endpoint-type", endpoint_type, "--scenario", "prefix", *options,
        "--seed", "11", "--num-prompts", "20",
    )  # fmt: skip
    block = block_size(vllm_url)
    context = Context(endpoint_type=endpoint_type, encode=lambda text: list(range(200)), parameters=settings)
    scenario = catalogue.load("prefix", context)
    assert isinstance(scenario, SharedPrefix)
    expected = scenario.shared_tokens(11, range(20), block)
    cached = [request["cached_tokens"] or 0 for request in sorted(outcome.requests, key=lambda r: r["index"])]
    if endpoint_type == "completions":
        assert cached == expected
    else:
        assert cached == pytest.approx(expected, abs=block)
    assert sum(cached) > 10 * 600


def test_a_conversation_reads_only_what_is_new(vllm_url: str, tmp_path: Path) -> None:
    outcome = run(
        vllm_url, tmp_path, *ALONE, "--num-prompts", "6", "--set", "think_s=0", "--max-tokens", "20",
        locustfile="conversation.py",
    )  # fmt: skip
    block = block_size(vllm_url)
    by_turn = {(request["session"], request["turn"]): request for request in outcome.requests}
    assert max(turn for _, turn in by_turn) >= 3
    for (session, turn), request in by_turn.items():
        if turn > 1:
            before = by_turn[session, turn - 1]["prompt_tokens"]
            # The template may frame an answer in the history otherwise than one that is to come.
            assert (request["cached_tokens"] or 0) >= (before - 8) // block * block
            assert request["prompt_tokens"] > before


def test_a_trace_is_replayed_with_its_lengths_and_at_its_times(vllm_url: str, tmp_path: Path) -> None:
    outcome = run(
        vllm_url, tmp_path, *ALONE, *COMPLETIONS, "--set", "seconds=10", "--set", "speed=2",
        "--max-tokens", "4", locustfile="replay.py",
    )  # fmt: skip
    counts = outcome.summary["prompt_lengths"]
    assert counts["promised"] == counts["exact"] == len(outcome.requests) >= 20
    assert max(column(outcome.requests, "intended_s")) - min(column(outcome.requests, "intended_s")) < 5
    assert outcome.summary["total_cached_tokens"] > 0


def test_packed_and_single_reviews_are_answered_in_as_many_tokens(vllm_url: str, tmp_path: Path) -> None:
    outcome = run(
        vllm_url, tmp_path, "--headless", "-u", "4", "-r", "4", "--scenario", "imdb",
        "--set", "n=8", "--set", "reviews=36",
    )  # fmt: skip
    packed = [request for request in outcome.requests if request["profile"] == "packed"]
    single = [request for request in outcome.requests if request["profile"] == "single"]
    assert sorted(column(packed, "output_tokens")) == [4, 8, 8, 8, 8]
    assert column(single, "output_tokens") == [1] * 36
