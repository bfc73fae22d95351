"""Prompts of segments: exactly as long as promised, and alike exactly as far as their segments are."""

from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.contexts import context, count_words
from vllm_locust.errors import NobodyCounts, UsageError
from vllm_locust.workloads.exact import calibrate
from vllm_locust.workloads.filler import IdFiller, Segment, WordFiller, filler
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, CountTokens

ANY = Lengths.parse("30-9000")
SEGMENTS = st.lists(
    st.builds(Segment, st.integers(0, 3000), st.tuples(st.sampled_from("abc"), st.integers(0, 9))),
    min_size=1,
    max_size=5,
)
WORDS = filler(context(), ANY)
IDS = filler(context(endpoint_type="completions"), Lengths.constant(1))


def alike(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


@given(SEGMENTS)
def test_token_ids_are_as_many_as_the_segments_have(segments: list[Segment]) -> None:
    assert len(IDS.prompt(segments)) == sum(segment.tokens for segment in segments)


@settings(deadline=None, max_examples=12)
@given(segments=SEGMENTS, first=st.integers(30, 3000))
def test_words_are_exact_template_included(
    toy_counter: CountTokens, segments: list[Segment], first: int
) -> None:
    words = WordFiller(calibrate(toy_counter))
    segments = [Segment(max(first, words.smallest_tokens), ("first",)), *segments]
    assert toy_counter(words.prompt(segments)) == sum(segment.tokens for segment in segments)


@given(shared=SEGMENTS, one=st.integers(1, 10**9), other=st.integers(1, 10**9), tokens=st.integers(8, 2000))
def test_prompts_are_alike_as_far_as_their_segments(
    shared: list[Segment], one: int, other: int, tokens: int
) -> None:
    """Eight ids of 128 each are drawn for a key: two keys are alike in one of them with 1 in 128."""
    prompts = [IDS.prompt([*shared, Segment(tokens, ("own", number))]) for number in (one, other)]
    common = sum(segment.tokens for segment in shared)
    if one == other:
        assert prompts[0] == prompts[1]
    else:
        assert common <= alike(*prompts) < common + 8


@given(st.integers(0, 600), st.integers(0, 600))
def test_a_longer_segment_begins_with_the_shorter_one(short: int, more: int) -> None:
    for fill in (WORDS, IDS):
        one = fill.prompt([Segment(40 + short, ("k",))])
        other = fill.prompt([Segment(40 + short + more, ("k",))])
        assert other[: len(one)] == one


def test_what_stands_around_the_words_comes_off_the_first_segments() -> None:
    """A second segment begins at the same token in every prompt, so that a cache can share it."""
    overhead = calibrate(count_words).overhead_tokens
    prompt = WORDS.prompt([Segment(overhead - 2, ("a",)), Segment(50, ("b",))])
    assert count_words(prompt) == overhead + 48
    assert prompt.split()[1:] == WORDS.prompt([Segment(overhead + 48, ("b",))]).split()[1:]


def test_a_prompt_longer_than_the_long_row() -> None:
    tokens = (1 << 17) * 2 + 77
    assert len(IDS.prompt([Segment(tokens, ("k",))])) == tokens
    assert count_words(WORDS.prompt([Segment(tokens, ("k",))])) == tokens


def test_ids_are_those_of_common_words() -> None:
    chosen = filler(Context(endpoint_type="completions", encode=lambda text: list(range(100))), ANY)
    assert isinstance(chosen, IdFiller)
    assert len(chosen.ids) == 256
    assert set(chosen.ids) == set(range(64))
    assert set(chosen.prompt([Segment(500, ("k",))])) <= set(range(64))


def test_without_a_count_prompts_are_about_as_long_unless_they_must_be_exact() -> None:
    for bare in (Context(), Context(count_tokens=nobody)):
        about = filler(bare, ANY)
        assert not about.exact
        assert len(about.prompt([Segment(100, ("k",))]).split()) == 91
        with pytest.raises(NobodyCounts):
            filler(bare, ANY, exact=True)


def nobody(_: str) -> int:
    raise NobodyCounts("the server answered 404")


def test_too_short_a_prompt_is_refused_with_a_way_out() -> None:
    smallest = WORDS.smallest_tokens
    filler(context(), Lengths.constant(smallest))
    with pytest.raises(UsageError, match=rf"smallest possible is {smallest}, .*--endpoint-type completions"):
        filler(context(), Lengths.constant(smallest - 1))


def test_the_lengths_themselves_are_tried_before_they_are_promised() -> None:
    def truncating(prompt: str) -> int:
        return min(2048, count_words(prompt))

    assert filler(Context(count_tokens=truncating), Lengths.parse("100-2000")).exact
    with pytest.raises(UsageError, match="a prompt of 2048 tokens, 3000 were expected"):
        filler(Context(count_tokens=truncating), Lengths.parse("100-3000"))


def test_ids_need_a_tokenizer_that_tells_words_apart() -> None:
    with pytest.raises(UsageError, match="150 common words are 1 different tokens"):
        filler(Context(endpoint_type="completions", encode=lambda text: [7]), ANY)
