"""Whole runs against a real vLLM: what the client measured is what vLLM itself counted and timed."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.locust_command import (
    Outcome,
    assert_ended_well,
    assert_nothing_is_lost,
    column,
    counters,
    growth,
    run_locust,
)

USERS = ("--headless", "-u", "8", "-r", "8")
OUTPUT_TOKENS = {"short_short": 8, "short_long": 512, "long_short": 8, "long_long": 512}


@dataclass(frozen=True)
class Measured:
    """A run, and by how much vLLM's own counters grew in it."""

    run: Outcome
    growth: dict[str, float]

    def server_mean_ms(self, histogram: str) -> float:
        """The mean of what one of vLLM's histograms took in."""
        return self.growth[f"vllm:{histogram}_sum"] / self.growth[f"vllm:{histogram}_count"] * 1000


def measure(url: str, folder: Path, *options: str) -> Measured:
    """A run of eight users."""
    before = counters(url)
    run = run_locust(*USERS, "--host", url, *options, folder=folder)
    return Measured(run, growth(before, counters(url)))


@pytest.fixture(scope="module")
def tiny(vllm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Eight requests of each of the four profiles, one profile after the other."""
    folder = tmp_path_factory.mktemp("tiny") / "results"
    return measure(vllm_url, folder, "--scenario", "tiny", "--num-prompts", "8")


@pytest.fixture(scope="module", params=["tiny", "sharegpt"])
def measured(
    request: pytest.FixtureRequest, vllm_url: str, tiny: Measured, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    """32 requests: synthetic ones of four profiles, or conversations as people have them."""
    if request.param == "tiny":
        return tiny
    folder = tmp_path_factory.mktemp("sharegpt") / "results"
    return measure(vllm_url, folder, "--scenario", "sharegpt", "--num-prompts", "32")


def test_every_request_is_answered(measured: Measured) -> None:
    assert_ended_well(measured.run)
    assert_nothing_is_lost(measured.run)
    assert [request["outcome"] for request in measured.run.requests] == ["ok"] * 32
    assert not any(request["tokens_counted"] for request in measured.run.requests)


def test_requests_and_tokens_are_those_that_vllm_counted(measured: Measured) -> None:
    summary, grown = measured.run.summary, measured.growth
    assert summary["completed"] == grown["vllm:request_success_total"] == 32
    assert summary["total_input_tokens"] == grown["vllm:prompt_tokens_total"]
    assert summary["total_output_tokens"] == grown["vllm:generation_tokens_total"]


def test_answers_are_exactly_as_long_as_planned(tiny: Measured) -> None:
    for request in tiny.run.requests:
        assert request["output_tokens"] == OUTPUT_TOKENS[request["profile"]]
    assert Counter(column(tiny.run.requests, "profile")) == dict.fromkeys(OUTPUT_TOKENS, 8)


def test_latencies_are_what_vllm_timed_and_the_way_there(measured: Measured) -> None:
    """vLLM's clock starts once a request is parsed and stops before its tokens are on their way.

    So the client's is never ahead, as it would be with the role event taken for the first token; with the
    last token taken for the first it would be far behind. How long the way takes is the machine's affair.
    """
    first_ms = measured.server_mean_ms("time_to_first_token_seconds")
    all_ms = measured.server_mean_ms("e2e_request_latency_seconds")
    assert first_ms - 1 < measured.run.summary["mean_ttft_ms"] < (first_ms + all_ms) / 2
    assert all_ms - 1 < measured.run.summary["mean_e2el_ms"]


@pytest.mark.parametrize(("endpoint_type", "tokens"), [("chat", 333), ("completions", 2000)])
def test_prompts_are_exactly_as_long_as_asked_for(
    vllm_url: str, tmp_path: Path, endpoint_type: str, tokens: int
) -> None:
    measured = measure(
        vllm_url, tmp_path / "results", "--scenario", "ss", "--num-prompts", "10", "--max-tokens", "2",
        "--endpoint-type", endpoint_type, "--input-len", str(tokens),
    )  # fmt: skip
    assert_ended_well(measured.run)
    assert column(measured.run.requests, "prompt_tokens") == [tokens] * 10
    assert column(measured.run.requests, "output_tokens") == [2] * 10
    assert measured.growth["vllm:prompt_tokens_total"] == 10 * tokens


def test_an_unknown_model_is_refused_before_the_load(vllm_url: str, tmp_path: Path) -> None:
    measured = measure(vllm_url, tmp_path / "results", "-t", "2s", "--model", "gpt-9")
    assert measured.run.code == 2, measured.run.text
    (problem,) = measured.run.problems
    assert "--model 'gpt-9' is not served by" in problem
    assert "which has: tiny" in problem
    assert measured.growth["vllm:prompt_tokens_total"] == 0
    assert not (tmp_path / "results").exists()
