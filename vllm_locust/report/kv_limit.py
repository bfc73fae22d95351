"""Whether memory held requests up, told only where what the server said at its looks excludes all else.

Rule: how much a request takes is known of this run's own, in whole blocks. Memory was the limit where one
waited in turn while not even the smallest would have fitted, and was not where two of the largest would have:
one for itself, and one for what a prompt in work has not taken yet. Between those it is not known.

Who waits in turn (`num_requests_waiting` without those that vLLM passes over) waits for blocks, for a place
in the batch, for tokens of a step, or for the end of a pause. Of the last three the batch is named alone
where as many ran at every such look as ever did, and tokens were made between all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_locust.core.record import CONNECT, DROPPED, OK
from vllm_locust.report.words import counted
from vllm_locust.results.requests import UNKNOWN, Requests

_ROOM_FOR = 2
_ROOM_FOR_UNLIKE = 16
"""Where it is not told that all layers keep the same: a request then takes blocks of each kind of layer."""
_ALIKE = 0.1
_FULL = 0.95
_LEAST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Needs:
    """Tokens that requests of a run take, None where that is not known."""

    least: int | None
    """At the very least, to be let in."""
    most: int | None
    """At their ends."""


def needs_of(requests: Requests, prefix_cache_hit_rate: float | None) -> Needs:
    """Of those that the server let in; of a prompt that is cached in part the rest is all that it takes."""
    words = requests.words["outcome"]
    away = [word for word in words if word in (CONNECT, DROPPED) or str(word).startswith("http_")]
    let_in = (
        ~np.any([requests.is_word("outcome", str(word)) for word in away], axis=0) if away else slice(None)
    )
    prompts, outputs = requests["prompt_tokens"][let_in], requests["output_tokens"][let_in]
    ended = requests.is_word("outcome", OK)[let_in]
    answers = np.where(ended & (outputs != UNKNOWN), outputs, requests["max_tokens"][let_in])
    if not len(prompts) or (prompts == UNKNOWN).any():
        return Needs(None, None)
    least = int(prompts.min()) if prefix_cache_hit_rate == 0 else 1
    return Needs(least, None if (answers == UNKNOWN).any() else int((prompts + answers).max()))


@dataclass(frozen=True, slots=True)
class _Engine:
    """What an engine told of its cache, as far as it did."""

    told: Mapping[str, Any]

    @property
    def waited(self) -> Mapping[str, Any] | None:
        """What was so while requests waited in turn; None when none was seen to."""
        when: Mapping[str, Any] | None = self.told.get("when_waiting")
        return when

    def free_blocks(self, usage: float | None) -> float | None:
        blocks = self.told.get("num_gpu_blocks")
        return None if usage is None or not blocks else (1 - usage) * (blocks - 1)  # vLLM keeps one back

    def blocks(self, tokens: int | None) -> int | None:
        size = self.told.get("block_size")
        return None if tokens is None or not size else -(-tokens // size)

    def has_room(self, usage: float | None, needs: Needs) -> bool | None:
        """Whether another request would have fitted for certain, or for certain not."""
        free, least, most = self.free_blocks(usage), self.blocks(needs.least), self.blocks(needs.most)
        if free is None:
            return None
        if least is not None and free < least:
            return False
        room_for = _ROOM_FOR if self._layers_are_alike else _ROOM_FOR_UNLIKE
        return True if most is not None and free >= room_for * most else None

    def is_full(self, usage: float | None, needs: Needs) -> bool:
        """Whether the largest request would not have fitted besides."""
        free, most = self.free_blocks(usage), self.blocks(needs.most)
        if free is not None and most is not None and self._layers_are_alike:
            return free < most
        return usage is not None and usage >= _FULL

    @property
    def _layers_are_alike(self) -> bool:
        tokens = self.told.get("kv_cache_size_tokens")
        return (
            bool(tokens) and abs(self.told["num_gpu_blocks"] * self.told["block_size"] / tokens - 1) <= _ALIKE
        )

    @property
    def batch_was_full(self) -> bool:
        when = self.waited or {}
        return (
            when.get("looks", 0) >= _LEAST_LOOKS
            and not when["idle_looks"]
            and bool(when["running_least"])
            and when["running_least"] == when["running_most"] == self.told.get("requests_running_peak")
        )


def limit(server: Mapping[str, Any], requests: Requests) -> str:
    """A sentence or two about the block `server` of a summary."""
    needs = needs_of(requests, server.get("prefix_cache_hit_rate"))
    engines = [_Engine(told) for told in server.get("engines") or ()]
    return " ".join([_of_memory(server, engines, needs), *_of_deferred(server)])


def _of_memory(server: Mapping[str, Any], engines: Sequence[_Engine], needs: Needs) -> str:
    if server.get("preemptions"):
        return _of_preemptions(server["preemptions"], engines, needs)
    if server.get("requests_waiting_peak") is None or any("when_waiting" not in one.told for one in engines):
        return "Whether memory was the limit is not known: the server did not tell all that it takes."
    waited = [(one, one.waited) for one in engines if one.waited]
    if not waited:
        looks = counted(server["samples"], "look") if server.get("samples") else "looks"
        turn = " in turn" if server.get("requests_waiting_deferred_peak") else ""
        return f"No request was seen waiting{turn} at the {looks} at the server."
    rooms = [one.has_room(when["kv_cache_usage_most"], needs) for one, when in waited]
    most = max(
        (when["kv_cache_usage_most"] for _, when in waited if when["kv_cache_usage_most"]), default=None
    )
    if False in rooms:
        return (
            "Memory was the limit: requests waited while the cache had no room for another (in use were up "
            f"to {(most or 0) * 100:.1f} % of it then)."
        )
    if None in rooms:
        used = "" if most is None else f", with {most * 100:.1f} % of the cache in use"
        return (
            f"Whether memory was the limit is not known: requests waited{used}, and their sizes do not tell."
        )
    return (
        "Memory was not the limit: requests waited while the cache had room for them (in use were at most "
        f"{(most or 0) * 100:.1f} % of it then). {_of_the_rest(server, [one for one, _ in waited])}"
    )


def _of_preemptions(count: int, engines: Sequence[_Engine], needs: Needs) -> str:
    times = "once" if count == 1 else f"{count} times"
    peaks = [peak for one in engines if (peak := one.told.get("kv_cache_usage_peak")) is not None]
    lost = f"{times} a request lost its place in the cache and was computed again"
    if any(one.is_full(one.told.get("kv_cache_usage_peak"), needs) for one in engines):
        return f"Memory was the limit: {lost}, at {max(peaks) * 100:.1f} % of the cache in use, or more."
    seen = f" It was never seen more than {max(peaks) * 100:.1f} % full." if peaks else ""
    return (
        f"Whether memory was the limit is not known: {lost}, as happens when the cache is full, and when it "
        f"is reset or the server paused.{seen}"
    )


def _of_the_rest(server: Mapping[str, Any], waited: Sequence[_Engine]) -> str:
    """What else they can have waited for."""
    told_apart = server.get("requests_waiting_deferred_peak") is not None
    if told_apart and all(one.batch_was_full for one in waited):
        places = " and ".join(str(one.told["requests_running_peak"]) for one in waited)
        return f"They waited for a place in the batch (--max-num-seqs): {places} ran all the while."
    slots = "" if told_apart else ", a slot of a LoRA adapter"
    return (
        "They waited for a place in the batch (--max-num-seqs), for tokens of a step "
        f"(--max-num-batched-tokens){slots}, or for the end of a pause: which, the server did not tell."
    )


def _of_deferred(server: Mapping[str, Any]) -> Iterator[str]:
    deferred = server.get("requests_waiting_deferred_peak")
    if deferred:
        yield (
            f"{deferred} requests at least were passed over at a time, for want of a slot of a LoRA adapter, "
            "of a transfer of KV, or of a grammar: neither memory nor the batch held those up."
        )
