"""The recording of a server: samples folded by phase as they come, so that a day's run takes no more memory.

Rule: the windows are those of `core.recording`. Without a warm-up a phase's window goes from its begin until
the next phase begins, or something else is asked before, so that it includes draining; with one from the end
of the warm-up to the close of its load. The window of the run is all of them together; what was before the
first phase is in none.

Counters and histograms are known only when somebody looks, so the growth between two looks at an engine
belongs, as a whole, to the phase whose window holds the middle of that time.
  - The first look at a source is where its engines begin to be counted: of windows that had begun by then
    nobody knows what was counted in all. An engine that appears later, or a counter (vLLM makes some when
    they are first needed), has grown from 0.
  - One that is smaller than before began anew with a restart: its value is the growth. A histogram did so
    when its count, a bucket or its sum is smaller, or its bounds are others.
  - Another process answers where the page tells another time of its start. One that was seen before is no
    restart: several servers take turns behind one address, as behind a load balancer, and what they tell is
    worth nothing. Where no start is told they do when counters fell twice, sooner than a vLLM starts.
  - While a source is away it is not looked at: what it grew meanwhile counts, by the middle of the gap.

A gauge holds its value until the next sample of its source, for 5 s at most, so that no absence is filled. At
each moment requests and throughputs are summed over the engines; of ratios (KV cache usage) the highest makes
the peak, and the mean over the engines the mean.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from vllm_locust.core.server import EngineState, GpuState, HistogramState, ServerSample
from vllm_locust.core.server_window import (
    Engine,
    Levels,
    LevelSums,
    Queue,
    ServerWindow,
    WindowSums,
    histogram_growth,
)

LONGEST_HOLD_S = 5.0

_SOONEST_START_S = 5.0
_FALLS = 2

_RATIOS = frozenset({"kv_cache_usage", "prefix_cache_hit_ratio"})


@dataclass(slots=True)
class _Phase:
    number: int
    begin_s: float
    start_s: float
    """The end of the warm-up."""
    warm: bool
    end_s: float = math.inf
    """Of the window, where it ends before the next phase begins."""
    sums: WindowSums = field(default_factory=WindowSums)

    def holds(self, at_s: float) -> bool:
        """Of a time before the next phase begins."""
        return self.start_s <= at_s <= self.end_s

    @property
    def borders_s(self) -> tuple[float, ...]:
        return self.begin_s, self.start_s, self.end_s


@dataclass(slots=True)
class _Counted:
    """The counters and histograms of one engine at the last look at it."""

    seen_s: float
    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, HistogramState] = field(default_factory=dict)


@dataclass(slots=True)
class _Source:
    """What a source said last."""

    name: str
    at_s: float
    until_s: float
    """Until when its gauges hold."""
    gauges: Mapping[Engine, Mapping[str, float]] = field(default_factory=dict)
    gpus: Mapping[str, GpuState] = field(default_factory=dict)
    counted: dict[tuple[str, str], _Counted] = field(default_factory=dict)
    started_s: float | None = None
    """When the process started that answered last."""
    youngest_s: float = -math.inf
    """When the youngest of all that answered did."""
    falls: int = 0
    """How often its counters fell sooner than a server starts."""
    several: bool = False
    """Servers take turns."""

    def is_another(self, engines: Sequence[EngineState]) -> bool:
        """Whether another process answers than the last time."""
        before_s, started_s = self.started_s, next((engine.started_s for engine in engines), None)
        if started_s is None or started_s == before_s:
            return False
        # Whoever comes after a restart is younger than all that were there before.
        self.several |= started_s < self.youngest_s
        self.started_s, self.youngest_s = started_s, max(started_s, self.youngest_s)
        return before_s is not None

    def fell(self, after_s: float) -> None:
        """Its counters are smaller than so many seconds before."""
        self.falls += self.started_s is None and after_s < _SOONEST_START_S
        self.several |= self.falls >= _FALLS


class ServerRecording:
    """Samples folded by phase. All times are on one clock.

    What begins or closes is to be told before samples that were taken later. Samples come in the order of
    their times; of different sources one may be late, then its gauges count from the latest time known.
    """

    def __init__(self) -> None:
        self._phases: list[_Phase] = []
        self._sources: dict[str, _Source] = {}
        self._now_s = -math.inf

    def begin_phase(self, phase: int, at_s: float, warmup_s: float = 0.0) -> None:
        """The load of a phase begins, and the one before is over; a second call changes nothing."""
        if self._of(phase) is None:
            begin_s = max(at_s, self._phases[-1].begin_s) if self._phases else at_s
            self._phases.append(_Phase(phase, begin_s, begin_s + max(warmup_s, 0.0), warmup_s > 0))

    def close_phase(self, phase: int, at_s: float) -> None:
        """The load of a phase ended, and with it the window of one with a warm-up; the first call counts."""
        known = self._of(phase)
        if known is not None and known.warm:
            self.leave_phase(phase, at_s)

    def leave_phase(self, phase: int, at_s: float) -> None:
        """What is asked from now on until the next phase begins is of none."""
        known = self._of(phase)
        if known is not None:
            known.end_s = min(known.end_s, at_s)

    def add(self, sample: ServerSample) -> None:
        """Fold a sample; one that is older than the last of its source is ignored."""
        source = self._sources.get(sample.source)
        if source is not None and sample.at_s < source.at_s:
            return
        self._pass_time(max(sample.at_s, self._now_s))
        restarted = False
        if source is None:
            source = self._sources[sample.source] = _Source(sample.source, sample.at_s, 0.0)
            source.is_another(sample.engines)
            for engine in sample.engines:
                source.counted[engine.engine, engine.model_name] = _baseline(engine, sample.at_s)
            if any(engine.counters or engine.histograms for engine in sample.engines):
                self._come_late(sample.at_s)
        else:
            if restarted := source.is_another(sample.engines):
                source.counted.clear()
            for engine in sample.engines:
                restarted |= self._grow(source, engine, sample.at_s)
        if restarted:
            source.fell(sample.at_s - source.at_s)
        phase = self._at(sample.at_s)
        if phase is not None:
            phase.sums.samples += 1
        if restarted and (grown := self._at((source.at_s + sample.at_s) / 2)) is not None:
            grown.sums.restarts += 1
        self._hold(source, sample)

    def phase(self, phase: int) -> ServerWindow | None:
        """What is known of a phase's window; None when nothing is."""
        known = self._of(phase)
        return None if known is None else self._window(known.sums)

    def total(self) -> ServerWindow | None:
        """The windows of all phases together; None when nothing is known of any."""
        total = WindowSums()
        for phase in self._phases:
            total.merge(phase.sums)
        return self._window(total)

    def takes_turns(self, source: str) -> bool:
        """Whether several servers were found to answer behind this one address."""
        known = self._sources.get(source)
        return known is not None and known.several

    # ------------------------------------------------------------------------------------------------------

    def _window(self, sums: WindowSums) -> ServerWindow | None:
        window = sums.window()
        if window is not None and any(source.several for source in self._sources.values()):
            return window.of_several_servers()
        return window

    def _of(self, number: int) -> _Phase | None:
        return next((phase for phase in reversed(self._phases) if phase.number == number), None)

    def _at(self, at_s: float) -> _Phase | None:
        """The phase whose window holds a time."""
        i = bisect_right(self._phases, at_s, key=lambda phase: phase.begin_s) - 1
        return self._phases[i] if i >= 0 and self._phases[i].holds(at_s) else None

    # -- counters and histograms --------------------------------------------------------------------------

    def _come_late(self, at_s: float) -> None:
        """What a source counted before is not known."""
        for phase in self._phases:
            late_s = phase.sums.first_look_late_s
            phase.sums.first_look_late_s = max(late_s, at_s - phase.start_s)

    def _grow(self, source: _Source, engine: EngineState, at_s: float) -> bool:
        """Count what an engine did since the last look at it; whether it was restarted meanwhile."""
        key = (engine.engine, engine.model_name)
        # One that was not there before appeared after the last look at its source.
        last = source.counted.setdefault(key, _Counted(source.at_s))
        phase = self._at((last.seen_s + at_s) / 2)
        sums = WindowSums() if phase is None else phase.sums
        restarted = False
        self._queue(source, engine, at_s)
        for name, value in engine.counters.items():
            before = last.counters.get(name, 0.0)
            restarted |= value < before
            sums.grow_counter(name, value - before if value >= before else value)
        for name, state in engine.histograms.items():
            known = last.histograms.get(name)
            growth = state if known is None else histogram_growth(known, state)
            restarted |= growth is None
            sums.grow_histogram(name, state if growth is None else growth)
        last.seen_s = at_s
        last.counters.update(engine.counters)
        last.histograms.update(engine.histograms)
        return restarted

    def _queue(self, source: _Source, engine: EngineState, at_s: float) -> None:
        """Fold what was so while requests waited."""
        if engine.gauges.get("waiting", 0.0) > 0 and (phase := self._at(at_s)) is not None:
            key = (source.name, engine.engine, engine.model_name)
            phase.sums.queues.setdefault(key, Queue()).add(engine.gauges)

    # -- gauges -------------------------------------------------------------------------------------------

    def _pass_time(self, until_s: float) -> None:
        """Let the gauges hold until then."""
        if math.isfinite(self._now_s):
            for start_s, end_s in pairwise(self._borders(self._now_s, until_s)):
                phase = self._at((start_s + end_s) / 2)
                if phase is not None:
                    self._weigh(phase.sums, start_s, end_s - start_s)
        self._now_s = until_s

    def _borders(self, start_s: float, end_s: float) -> list[float]:
        """The times between which the same gauges and the same window hold."""
        first = max(bisect_right(self._phases, start_s, key=lambda phase: phase.begin_s) - 1, 0)
        borders = {border for phase in self._phases[first:] for border in phase.borders_s}
        borders |= {source.until_s for source in self._sources.values()}
        return sorted({start_s, end_s, *(at_s for at_s in borders if start_s < at_s < end_s)})

    def _hold(self, source: _Source, sample: ServerSample) -> None:
        """From now on the gauges are the sample's."""
        source.at_s = sample.at_s
        source.until_s = self._now_s + LONGEST_HOLD_S
        source.gauges = {(sample.source, e.engine, e.model_name): e.gauges for e in sample.engines}
        source.gpus = {f"{sample.source}/{gpu.gpu}": gpu for gpu in sample.gpus}
        phase = self._at(self._now_s)
        if phase is not None:  # a peak is one however short it was
            self._weigh(phase.sums, self._now_s, 0.0)

    def _weigh(self, sums: WindowSums, at_s: float, seconds: float) -> None:
        """Add the gauges that hold at a time, for so long."""
        alive = [source for source in self._sources.values() if source.until_s > at_s]
        if alive:
            sums.covered_s += seconds
        together: dict[str, list[float]] = {}
        for source in alive:
            for engine, gauges in source.gauges.items():
                levels = sums.engines.setdefault(engine, {})
                for name, value in gauges.items():
                    _add(levels, name, value, seconds)
                    together.setdefault(name, []).append(value)
            for name, gpu in source.gpus.items():
                _weigh_gpu(sums, name, gpu, seconds)
        for name, values in together.items():
            if name in _RATIOS:
                _add(sums.gauges, name, sum(values) / len(values), seconds, max(values))
            else:
                _add(sums.gauges, name, sum(values), seconds)


def _baseline(engine: EngineState, at_s: float) -> _Counted:
    return _Counted(at_s, dict(engine.counters), dict(engine.histograms))


def _weigh_gpu(sums: WindowSums, name: str, gpu: GpuState, seconds: float) -> None:
    levels = sums.gpus.setdefault(name, {})
    for key, value in (("utilization", gpu.utilization_ratio), ("memory_used", gpu.memory_used_bytes)):
        if value is not None:
            _add(levels, key, value, seconds)
    if gpu.memory_total_bytes is not None:
        sums.gpu_memory_bytes[name] = gpu.memory_total_bytes


def _add(levels: Levels, name: str, value: float, seconds: float, highest: float | None = None) -> None:
    levels.setdefault(name, LevelSums()).add(value, seconds, highest)
