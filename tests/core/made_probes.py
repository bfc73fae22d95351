"""Probes whose outcome is known, and searches played to their end."""

from collections.abc import Callable
from dataclasses import replace

from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.search import CapacitySearch, Probe
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo

P99 = Slo("p99_ttft_ms", "<", 500.0, 99.0)


MAXIMUM = Slo("max_e2el_ms", "<", 20000.0)


def counted(inside: float, trials: int, needed: float = 0.99) -> Finding:
    """What `conclude` makes of counts of independent requests."""
    low, high = share_interval(inside, trials, needed)
    sure = low > needed or high < needed
    outcome = "met" if inside >= needed * trials else "missed"
    return Finding(
        P99,
        outcome,
        400 if outcome == "met" else 600,
        trials,
        trials,
        inside,
        needed,
        low,
        high,
        close=not sure,
    )


def maximum(broken: bool) -> Finding:
    outcome, inside = ("missed", 99) if broken else ("met", 100)
    return Finding(MAXIMUM, outcome, 20170 if broken else 9000, 100, 100, inside, 1.0)


MET, MISSED = counted(1000, 1000), counted(900, 1000)


CLOSE_MET, CLOSE_MISSED = counted(298, 300), counted(296, 300)


def probe(level: float, *findings: Finding, **more) -> Probe:
    return Probe(level, Evidence(findings), requests=1000, seconds=30.0, **more)


def twice(finding: Finding) -> Finding:
    """Two such probes together: their counts, and the value of each."""
    both = counted(2 * finding.inside, 2 * finding.trials)
    return replace(both, value=None, values=(finding.value, finding.value))


def run(search: CapacitySearch, server: Callable[[float], Probe]) -> list[float]:
    """Play a search to its end; the levels it asked for."""
    asked = []
    while (level := search.next_level()) is not None:
        assert search.next_level() == level, "asking changes nothing"
        asked.append(level)
        search.take(server(level))
    return asked


def capacity(limit: float) -> Callable[[float], Probe]:
    return lambda level: probe(level, MET if level <= limit else MISSED)
