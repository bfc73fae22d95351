"""Makes the server's prefix cache cold or warm before a phase begins.

cold    the server is asked to forget (/reset_prefix_cache); where it does not, the requests of the phase
        carry a `cache_salt` of their own, with which vLLM shares nothing that it holds
warm    what the scenario's requests share is asked for once, outside of any measurement
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import gevent

from vllm_locust.client.ask import reset_prefix_cache, send
from vllm_locust.client.target import Target
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import request_body
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.workloads.scenario import PlannedRequest, primers_of

logger = logging.getLogger(__name__)

RESET, SALTED, WARMED, PARTLY_WARMED = "reset", "salted", "warmed", "partly warmed"

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
        """Whether all servers were asked for everything."""
        prepared = self._prepared
        primers = list(primers_of(prepared.scenario.phases[phase.member], prepared.settings.seed))
        logger.info("Warming the prefix cache with %d requests ...", len(primers) * len(prepared.targets))
        warmed = [self._warm_one(target, primers) for target in prepared.targets]
        return all(warmed)

    def _warm_one(self, target: Target, primers: Sequence[PlannedRequest]) -> bool:
        settings, options = self._prepared.settings, self._prepared.request_options
        told_s = perf_counter()
        for number, primer in enumerate(primers):
            path, body = request_body(primer, settings.endpoint_type)
            try:
                send(target, settings.headers, path, {"model": options.model, **options.body, **body})
            except UsageError as error:
                logger.warning("The prefix cache is not as warm as it was to be: %s", error)
                return False
            if perf_counter() - told_s > _TELL_EVERY_S:
                told_s = perf_counter()
                logger.info("... %d of %d", number + 1, len(primers))
        return True
