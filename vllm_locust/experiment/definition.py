"""What an experiment's file says, checked: plain data.

How it is written is in `reading`, what follows from it in `plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_locust.results.rows import Factor

Values = Mapping[str, Any]
"""Options or arguments as YAML gave them, by their names without dashes: see `plan.as_words`."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A server in one way of being started, or one that is there already."""

    name: str
    start: Sequence[str]
    """The words of its command, with `{port}` and `{arguments}` in them; empty where there is a `url`."""
    url: str | None
    arguments: Values
    environment: Mapping[str, str]
    factors: Mapping[str, Factor]
    """What sets it apart from the others: the same keys in each configuration."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to wait for a server."""

    ready_timeout_s: float
    ready_path: str
    stop_timeout_s: float
    pause_s: float
    """Between the end of a server and the start of the next one: memory of a GPU needs a moment."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked."""

    name: str
    options: Values
    locustfile: Path | None = None
    loads: Sequence[str] | None = None
    """The names of the loads it is asked under; None: all of them."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much of it; its options overrule the workload's."""

    name: str
    options: Values
    locustfile: Path | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """All of it."""

    name: str
    question: str
    configurations: Sequence[Configuration]
    workloads: Sequence[Workload]
    loads: Sequence[Load]
    locustfile: Path
    options: Values
    warmup: Values | None
    timing: Timing
    repeats: int
    order: str
    seed: int
    """Of the orders and of what is sent."""
    seed_is_drawn: bool
    """Whether nobody chose it: then no server that goes on is asked the same by two configurations."""
    conclusions: str | None
