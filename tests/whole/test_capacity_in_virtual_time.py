"""The capacity search against the truth: a simulated server in virtual time, searched quickly, run for long.

The truth of a level is a run of 300 s at it. An answer counts as right when it lies within 1 user, or within
a tenth of the rate, of the largest level up to which the truth meets: that is the search's own resolution (1
user, 5 %) and as much again, because the shares of neighbouring levels differ by less than what a probe of a
minute can tell (98.7 and 99.3 % inside where 99 % are needed, from the worth of 300 to 700 independent
requests).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import pytest

from vllm_locust.core.evidence import collapsed, conclude, weigh
from vllm_locust.core.group import Group
from vllm_locust.core.record import OK, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.search import Answer, CapacitySearch, Probe
from vllm_locust.core.slo import Slo, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize
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


Run = tuple[Group, Mapping[str, Any]]


@dataclass
class Driver:
    """Puts a load on an engine and records it as a load generator would; time is a number it adds to."""

    seed: int
    closed: bool
    """A loop of users without think time, or requests at random times with a rate."""
    now: float = 0.0
    virtual_s: float = 0.0
    looks: int = 0
    engine: Engine = field(default_factory=lambda: Engine(COST, LIMITS))
    in_flight: dict[Request, tuple[float, list[float]]] = field(default_factory=dict)
    submitted: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    def probe(self, level: float, slos: Sequence[Slo]) -> Probe:
        """One probe of a search: ended as soon as the evidence decides, or after `PROBE_S`."""
        recording = Recording()
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
        for _ in range(int(level) if self.closed else 0):
            self.submit(self.now)
        while self.now < end:
            while arrival <= self.now:
                self.submit(arrival)
                arrival += self.random.expovariate(level)
            ended = self.step(recording)
            if ended is None:
                self.now = min(arrival, end)
            for _ in range(ended or 0) if self.closed else ():
                self.submit(self.now)
            if slos and self.now >= look:
                look += 1
                self.looks += 1
                if weigh(slos, recording.phase(0)).outcome != "open":
                    break
        recording.close_phase(0, self.now)

    def drain(self, recording: Recording) -> None:
        while self.step(recording) is not None:
            pass

    def submit(self, intended_s: float) -> None:
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
        self.now += step.duration_s
        ended = 0
        for request in self.engine.finish(step, self.now):
            self.in_flight[request][1].append(self.now)
            if request.outcome is not None:
                self.record(request, recording)
                ended += 1
        return ended

    def record(self, request: Request, recording: Recording) -> None:
        intended_s, arrivals_s = self.in_flight.pop(request)
        recording.add(
            RequestRecord(
                index=int(request.id),
                scenario="s",
                profile="p",
                outcome=OK,
                intended_s=intended_s,
                sent_s=request.arrival_s,
                first_token_s=arrivals_s[0],
                last_token_s=arrivals_s[-1],
                ended_s=arrivals_s[-1],
                prompt_tokens=len(request.prompt_ids),
                output_tokens=len(arrivals_s),
                arrivals_s=arrivals_s,
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


def true_capacity(closed: bool, slos: Sequence[Slo]) -> float:
    """The level before the first one that misses."""
    met = None
    for level in range(9, 20) if closed else [17 + 0.5 * i for i in range(14)]:
        if conclude(slos, *long_run(closed, level)).outcome == "missed":
            break
        met = level
    assert met is not None, "the levels do not straddle the truth"
    return met


def parsed(*texts: str) -> tuple[Slo, ...]:
    return tuple(map(parse_slo, texts))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "slos", [parsed("p99_ttft_ms<150", "p99_tpot_ms<60"), parsed("p95_tpot_ms<50")], ids=str
)
def test_the_largest_number_of_users_is_found(slos, seed):
    driver = Driver(seed, closed=True)
    answer = found(driver, slos)
    assert answer.ended == "narrowed"
    assert answer.missed_at == answer.level + 1
    assert abs(answer.level - true_capacity(True, slos)) <= 1
    assert len(answer.probes) <= 20
    assert answer.broke_first[0].slo.key.endswith("tpot_ms")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "slos", [parsed("p99_ttft_ms<150", "p99_tpot_ms<60"), parsed("p95_tpot_ms<50")], ids=str
)
def test_the_largest_rate_is_found(slos, seed):
    driver = Driver(seed, closed=False)
    answer = found(driver, slos, start=4)
    assert answer.ended == "narrowed"
    assert answer.level < answer.missed_at <= 1.05 * answer.level
    assert answer.level == pytest.approx(true_capacity(False, slos), rel=0.1)
    assert len(answer.probes) <= 25


@pytest.mark.parametrize("seed", range(2))
def test_a_maximum_is_as_true_as_its_probes_are_long(seed):
    """The longer one looks the larger the maximum: the truth is here what runs as long as a probe say."""
    slos = parsed("max_e2el_ms<900")
    answer = found(Driver(seed, closed=True), slos)
    driver = Driver(98, closed=True)

    def misses_of_four(level: float) -> int:
        runs = [driver.run(level, PROBE_S) for _ in range(4)]
        return sum(conclude(slos, *run).outcome == "missed" for run in runs)

    assert misses_of_four(answer.level - 2) == 0
    assert misses_of_four(answer.level - 1) < 4
    assert misses_of_four(answer.missed_at) > 0


def test_all_objectives_are_searched_at_once_and_the_first_to_break_is_named():
    slos = parsed("p50_ttft_ms<5000", "mean_e2el_ms<5000", "failed==0", "max_e2el_ms<700", "p90_itl_ms<90")
    answer = found(Driver(1, closed=True), slos, start=4, limit=64)
    assert 6 <= answer.level <= 11
    assert [finding.slo.key for finding in answer.broke_first] == ["max_e2el_ms"]


def test_a_clear_miss_ends_a_probe_at_the_first_look():
    driver = Driver(1, closed=True)
    probe = driver.probe(40, parsed("p99_ttft_ms<150", "p99_tpot_ms<60"))
    assert (probe.outcome, probe.evidence.close) == ("missed", False)
    assert probe.seconds < FIRST_LOOK_S + 1
    assert driver.looks == 1


def test_a_clear_hit_ends_a_probe_long_before_its_time():
    probe = Driver(1, closed=True).probe(8, parsed("p95_tpot_ms<60"))
    assert (probe.outcome, probe.evidence.close) == ("met", False)
    assert probe.seconds < PROBE_S / 2


def test_quick_moments_of_an_overload_do_not_pass_for_its_truth():
    """At a rate where 91 % of requests are inside and 95 % are needed, few probes are sure that it is met."""
    driver, slos = Driver(3, closed=False), parsed("p95_tpot_ms<50")
    (long,) = conclude(slos, *long_run(False, 22.0)).findings
    assert 0.88 < long.share < 0.93
    wrong = [probe for probe in (driver.probe(22.0, slos) for _ in range(20)) if probe.outcome == "met"]
    assert sum(not probe.evidence.close for probe in wrong) <= 2
