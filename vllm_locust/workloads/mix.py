"""Scenarios made of scenarios: a weighted mix, and phases one after another.

A member answers as MIX.MEMBER (`tiny.ss`) and with a seed of its own, derived from the mix's name, so that no
prompt of `tiny.ss` occurs in `ss` or in `huge.ss`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import isfinite

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import draw, pick
from vllm_locust.workloads.scenario import (
    Arrivals,
    PlannedRequest,
    Scenario,
    arrivals_of,
    primers_of,
    requests_of,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A scenario under the name of the one it belongs to."""

    group: str
    scenario: Scenario

    @property
    def name(self) -> str:
        return f"{self.group}.{self.scenario.name}"

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    @property
    def requests(self) -> int | None:
        return requests_of(self.scenario)

    @property
    def arrivals(self) -> Arrivals | None:
        return arrivals_of(self.scenario)

    def request(self, seed: int, index: int) -> PlannedRequest:
        return self.scenario.request(self._seed(seed), index).mapped(self._named)

    def primers(self, seed: int) -> Iterator[PlannedRequest]:
        return (planned.mapped(self._named) for planned in primers_of(self.scenario, self._seed(seed)))

    def _seed(self, seed: int) -> int:
        # 32 bits: a seed that every random generator of a user's own scenario accepts.
        return draw(self.group, seed) >> 32

    def _named(self, planned: PlannedRequest) -> PlannedRequest:
        return replace(planned, scenario=f"{self.group}.{planned.scenario}")


class Mix:
    """Each request comes from one of several scenarios, chosen by weight: `Mix("m", [(70, a), (30, b)])`.

    Which one answers index i is drawn from (name, seed, i). The member is asked for its request i, so that a
    member never repeats itself inside the mix.
    """

    def __init__(self, name: str, parts: Iterable[tuple[float, Scenario]]) -> None:
        parts = tuple(parts)
        wrong = [(weight, part.name) for weight, part in parts if not (weight > 0 and isfinite(weight))]
        if wrong:
            raise UsageError(
                *(
                    f"mix {name}: the weight of {part} is {weight}, it must be greater than 0"
                    for weight, part in wrong
                )
            )
        timed = [part.name for _, part in parts if arrivals_of(part) is not None]
        if timed:
            raise UsageError(f"mix {name}: {timed[0]} says when its requests are sent, it cannot be mixed")
        self.name = name
        self.members = _members(name, [part for _, part in parts])
        self._cumulative = tuple(accumulate(weight for weight, _ in parts))

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        return self.members[pick(self._cumulative, self.name, seed, index, "member")].request(seed, index)

    def primers(self, seed: int) -> Iterator[PlannedRequest]:
        return (planned for member in self.members for planned in member.primers(seed))


class Ordered:
    """Phases, one after another: `Ordered("tiny", [ss, sl])` has the phases `tiny.ss` and `tiny.sl`.

    Asked as a whole (as a member of a mix), it answers with its phases in turn.
    """

    def __init__(self, name: str, scenarios: Iterable[Scenario]) -> None:
        self.name = name
        self.members = _members(name, [phase for scenario in scenarios for phase in scenario.phases])

    @property
    def phases(self) -> Sequence[Scenario]:
        return self.members

    def request(self, seed: int, index: int) -> PlannedRequest:
        return self.members[index % len(self.members)].request(seed, index)


def _members(name: str, scenarios: Sequence[Scenario]) -> tuple[Member, ...]:
    if not scenarios:
        raise UsageError(f"scenario {name} has no members: it needs at least one")
    names = [scenario.name for scenario in scenarios]
    twice = sorted({member for member in names if names.count(member) > 1})
    if twice:
        raise UsageError(f"scenario {name} has two members of the name {', '.join(twice)}: name them apart")
    return tuple(Member(name, scenario) for scenario in scenarios)
