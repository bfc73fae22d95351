"""Runs for tests: their records folded whole, and the same cut into the deltas that an observer gets."""

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgpack

from tests.core.made_records import an_ok
from vllm_locust.core.record import DROPPED, TIMEOUT, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.server import GAUGES, EngineState, GpuState, ServerSample
from vllm_locust.observe.live import Identity, LiveRun

BEGAN_S = 1000.0
GOODPUT_MS = {"ttft": 60.0, "tpot": 30.0}


def identity(**more: Any) -> Identity:
    given = {"run": "r1", "scenario": "tiny", "model": "m", "host": "http://h:1", "began_s": BEGAN_S}
    return Identity(**(given | more))


def whole_and_deltas(
    made: Iterable[RequestRecord],
    cuts: Iterable[int],
    warmups_s: Sequence[float] = (0.0, 0.0),
    closed_s: Sequence[float] = (1e9, 1e9),
) -> tuple[Recording, list[Mapping[str, Any]]]:
    """One recording, and deltas cut behind these records, one per phase and profile as they are shipped.

    Phases begin with the run; `closed_s` is when the load of each ends.
    """
    shipped_after = set(cuts)
    whole, part, parts = Recording(), Recording(), []
    for i, record in enumerate(sorted(made, key=lambda record: record.ended_s)):
        for recording in (whole, part):
            for phase, (warmup_s, close_s) in enumerate(zip(warmups_s, closed_s, strict=True)):
                recording.begin_phase(phase, 0.0, warmup_s)
                if record.ended_s > close_s:
                    recording.close_phase(phase, close_s)
            recording.add(record)
        if i in shipped_after:
            parts.append(part)
            part = part.successor()
    deltas = [each.to_dict() for one in [*parts, part] for each in one.split()]
    return whole, [msgpack.loads(msgpack.dumps(delta), strict_map_key=False) for delta in deltas]


def delta_of(*made: RequestRecord) -> Mapping[str, Any]:
    """One delta without any warm-up."""
    recording = Recording()
    for record in made:
        recording.add(record)
    return recording.to_dict()


def requests(count: int, rng: Random, profiles: Sequence[str] = ("a", "b")) -> list[RequestRecord]:
    """Requests of one phase, 20 a second: most are fine, some failed, some were never sent."""
    made = []
    for i in range(count):
        sent_s = i / 20
        profile = rng.choice(profiles)
        if i % 17 == 5:
            made.append(an_ok(sent_s, sent_s + 1.0, outcome=TIMEOUT, profile=profile, lags_s=[0.001]))
            continue
        if i % 50 == 7:
            made.append(RequestRecord(i, "s", profile, DROPPED, sent_s, ended_s=sent_s))
            continue
        arrivals_s = [sent_s + rng.lognormvariate(-3, 0.5)]
        for _ in range(rng.choice([0, 1, 5, 20])):
            arrivals_s.append(arrivals_s[-1] + rng.lognormvariate(-4, 0.7))
        made.append(
            an_ok(
                sent_s,
                arrivals_s[-1] + 0.001,
                arrivals_s=arrivals_s,
                intended_s=sent_s - rng.choice([0.0, 0.002]),
                profile=profile,
                bounds_s=[rng.choice([0.0, 0.0005]) for _ in arrivals_s],
                lags_s=[rng.lognormvariate(-8, 1) for _ in arrivals_s],
            )
        )
    return made


def a_run(made: Sequence[RequestRecord], parts: int = 7, **more: Any) -> tuple[Recording, LiveRun]:
    """The records in one recording and, in so many parts, in a live run of one phase."""
    live = LiveRun(identity(**more))
    live.begin_phase(0, "tiny, 8 users", 8, "users", at_s=0.0, of=1)
    whole, deltas = whole_and_deltas(made, range(0, len(made), max(len(made) // parts, 1)))
    for delta in deltas:
        live.add(delta)
    return whole, live


def engine(name: str = "0", histograms: Mapping[str, Any] | None = None, **values: float) -> EngineState:
    """An engine's state; what is no gauge counts."""
    gauges = {key: value for key, value in values.items() if key in GAUGES}
    counters = {key: value for key, value in values.items() if key not in gauges}
    return EngineState(name, "m", gauges, counters, histograms or {})


def a_sample(
    *engines: EngineState, at_s: float = 0.0, source: str = "h:1", gpus: Sequence[GpuState] = ()
) -> ServerSample:
    return ServerSample(source, at_s, engines, tuple(gpus))
