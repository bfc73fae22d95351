"""Everything that must be right before the first request: options, scenario, server, model, results folder.

All that is wrong is found before any load and reported together.
"""

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from vllm_locust.client.ask import ServerModel, find_model, token_counter
from vllm_locust.client.chat import RequestOptions
from vllm_locust.client.target import Target
from vllm_locust.core.trace import read_trace, rescale
from vllm_locust.errors import UsageError
from vllm_locust.load.results import check_free
from vllm_locust.load.settings import Settings
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context, CountTokens, Scenario
from vllm_locust.workloads.tokenizer import local_counter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run starts from."""

    settings: Settings
    target: Target
    model: ServerModel
    scenario: Scenario
    arrivals_s: Sequence[float] = ()
    """When a trace sent its requests, if one is replayed."""

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
    target = attempt(lambda: Target.parse(host, _tls_context(settings)))
    model = attempt(lambda: find_model(target, settings.headers, settings.model)) if target else None
    counter = attempt(lambda: _counter(settings, target, model))
    if counter is None and (model is None or settings.tokenizer is not None):
        # Why nobody can count tokens is said already: what else is wrong with the scenario shows without.
        settings = replace(settings, input_len=None, tokenizer=None)
    scenario = attempt(lambda: _scenario(settings, counter))
    arrivals_s = attempt(lambda: _arrivals(settings)) or ()
    if scenario is not None:
        problems.extend(_misfits(settings, model, scenario))
    if problems or target is None or model is None or scenario is None:
        raise UsageError(*problems)
    return Prepared(settings, target, model, scenario, arrivals_s)


def _arrivals(settings: Settings) -> Sequence[float]:
    if settings.arrivals is None:
        return ()
    times_s = read_trace(settings.arrivals)
    rate = settings.request_rate
    return times_s if rate is None else rescale(times_s, rate.rate_at(0.0))


def _misfits(settings: Settings, model: ServerModel | None, scenario: Scenario) -> Iterator[str]:
    """What is right by itself and does not go together."""
    if settings.warmup_s and len(scenario.phases) > 1:
        yield (
            f"--warmup is for one kind of load, and --scenario {scenario.name} runs several in turn: "
            f"take --step-warmup, or one of them, such as {scenario.phases[0].name}"
        )
    if settings.capacity and len(scenario.phases) > 1:
        yield (
            f"A capacity search is for one kind of load, and --scenario {scenario.name} runs several "
            f"in turn: take one of them, such as {scenario.phases[0].name}"
        )
    longest = model.max_model_len if model is not None else None
    if longest and settings.input_len and settings.input_len >= longest:
        yield f"--input-len {settings.input_len} is too long: the model takes {longest} with the answer"


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.insecure:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _counter(settings: Settings, target: Target | None, model: ServerModel | None) -> CountTokens | None:
    chat = settings.endpoint_type == "chat"
    if settings.tokenizer is not None:
        return local_counter(settings.tokenizer, chat)
    if settings.input_len is None or target is None or model is None:
        return None
    return token_counter(target, settings.headers, model.name, chat=chat)


def _scenario(settings: Settings, counter: CountTokens | None) -> Scenario:
    context = Context(
        dataset_path=settings.dataset_path,
        input_len=settings.input_len,
        max_tokens=settings.max_tokens,
        count_tokens=counter,
        count_text=local_counter(settings.tokenizer) if settings.tokenizer else None,
    )
    scenario = catalogue.load(settings.scenario, context)
    for phase in scenario.phases:
        phase.request(settings.seed, 0)  # whatever is wrong with the data set shows now
    return scenario
