"""Exactly n tokens, for tokenizers of every family; and a clear sentence where that cannot be."""

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads.exact import CANDIDATES, Vocabulary, byte_table, calibrate, check_sample
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, CountTokens
from vllm_locust.workloads.sharegpt import SMALL_DATASET, read_dataset
from vllm_locust.workloads.text import TextProfile
from vllm_locust.workloads.tokenizer import local_counter


class Asked:
    """A counter that remembers how often it was asked."""

    def __init__(self, count: CountTokens) -> None:
        self.count = count
        self.times = 0

    def __call__(self, prompt: str) -> int:
        self.times += 1
        return self.count(prompt)


def exact_prompt(tokens: int, count: CountTokens, *key: str | int) -> str:
    """A text of so many tokens, with all that stands around it."""
    vocabulary = calibrate(count)
    return vocabulary.text(tokens - vocabulary.overhead_tokens, *key)


def count_words(prompt: str) -> int:
    return 5 + len(prompt.split())


def count_characters(prompt: str) -> int:
    return len(prompt)


def count_quarters(prompt: str) -> int:
    return len(prompt) // 4


def count_runs_of_words(prompt: str) -> int:
    """A word that follows itself costs nothing: additive for most sequences, not for all."""
    return 5 + len(list(groupby(prompt.split())))


def test_the_candidates_are_short_and_different() -> None:
    assert len(set(CANDIDATES)) == len(CANDIDATES) == 150
    assert max(map(len, CANDIDATES)) <= 6


@settings(deadline=None, max_examples=15)
@given(extra=st.integers(0, 1500), seed=st.integers(), index=st.integers(0))
def test_every_prompt_has_the_promised_length(
    toy_counter: CountTokens, extra: int, seed: int, index: int
) -> None:
    tokens = calibrate(toy_counter).smallest_tokens + extra
    assert toy_counter(exact_prompt(tokens, toy_counter, "t", seed, index)) == tokens


def test_a_profile_promises_its_length(toy_counter: CountTokens) -> None:
    profile = TextProfile("ss", "short_short", repetitions=40, max_tokens=8)
    planned = profile.with_options(
        Context(input_len=Lengths.constant(128), count_tokens=toy_counter)
    ).request(1, 5)
    assert planned.prompt_tokens == 128 == toy_counter(planned.prompt)
    assert (planned.scenario, planned.profile, planned.max_tokens) == ("ss", "short_short", 8)


def test_thousands_of_prompts_differ_within_their_first_words(toy_counter: CountTokens) -> None:
    vocabulary = calibrate(toy_counter)
    prompts = (exact_prompt(200, toy_counter, "t", 1, i) for i in range(5_000))
    heads = {" ".join(prompt.split()[: vocabulary.unique_words + 1]) for prompt in prompts}
    assert len(heads) == 5_000
    assert all(toy_counter(head) == vocabulary.smallest_tokens for head in list(heads)[:100])


def test_with_all_words_the_first_16_tokens_and_64_characters_differ() -> None:
    built = [exact_prompt(100, count_words, "t", 1, index) for index in range(10_000)]
    assert len({prompt[:64] for prompt in built}) == 10_000
    assert len({tuple(prompt.split()[:11]) for prompt in built}) == 10_000


@pytest.mark.parametrize(("words", "unique_words"), [(16, 12), (32, 10), (64, 8), (128, 7)])
def test_unique_words_carry_48_bits(words: int, unique_words: int) -> None:
    chosen = CANDIDATES[:words]
    vocabulary = Vocabulary(chosen, 4, byte_table(chosen))
    assert vocabulary.unique_words == unique_words
    assert words**unique_words >= 2**48


def test_a_tokenizer_that_knows_all_words_is_asked_five_times() -> None:
    asked = Asked(count_words)
    assert len(calibrate(asked).words) == 128
    assert asked.times == 5
    calibrate(asked)
    assert asked.times == 5


@pytest.mark.parametrize("every", [2, 3, 5, 9])
def test_scattered_words_are_found_with_few_questions(every: int) -> None:
    known = set(CANDIDATES[::every])
    asked = Asked(lambda prompt: 4 + sum(1 if word in known else 2 for word in prompt.split()))
    vocabulary = calibrate(asked)
    assert set(vocabulary.words) <= known
    assert len(vocabulary.words) > len(known) / 2
    assert asked.times <= 154


def test_the_smallest_length_is_possible(toy_counter: CountTokens) -> None:
    smallest = calibrate(toy_counter).smallest_tokens
    assert toy_counter(exact_prompt(smallest, toy_counter, "t")) == smallest


@pytest.mark.parametrize("words", [1, 7, 8, 200, 5000, 200_000])
def test_a_longer_text_of_the_same_key_begins_with_the_shorter_one(words: int) -> None:
    vocabulary = calibrate(count_words)
    text = vocabulary.words_of(words, "k", 1)
    assert len(text.split()) == words
    assert vocabulary.words_of(words + 1000, "k", 1).startswith(text + " ")
    assert not vocabulary.words_of(max(words, 20), "k", 2).startswith(text[:60])


def test_a_tokenizer_of_single_characters_is_refused() -> None:
    with pytest.raises(UsageError, match="0 of 150 common words are one token, 16 are needed"):
        calibrate(count_characters)


@pytest.mark.parametrize("count", [count_quarters, count_runs_of_words])
def test_a_tokenizer_whose_words_do_not_add_up_is_refused(count: CountTokens) -> None:
    with pytest.raises(UsageError, match="not possible with this tokenizer"):
        check_sample(calibrate(count), 3000, count)


def test_a_tokenizer_of_the_tokenizers_package(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    texts = [conversation.prompt for conversation in read_dataset(SMALL_DATASET).kept]
    bpe.train_from_iterator(texts, vocab_size=1200, show_progress=False)
    bpe.save(str(tmp_path / "tokenizer.json"))
    count = local_counter(str(tmp_path))
    assert [count(exact_prompt(300, count, "t", index)) for index in range(200)] == [300] * 200
