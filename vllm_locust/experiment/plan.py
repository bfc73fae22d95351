"""From a definition to what is done: which runs there are, in which order, and what each sends.

Pure functions. A session is one start of a server, on which all pairs of a workload and a load are run one
after another. There is one for each configuration and repeat.
"""

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from zlib import crc32

from vllm_locust.core.urls import without_secrets
from vllm_locust.errors import UsageError
from vllm_locust.experiment.configurations import ARGUMENTS, PORT
from vllm_locust.experiment.definition import Configuration, Experiment, Load, Values, Workload
from vllm_locust.experiment.names import DEFAULT_LOCUSTFILE, locustfile_folder

T = TypeVar("T")

HOST_VARIABLE = "LOCUST_HOST"
SEEDS = 1_000_000
"""How many there are."""
_TEMPLATE = re.compile(r"\{([A-Za-z][\w-]*)\}")
# Options of several words behind one name.
_WORDS_TOGETHER = frozenset({"goodput"})
# Options of which each value is NAME=VALUE.
_ASSIGNMENTS = frozenset({"set", "header"})
# What says how much is asked, and what is made of it: of a few requests there is nothing to be made.
_NOT_TO_WARM_UP = frozenset(
    [
        "slo",
        "goodput",
        "run-time",
        "warmup",
        "ladder",
        "levels",
        "step-time",
        "step-warmup",
        "step-overlap",
        "request-rate",
        "burstiness",
        "max-concurrency",
        "arrivals",
        "prefix-cache",
        "profiler",
    ]
)
_SHAPED = ("capacity.py", "ladder.py")
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Run:
    """One run of Locust."""

    key: str
    """CONFIGURATION/WORKLOAD-LOAD/REPEAT."""
    configuration: Configuration
    workload: str
    load: str
    repeat: int
    locustfile: Path
    options: Sequence[str]
    """Of Locust's command line, the seed last; the engine adds where and into which folder."""
    own_seed: bool = False
    """Whether its server goes on from run to run, so that no two of them may ask the same prompts."""

    @property
    def folder(self) -> str:
        """Of its results, in the experiment's folder."""
        return f"runs/{self.key}"

    def with_seed(self, seed: int) -> "Run":
        """The same with other prompts."""
        return replace(self, options=[*self.options[:-1], str(seed)])

    @property
    def asks(self) -> str:
        """A digest of what is asked: what was measured before a change of it is of another experiment."""
        return _digest([self.locustfile.name, *self.options])

    @property
    def server(self) -> str:
        """A digest of the server that is asked."""
        known = self.configuration
        url = known.url and without_secrets(known.url)
        return _digest([known.start, url, known.arguments, known.environment])


@dataclass(frozen=True, slots=True)
class Session:
    """One start of a server."""

    configuration: Configuration
    repeat: int
    runs: Sequence[Run]
    warmup: tuple[Path, Sequence[str]] | None
    """Locustfile and options of the run that is thrown away."""

    @property
    def name(self) -> str:
        """Of its log."""
        return f"{self.configuration.name}-{self.repeat}"


def plan(experiment: Experiment) -> Sequence[Session]:
    """All sessions in their order; UsageError for what no configuration can fill in."""
    pairs = [
        (workload, load) for workload in experiment.workloads for load in _loads_of(experiment, workload)
    ]
    problems: list[str] = []
    sessions = []
    for repeat in range(1, experiment.repeats + 1):
        arrange = ARRANGEMENTS[experiment.order](experiment.seed, repeat)
        arranged = arrange(pairs, "pairs")
        for configuration in arrange(experiment.configurations, "configurations"):
            runs = [
                _run(experiment, configuration, workload, load, repeat, problems)
                for workload, load in arranged
            ]
            warmup = _warmup(experiment, configuration, repeat, problems)
            sessions.append(Session(configuration, repeat, runs, warmup))
    if problems:
        raise UsageError(*dict.fromkeys(problems))
    return sessions


def _loads_of(experiment: Experiment, workload: Workload) -> Sequence[Load]:
    return [load for load in experiment.loads if workload.loads is None or load.name in workload.loads]


def _run(
    experiment: Experiment,
    configuration: Configuration,
    workload: Workload,
    load: Load,
    repeat: int,
    problems: list[str],
) -> Run:
    pair = f"{workload.name}-{load.name}"
    options = {**experiment.options, **workload.options, **load.options}
    where = f"workload {workload.name}, load {load.name}"
    return Run(
        key=f"{configuration.name}/{pair}/{repeat}",
        configuration=configuration,
        workload=workload.name,
        load=load.name,
        repeat=repeat,
        locustfile=load.locustfile or workload.locustfile or experiment.locustfile,
        options=_command_line(
            options, configuration, _seed(experiment, configuration, pair, repeat), where, problems
        ),
        own_seed=_own_seed(experiment, configuration),
    )


def _warmup(
    experiment: Experiment, configuration: Configuration, repeat: int, problems: list[str]
) -> tuple[Path, Sequence[str]] | None:
    """The first workload in a few requests that no run sends again."""
    if experiment.warmup is None:
        return None
    workload = experiment.workloads[0]
    asked = {**experiment.options, **workload.options}
    options = {name: value for name, value in asked.items() if name not in _NOT_TO_WARM_UP}
    seed = _seed(experiment, configuration, "warm-up", repeat)
    locustfile = workload.locustfile or experiment.locustfile
    if locustfile.name in _SHAPED:
        locustfile = locustfile_folder() / DEFAULT_LOCUSTFILE
    return locustfile, _command_line(
        {**options, **experiment.warmup}, configuration, seed, "warmup", problems
    )


def _seed(experiment: Experiment, configuration: Configuration, what: str, repeat: int) -> int:
    """The same for all configurations, so that they are asked the same; another one for anything else.

    A server that goes on from one configuration to the next may have prompts of the last one in its prefix
    cache: there each configuration has a seed of its own, unless the user chose one.
    """
    if _own_seed(experiment, configuration):
        what = f"{configuration.name}/{what}"
    return crc32(f"{experiment.seed}/{what}/{repeat}".encode()) % SEEDS


def _own_seed(experiment: Experiment, configuration: Configuration) -> bool:
    return experiment.seed_is_drawn and configuration.url is not None


def _command_line(
    options: Values, configuration: Configuration, seed: int, where: str, problems: list[str]
) -> Sequence[str]:
    known = {**configuration.environment, **configuration.arguments}

    def fill(text: str) -> str:
        def value_of(match: re.Match[str]) -> str:
            if (value := known.get(match[1])) is not None:
                return str(value)
            problems.append(
                f"{where}: {match[0]} is no argument of configuration {configuration.name}"
                + (f", which has {', '.join(known)}" if known else ", which has none")
            )
            return match[0]

        return _TEMPLATE.sub(value_of, text)

    words = [fill(word) for word in as_words(options)]
    users = options.get("users")
    if users is not None and "spawn-rate" not in options:
        words += ["--spawn-rate", fill(str(users))]
    return [*words, "--seed", str(seed)]


def as_words(options: Values) -> list[str]:
    """A command line: true is a flag, false its --no-, null is left out, a list repeats the option."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name}"
        if value is True:
            words.append(flag)
        elif value is False:
            words.append(f"--no-{name}")
        elif name in _WORDS_TOGETHER and value is not None:
            words += [flag, *(value if isinstance(value, list) else str(value).split())]
        elif name in _ASSIGNMENTS and isinstance(value, dict):
            for part, inner in value.items():
                words += [flag, f"{part}={inner}"]
        elif value is not None:
            for one in value if isinstance(value, list) else [value]:
                words += [flag, json.dumps(one) if isinstance(one, dict) else str(one)]
    return words


def server_command(configuration: Configuration, port: int | str) -> list[str]:
    """The command that starts a server."""
    words: list[str] = []
    for word in configuration.start:
        if word == ARGUMENTS:
            words += as_words(configuration.arguments)
        else:
            words.append(word.replace(PORT, str(port)))
    return words


def locust_command(locustfile: Path, options: Sequence[str], folder: Path | None) -> list[str]:
    """The command of a run; without a folder nothing is left of it.

    Its host is in the environment, as `HOST_VARIABLE`: it may hold secrets, and others can see command lines.
    """
    # -P: a file that happens to lie where the experiment was started must not stand in for a library.
    command = [sys.executable, "-P", "-m", "locust", "-f", str(locustfile), "--headless"]
    where = [] if folder is None else ["--results-dir", str(folder)]
    return [*command, *where, "--exporter-port", "off", *options]


def shown(command: Sequence[str]) -> str:
    """For people, without Python's own words."""
    words = list(command)
    if words[0] == sys.executable:
        words = words[3:]
    return shlex.join(words).replace(shlex.quote(PORT), PORT)


def _fixed(_seed: int, _repeat: int) -> Callable[[Sequence[Any], str], Sequence[Any]]:
    return lambda items, _: items


def _interleaved(_seed: int, repeat: int) -> Callable[[Sequence[Any], str], Sequence[Any]]:
    """A B, B A, A B, ...: what drifts with time is shared out evenly over every two repeats."""
    return lambda items, _: items if repeat % 2 else items[::-1]


def _random(seed: int, repeat: int) -> Callable[[Sequence[Any], str], Sequence[Any]]:
    def shuffled(items: Sequence[Any], what: str) -> Sequence[Any]:
        return Random(f"{seed}/{repeat}/{what}").sample(items, len(items))

    return shuffled


ARRANGEMENTS: Mapping[str, Callable[[int, int], Callable[[Sequence[Any], str], Sequence[Any]]]] = {
    "interleaved": _interleaved,
    "fixed": _fixed,
    "random": _random,
}
ORDERS = tuple(ARRANGEMENTS)
"""The first one is taken unless the file says otherwise."""


def runs_of(sessions: Sequence[Session]) -> Iterator[Run]:
    """In the order in which they are made."""
    return (run for session in sessions for run in session.runs)


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:_DIGITS]
