"""What is said of requests that waited: what was seen, and no cause that it does not prove."""

from typing import Any

import pytest

from vllm_locust.report.waiting import describe_waiting


def an_engine(looks: int, running: tuple[int, int], usage: tuple[float, float], engine: str = "0") -> Any:
    """At so many looks requests waited, while from so many to so many ran, and so much was in use."""
    when = {
        "looks": looks,
        "running_least": running[0],
        "running_most": running[1],
        "kv_cache_usage_least": usage[0],
        "kv_cache_usage_most": usage[1],
    }
    return {"source": "s", "engine": engine, "model_name": "m", "when_waiting": when if looks else None}


def server(*engines: Any, waiting: int | None = 8, **more: Any) -> Any:
    return {
        "samples": 20,
        "engines": engines,
        "requests_waiting_peak": waiting,
        "requests_waiting_deferred_peak": 0,
        "preemptions": 0,
        **more,
    }


NOT_KNOWN = "What held them up is not known from these: it can be memory, a place in the batch"


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        # 18 blocks for prompts of 1000 tokens and answers of one: a step's end frees all that it held.
        (
            server(an_engine(20, (0, 0), (0.0, 0.0))),
            "At the 20 looks that saw some wait 0 ran and 0.0 % of the cache was in use.",
        ),
        # --max-num-seqs 4 and a grammar for each of 12: all that wait count as passed over.
        (
            server(an_engine(20, (4, 4), (0.1, 0.2)), requests_waiting_deferred_peak=8),
            "At least 8 at a time counted as passed over (deferred), as those do for instance that need a",
        ),
        # --max-num-batched-tokens 256 for prompts of 1000 tokens: one runs all the while, of 64.
        (
            server(an_engine(20, (1, 1), (0.1, 0.1))),
            "At the 20 looks that saw some wait 1 ran and 10.0 % of the cache was in use.",
        ),
        # --max-num-seqs 4 and 80 blocks: with 8000 nothing changes.
        (
            server(an_engine(20, (4, 4), (0.6, 0.85))),
            "At the 20 looks that saw some wait 4 ran and 60.0 to 85.0 % of the cache was in use.",
        ),
        # A reset of 4 running requests, twice, while as many waited for a place in the batch.
        (
            server(an_engine(20, (4, 4), (0.97, 0.97)), preemptions=8),
            "8 times a request lost its place in the cache and was computed again: the cache was full, or "
            "was reset, or the server was paused.",
        ),
    ],
)
def test_what_was_seen_names_no_cause(told: Any, seen: str) -> None:
    sentence = describe_waiting(told)
    assert sentence.startswith("At least 8 requests waited at a time. ")
    assert seen in sentence
    assert NOT_KNOWN in sentence
    for wrong in ("was the limit", "was not the limit", "They waited for", "neither"):
        assert wrong not in sentence


def test_a_preemption_where_none_was_seen_waiting() -> None:
    assert describe_waiting(server(an_engine(0, (0, 0), (0, 0)), waiting=0, preemptions=1)) == (
        "No request was seen waiting at the 20 looks at the server. Once a request lost its place in the "
        "cache and was computed again: the cache was full, or was reset, or the server was paused."
    )


def test_each_engine_has_its_looks() -> None:
    told = server(an_engine(1, (2, 2), (0.5, 0.5)), an_engine(0, (9, 9), (0, 0), "1"), waiting=1)
    assert describe_waiting(told).startswith(
        "At least 1 request waited at a time. At the 1 look at engine 0 that saw some wait 2 ran and 50.0 % "
        "of the cache was in use. What held them up"
    )


def test_what_an_engine_does_not_tell_is_not_said() -> None:
    engine = an_engine(3, (1, 2), (0, 0))
    engine["when_waiting"] |= {"kv_cache_usage_least": None, "kv_cache_usage_most": None}
    assert "At the 3 looks that saw some wait 1 to 2 ran. What" in describe_waiting(server(engine))
    assert describe_waiting({"requests_waiting_peak": 8}).startswith(
        "At least 8 requests waited at a time. What"
    )


def test_whether_any_waited_may_not_be_told() -> None:
    assert describe_waiting(server(waiting=None)) == (
        "Whether requests waited is not known: the server did not tell."
    )


@pytest.mark.parametrize(("queue_ms", "said"), [(None, False), (0.1, False), (126.35, True)])
def test_what_waited_between_the_looks_or_in_a_pause_is_not_said_to_have_not(
    queue_ms: float | None, said: bool
) -> None:
    """A vLLM 0.32 that was paused for 6 s showed 0 waiting: 4 of 192 requests had spent them in its queue."""
    sentence = describe_waiting(server(waiting=0, mean_queue_ms=queue_ms))
    assert sentence.startswith("No request was seen waiting at the 20 looks at the server")
    assert (
        "spent 126 ms in its queue in the mean: between the looks, or while it was paused" in sentence
    ) is said
