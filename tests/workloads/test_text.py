"""Synthetic prompts: as long as promised, different from the first characters on, quick to build."""

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context
from vllm_locust.workloads.text import TextProfile

SHORT = TextProfile("ss", "short_short", repetitions=40, max_tokens=8)


@pytest.mark.parametrize("repetitions", [1, 40, 400, 1000])
def test_the_word_is_repeated_as_often_as_asked(repetitions: int) -> None:
    prompt = TextProfile("t", "t", repetitions, max_tokens=8).request(1, 0).prompt
    assert prompt.split("refrain:")[1].split() == ["time"] * repetitions


def test_what_a_request_says() -> None:
    planned = TextProfile("t", "long_short", 400, 8, extra={"temperature": 0.5}).request(seed=1, index=7)
    assert (planned.index, planned.scenario, planned.profile) == (7, "t", "long_short")
    assert (planned.max_tokens, planned.prompt_tokens) == (8, None)
    assert planned.extra == {"temperature": 0.5}


def test_ten_thousand_prompts_differ_in_their_first_16_characters() -> None:
    assert len({SHORT.request(3, index).prompt[:16] for index in range(10_000)}) == 10_000


def test_seeds_and_names_share_no_prompt() -> None:
    other = TextProfile("sl", "short_long", repetitions=40, max_tokens=8)
    starts = [
        profile.request(seed, index).prompt[:16]
        for profile in (SHORT, other)
        for seed in range(10)
        for index in range(50)
    ]
    assert len(set(starts)) == len(starts)


def test_output_lengths_vary_within_the_ratio_and_centre_on_it() -> None:
    profile = TextProfile("t", "t", repetitions=1, max_tokens=Lengths.parse("100~0.5"))
    lengths = [profile.request(1, index).max_tokens for index in range(4_000)]
    assert min(lengths) in range(50, 53)
    assert max(lengths) in range(148, 151)
    assert abs(sum(lengths) / len(lengths) - 100) < 2


def test_the_users_max_tokens_replace_the_profiles() -> None:
    assert SHORT.with_options(Context(max_tokens=Lengths.constant(99))).request(0, 0).max_tokens == 99
    assert SHORT.with_options(Context()).request(0, 0) == SHORT.request(0, 0)


def test_exact_lengths_need_a_counter() -> None:
    with pytest.raises(
        UsageError, match=r"exact prompt lengths need a count of tokens: .* /tokenize, or --tokenizer PATH"
    ):
        SHORT.with_options(Context(input_len=Lengths.constant(100)))


def test_impossible_profiles_are_refused() -> None:
    with pytest.raises(UsageError, match=r"scenario odd: repetitions must be at least 1\."):
        TextProfile("odd", "odd", repetitions=0, max_tokens=8)
