"""Makes the server's prefix cache cold or warm before a phase begins.

cold    the server is asked to forget (/reset_prefix_cache); where it is not known that it did, the requests
        of the phase carry a `cache_salt` of their own, with which vLLM shares nothing that it holds. Of
        several engines it is known of the first one only
warm    what the scenario's requests share is asked for once, outside of any measurement, of each engine of a
        data-parallel server: they have a cache each. It is warm where each counted just what it was asked,
        and found all of it when asked the same once more
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import gevent

from vllm_locust.client.ask import engines_of, reset_prefix_cache, send
from vllm_locust.client.target import Target
from vllm_locust.core.server import EngineState
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import request_body
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.workloads.scenario import PlannedRequest, primers_of

logger = logging.getLogger(__name__)

RESET, SALTED = "reset", "salted"
WARMED, PARTLY_WARMED, NOT_WARMED = "warmed", "partly warmed", "not warmed"

_RANK = "X-data-parallel-rank"
"""A header: which engine of a data-parallel vLLM is to answer."""

_TRIES = 10
_BETWEEN_TRIES_S = 0.1
_TELL_EVERY_S = 5.0


class _Counts(NamedTuple):
    """What an engine has counted so far."""

    prompt_tokens: float
    hits: float | None
    """Tokens that it found in its cache; None where it does not tell."""


class _Pass(NamedTuple):
    """What an engine was asked once."""

    prompts: Sequence[int]
    """The tokens of each prompt."""
    counted: bool
    """Whether it, and it alone, counted just these."""
    found: float | None = None
    """How many of them all its cache held; None where it does not tell."""


class _Shortfall(NamedTuple):
    """Why a cache is not known to hold everything."""

    state: str
    why: str


class PrefixCache:
    """The server's prefix cache, as the user wants it."""

    def __init__(self, prepared: Prepared, run_id: str) -> None:
        self._prepared = prepared
        self._run_id = run_id
        self._said = False
        self.warming_s: float | None = None
        """How long it was being warmed so far, also where the run ended meanwhile; None: it was not."""

    def prepare(self, phase: Phase) -> Phase:
        """The phase, with what was done for it."""
        match self._prepared.settings.prefix_cache:
            case "cold":
                if self._reset():
                    return replace(phase, prefix_cache=RESET)
                return replace(phase, prefix_cache=SALTED, salt=f"{self._run_id}-{phase.number}")
            case "warm":
                return replace(phase, prefix_cache=self._warm(phase))
        return phase

    def _reset(self) -> bool:
        """Whether all servers are known to have forgotten what they held."""
        resets = [self._reset_one(target) for target in self._prepared.targets]
        done = all(resets)
        if not done and not self._said:
            logger.warning(
                "It is not known that the server has emptied its prefix cache (vLLM does with "
                "VLLM_SERVER_DEV_MODE=1 while no request runs, and tells of the first of several engines "
                "only): so the requests of each phase have a cache_salt of their own."
            )
            self._said = True
        return done

    def _reset_one(self, target: Target) -> bool:
        headers = self._prepared.settings.headers
        try:
            for _ in range(_TRIES):
                if (done := reset_prefix_cache(target, headers)) is not False:
                    return done is True and len(engines_of(target, headers) or ()) == 1
                gevent.sleep(_BETWEEN_TRIES_S)  # blocks of the phase before are still in use
        except UsageError as error:
            logger.warning("%s", error)
        return False

    def _warm(self, phase: Phase) -> str:
        """How warm all engines of all servers are known to be."""
        prepared = self._prepared
        primers = list(primers_of(prepared.scenario.phases[phase.member], prepared.settings.seed))
        logger.info("Warming the prefix cache with %d requests ...", len(primers) * len(prepared.targets))
        began_s = perf_counter()
        try:
            states = {self._warm_one(target, primers) for target in prepared.targets}
        finally:
            took_s = perf_counter() - began_s
            self.warming_s = (self.warming_s or 0.0) + took_s
            logger.info("Warming the prefix cache took %.1f s.", took_s)
        return states.pop() if len(states) == 1 else PARTLY_WARMED

    def _warm_one(self, target: Target, primers: Sequence[PlannedRequest]) -> str:
        try:
            shortfall = self._shortfall_after(target, primers)
        except UsageError as error:
            shortfall = _Shortfall(PARTLY_WARMED, str(error))
        if shortfall is None:
            return WARMED
        logger.warning(
            "The prefix cache is not as warm as it was to be, for all that is known: %s", shortfall.why
        )
        return shortfall.state

    def _shortfall_after(self, target: Target, primers: Sequence[PlannedRequest]) -> _Shortfall | None:
        """Ask each engine for everything, and once more to see what it holds."""
        headers = self._prepared.settings.headers
        engines = engines_of(target, headers) or {}
        if not engines:
            self._ask_for(target, headers, primers)
            why = f"{target.url}/metrics does not tell how many engines there are: each has its own."
            return _Shortfall(PARTLY_WARMED, why)
        shortfalls = []
        for rank, (engine, state) in enumerate(engines.items()):
            chosen = {_RANK: str(rank)} if len(engines) > 1 else {}
            asked = self._ask_engine(target, {**headers, **chosen}, engine, primers)
            if asked.counted:
                asked = self._ask_engine(target, {**headers, **chosen}, engine, primers)
            if not asked.counted:
                in_spite = f" in spite of {_RANK}" if chosen else ""
                why = (
                    f"{target.url} did not count at its engine {engine} just the {sum(asked.prompts)} "
                    f"prompt tokens that were asked of it: they went to another{in_spite}, several servers "
                    "are behind that address, or others use it."
                )
                return _Shortfall(PARTLY_WARMED, why)
            shortfalls.append(_shortfall_of(f"{target.url}, engine {engine},", state, asked))
        return _worst(shortfalls)

    def _ask_engine(
        self, target: Target, headers: Mapping[str, str], engine: str, primers: Sequence[PlannedRequest]
    ) -> _Pass:
        before = _at_rest(target, self._prepared.settings.headers)
        prompts = self._ask_for(target, headers, primers)
        after = _at_rest(target, self._prepared.settings.headers)
        if before is None or after is None or engine not in before:
            return _Pass(prompts, counted=False)
        expected = {name: counts.prompt_tokens for name, counts in before.items()}
        expected[engine] += sum(prompts)
        if {name: counts.prompt_tokens for name, counts in after.items()} != expected:
            return _Pass(prompts, counted=False)
        found = after[engine].hits
        return _Pass(prompts, True, None if found is None else found - (before[engine].hits or 0.0))

    def _ask_for(
        self, target: Target, headers: Mapping[str, str], primers: Sequence[PlannedRequest]
    ) -> Sequence[int]:
        """The prompt tokens of each, as the server tells with its answers."""
        settings, options = self._prepared.settings, self._prepared.request_options
        told_s, tokens = perf_counter(), []
        for number, primer in enumerate(primers):
            path, body = request_body(primer, settings.endpoint_type)
            resource = options.resource(target, path)
            answer = send(target, headers, resource, {"model": options.model, **options.body, **body})
            tokens.append(_prompt_tokens(answer))
            if perf_counter() - told_s > _TELL_EVERY_S:
                told_s = perf_counter()
                logger.info("... %d of %d", number + 1, len(primers))
        return tokens


def _shortfall_of(where: str, engine: EngineState, again: _Pass) -> _Shortfall | None:
    """Whether an engine, asked for everything once more, found less than blocks of its cache can hold.

    In the order of the first time: what has no room for all of them has given each up before it is asked for.
    Speculative decoding may compute the last block of a prompt anew.
    """
    block = engine.gauges.get("block_size")
    if again.found is None or not block:
        why = f"{where} does not tell what its prefix cache found, or how large its blocks are."
        return _Shortfall(PARTLY_WARMED, why)
    blocks = [(tokens - 1) // block for tokens in again.prompts]
    if not any(blocks):
        return _Shortfall(NOT_WARMED, f"{where} holds blocks of {block:.0f} tokens, and no prompt has one.")
    if not again.found:
        why = (
            f"{where} found nothing of {sum(again.prompts)} prompt tokens when asked for them once more: its "
            "prefix cache is off, or too small for them."
        )
        return _Shortfall(NOT_WARMED, why)
    if again.found < block * sum(max(count - 1, 0) for count in blocks):
        why = (
            f"{where} found {again.found:.0f} of {sum(again.prompts)} prompt tokens when asked for them once "
            "more: its prefix cache is too small for them, or does not keep all of them."
        )
        return _Shortfall(PARTLY_WARMED, why)
    return None


def _worst(shortfalls: Sequence[_Shortfall | None]) -> _Shortfall | None:
    """One for all engines; of them none is warmed only where nothing is."""
    known = [one for one in shortfalls if one is not None]
    if not known:
        return None
    cold = all(one is not None and one.state == NOT_WARMED for one in shortfalls)
    return _Shortfall(NOT_WARMED if cold else PARTLY_WARMED, known[0].why)


def _prompt_tokens(answer: Any) -> int:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _at_rest(target: Target, headers: Mapping[str, str]) -> Mapping[str, _Counts] | None:
    """The counts of each engine, once they do not change: vLLM counts some after their answer is out.

    None where they never stand still.
    """
    counts = _counts(target, headers)
    for _ in range(_TRIES):
        gevent.sleep(_BETWEEN_TRIES_S)
        before, counts = counts, _counts(target, headers)
        if counts == before:
            return counts
    return None


def _counts(target: Target, headers: Mapping[str, str]) -> Mapping[str, _Counts]:
    return {
        name: _Counts(engine.counters.get("prompt_tokens", 0.0), engine.counters.get("prefix_cache_hits"))
        for name, engine in (engines_of(target, headers) or {}).items()
    }
