"""The KV cache of a run, against numbers worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from vllm_locust.report.kv import describe_kv, render_kv
from vllm_locust.results.folder import Results, read_results

ENGINE = {
    "source": "s",
    "engine": "0",
    "model_name": "m",
    "num_gpu_blocks": 1000,
    "block_size": 16,
    "kv_cache_usage_peak": 0.25,
    "kv_cache_usage_mean": 0.125,
}


def results(folder: Path, server: Any, lengths: Sequence[tuple[int | None, int | None]] = ()) -> Results:
    (folder / "summary.json").write_bytes(orjson.dumps({"server": server}))
    lines = [
        {"outcome": "ok", "prompt_tokens": prompt, "output_tokens": output} for prompt, output in lengths
    ]
    failed = {"outcome": "http_400", "prompt_tokens": 9000, "output_tokens": 9000}
    (folder / "requests.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in [*lines, failed]))
    return read_results(folder)


def server(*engines: Any, **more: Any) -> Any:
    return {
        "engines": engines,
        "requests_running_peak": 24,
        "requests_waiting_peak": 0,
        "preemptions": 0,
        **more,
    }


def test_tokens_are_usage_x_blocks_x_block_size(tmp_path: Path) -> None:
    use = describe_kv(results(tmp_path, server(ENGINE)))
    assert use is not None
    (engine,) = use.engines
    assert (engine.tokens, engine.tokens_at_peak, engine.tokens_in_the_mean) == (16000, 4000, 2000)
    assert "  peak         at least 4000 tokens (25.0 %)" in list(render_kv(use))


def test_requests_that_would_have_fit(tmp_path: Path) -> None:
    # 100 + 20/2 tokens are 7 blocks, 200 + 10 are 14: 10.5 in the mean.
    use = describe_kv(results(tmp_path, server(ENGINE, {**ENGINE, "engine": "1"}), [(100, 20), (200, 20)]))
    assert use is not None
    assert use.requests_fit == pytest.approx(2 * 1000 / 10.5)
    assert "  at once      190.5 requests of these lengths fit, 24 at least ran at the peak" in list(
        render_kv(use)
    )


def test_the_tokens_that_an_engine_tells_count(tmp_path: Path) -> None:
    """Where layers have a window several blocks hold the same tokens; and blocks may not be known at all."""
    for blocks in (1000, None):
        told = server({**ENGINE, "num_gpu_blocks": blocks, "kv_cache_size_tokens": 9000})
        use = describe_kv(results(tmp_path, told, [(100, 20)]))  # 7 blocks of 16, in the mean
        assert use is not None
        assert (use.engines[0].tokens, use.engines[0].tokens_at_peak) == (9000, 2250)
        assert use.requests_fit == pytest.approx(9000 / 112)


def test_lengths_that_nobody_counted(tmp_path: Path) -> None:
    use = describe_kv(results(tmp_path, server(ENGINE), [(None, 20)]))
    assert use is not None
    assert use.requests_fit is None


def sentence_of(folder: Path, told: Any, lengths: Sequence[tuple[int | None, int | None]]) -> str:
    use = describe_kv(results(folder, told, lengths))
    assert use is not None
    return use.sentence


def an_engine(looks: int, usage: tuple[float, float], running: tuple[int, int], **more: Any) -> Any:
    """At so many looks requests waited, while from so much to so much of its 36 blocks was in use."""
    when = {
        "looks": looks,
        "idle_looks": 0,
        "running_least": running[0],
        "running_most": running[1],
        "kv_cache_usage_least": usage[0],
        "kv_cache_usage_most": usage[1],
    }
    return {
        **ENGINE,
        "num_gpu_blocks": 36,
        "block_size": 128,
        "kv_cache_size_tokens": 4608,
        "kv_cache_usage_peak": usage[1],
        "requests_running_peak": 4,
        "when_waiting": when if looks else None,
        **more,
    }


WAITED = {"requests_waiting_peak": 12, "requests_waiting_deferred_peak": 0, "prefix_cache_hit_rate": 0.0}
LONG, SHORT = (3700, 100), (100, 28)
"""Of 30 blocks, and of 1: 35 blocks are there for requests."""


def paused(engine: Any) -> Any:
    return {**engine, "when_waiting": {**engine["when_waiting"], "idle_looks": 3}}


MEMORY, NOT_MEMORY = "Memory was the limit", "Memory was not the limit"
NOT_KNOWN = "Whether memory was the limit is not known"
HALF_CACHED = {**WAITED, "prefix_cache_hit_rate": 0.5}


@pytest.mark.parametrize(
    ("engine", "more", "lengths", "memory", "batch"),
    [
        # The cache held one request of 30 blocks, and 5 more were no room for another of 29.
        (an_engine(9, (0.83, 0.86), (1, 1)), WAITED, [LONG], MEMORY, None),
        # Prompts that are cached in part may need one block: then it is not known.
        (
            an_engine(9, (0.83, 0.86), (1, 1)),
            HALF_CACHED,
            [LONG],
            NOT_KNOWN,
            None,
        ),
        # Short ones would have fitted, long ones not.
        (an_engine(9, (0.83, 0.86), (1, 1)), WAITED, [LONG, SHORT], NOT_KNOWN, None),
        # 4 of 4 ran at each look, and all were small.
        (an_engine(9, (0.1, 0.12), (4, 4)), WAITED, [SHORT], NOT_MEMORY, True),
        # The batch was once fuller, or too seldom looked at, or nothing was made: a pause.
        (an_engine(9, (0.1, 0.12), (2, 4)), WAITED, [SHORT], NOT_MEMORY, False),
        (an_engine(9, (0.1, 0.12), (3, 3)), WAITED, [SHORT], NOT_MEMORY, False),
        (an_engine(2, (0.1, 0.12), (4, 4)), WAITED, [SHORT], NOT_MEMORY, False),
        (paused(an_engine(9, (0.1, 0.12), (4, 4))), WAITED, [SHORT], NOT_MEMORY, False),
        (an_engine(9, (0.0, 0.0), (0, 0), requests_running_peak=0), WAITED, [SHORT], NOT_MEMORY, False),
        # Who is passed over is not told by an older vLLM.
        (
            an_engine(9, (0.1, 0.12), (4, 4)),
            {**WAITED, "requests_waiting_deferred_peak": None},
            [SHORT],
            NOT_MEMORY,
            False,
        ),
        # Nobody counted, nobody told, or layers that are unlike take blocks for each kind.
        (an_engine(9, (0.1, 0.12), (4, 4)), WAITED, [(None, 5)], NOT_KNOWN, None),
        (an_engine(9, (0.1, 0.12), (4, 4), num_gpu_blocks=None), WAITED, [SHORT], NOT_KNOWN, None),
        (an_engine(9, (0.1, 0.70), (4, 4), kv_cache_size_tokens=2000), WAITED, [SHORT], NOT_KNOWN, None),
        ({**ENGINE}, WAITED, [SHORT], NOT_KNOWN, None),  # a folder of before
    ],
)
def test_who_was_the_limit(
    tmp_path: Path, engine: Any, more: Any, lengths: Any, memory: str, batch: bool | None
) -> None:
    sentence = sentence_of(tmp_path, server(engine, **more), lengths)
    assert sentence.startswith(memory)
    assert ("They waited for a place in the batch (--max-num-seqs): 4 ran" in sentence) is bool(batch)
    assert ("or for the end of a pause: which, the server did not tell" in sentence) is (batch is False)


def test_requests_that_were_passed_over_waited_for_neither(tmp_path: Path) -> None:
    """The slots of LoRA adapters were taken: none waited in turn."""
    told = {**WAITED, "requests_waiting_deferred_peak": 12, "samples": 20}
    assert sentence_of(tmp_path, server(an_engine(0, (0.1, 0.2), (1, 1)), **told), [SHORT]) == (
        "No request was seen waiting in turn at the 20 looks at the server. 12 requests at least were passed "
        "over at a time, for want of a slot of a LoRA adapter, of a transfer of KV, or of a grammar: neither "
        "memory nor the batch held those up."
    )


def test_a_look_once_a_second_does_not_see_every_request_that_waits(tmp_path: Path) -> None:
    told = server(an_engine(0, (0.1, 0.2), (1, 1)), samples=20)
    assert (
        sentence_of(tmp_path, told, [SHORT]) == "No request was seen waiting at the 20 looks at the server."
    )


@pytest.mark.parametrize(
    ("usage", "lengths", "sentence"),
    [
        (0.9, [LONG], "Memory was the limit: 3 times a request lost its place in the cache and was computed"),
        (0.99, [SHORT], "Memory was the limit"),
        # During /pause, at 0.4 %: there was room for every request.
        (0.004, [SHORT], "Whether memory was the limit is not known: 3 times a request lost its place"),
        (0.9, [SHORT], "Whether memory was the limit is not known"),
        (0.97, [(None, 9)], "Memory was the limit"),
        (None, [LONG], "Whether memory was the limit is not known"),
    ],
)
def test_preemptions(tmp_path: Path, usage: float | None, lengths: Any, sentence: str) -> None:
    engine = an_engine(4, (0.0, 0.0), (1, 4), kv_cache_usage_peak=usage)
    assert sentence_of(tmp_path, server(engine, preemptions=3, **WAITED), lengths).startswith(sentence)


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"sources": []},
        server(),
        server({"source": "s", "engine": "0", "model_name": "m"}),  # a folder of before
        server({**ENGINE, "num_gpu_blocks": None}),
    ],
)
def test_a_run_without_sizes_has_no_such_block(tmp_path: Path, told: Any) -> None:
    assert describe_kv(results(tmp_path, told)) is None
