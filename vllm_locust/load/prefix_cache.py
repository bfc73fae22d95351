"""Makes the server's prefix cache cold or warm before a phase begins.

cold    the server is asked to forget (/reset_prefix_cache); where it does not offer that, the prompts of the
        phase are drawn with a seed of their own, so that nothing it holds fits them
warm    what the scenario's requests share is asked for once, outside of any measurement
"""

import logging
from dataclasses import replace

from vllm_locust.client.ask import reset_prefix_cache, send
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import request_body
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.workloads.draw import draw
from vllm_locust.workloads.scenario import primers_of

logger = logging.getLogger(__name__)

RESET, SALTED, WARMED = "reset", "salted", "warmed"


def phase_seed(phase: Phase, seed: int) -> int:
    """The seed of a phase's requests: the run's, or where they are salted one that no other phase has."""
    return seed if phase.salt is None else draw("salt", seed, phase.salt) >> 32


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
                self._warm(phase)
                return replace(phase, prefix_cache=WARMED)
        return phase

    def _reset(self) -> bool:
        """Whether all servers have forgotten what they held."""
        prepared = self._prepared
        try:
            asked = [reset_prefix_cache(one, prepared.settings.headers) for one in prepared.targets]
            done = all(asked)
        except UsageError as error:
            logger.warning("%s", error)
            done = False
        if not done and not self._said:
            logger.warning(
                "The server does not empty its prefix cache (vLLM does with VLLM_SERVER_DEV_MODE=1 while no "
                "request runs): instead the phase has prompts of its own."
            )
            self._said = True
        return done

    def _warm(self, phase: Phase) -> None:
        prepared = self._prepared
        settings, options = prepared.settings, prepared.request_options
        primers = primers_of(prepared.scenario.phases[phase.member], settings.seed)
        logger.info("Warming the prefix cache with %d requests ...", len(primers) * len(prepared.targets))
        for target in prepared.targets:
            for primer in primers:
                path, body = request_body(primer, settings.endpoint_type)
                try:
                    whole = {"model": options.model, **options.body, **body}
                    send(target, settings.headers, path, whole)
                except UsageError as error:
                    logger.warning("The prefix cache is not as warm as it was to be: %s", error)
                    return
