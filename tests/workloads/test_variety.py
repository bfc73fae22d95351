"""What differs between requests beside their texts: shares as asked for, pure draws, whole conversations."""

from collections import Counter

import pytest

from tests.workloads.contexts import context
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import FollowUp, PlannedRequest, Scenario
from vllm_locust.workloads.text import TextProfile
from vllm_locust.workloads.variety import Adapter, Variation, Varied

SHORT = TextProfile("ss", "short_short", repetitions=4, max_tokens=8, extra={"top_p": 0.9})
COUNT = 4_000


def requests(varied: Scenario, count: int = COUNT) -> list[PlannedRequest]:
    return [varied.request(1, index) for index in range(count)]


def test_a_share_of_the_requests_gets_further_fields_and_the_others_stay() -> None:
    hot = Variation(0.2, {"temperature": 1.2, "priority": 5}, Lengths.parse("100-200"))
    planned = requests(Varied(SHORT, [hot]))
    changed = [one for one in planned if one.extra != {"top_p": 0.9}]
    assert abs(len(changed) / COUNT - 0.2) < 0.03
    assert all(one.extra == {"top_p": 0.9, "temperature": 1.2, "priority": 5} for one in changed)
    assert {one.max_tokens for one in planned if one.extra == {"top_p": 0.9}} == {8}
    assert min(one.max_tokens for one in changed) >= 100
    assert planned[17].prompt == SHORT.request(1, 17).prompt


def test_variations_are_independent() -> None:
    both = Varied(SHORT, [Variation(0.5, {"a": 1}), Variation(0.5, {"b": 1})])
    counts = Counter(("a" in one.extra, "b" in one.extra) for one in requests(both))
    assert all(abs(count / COUNT - 0.25) < 0.04 for count in counts.values())
    assert len(counts) == 4


def test_adapters_are_drawn_by_weight_or_taken_in_turn() -> None:
    adapters = [Adapter("law", 3.0), Adapter("medicine", 1.0)]
    drawn = Counter(one.extra["model"] for one in requests(Varied(SHORT, adapters=adapters)))
    assert abs(drawn["law"] / COUNT - 0.75) < 0.03
    in_turn = Varied(SHORT, adapters=[Adapter("law"), Adapter("medicine")], in_turn=True)
    assert [one.extra["model"] for one in requests(in_turn, 4)] == ["law", "medicine"] * 2


def test_phases_keep_their_names_and_their_requests() -> None:
    tiny = catalogue.load("tiny", context())
    varied = Varied(tiny, [Variation(1.0, {"priority": 1})])
    assert [phase.name for phase in varied.phases] == [phase.name for phase in tiny.phases]
    one, other = varied.phases[2].request(5, 9), tiny.phases[2].request(5, 9)
    assert (one.prompt, one.scenario, one.extra) == (other.prompt, other.scenario, {"priority": 1})


class TwoTurns:
    """A conversation of two turns."""

    name = "two"

    @property
    def phases(self) -> list[Scenario]:
        return [self]

    def request(self, seed: int, index: int) -> PlannedRequest:
        second = PlannedRequest(index, "two", "turn_2", prompt="and?", max_tokens=5, turn=2)
        return PlannedRequest(
            index, "two", "turn_1", prompt="so?", max_tokens=5, then=lambda answer: FollowUp(1.0, second)
        )


@pytest.mark.parametrize("index", range(20))
def test_a_conversation_gets_the_same_in_all_its_turns(index: int) -> None:
    varied = Varied(TwoTurns(), [Variation(0.5, {"priority": 9})], [Adapter("law"), Adapter("medicine")])
    first = varied.request(1, index)
    assert first.then is not None
    following = first.then("so it is")
    assert following is not None
    assert following.pause_s == 1.0
    assert following.request.extra == first.extra
    assert following.request.turn == 2


def test_primers_are_sent_to_every_adapter() -> None:
    prefix = catalogue.load("prefix", context(prefixes="3"))
    assert len(list(Varied(prefix, adapters=[Adapter("law"), Adapter("medicine")]).primers(1))) == 6
    assert len(list(Varied(prefix, [Variation(0.5, {"a": 1})]).primers(1))) == 3
