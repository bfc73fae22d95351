"""A load on a simulated server in virtual time, recorded as a load generator would; and searches over it.

The truth of a level is a run of 300 s at it, on a server that nothing troubles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heappop, heappush
from random import Random
from typing import Any

from vllm_locust.core.collapse import collapsed
from vllm_locust.core.evidence import conclude, weigh
from vllm_locust.core.group import Group
from vllm_locust.core.record import CONNECT, OK, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.search import Answer, CapacitySearch, Probe
from vllm_locust.core.slo import Slo, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize
from vllm_locust.core.trials import limits_of
from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.engine import Engine, Request
from vllm_locust.simulator.limits import EngineLimits

# Coarse steps and short answers, so that a minute of virtual time passes in 30 ms.
COST = CostModel(base_s=0.020, prefill_token_s=1e-4, decode_seq_s=1e-3)
LIMITS = EngineLimits(
    max_model_len=4096,
    max_num_seqs=256,
    max_num_batched_tokens=512,
    num_gpu_blocks=4096,
    enable_prefix_caching=False,
)
SETTLE_S = 3.0
FIRST_LOOK_S = 5.0
PROBE_S = 60.0
LONG_S = 300.0
PAUSE_S = 0.2
"""After a refusal, as our users do."""


Run = tuple[Group, Mapping[str, Any]]


@dataclass(frozen=True)
class Trouble:
    """What may be wrong with a server or its client."""

    hiccups_at_s: Sequence[float] = ()
    """When it stands still."""
    hiccup_s: float = 2.0
    failing: int = 0
    """So many of the requests that were under way then fail."""
    outage_at_s: float = math.inf
    """When it begins to refuse connections."""
    outage_s: float = 2.0
    full_above: float = math.inf
    """With more requests in flight it refuses those that come."""
    slower_per_s: float = 0.0
    """By this share of its speed it becomes slower with every second."""
    island: Sequence[int] = ()
    """So many requests in flight make its steps half as long again."""
    blind_above: float = math.inf
    """With more requests in flight the client knows of each token only within 0.2 s when it came."""

    def end_of_step(self, now_s: float, duration_s: float, in_flight: int) -> float:
        duration_s *= (1.5 if in_flight in self.island else 1.0) * (1 + self.slower_per_s * now_s)
        stands = self.hiccup_between(now_s, now_s + duration_s)
        return now_s + duration_s + (self.hiccup_s if stands else 0.0)

    def hiccup_between(self, start_s: float, end_s: float) -> bool:
        return any(start_s <= at_s < end_s for at_s in self.hiccups_at_s)

    def refuses(self, now_s: float, in_flight: int) -> bool:
        return self.outage_at_s <= now_s < self.outage_at_s + self.outage_s or in_flight > self.full_above


@dataclass
class Driver:
    """Puts a load on an engine and records it as a load generator would; time is a number it adds to."""

    seed: int
    closed: bool
    """A loop of users without think time, or requests at random times with a rate."""
    trouble: Trouble = Trouble()
    now: float = 0.0
    virtual_s: float = 0.0
    looks: int = 0
    engine: Engine = field(default_factory=lambda: Engine(COST, LIMITS))
    in_flight: dict[Request, tuple[float, list[float]]] = field(default_factory=dict)
    submitted: int = 0
    failed: int = 0
    pauses_s: list[float] = field(default_factory=list)
    """When the users come back who were refused."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def probe(self, level: float, slos: Sequence[Slo]) -> Probe:
        """One probe of a search: ended as soon as the evidence decides, or after `PROBE_S`."""
        recording = Recording(limits=limits_of(slos))
        began = self.now
        self.load(level, PROBE_S, recording, slos)
        seconds = self.now - began - SETTLE_S
        self.virtual_s += self.now - began
        self.drain(recording)
        group = recording.phase(0)
        numbers = summarize(recording, percentiles=percentiles_of(slos))
        return Probe(
            level,
            conclude(slos, group, numbers),
            collapsed=collapsed(group),
            requests=group.completed,
            seconds=seconds,
            numbers={"request_throughput": numbers["request_throughput"]},
        )

    def run(self, level: float, seconds: float) -> Run:
        """A run at a level that nothing ends early."""
        recording = Recording()
        self.load(level, seconds, recording)
        self.drain(recording)
        return recording.phase(0), summarize(recording)

    def load(self, level: float, seconds: float, recording: Recording, slos: Sequence[Slo] = ()) -> None:
        """Settle, then go on for `seconds`, or until the evidence on `slos` decides."""
        recording.begin_phase(0, self.now, SETTLE_S)
        end = self.now + SETTLE_S + seconds
        look = self.now + SETTLE_S + FIRST_LOOK_S
        arrival = math.inf if self.closed else self.now + self.random.expovariate(level)
        self.pauses_s = [self.now] * (int(level) if self.closed else 0)
        while self.now < end:
            while arrival <= self.now:
                self.submit(arrival, recording)
                arrival += self.random.expovariate(level)
            while self.pauses_s and self.pauses_s[0] <= self.now:
                self.submit(heappop(self.pauses_s), recording)
            ended = self.step(recording)
            if ended is None:
                self.now = min(arrival, end, *self.pauses_s[:1])
            for _ in range(ended or 0) if self.closed else ():
                heappush(self.pauses_s, self.now)
            if slos and self.now >= look:
                look += 1
                self.looks += 1
                group = recording.phase(0)
                evidence = weigh(slos, group)
                if collapsed(group) or (evidence.outcome != "open" and evidence.hiccup is None):
                    break
        recording.close_phase(0, self.now)

    def drain(self, recording: Recording) -> None:
        while self.step(recording) is not None:
            pass

    def submit(self, intended_s: float, recording: Recording) -> None:
        if self.trouble.refuses(self.now, len(self.in_flight)):
            refused = RequestRecord(0, "s", "p", CONNECT, intended_s, ended_s=self.now, error="refused")
            recording.add(refused)
            if self.closed:
                heappush(self.pauses_s, self.now + PAUSE_S)
            return
        prompt, output = self.random.randint(20, 200), self.random.randint(4, 16)
        request = Request(str(self.submitted), range(prompt), range(output))
        self.submitted += 1
        self.engine.submit(request, self.now)
        self.in_flight[request] = (intended_s, [])

    def step(self, recording: Recording) -> int | None:
        """Play one step; how many requests ended, None when there was nothing to do."""
        step = self.engine.schedule(self.now)
        if step is None:
            return None
        self.now = self.trouble.end_of_step(self.now, step.duration_s, len(self.in_flight))
        ended = 0
        for request in self.engine.finish(step, self.now):
            self.in_flight[request][1].append(self.now)
            if request.outcome is not None:
                self.record(request, recording)
                ended += 1
        return ended

    def record(self, request: Request, recording: Recording) -> None:
        blind = len(self.in_flight) > self.trouble.blind_above
        intended_s, arrivals_s = self.in_flight.pop(request)
        stood = self.trouble.hiccup_between(request.arrival_s, self.now)
        fails = stood and self.failed < self.trouble.failing
        self.failed += fails
        recording.add(
            RequestRecord(
                index=int(request.id),
                scenario="s",
                profile="p",
                outcome="http_503" if fails else OK,
                intended_s=intended_s,
                sent_s=request.arrival_s,
                first_token_s=arrivals_s[0],
                last_token_s=arrivals_s[-1],
                ended_s=arrivals_s[-1],
                prompt_tokens=len(request.prompt_ids),
                output_tokens=len(arrivals_s),
                arrivals_s=arrivals_s,
                bounds_s=[0.2 if blind else 0.0] * len(arrivals_s),
            )
        )


def found(driver: Driver, slos: Sequence[Slo], **options: float) -> Answer:
    search = CapacitySearch(whole=driver.closed, **options)
    while (level := search.next_level()) is not None:
        search.take(driver.probe(level, slos))
    return search.answer


@cache
def long_run(closed: bool, level: float) -> Run:
    return Driver(seed=99, closed=closed).run(level, LONG_S)


def met_by_the_truth(closed: bool, level: float, slos: Sequence[Slo]) -> bool:
    """Whether a long run at this level, or at the half request a second nearest to it, meets."""
    return conclude(slos, *long_run(closed, round(2 * level) / 2)).outcome != "missed"


def parsed(*texts: str) -> tuple[Slo, ...]:
    return tuple(map(parse_slo, texts))
