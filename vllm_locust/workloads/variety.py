"""Requests that differ in more than their texts: sampling parameters, priorities, LoRA adapters.

Rule: whatever a request gets is drawn from (seed, index), and a whole conversation gets the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from vllm_locust.workloads.draw import fraction, pick
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import (
    Arrivals,
    PlannedRequest,
    Scenario,
    arrivals_of,
    primers_of,
    requests_of,
)


@dataclass(frozen=True, slots=True)
class Variation:
    """A share of the requests that has further fields, and perhaps other lengths of answers."""

    share: float
    """0 < share <= 1."""
    fields: Mapping[str, Any]
    max_tokens: Lengths | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, by the name that the server has for it as a model."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Varied:
    """A scenario whose requests are varied, each variation independently of the others."""

    scenario: Scenario
    variations: Sequence[Variation] = ()
    adapters: Sequence[Adapter] = ()
    in_turn: bool = False
    """Adapters one after the other by the index of the request, rather than drawn by weight."""

    @property
    def name(self) -> str:
        return self.scenario.name

    @property
    def phases(self) -> Sequence[Scenario]:
        phases = self.scenario.phases
        return (self,) if len(phases) == 1 else [replace(self, scenario=phase) for phase in phases]

    @property
    def requests(self) -> int | None:
        return requests_of(self.scenario)

    @property
    def arrivals(self) -> Arrivals | None:
        return arrivals_of(self.scenario)

    def primers(self, seed: int) -> Iterator[PlannedRequest]:
        """Each adapter has a cache of its own, and needs all of them."""
        models = [{"model": adapter.name} for adapter in self.adapters] or [{}]
        for one in primers_of(self.scenario, seed):
            yield from (replace(one, extra={**one.extra, **model}) for model in models)

    def request(self, seed: int, index: int) -> PlannedRequest:
        fields: dict[str, Any] = {}
        lengths: Lengths | None = None
        for number, variation in enumerate(self.variations):
            if fraction("vary", number, seed, index) < variation.share:
                fields |= variation.fields
                lengths = variation.max_tokens or lengths
        if self.adapters:
            fields["model"] = self._adapter(seed, index).name

        def vary(planned: PlannedRequest) -> PlannedRequest:
            asked = lengths.at("vary", seed, index, planned.turn) if lengths else planned.max_tokens
            return replace(planned, extra={**planned.extra, **fields}, max_tokens=asked)

        return self.scenario.request(seed, index).mapped(vary)

    def _adapter(self, seed: int, index: int) -> Adapter:
        if self.in_turn:
            return self.adapters[index % len(self.adapters)]
        cumulative = list(accumulate(adapter.weight for adapter in self.adapters))
        return self.adapters[pick(cumulative, "adapter", seed, index)]
