"""What the options mean once they are checked.

All options arrive as text, from the command line or from the web UI's start form, and are converted here, in
one place, so that everything that is wrong with a command line is said at once.
"""

import argparse
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vllm_locust.client.target import ROUND_ROBIN, STICKY
from vllm_locust.core.long_gaps import Limit
from vllm_locust.core.rate import Rate, parse_levels, parse_rate
from vllm_locust.core.slo import Slo, parse_slo
from vllm_locust.core.trials import limits_of
from vllm_locust.core.urls import as_given
from vllm_locust.core.validity import Loop
from vllm_locust.errors import UsageError
from vllm_locust.load import convert
from vllm_locust.observe.addresses import parse_bind, parse_interval
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.variety import Adapter, Variation

API_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_SCENARIO = "sharegpt"
ENDPOINT_TYPES = ("chat", "completions")
LEVEL_UNITS = ("users", "rate")
ROUTINGS = (STICKY, ROUND_ROBIN)
ADAPTER_ORDERS = ("random", "round-robin")
PREFIX_CACHES = ("cold", "warm")
DEFAULT_LADDER = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

# What only requests of a scenario have: tasks of the user's own say themselves what they ask, and when.
_OF_A_SCENARIO = (
    *("scenario", "set", "dataset_path", "num_prompts", "input_len", "max_tokens", "tokenizer", "vary"),
    *("lora_modules", "prefix_cache", "request_rate", "burstiness", "max_concurrency", "arrivals"),
)

_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one run, checked and converted."""

    scenario: str | None = DEFAULT_SCENARIO
    """None: all users have tasks of their own, and no request of any scenario is asked."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the scenario, as they were written."""
    model: str | None = None
    endpoint_type: str = "chat"
    endpoint: str | None = None
    """The path that is asked, instead of the usual one of the `endpoint_type`."""
    num_prompts: int | None = None
    request_rate: Rate | None = None
    burstiness: float = 1.0
    max_concurrency: int | None = None
    arrivals: Path | None = None
    arrivals_unit: str | None = None
    """Of the times in that file; None: it tells by itself."""
    ladder: Sequence[float] = ()
    levels: str = "users"
    step_time_s: float | None = None
    step_warmup_s: float | None = None
    step_overlap: bool = False
    capacity: bool = False
    """Search for the largest load that meets the SLOs: asked for by a shape, not by an option."""
    most_users: int | None = None
    """The most that a search tries: Locust's own number of users, where it was given."""
    max_tokens: Lengths | None = None
    input_len: Lengths | None = None
    variations: Sequence[Variation] = ()
    adapters: Sequence[Adapter] = ()
    adapter_order: str = "random"
    prefix_cache: str | None = None
    """What the server's prefix cache is to hold when a phase begins: `cold` or `warm`; None: as it is."""
    routing: str = STICKY
    tokenizer: str | None = None
    ignore_eos: bool = True
    temperature: float | None = None
    dataset_path: Path | None = None
    seed: int = 0
    """Drawn anew for each run unless given: the server's prefix cache would hold prompts seen before."""
    warmup_s: float = 0.0
    results_dir: Path | None = None
    report: bool = True
    """Whether a report is made of the results, where they are written."""
    junit_xml: Path | None = None
    profiler: bool = False
    slos: Sequence[Slo] = ()
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    continuous_usage_stats: bool = False
    request_timeout_s: float = 600.0
    insecure: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secrets among them: never to be written anywhere."""
    server_metrics_urls: Sequence[str] | None = None
    """None: `/metrics` of the target; empty: none."""
    server_log: Path | None = None
    server_metrics_interval_s: float = 1.0
    exporter: tuple[str, int] | None = None
    """Host and port to listen at."""
    own_tasks: bool = False
    """No user can ask for requests of the scenario."""
    of_scenario: Sequence[str] = ()
    """The options given that only requests of the scenario obey."""

    @property
    def watches_server(self) -> bool:
        """Whether the server is asked how it is."""
        return self.server_metrics_urls is None or bool(self.server_metrics_urls or self.server_log)

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent when they are due rather than when a user is free."""
        return self.request_rate is not None or self.arrivals is not None or self.levels == "rate"

    @property
    def loop(self) -> Loop:
        """Who decides when a request is sent."""
        if not self.open_loop:
            return "closed"
        return "open" if self.max_concurrency is None else "capped"

    @property
    def limits(self) -> Sequence[Limit]:
        """The gaps between tokens of which a search must know when they were."""
        return limits_of(self.slos) if self.capacity else ()

    def level(self, value: float) -> dict[str, Any]:
        """What a level of a ladder or search means to a phase."""
        return {"rate": f"{value:g}"} if self.levels == "rate" else {"users": round(value)}


def scenario_of(user_classes: Iterable[type]) -> str:
    """The scenario that a locustfile asks for where no option does: that of the first user who has one."""
    wanted = (getattr(user, "scenario", None) for user in user_classes)
    return next((name for name in wanted if name), DEFAULT_SCENARIO)


def read_settings(
    options: argparse.Namespace | None,
    shape: str | None = None,
    scenario: str = DEFAULT_SCENARIO,
    *,
    own_tasks: bool = False,
) -> tuple[Settings, Sequence[str]]:
    """Check and convert all options: the settings, and one sentence per problem.

    An option with a problem has its default, so that what else is wrong can be found before anybody is told.
    `shape` is the kind of load shape of the locustfile: `ladder`, `capacity` or none of ours. `scenario` is
    the one that it asks for where no option does. `own_tasks`: none of its users can ask for requests of one.
    """
    reader = _Reader(vars(options) if options is not None else {})
    settings = Settings(
        scenario=reader.text("scenario") or (None if own_tasks else scenario),
        model=reader.text("model"),
        endpoint_type=reader.take("endpoint_type", convert.one_of(ENDPOINT_TYPES), "chat"),
        endpoint=reader.take("endpoint", convert.path_of_url, None),
        num_prompts=reader.take("num_prompts", convert.whole(at_least=1), None),
        **_workload_settings(reader),
        tokenizer=reader.text("tokenizer"),
        ignore_eos=reader.flag("ignore_eos", True),
        temperature=reader.take("temperature", convert.number(at_least=0), None),
        dataset_path=reader.take("dataset_path", Path, None),
        seed=reader.take("seed", convert.whole(at_least=0), secrets.randbelow(1_000_000)),
        warmup_s=reader.take("warmup", convert.time, 0.0),
        results_dir=reader.take("results_dir", Path, None),
        report=reader.flag("report", True),
        junit_xml=reader.take("junit_xml", Path, None),
        profiler=reader.flag("profiler", False),
        slos=reader.take_each("slo", parse_slo),
        goodput_ms=reader.take("goodput", convert.goodput, {}),
        extra_body=reader.take("extra_body", convert.json_object, {}),
        continuous_usage_stats=reader.flag("continuous_usage_stats", False),
        request_timeout_s=reader.take("request_timeout", convert.time, 600.0),
        insecure=reader.flag("insecure", False),
        headers=_headers(reader),
        **_observer_settings(reader),
        **_load_settings(reader, shape),
        most_users=getattr(options, "num_users", None),
        own_tasks=own_tasks,
    )
    settings = replace(settings, of_scenario=list(_of_scenario(settings, reader)))
    if own_tasks and settings.of_scenario:
        reader.problems.append(
            f"{', '.join(settings.of_scenario)}: for requests of a scenario only, and no code of this "
            "locustfile's users names ask_next(), which asks for them."
        )
    reader.problems.extend(_contradictions(settings, reader, shape, getattr(options, "run_time", None)))
    reader.problems.extend(_users_of_levels(settings, options))
    return settings, reader.problems


def _users_of_levels(settings: Settings, options: argparse.Namespace | None) -> Iterator[str]:
    """What was said of users though levels say it. With a web UI something is always said."""
    if not getattr(options, "headless", False) or not (settings.ladder or settings.capacity):
        return
    users, spawn_rate = getattr(options, "num_users", None), getattr(options, "spawn_rate", None)
    most = 1.0 if settings.levels == "rate" else max(settings.ladder, default=users or float("inf"))
    if spawn_rate is not None and spawn_rate < most:
        yield "--spawn-rate is for runs of one load: the users of a level come at once."
    if users is None:
        return
    if settings.ladder:
        yield "--users is for runs of one load: the levels of a ladder say how many there are."
    elif settings.levels == "rate":
        yield "--users says nothing to a search for a rate: --request-rate is the most that it tries."


def _load_settings(reader: "_Reader", shape: str | None) -> dict[str, Any]:
    levels = reader.take("levels", convert.one_of(LEVEL_UNITS), "users")
    none: tuple[float, ...] = ()
    ladder = reader.take("ladder", lambda text: parse_levels(str(text), whole=levels == "users"), none)
    no_file: tuple[Path | None, str | None] = (None, None)
    arrivals, unit = reader.take("arrivals", convert.trace_file, no_file)
    if shape == "ladder" and not ladder:
        ladder = DEFAULT_LADDER
    return {
        "request_rate": reader.take("request_rate", lambda text: parse_rate(str(text)), None),
        "burstiness": reader.take("burstiness", convert.burstiness, 1.0),
        "max_concurrency": reader.take("max_concurrency", convert.whole(at_least=1), None),
        "arrivals": arrivals,
        "arrivals_unit": unit,
        "ladder": () if shape == "capacity" else ladder,
        "levels": levels,
        "step_time_s": reader.take("step_time", convert.time, None),
        "step_warmup_s": reader.take("step_warmup", convert.time, None),
        "step_overlap": reader.flag("step_overlap", False),
        "capacity": shape == "capacity",
    }


def _workload_settings(reader: "_Reader") -> dict[str, Any]:
    return {
        "parameters": dict(reader.take_each("set", convert.assignment)),
        "max_tokens": reader.take("max_tokens", convert.lengths, None),
        "input_len": reader.take("input_len", convert.lengths, None),
        "variations": reader.take_each("vary", convert.variation),
        "adapters": reader.take_each("lora_modules", convert.adapter),
        "adapter_order": reader.take("lora_assignment", convert.one_of(ADAPTER_ORDERS), "random"),
        "prefix_cache": reader.take("prefix_cache", convert.one_of(PREFIX_CACHES), None),
        "routing": reader.take("routing", convert.one_of(ROUTINGS), STICKY),
    }


def _observer_settings(reader: "_Reader") -> dict[str, Any]:
    given = reader.take_each("server_metrics_url", convert.metrics_url_or_off)
    urls: Sequence[str] | None = given or None
    if convert.OFF in given:  # for those before it; what comes behind counts
        urls = given[len(given) - given[::-1].index(convert.OFF) :]
    exporter = None
    if reader.text("exporter_port") != convert.OFF:
        exporter = reader.take("exporter_port", lambda text: parse_bind(str(text)), None)
    return {
        "server_metrics_urls": urls,
        "server_log": reader.take("server_log", Path, None),
        "server_metrics_interval_s": reader.take("server_metrics_interval", parse_interval, 1.0),
        "exporter": exporter,
    }


def _contradictions(
    settings: Settings, reader: "_Reader", shape: str | None, run_time_s: float | None
) -> Iterator[str]:
    """What is right by itself, and makes no sense together."""
    if run_time_s and settings.warmup_s >= run_time_s:
        yield f"--warmup leaves nothing of a --run-time of {run_time_s} s to measure."
    if settings.request_timeout_s == 0:
        yield "--request-timeout must be more than 0 s."
    if settings.server_log is not None and settings.server_metrics_urls:
        yield "--server-log and --server-metrics-url exclude each other: both tell of the same requests."
    if not settings.own_tasks:  # to which none of these options go, nor those that mend them
        yield from _adapter_contradictions(settings)
        yield from _open_loop_contradictions(settings, reader)
    yield from _step_contradictions(settings, run_time_s)
    if shape == "capacity" and reader.text("ladder"):
        yield "--ladder and a capacity search exclude each other: the search chooses its levels itself."
    if shape == "other" and settings.ladder:
        yield "--ladder and the locustfile's own load shape exclude each other: both say how many users."
    if settings.capacity and not settings.slos:
        yield 'A capacity search needs at least one --slo to hold, such as --slo "p99_ttft_ms<500".'
    if settings.capacity and settings.most_users is not None and settings.most_users < 1:
        yield f"-u {settings.most_users} leaves a capacity search no user to try: it must be 1 at least."
    if settings.capacity and settings.arrivals is not None:
        yield "--arrivals and a capacity search exclude each other: the search chooses its rates itself."


def _of_scenario(settings: Settings, reader: "_Reader") -> Iterator[str]:
    yield from (f"--{name.replace('_', '-')}" for name in _OF_A_SCENARIO if reader.is_given(name))
    if settings.endpoint_type != "chat":
        yield f"--endpoint-type {settings.endpoint_type}"
    if settings.levels == "rate":
        yield "--levels rate"
    if settings.adapter_order != "random":
        yield f"--lora-assignment {settings.adapter_order}"


def _adapter_contradictions(settings: Settings) -> Iterator[str]:
    if settings.adapter_order == "round-robin" and not settings.adapters:
        yield "--lora-assignment is for --lora-modules: without, there is nothing to assign."
    if settings.adapter_order == "round-robin" and any(one.weight != 1 for one in settings.adapters):
        yield "--lora-assignment round-robin takes each adapter as often as any other: leave the weights out."


def _step_contradictions(settings: Settings, run_time_s: float | None) -> Iterator[str]:
    stepped = bool(settings.ladder) or settings.capacity
    if stepped and run_time_s:
        yield "--run-time is for runs of one load: a ladder or capacity search has --step-time."
    if stepped and settings.warmup_s:
        yield "--warmup is for runs of one load: a ladder or capacity search has --step-warmup."
    if settings.step_time_s is not None and not stepped:
        yield "--step-time is for --ladder and capacity searches: a run has --run-time."
    elif settings.step_time_s == 0:
        yield "--step-time must be more than 0 s."
    elif settings.step_time_s and (settings.step_warmup_s or 0) >= settings.step_time_s:
        yield f"--step-warmup leaves nothing of a --step-time of {settings.step_time_s:g} s to measure."
    if settings.step_overlap and settings.prefix_cache == "cold":
        yield "--step-overlap and --prefix-cache cold exclude each other: a cache in use cannot be emptied."
    if settings.step_overlap and (not settings.ladder or settings.step_warmup_s == 0):
        yield "--step-overlap needs a --ladder whose steps have a --step-warmup to drain into."


def _open_loop_contradictions(settings: Settings, reader: "_Reader") -> Iterator[str]:
    stepped = bool(settings.ladder) or settings.capacity
    if reader.text("burstiness") and not settings.open_loop:
        yield "--burstiness is for open loops, with --request-rate: without, users wait for answers."
    if reader.text("burstiness") and settings.arrivals is not None:
        yield "--burstiness and --arrivals exclude each other: both say what gaps there are."
    if settings.levels == "rate" and not stepped:
        yield "--levels rate is for --ladder and capacity searches: for one rate take --request-rate."
    rate = settings.request_rate
    if settings.levels == "users" and stepped and settings.open_loop:
        yield "--request-rate and --arrivals exclude levels of users: take --levels rate."
    if settings.ladder and settings.levels == "rate" and (rate is not None or settings.arrivals is not None):
        yield "--ladder gives the rates with --levels rate: leave --request-rate and --arrivals out."
    if rate is not None and rate.is_infinite and settings.num_prompts is None:
        yield "--request-rate inf sends all requests at once: say how many with --num-prompts."
    if (settings.arrivals is not None or settings.capacity) and rate is not None and not rate.is_single:
        yield f"--request-rate {rate} must be one number here, not stages."


class _Reader:
    """Takes options one by one and collects what is wrong with them."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        value = self._options.get(name)
        return str(value).strip() or None if value is not None else None

    def is_given(self, name: str) -> bool:
        return self._options.get(name) not in (None, "", [])

    def flag(self, name: str, default: bool) -> bool:
        value = self._options.get(name)
        return default if value is None else str(value).lower() in ("true", "on", "1")

    def take(self, name: str, read: Callable[[Any], T], default: T) -> T:
        value = self._options.get(name)
        if value is None or value in ("", []):
            return default
        try:
            return read(value)
        except UsageError as error:
            self.problems.extend(error.problems)
        except ValueError as error:
            self.problems.append(f"--{name.replace('_', '-')} {as_given(value)} {error}.")
        return default

    def each(self, name: str) -> list[str]:
        """The values of a repeatable option; the web UI's form gives them in one field."""
        values = self._options.get(name) or []
        if isinstance(values, str):
            values = values.split(",")
        return [value.strip() for value in values if value.strip()]

    def take_each(self, name: str, read: Callable[[str], T]) -> list[T]:
        """Convert each value of a repeatable option."""
        converted: list[T] = []
        for value in self.each(name):
            try:
                converted.append(read(value))
            except UsageError as error:
                self.problems.extend(error.problems)
            except ValueError as error:
                self.problems.append(f"--{name.replace('_', '-')} {as_given(value)} {error}.")
        return converted


def _headers(reader: _Reader) -> dict[str, str]:
    headers: dict[str, str] = {}
    for pair in reader._options.get("header") or []:
        name, separator, value = pair.partition("=" if "=" in pair.partition(":")[0] else ":")
        if separator and _HEADER_NAME.fullmatch(name.strip()) and _HEADER_VALUE.fullmatch(value.strip()):
            headers[name.strip()] = value.strip()
        else:
            reader.problems.append(f"--header {name!r} is not of the form NAME=VALUE.")
    if key := reader.text("api_key") or os.environ.get(API_KEY_VARIABLE):
        if _HEADER_VALUE.fullmatch(key):
            headers["Authorization"] = f"Bearer {key}"
        else:
            reader.problems.append("--api-key holds characters that no HTTP header can carry.")
    return headers
