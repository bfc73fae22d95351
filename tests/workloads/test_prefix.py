"""Prompts that share prefixes: as long as promised, as popular as asked, and the hits known beforehand."""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import chisquare

from tests.locust_command import assert_ended_well, run_locust, simulator
from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prefix import SharedPrefix, shared_prefix
from vllm_locust.workloads.scenario import Context, CountTokens, primers_of

BLOCK = 16


def count_words(prompt: str) -> int:
    return 5 + len(prompt.split())


def encode_words(text: str) -> list[int]:
    return [len(word) + 31 * ord(word[0]) + 977 * ord(word[-1]) for word in text.split()]


IDS = Context(endpoint_type="completions", encode=encode_words)
WORDS = Context(count_tokens=count_words)


def scenario(context: Context = IDS, **changed: Any) -> SharedPrefix:
    usual: dict[str, Any] = {
        "prefix_len": 100,
        "input_len": Lengths.parse("20-40"),
        "output_len": Lengths.parse(8),
        "prefixes": 4,
        "popularity": "uniform",
    }
    return shared_prefix("prefix", context, **{**usual, **changed})


def tokens(prompt: str | Sequence[int]) -> Sequence[Any]:
    return prompt.split() if isinstance(prompt, str) else prompt


def alike(one: str | Sequence[int], other: str | Sequence[int]) -> int:
    """How many tokens two prompts have in common from their beginning on."""
    pairs = zip(tokens(one), tokens(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.mark.parametrize(("popularity", "s"), [("zipf:1.0", 1.0), ("zipf:0.5", 0.5), ("uniform", 0.0)])
def test_prefixes_are_drawn_as_popular_as_asked(popularity: str, s: float) -> None:
    made, draws, prefixes = scenario(prefixes=8, popularity=popularity), 8_000, 8
    counts = Counter(made.rank(3, index) for index in range(draws))
    weights = [1 / rank**s for rank in range(1, prefixes + 1)]
    expected = [draws * weight / sum(weights) for weight in weights]
    assert chisquare([counts[rank] for rank in range(prefixes)], expected).pvalue > 0.01


def test_another_exponent_would_have_been_noticed() -> None:
    made, draws = scenario(prefixes=8, popularity="zipf:1.0"), 8_000
    counts = Counter(made.rank(3, index) for index in range(draws))
    weights = [1 / rank**1.1 for rank in range(1, 9)]
    expected = [draws * weight / sum(weights) for weight in weights]
    assert chisquare([counts[rank] for rank in range(8)], expected).pvalue < 1e-4


# Around words stand the five tokens of a template, of which `Words:` is none of the split ones: 1 + 94.
@pytest.mark.parametrize(("context", "prefix_tokens"), [(IDS, 100), (WORDS, 95)], ids=["ids", "words"])
def test_what_two_prompts_share_is_their_prefix(context: Context, prefix_tokens: int) -> None:
    made = scenario(context)
    planned = [made.request(1, index) for index in range(60)]
    assert {made.rank(1, index) for index in range(60)} == {0, 1, 2, 3}
    for one in range(60):
        for other in range(one):
            common = alike(planned[one].prompt, planned[other].prompt)
            if made.rank(1, one) == made.rank(1, other):
                # The rest may begin with the same word by chance.
                assert prefix_tokens <= common < prefix_tokens + 4
            else:
                assert common < 5


@pytest.mark.parametrize("context", [IDS, WORDS], ids=["ids", "words"])
def test_prompts_are_as_long_as_promised(context: Context) -> None:
    made = scenario(context)
    for index in range(100):
        planned = made.request(1, index)
        promised = planned.prompt_tokens
        assert promised == 100 + made.input_len.at("prefix", 1, index, "input_len")
        assert promised == (
            count_words(planned.prompt) if isinstance(planned.prompt, str) else len(planned.prompt)
        )
        assert (planned.max_tokens, planned.profile, planned.scenario) == (8, "prefix", "prefix")


def test_lengths_hold_for_tokenizers_of_every_family(toy_counter: CountTokens) -> None:
    made = scenario(Context(count_tokens=toy_counter))
    for index in range(50):
        planned = made.request(1, index)
        assert isinstance(planned.prompt, str)
        assert toy_counter(planned.prompt) == planned.prompt_tokens


def test_where_nobody_counts_no_length_is_promised() -> None:
    planned = scenario(Context()).request(1, 0)
    assert planned.prompt_tokens is None
    assert 100 < len(tokens(planned.prompt)) < 140


def test_plans_depend_on_seed_and_index_alone() -> None:
    forwards = [scenario().request(5, index) for index in range(100)]
    backwards = [scenario().request(5, index) for index in reversed(range(100))]
    assert forwards == backwards[::-1]
    other = {tuple(scenario().request(6, index).prompt[:5]) for index in range(100)}
    assert len(other) == 4
    assert not other & {tuple(planned.prompt[:5]) for planned in forwards}


def test_primers_hold_each_prefix_once_and_a_rest_of_their_own() -> None:
    made = scenario(popularity="zipf:2")
    primers = list(primers_of(made, 1))
    assert [primer.max_tokens for primer in primers] == [1] * 4
    assert {len(primer.prompt) for primer in primers} == {120}
    for index in range(100):
        planned = made.request(1, index)
        shared = [alike(primer.prompt, planned.prompt) for primer in primers]
        # The most popular one comes last.
        assert [n for n, common in enumerate(shared) if common >= 100] == [3 - made.rank(1, index)]
        assert max(shared) < 104


def test_hits_by_hand() -> None:
    made = scenario(prefixes=3, prefix_len=100)
    indices = range(12)
    ranks = [made.rank(9, index) for index in indices]
    by_hand = [96 if rank in ranks[:place] else 0 for place, rank in enumerate(ranks)]
    assert by_hand.count(0) == 3  # six whole blocks of 16 for all but the first of each
    assert made.shared_tokens(9, indices, 16) == by_hand
    assert made.shared_tokens(9, indices, 128) == [0] * 12
    assert made.shared_tokens(9, indices, 100, warm=True) == [100] * 12


def test_hits_against_a_cache_of_blocks() -> None:
    """The naive way: remember every block of every prompt, together with all before it."""
    made = scenario(prefixes=5, popularity="zipf:1.0", prefix_len=70)
    cache: set[tuple[int, ...]] = set()
    hits = []
    for index in range(80):
        ids = tuple(made.request(2, index).prompt)
        ends = range(BLOCK, len(ids), BLOCK)
        hits.append(sum(BLOCK for end in ends if ids[:end] in cache))
        cache.update(ids[:end] for end in ends)
    assert made.shared_tokens(2, range(80), BLOCK) == hits


def test_the_users_options() -> None:
    given = Context(
        endpoint_type="completions",
        encode=encode_words,
        input_len=Lengths.parse(30),
        max_tokens=Lengths.parse(3),
        parameters={"prefix_len": "200", "prefixes": "1", "output_len": "5"},
    )
    planned = catalogue.load("prefix", given).request(1, 0)
    assert (len(planned.prompt), planned.prompt_tokens, planned.max_tokens) == (230, 230, 3)
    usual = catalogue.load("prefix", IDS).request(1, 0)
    assert (usual.prompt_tokens, usual.max_tokens) == (512 + 128, 64)


@pytest.mark.parametrize(
    "popularity", ["zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:nan", "zipf:inf", "Uniform", ""]
)
def test_other_popularities_are_refused(popularity: str) -> None:
    with pytest.raises(UsageError, match=r"popularity is .*, allowed is uniform or zipf:S"):
        scenario(popularity=popularity)


def test_what_is_too_short_is_refused() -> None:
    with pytest.raises(UsageError, match="input_len is 11-40, it must be at least 12 tokens"):
        scenario(input_len=Lengths.parse("11-40"))
    with pytest.raises(UsageError, match="a prompt of 10 tokens is too short"):
        scenario(WORDS, prefix_len=10)


@pytest.mark.parametrize("endpoint_type", ["completions", "chat"])
def test_a_server_has_the_tokens_that_were_expected(tmp_path: Path, endpoint_type: str) -> None:
    """One user, so that every earlier prompt is in the cache."""
    with simulator(tmp_path, "--enable-prompt-tokens-details", "--block-size", "16") as server:
        outcome = run_locust(
            "--headless", "-u", "1", "-r", "1", "--host", server.url, "--only-summary",
            "--scenario", "prefix", "--endpoint-type", endpoint_type, "--num-prompts", "40",
            "--set", "prefix_len=200", "--set", "prefixes=5", "--set", "output_len=2",
            folder=tmp_path / "results",
        )  # fmt: skip
    assert_ended_well(outcome)
    expected = scenario(
        prefix_len=200, prefixes=5, popularity="zipf:1.0", input_len=Lengths.parse(128)
    ).shared_tokens(1, range(40), 16)
    assert expected.count(0) == 5
    requests = sorted(outcome.requests, key=lambda request: request["index"])
    assert {request["prompt_tokens"] for request in requests} == {328}
    cached = [request["cached_tokens"] for request in requests]
    if endpoint_type == "completions":
        assert cached == expected
    else:  # the template begins every prompt, and what it puts behind the text counts as prefix
        assert all(abs(have - want) <= 16 for have, want in zip(cached, expected, strict=True))
