"""Conversations: what stands in each turn, for how long people think, and where a conversation ends."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import median, pstdev
from typing import Any

import orjson
import pytest

from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.conversation import SMALL_DATASET, Conversations
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.mix import Mix
from vllm_locust.workloads.scenario import Context, PlannedRequest, Scenario

LONG = [[(f"question {n} of {k}", f"answer {n} of {k}") for n in range(1, 11)] for k in range(5)]


def count_words(text: str) -> int:
    return len(text.split())


def talks(store: Sequence[Sequence[tuple[str, str]]] = LONG, **options: Any) -> Conversations:
    """As they were written."""
    return Conversations("c", store, **{"count_text": count_words, "salted": False, **options})


def all_turns(first: PlannedRequest, answer: str = "I say {turn}.") -> list[PlannedRequest]:
    """A whole conversation, with these answers of the server's."""
    turns = [first]
    while turns[-1].then and (following := turns[-1].then(answer.format(turn=turns[-1].turn))):
        turns.append(following.request)
    return turns


def pauses(scenario: Conversations, seed: int, indices: range) -> Iterator[float]:
    for index in indices:
        planned = scenario.request(seed, index)
        while planned.then and (following := planned.then("")):
            yield following.pause_s
            planned = following.request


def contents(planned: PlannedRequest) -> list[str]:
    assert planned.messages is not None
    return [message["content"] for message in planned.messages]


def test_each_turn_stands_behind_all_that_was_really_said() -> None:
    turns = all_turns(talks(turns=3).request(1, 0))
    asked = [planned.prompt for planned in turns]
    assert [planned.turn for planned in turns] == [1, 2, 3]
    assert [contents(planned) for planned in turns] == [
        [asked[0]],
        [asked[0], "I say 1.", asked[1]],
        [asked[0], "I say 1.", asked[1], "I say 2.", asked[2]],
    ]
    roles = [message["role"] for message in turns[2].messages or ()]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    of = asked[0][-1]
    assert asked == [f"question {n} of {of}" for n in (1, 2, 3)]
    assert {planned.index for planned in turns} == {0}


def test_a_recorded_history_is_the_same_whatever_the_server_says() -> None:
    scenario = talks(history="recorded", turns=3)
    turns = all_turns(scenario.request(1, 2))
    assert turns == all_turns(scenario.request(1, 2), answer="something else")
    of = contents(turns[0])[0][-1]
    assert contents(turns[2])[1::2] == [f"answer {n} of {of}" for n in (1, 2)]


def test_only_the_answers_of_the_server_are_not_planned() -> None:
    scenario = talks()
    one, other = all_turns(scenario.request(1, 0)), all_turns(scenario.request(1, 0), answer="no")
    assert [contents(planned)[::2] for planned in one] == [contents(planned)[::2] for planned in other]
    assert list(pauses(scenario, 1, range(3))) == list(pauses(scenario, 1, range(3)))


def test_profiles_tell_the_turns_apart_as_long_as_there_are_many() -> None:
    turns = all_turns(talks(turns=10).request(1, 0))
    expected = [*(f"turn_{n}" for n in range(1, 8)), "turn_8+", "turn_8+", "turn_8+"]
    assert [planned.profile for planned in turns] == expected
    assert len(all_turns(talks().request(1, 0))) == 8
    assert len(all_turns(talks(turns=1).request(1, 0))) == 1


def test_thinking_times_are_lognormal_around_their_median() -> None:
    logs = [math.log(pause_s / 3.0) for pause_s in pauses(talks(think_s=3.0), 1, range(300))]
    assert len(logs) == 300 * 7
    # The standard errors of both are 0.8 * sqrt(pi / 2 / 2100) = 0.022 and 0.8 / sqrt(2 * 2100) = 0.012.
    assert abs(median(logs)) < 0.09
    assert abs(pstdev(logs) - 0.8) < 0.05
    assert set(pauses(talks(think_s=0.0), 1, range(5))) == {0.0}


def test_answers_are_as_long_as_recorded_or_as_asked_for() -> None:
    store = [[("a b", "one two three"), ("c", "four"), ("d e f", " ")]]
    turns = all_turns(talks(store).request(1, 0))
    assert [planned.max_tokens for planned in turns] == [3, 1, 1]
    asked = talks(output_len=Lengths.parse("20-40"))
    drawn = [planned.max_tokens for index in range(40) for planned in all_turns(asked.request(1, index))]
    assert min(drawn) >= 20
    assert max(drawn) <= 40
    assert len(set(drawn)) > 15


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, [4 + 6, 10 + 3 + 4, 17 + 6 + 1]),
        ({"output_len": Lengths.parse(9)}, [4 + 9, 13 + 3 + 9, 25 + 6 + 9]),
        # What the last answer is to have is asked for, those before it are as long as they were written.
        ({"output_len": Lengths.parse(9), "history": "recorded"}, [4 + 9, 4 + 6 + 3 + 9, 10 + 3 + 4 + 6 + 9]),
    ],
)
def test_a_conversation_ends_before_it_is_too_long(options: dict[str, Any], lengths: list[int]) -> None:
    store = [[("a b c d", "1 2 3 4 5 6"), ("a b c", "1 2 3 4"), ("a b c d e f", "1")]]
    for turns, length in enumerate(lengths, 1):
        fitting = talks(store, max_context=length, **options)
        assert len(all_turns(fitting.request(1, 0), answer="any")) == turns
        if turns > 1:
            shorter = talks(store, max_context=length - 1, **options)
            assert len(all_turns(shorter.request(1, 0), answer="any")) == turns - 1


def test_one_that_is_too_long_from_the_start_gives_way_to_another() -> None:
    store = [[("short " * 3, "a")], [("long " * 50, "a")], [("short " * 4, "a")]]
    prompts = [str(talks(store, max_context=10).request(1, index).prompt) for index in range(6)]
    assert len(set(prompts)) == 6
    assert all("short" in prompt for prompt in prompts)
    assert sum(prompt.startswith("short") for prompt in prompts) == 2, "the others have a salt"
    with pytest.raises(UsageError, match="each of its 3 conversations is longer than max_context=3 tokens"):
        talks(store, max_context=3).request(1, 0)


def test_conversations_have_nothing_in_common_with_any_other_of_this_run_or_another() -> None:
    scenario = talks(salted=True, history="recorded", turns=3)
    runs = [[all_turns(scenario.request(seed, index)) for index in range(15)] for seed in (1, 2)]
    began = [turns[0].prompt for run in runs for turns in run]
    assert len({str(prompt)[:10] for prompt in began}) == 30
    for run in runs:
        for turns in run:
            assert all(str(turns[0].prompt) == contents(later)[0] for later in turns), "but among its turns"
            assert all(str(later.prompt).startswith("question") for later in turns[1:])


def test_each_conversation_comes_once_a_pass_and_later_ones_are_salted() -> None:
    scenario = talks()
    first, second = ([str(scenario.request(7, n + p).prompt) for n in range(5)] for p in (0, 5))
    assert sorted(first) == [f"question 1 of {k}" for k in range(5)]
    assert sorted(prompt.partition(": ")[2] for prompt in second) == sorted(first)
    assert len({prompt.partition(": ")[0] for prompt in second}) == 5
    assert contents(all_turns(scenario.request(7, 6))[1])[0].endswith("of " + second[1][-1])


def test_a_mix_names_the_turns_behind_the_first_too() -> None:
    mix: Scenario = Mix("m", [(1, talks(turns=2))])
    assert [planned.scenario for planned in all_turns(mix.request(1, 0))] == ["m.c", "m.c"]


def test_the_small_data_set_has_conversations_of_two_to_six_turns() -> None:
    rows = orjson.loads(SMALL_DATASET.read_bytes())
    scenario = catalogue.load("conversation", Context())
    lengths = [len(all_turns(scenario.request(1, index))) for index in range(len(rows))]
    assert len(rows) >= 30
    assert sorted(lengths) == sorted(len(row["conversations"]) // 2 for row in rows)
    assert set(lengths) == {2, 3, 4, 5, 6}


def test_parameters_reach_the_scenario() -> None:
    given = {"history": "recorded", "turns": "2", "think_s": "0", "max_context": "300"}
    context = Context(parameters=given, max_tokens=Lengths.parse(7), count_text=count_words)
    scenario = catalogue.load("conversation", context)
    assert isinstance(scenario, Conversations)
    assert replace(scenario, store=LONG, source=None, salted=True) == Conversations(
        "conversation", LONG, "recorded", 2, 0.0, 300, Lengths.parse(7), count_words
    )
    assert scenario.source["kept"] == len(scenario.store)


def test_all_that_does_not_go_with_conversations_is_said_at_once() -> None:
    context = Context(
        endpoint_type="completions", input_len=Lengths.parse(9), parameters={"history": "model's"}
    )
    with pytest.raises(UsageError) as caught:
        catalogue.load("conversation", context)
    problems = caught.value.problems
    assert len(problems) == 3
    assert "it needs --endpoint-type chat" in problems[0]
    assert problems[1].startswith("--input-len does not go with scenario conversation")
    assert problems[2].endswith("history of scenario conversation is server or recorded.")
