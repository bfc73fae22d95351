"""Makes the server's prefix cache cold or warm before a phase begins.

cold    the server is asked to forget (/reset_prefix_cache); where it does not, the requests of the phase
        carry a `cache_salt` of their own, with which vLLM shares nothing that it holds
warm    what the scenario's requests share is asked for once, outside of any measurement, of each engine of a
        data-parallel server: they have a cache each
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter

import gevent

from vllm_locust.client.ask import prompt_tokens_of_engines, reset_prefix_cache, send
from vllm_locust.client.target import Target
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import request_body
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.workloads.scenario import PlannedRequest, primers_of

logger = logging.getLogger(__name__)

RESET, SALTED, WARMED, PARTLY_WARMED = "reset", "salted", "warmed", "partly warmed"

_RANK = "X-data-parallel-rank"
"""A header: which engine of a data-parallel vLLM is to answer."""

_TRIES = 10
_BETWEEN_TRIES_S = 0.1
_TELL_EVERY_S = 5.0


class PrefixCache:
    """The server's prefix cache, as the user wants it."""

    def __init__(self, prepared: Prepared, run_id: str) -> None:
        self._prepared = prepared
        self._run_id = run_id
        self._said = False

    def prepare(self, phase: Phase) -> Phase:
        """The phase, with what was done for it."""
        match self._prepared.settings.prefix_cache:
            case "cold":
                if self._reset():
                    return replace(phase, prefix_cache=RESET)
                return replace(phase, prefix_cache=SALTED, salt=f"{self._run_id}-{phase.number}")
            case "warm":
                return replace(phase, prefix_cache=WARMED if self._warm(phase) else PARTLY_WARMED)
        return phase

    def _reset(self) -> bool:
        """Whether all servers have forgotten what they held."""
        resets = [self._reset_one(target) for target in self._prepared.targets]
        done = all(resets)
        if not done and not self._said:
            logger.warning(
                "The server does not empty its prefix cache (vLLM does with VLLM_SERVER_DEV_MODE=1 while no "
                "request runs): instead the requests of each phase have a cache_salt of their own."
            )
            self._said = True
        return done

    def _reset_one(self, target: Target) -> bool:
        headers = self._prepared.settings.headers
        try:
            for _ in range(_TRIES):
                if (done := reset_prefix_cache(target, headers)) is not False:
                    return done is True
                gevent.sleep(_BETWEEN_TRIES_S)  # blocks of the phase before are still in use
        except UsageError as error:
            logger.warning("%s", error)
        return False

    def _warm(self, phase: Phase) -> bool:
        """Whether all engines of all servers were asked for everything, as far as they tell."""
        prepared = self._prepared
        primers = list(primers_of(prepared.scenario.phases[phase.member], prepared.settings.seed))
        logger.info("Warming the prefix cache with %d requests ...", len(primers) * len(prepared.targets))
        warmed = [self._warm_one(target, primers) for target in prepared.targets]
        return all(warmed)

    def _warm_one(self, target: Target, primers: Sequence[PlannedRequest]) -> bool:
        headers = self._prepared.settings.headers
        try:
            engines = list(prompt_tokens_of_engines(target, headers) or ())
            if len(engines) > 1:
                return self._warm_engines(target, engines, primers)
            self._ask_for(target, headers, primers)
        except UsageError as error:
            logger.warning("The prefix cache is not as warm as it was to be: %s", error)
            return False
        return True

    def _warm_engines(
        self, target: Target, engines: Sequence[str], primers: Sequence[PlannedRequest]
    ) -> bool:
        """Whether what was meant for one engine went to that one."""
        headers = self._prepared.settings.headers
        for rank, engine in enumerate(engines):
            before = _at_rest(target, headers)
            self._ask_for(target, {**headers, _RANK: str(rank)}, primers)
            after = _at_rest(target, headers)
            if any(after.get(other) != before.get(other) for other in engines if other != engine):
                logger.warning(
                    "The prefix cache is not as warm as it was to be: %s has %d engines, and requests for "
                    "one of them (%s) went to another, or others use the server.",
                    target.url,
                    len(engines),
                    _RANK,
                )
                return False
        return True

    def _ask_for(self, target: Target, headers: Mapping[str, str], primers: Sequence[PlannedRequest]) -> None:
        settings, options = self._prepared.settings, self._prepared.request_options
        told_s = perf_counter()
        for number, primer in enumerate(primers):
            path, body = request_body(primer, settings.endpoint_type)
            path = options.endpoints.get(path, path)
            send(target, headers, path, {"model": options.model, **options.body, **body})
            if perf_counter() - told_s > _TELL_EVERY_S:
                told_s = perf_counter()
                logger.info("... %d of %d", number + 1, len(primers))


def _at_rest(target: Target, headers: Mapping[str, str]) -> Mapping[str, float]:
    """The prompt tokens of each engine, once they do not grow: vLLM counts some after their answer is out."""
    tokens = prompt_tokens_of_engines(target, headers) or {}
    for _ in range(_TRIES):
        gevent.sleep(_BETWEEN_TRIES_S)
        before, tokens = tokens, prompt_tokens_of_engines(target, headers) or {}
        if tokens == before:
            break
    return tokens
