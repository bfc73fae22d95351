"""Everything that must be right before the first request: options, scenario, server, model, results folder.

All that is wrong is found before any load and reported together.
"""

import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NoReturn, TypeVar

from vllm_locust.client.ask import ServerModel, ServerTokenizer, find_model
from vllm_locust.client.chat import CHAT_PATH, COMPLETIONS_PATH, RequestOptions
from vllm_locust.client.target import Target
from vllm_locust.core.trace import read_trace, rescale
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import path_of
from vllm_locust.load.fit import too_long
from vllm_locust.load.results import check_free, check_junit
from vllm_locust.load.settings import Settings
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import (
    Arrivals,
    Context,
    CountTokens,
    Encode,
    OwnTasks,
    Scenario,
    arrivals_of,
    primers_of,
    sources_of,
)
from vllm_locust.workloads.tokenizer import local_counter, local_encoder
from vllm_locust.workloads.variety import Varied

logger = logging.getLogger(__name__)

T = TypeVar("T")

_A_LONG_TIME_S = 120.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run starts from."""

    settings: Settings
    targets: Sequence[Target]
    model: ServerModel
    scenario: Scenario
    arrivals: Sequence[Arrivals | None] = ()
    """When the requests of each of the scenario's phases are sent, where a trace says it."""

    @property
    def request_options(self) -> RequestOptions:
        """What every request of the run has in common."""
        settings = self.settings
        body = dict(settings.extra_body)
        if settings.ignore_eos:
            body.setdefault("ignore_eos", True)
        if settings.temperature is not None:
            body.setdefault("temperature", settings.temperature)
        return RequestOptions(
            model=self.model.name,
            headers=settings.headers,
            body=body,
            endpoints=_endpoints(settings),
            running_usage=settings.continuous_usage_stats,
            timeout_s=settings.request_timeout_s,
        )


def prepare(settings: Settings, host: str, known_problems: Sequence[str] = ()) -> Prepared:
    """Check a run's settings against the world. Raises UsageError with all that is wrong.

    `known_problems` is what was wrong with the options already: it comes first in that report.
    """
    problems = list(known_problems)

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except UsageError as error:
            problems.extend(error.problems)
            return None

    if settings.results_dir is not None:
        folder = settings.results_dir
        attempt(lambda: check_free(folder))
    if settings.junit_xml is not None:
        file = settings.junit_xml
        attempt(lambda: check_junit(file))
    targets = attempt(lambda: Target.parse_all(host, _tls_context(settings)))
    model = attempt(lambda: _model(settings, targets)) if targets else None
    counters = attempt(lambda: _counters(settings, targets, model)) or _NOBODY
    scenario = attempt(lambda: _scenario(settings, counters, model))
    if scenario is not None:
        problems.extend(_misfits(settings, model, scenario))
    arrivals = attempt(lambda: _arrivals(settings, scenario))
    _warn_of_endpoint(settings)
    if problems or targets is None or model is None or scenario is None:
        raise UsageError(*problems)
    return Prepared(settings, targets, model, scenario, arrivals or ())


def _endpoints(settings: Settings) -> dict[str, str]:
    """Which paths of the API --endpoint stands for: that of the scenario's requests, and what its end says.

    Tasks of the user's own may ask for either.
    """
    if settings.endpoint is None:
        return {}
    named = _api_of(settings.endpoint)
    replaced = [CHAT_PATH, COMPLETIONS_PATH] if named is None else [named]
    if not settings.own_tasks:
        replaced.append(path_of(settings.endpoint_type))
    return dict.fromkeys(replaced, settings.endpoint)


def _api_of(endpoint: str) -> str | None:
    """The path of the API that has the same end."""
    path = endpoint.partition("?")[0].rstrip("/")
    apis = (api for api in (CHAT_PATH, COMPLETIONS_PATH) if path.endswith(api.removeprefix("/v1")))
    return next(apis, None)


def _warn_of_endpoint(settings: Settings) -> None:
    named = None if settings.endpoint is None else _api_of(settings.endpoint)
    if named is not None and named != path_of(settings.endpoint_type) and not settings.own_tasks:
        logger.warning(
            "--endpoint has the end of %s, and is sent requests of --endpoint-type %s.",
            named,
            settings.endpoint_type,
        )


def _model(settings: Settings, targets: Sequence[Target]) -> ServerModel:
    """The model that all targets serve, as the first one describes it."""
    first, *others = targets
    model = find_model(first, settings.headers, settings.model)
    for target in others:
        find_model(target, settings.headers, model.name)
    return model


def _arrivals(settings: Settings, scenario: Scenario | None) -> Sequence[Arrivals | None]:
    """Of each phase, at the rate that the user wants."""
    recorded = None
    if settings.arrivals is not None:
        times = read_trace(settings.arrivals, settings.arrivals_unit)
        recorded = Arrivals(times.times_s, unit=times.unit)
    if scenario is None:
        return ()
    rate = settings.request_rate
    known = [recorded or arrivals_of(phase) for phase in scenario.phases]
    if rate is not None and rate.is_single:
        known = [arrivals and _at_rate(arrivals, rate.rate_at(0.0)) for arrivals in known]
    for phase, arrivals in zip(scenario.phases, known, strict=True):
        if arrivals is not None:
            logger.info("%s: %s", phase.name, describe_arrivals(arrivals))
    return known


def describe_arrivals(arrivals: Arrivals) -> str:
    """What a trace comes to, before anything is sent."""
    times_s = arrivals.times_s
    span_s = times_s[-1] - times_s[0]
    rate = f", {(len(times_s) - 1) / span_s:.4g} requests/s on average" if span_s else ""
    long = f" ({timedelta(seconds=round(span_s))})" if span_s >= _A_LONG_TIME_S else ""
    return (
        f"{len(times_s)} requests in {span_s:.6g} s{long}{rate}; the trace has its times in {arrivals.unit}."
    )


def _at_rate(arrivals: Arrivals, rate: float) -> Arrivals:
    """Stretched so that `rate` requests a second come on average."""
    times_s = rescale(arrivals.times_s, rate)
    if arrivals.period_s is None:
        return replace(arrivals, times_s=times_s)
    stretch = times_s[-1] / (arrivals.times_s[-1] - arrivals.times_s[0])
    return replace(arrivals, times_s=times_s, period_s=arrivals.period_s * stretch)


def _misfits(settings: Settings, model: ServerModel | None, scenario: Scenario) -> Iterator[str]:
    """What is right by itself and does not go together."""
    several = f"--scenario {scenario.name} runs several in turn"
    if settings.warmup_s and len(scenario.phases) > 1:
        yield (
            f"--warmup is for one kind of load, and {several}: "
            f"take --step-warmup, or one of them, such as {scenario.phases[0].name}"
        )
    if settings.capacity and len(scenario.phases) > 1:
        yield (
            f"A capacity search is for one kind of load, and {several}: "
            f"take one of them, such as {scenario.phases[0].name}"
        )
    stepped = bool(settings.ladder) or settings.capacity or len(scenario.phases) > 1
    if settings.step_warmup_s is not None and not stepped:
        yield "--step-warmup is for ladders, searches and scenarios that run several in turn: take --warmup"
    if settings.own_tasks:
        return  # options of a scenario are refused as such
    yield from _timing_misfits(settings, scenario)
    known = ".py" not in (settings.scenario or "")  # one of the user's own need not say what it reads
    if known and settings.dataset_path is not None and not sources_of(scenario):
        yield f"--dataset-path {settings.dataset_path}: scenario {scenario.name} reads no data set"
    if settings.prefix_cache == "warm" and not _has_primers(scenario, settings.seed):
        yield f"--prefix-cache warm needs a scenario whose requests share a prefix: {scenario.name} does not."
    served = model.all_names if model is not None else ()
    for adapter in settings.adapters:
        if served and adapter.name not in served:
            yield f"--lora-modules {adapter.name!r} is not served, the server has: {', '.join(served)}."
    if model is not None and model.max_model_len is not None:
        yield from too_long(settings, model.name, model.max_model_len, scenario)


def _has_primers(scenario: Scenario, seed: int) -> bool:
    return any(next(iter(primers_of(phase, seed)), None) is not None for phase in scenario.phases)


def _timing_misfits(settings: Settings, scenario: Scenario) -> Iterator[str]:
    timed = any(arrivals_of(phase) is not None for phase in scenario.phases)
    if timed and (settings.ladder or settings.capacity):
        yield f"--scenario {scenario.name} says when to send: ladders and searches do not go with it."
    if timed and settings.arrivals is not None:
        yield f"--arrivals and --scenario {scenario.name} exclude each other: both say when to send."
    if timed and settings.burstiness != 1:
        yield f"--burstiness and --scenario {scenario.name} exclude each other: both say what gaps there are."
    if timed and settings.request_rate is not None and not settings.request_rate.is_single:
        yield f"--request-rate {settings.request_rate} must be one number for --scenario {scenario.name}."
    if settings.max_concurrency is not None and not (timed or settings.open_loop):
        yield "--max-concurrency is for open loops, with --request-rate: without, users wait for answers."


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.insecure:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class _Counters:
    """Who counts tokens, see `workloads.scenario.Context`."""

    count_tokens: CountTokens
    encode: Encode
    count_text: CountTokens | None = None


def _silent(_: str) -> NoReturn:
    raise UsageError  # why nobody can count is said already


_NOBODY = _Counters(_silent, _silent)


def _counters(settings: Settings, targets: Sequence[Target] | None, model: ServerModel | None) -> _Counters:
    chat = settings.endpoint_type == "chat"
    if settings.tokenizer is not None:
        return _Counters(
            local_counter(settings.tokenizer, chat),
            local_encoder(settings.tokenizer),
            local_counter(settings.tokenizer),
        )
    if not targets or model is None:
        return _NOBODY
    server = ServerTokenizer(targets[0], settings.headers, model.name, chat=chat)
    return _Counters(server.count, server.encode)


def _scenario(settings: Settings, counters: _Counters, model: ServerModel | None) -> Scenario:
    context = Context(
        dataset_path=settings.dataset_path,
        input_len=settings.input_len,
        max_tokens=settings.max_tokens,
        count_tokens=counters.count_tokens,
        count_text=counters.count_text,
        encode=counters.encode,
        endpoint_type=settings.endpoint_type,
        max_model_len=None if model is None else model.max_model_len,
        parameters=settings.parameters,
    )
    if settings.scenario is None:
        return OwnTasks()
    scenario = catalogue.load(settings.scenario, context)
    for phase in scenario.phases:
        phase.request(settings.seed, 0)  # whatever is wrong with the data set shows now
    if settings.variations or settings.adapters:
        in_turn = settings.adapter_order == "round-robin"
        return Varied(scenario, settings.variations, settings.adapters, in_turn)
    return scenario
