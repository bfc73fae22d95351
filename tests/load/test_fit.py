"""Said before the run: how many requests the model cannot take. Counted by hand."""

import logging

import pytest

from tests.workloads.contexts import context
from vllm_locust.load.fit import too_long
from vllm_locust.load.settings import Settings
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.text import TextProfile


def sentences(scenario: object, longest: int, **settings: int) -> list[str]:
    return list(too_long(Settings(seed=1, **settings), "tiny", longest, scenario))  # type: ignore[arg-type]


def test_what_fits_to_the_last_token_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    scenario = catalogue.load("worst_case", context(input_len="100", max_tokens="28"))
    assert sentences(scenario, 128) == []
    assert not caplog.text


def test_where_nothing_fits_the_run_is_refused() -> None:
    scenario = catalogue.load("worst_case", context(input_len="101", max_tokens="28"))
    (problem,) = sentences(scenario, 128)
    assert problem == (
        "All requests of worst_case are more than the 128 tokens that tiny takes, prompt and answer together:"
        " 129. Ask for less: --input-len, --max-tokens"
    )


def test_where_some_fit_their_number_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    scenario = catalogue.load("random", context(input_len="50-149", max_tokens="10"))
    lengths = [scenario.request(1, index).prompt_tokens or 0 for index in range(200)]
    beyond = sum(length + 10 > 128 for length in lengths)
    assert 20 < beyond < 180
    with caplog.at_level(logging.WARNING):
        assert sentences(scenario, 128) == []
    assert f"{beyond} of the first 200 requests of random are more than the 128 tokens" in caplog.text
    assert f"{max(lengths) + 10} at most" in caplog.text


def test_a_short_run_is_looked_at_as_far_as_it_goes(caplog: pytest.LogCaptureFixture) -> None:
    scenario = catalogue.load("random", context(input_len="50-149", max_tokens="10"))
    beyond = sum((scenario.request(1, index).prompt_tokens or 0) + 10 > 128 for index in range(7))
    sentences(scenario, 128, num_prompts=7)
    assert f"{beyond} of the first 7 requests" in caplog.text


def test_estimated_lengths_refuse_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert sentences(TextProfile("t", "t", repetitions=1000, max_tokens=8), 128) == []
    assert (
        "By an estimate from their characters, which can be far off, 200 of the first 200 requests of t"
        in (caplog.text)
    )
    assert "The server refuses those that are so by its own count." in caplog.text
    assert "will refuse" not in caplog.text


def test_an_answer_that_is_too_long_by_itself_is_refused() -> None:
    (problem,) = sentences(TextProfile("t", "t", repetitions=10, max_tokens=128), 128)
    assert "All requests of t are more than the 128 tokens" in problem


def test_messages_and_phases_are_looked_at_too(caplog: pytest.LogCaptureFixture) -> None:
    assert sentences(catalogue.load("tiny", context()), 520) == []
    assert "tiny.sl" in caplog.text
    assert "tiny.ss" not in caplog.text
    caplog.clear()
    sentences(catalogue.load("tools", context(max_tokens="490")), 500)
    assert "far off, 200 of the first 200 requests of tools" in caplog.text
