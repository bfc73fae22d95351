"""What was seen of the requests that waited for the server, and what can have held them up.

Rule: only what was seen is said, and no cause is named alone. Gauges are what is left after a step: by then
the requests that it finished have given their blocks and places back. A cache and a batch can be full at
once, vLLM tells neither its --max-num-seqs nor its --max-num-batched-tokens, and it counts a request with a
grammar as passed over until that runs, whatever it waits for.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from vllm_locust.report.words import counted

_SOME_WAITING_MS = 5.0

CAUSES = (
    "What held them up is not known from these: it can be memory, a place in the batch (--max-num-seqs), "
    "tokens of a step (--max-num-batched-tokens), a slot of a LoRA adapter, a grammar, a transfer of KV, a "
    "pause, or something else."
)


def describe_waiting(server: Mapping[str, Any]) -> str:
    """Some sentences about the block `server` of a summary."""
    return " ".join(_sentences(server))


def _sentences(server: Mapping[str, Any]) -> Iterator[str]:
    waiting = server.get("requests_waiting_peak")
    if waiting is None:
        yield "Whether requests waited is not known: the server did not tell."
    elif not waiting:
        yield _none_seen(server)
    else:
        yield f"At least {counted(waiting, 'request')} waited at a time."
        yield from _looks(server)
        yield from _passed_over(server)
        yield CAUSES
    yield from _preempted(server)


def _none_seen(server: Mapping[str, Any]) -> str:
    looks = counted(server["samples"], "look") if server.get("samples") else "looks"
    sentence = f"No request was seen waiting at the {looks} at the server"
    if (server.get("mean_queue_ms") or 0.0) < _SOME_WAITING_MS:
        return f"{sentence}."
    return (
        f"{sentence}, though by its own account requests spent {server['mean_queue_ms']:.0f} ms in its queue "
        "in the mean: between the looks, or while it was paused, when its figures stand still."
    )


def _looks(server: Mapping[str, Any]) -> Iterator[str]:
    """Of each engine what was so at the looks that saw requests wait."""
    engines = server.get("engines") or ()
    for engine in engines:
        when = engine.get("when_waiting")
        if not when:
            continue
        seen = []
        if when["running_most"] is not None:
            seen.append(f"{_range(when['running_least'], when['running_most'], '.0f')} ran")
        if when["kv_cache_usage_most"] is not None:
            used = _range(when["kv_cache_usage_least"] * 100, when["kv_cache_usage_most"] * 100, ".1f")
            seen.append(f"{used} % of the cache was in use")
        if seen:
            name = f" at engine {engine['engine']}" if len(engines) > 1 else ""
            yield f"At the {counted(when['looks'], 'look')}{name} that saw some wait {' and '.join(seen)}."


def _range(least: float, most: float, digits: str) -> str:
    low, high = format(least, digits), format(most, digits)
    return low if low == high else f"{low} to {high}"


def _passed_over(server: Mapping[str, Any]) -> Iterator[str]:
    if passed_over := server.get("requests_waiting_deferred_peak"):
        yield (
            f"At least {passed_over} at a time counted as passed over (deferred), as those do for instance "
            "that need a grammar, a transfer of KV, or a slot of a LoRA adapter that is not free."
        )


def _preempted(server: Mapping[str, Any]) -> Iterator[str]:
    if count := server.get("preemptions"):
        times = "Once" if count == 1 else f"{count} times"
        yield (
            f"{times} a request lost its place in the cache and was computed again: the cache was full, or "
            "was reset, or the server was paused."
        )
