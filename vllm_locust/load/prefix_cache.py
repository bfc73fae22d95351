"""Makes the server's prefix cache cold or warm before a phase begins.

cold    the server is asked to forget (/reset_prefix_cache); where it does not, the requests of the phase
        carry a `cache_salt` of their own, with which vLLM shares nothing that it holds
warm    what the scenario's requests share is asked for once, outside of any measurement, of each engine of a
        data-parallel server: they have a cache each. It is warm where each counted just what it was asked
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

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
        """Whether all engines of all servers were asked for everything, by what they counted."""
        prepared = self._prepared
        primers = list(primers_of(prepared.scenario.phases[phase.member], prepared.settings.seed))
        logger.info("Warming the prefix cache with %d requests ...", len(primers) * len(prepared.targets))
        warmed = [self._warm_one(target, primers) for target in prepared.targets]
        return all(warmed)

    def _warm_one(self, target: Target, primers: Sequence[PlannedRequest]) -> bool:
        try:
            doubt = self._doubt_after(target, primers)
        except UsageError as error:
            doubt = str(error)
        if doubt:
            logger.warning(
                "The prefix cache is not as warm as it was to be, for all that is known: %s", doubt
            )
        return not doubt

    def _doubt_after(self, target: Target, primers: Sequence[PlannedRequest]) -> str | None:
        """Ask each engine for everything: why not all of that may have come where it was to."""
        headers = self._prepared.settings.headers
        engines = list(prompt_tokens_of_engines(target, headers) or ())
        if not engines:
            self._ask_for(target, headers, primers)
            return f"{target.url}/metrics does not tell how many engines there are: each has its own."
        for rank, engine in enumerate(engines):
            chosen = {_RANK: str(rank)} if len(engines) > 1 else {}
            before = _at_rest(target, headers)
            asked = self._ask_for(target, {**headers, **chosen}, primers)
            after = _at_rest(target, headers)
            if before is None or after != {**before, engine: before.get(engine, 0.0) + asked}:
                in_spite = f" in spite of {_RANK}" if chosen else ""
                return (
                    f"{target.url} did not count at its engine {engine} just the {asked} prompt tokens "
                    f"that were asked of it: they went to another{in_spite}, "
                    "several servers are behind that address, or others use it."
                )
        return None

    def _ask_for(self, target: Target, headers: Mapping[str, str], primers: Sequence[PlannedRequest]) -> int:
        """The prompt tokens that this was, as the server tells with its answers."""
        settings, options = self._prepared.settings, self._prepared.request_options
        told_s, tokens = perf_counter(), 0
        for number, primer in enumerate(primers):
            path, body = request_body(primer, settings.endpoint_type)
            resource = options.resource(target, path)
            answer = send(target, headers, resource, {"model": options.model, **options.body, **body})
            tokens += _prompt_tokens(answer)
            if perf_counter() - told_s > _TELL_EVERY_S:
                told_s = perf_counter()
                logger.info("... %d of %d", number + 1, len(primers))
        return tokens


def _prompt_tokens(answer: Any) -> int:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _at_rest(target: Target, headers: Mapping[str, str]) -> Mapping[str, float] | None:
    """The prompt tokens of each engine, once they do not change: vLLM counts some after their answer is out.

    None where they never stand still.
    """
    tokens = prompt_tokens_of_engines(target, headers) or {}
    for _ in range(_TRIES):
        gevent.sleep(_BETWEEN_TRIES_S)
        before, tokens = tokens, prompt_tokens_of_engines(target, headers) or {}
        if tokens == before:
            return tokens
    return None
