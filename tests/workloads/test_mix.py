"""Mixes keep their weights, phases keep their order, and neither repeats a prompt of another scenario."""

from collections import Counter
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads.mix import Mix, Ordered
from vllm_locust.workloads.scenario import Scenario
from vllm_locust.workloads.text import TextProfile


def profile(name: str) -> TextProfile:
    return TextProfile(name, f"profile_{name}", repetitions=1, max_tokens=1)


A, B, C = profile("a"), profile("b"), profile("c")


@settings(max_examples=10)
@given(st.lists(st.floats(0.5, 100), min_size=1, max_size=6), st.integers())
def test_shares_follow_the_weights(weights: list[float], seed: int) -> None:
    mix = Mix("m", [(weight, profile(f"p{n}")) for n, weight in enumerate(weights)])
    draws = 500
    counts = Counter(mix.request(seed, index).scenario for index in range(draws))
    for n, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[f"m.p{n}"] - draws * share) <= 6 * sqrt(draws * share * (1 - share)) + 1


def test_ten_thousand_draws_are_within_binomial_bounds() -> None:
    mix = Mix("m", [(70, A), (20, B), (10, C)])
    counts = Counter(mix.request(1, index).profile for index in range(10_000))
    for name, share in (("a", 0.7), ("b", 0.2), ("c", 0.1)):
        assert abs(counts[f"profile_{name}"] - 10_000 * share) < 4 * sqrt(10_000 * share * (1 - share))


def test_the_choice_depends_on_seed_and_index_alone() -> None:
    forwards = [Mix("m", [(1, A), (1, B)]).request(5, index) for index in range(200)]
    mix = Mix("m", [(1, A), (1, B)])
    backwards = [mix.request(5, index) for index in reversed(range(200))]
    assert forwards == backwards[::-1]
    assert [request.index for request in forwards] == list(range(200))


def test_phases_come_one_after_another_under_their_full_names() -> None:
    ordered = Ordered("all", [A, Ordered("in", [B, C]), Mix("m", [(1, A), (1, B)])])
    assert [phase.name for phase in ordered.phases] == ["all.a", "all.in.b", "all.in.c", "all.m"]
    assert ordered.phases[2].request(1, 9).scenario == "all.in.c"
    assert ordered.phases[3].request(1, 9).scenario in ("all.m.a", "all.m.b")
    assert [phase.phases for phase in ordered.phases] == [(phase,) for phase in ordered.phases]


def test_plain_scenarios_and_mixes_are_their_own_phase() -> None:
    mix = Mix("m", [(1, A)])
    for scenario in (A, mix):
        assert list(scenario.phases) == [scenario]


def test_asked_as_a_whole_phases_take_turns() -> None:
    ordered = Ordered("o", [A, B])
    planned = [ordered.request(1, index) for index in range(4)]
    assert [request.scenario for request in planned] == ["o.a", "o.b", "o.a", "o.b"]
    assert [request.index for request in planned] == [0, 1, 2, 3]
    assert planned[2] == ordered.phases[0].request(1, 2)


def test_the_same_member_in_two_groups_has_different_prompts() -> None:
    scenarios: list[Scenario] = [A, Ordered("o", [A]), Ordered("p", [A]), Mix("m", [(1, A)])]
    prompts = [scenario.request(1, index).prompt[:16] for scenario in scenarios for index in range(500)]
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match=f"mix m: the weight of b is {weight}, it must be greater than 0"):
        Mix("m", [(1, A), (weight, B)])


def test_all_wrong_weights_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Mix("m", [(0, A), (-2, B)])
    assert len(caught.value.problems) == 2


def test_empty_and_ambiguous_groups_are_refused() -> None:
    for empty in (lambda: Mix("m", []), lambda: Ordered("m", [])):
        with pytest.raises(UsageError, match="scenario m has no members"):
            empty()
    with pytest.raises(UsageError, match="two members of the name a"):
        Mix("m", [(1, A), (2, A)])
