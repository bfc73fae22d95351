"""How a source of the server's metrics stands, and what its counters say about a stretch of time."""

from dataclasses import dataclass

from vllm_locust.core.server import ServerSample


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One source: what it said last, and what it said when the run began."""

    source: str
    up: bool
    problem: str | None = None
    """Why it is not up, in words."""
    sample: ServerSample | None = None
    """The latest; of a source that is not up it is history."""
    baseline: ServerSample | None = None
    """The one from which a run's counters grow; None before the first run, and when there was none."""
    scrape_s: float | None = None
    """How long the latest scrape took."""

    @property
    def now(self) -> ServerSample | None:
        """What it says now; None while it is not up."""
        return self.sample if self.up else None


def growth(counter: str, sample: ServerSample, since: ServerSample) -> float | None:
    """How much a counter of all engines grew since an earlier sample; None where no engine has it.

    A counter that is smaller now belongs to a server that was started again: all of it is growth.
    """
    before = {(e.engine, e.model_name): e.counters[counter] for e in since.engines if counter in e.counters}
    grown: float | None = None
    for engine in sample.engines:
        if counter in engine.counters:
            value = engine.counters[counter]
            earlier = before.get((engine.engine, engine.model_name), 0.0)
            grown = (grown or 0.0) + (value - earlier if value >= earlier else value)
    return grown
