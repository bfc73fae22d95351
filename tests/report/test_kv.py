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
    assert "  peak         4000 tokens (25.0 %)" in list(render_kv(use))


def test_requests_that_would_have_fit(tmp_path: Path) -> None:
    # 100 + 20/2 tokens are 7 blocks, 200 + 10 are 14: 10.5 in the mean.
    use = describe_kv(results(tmp_path, server(ENGINE, {**ENGINE, "engine": "1"}), [(100, 20), (200, 20)]))
    assert use is not None
    assert use.requests_fit == pytest.approx(2 * 1000 / 10.5)
    assert "  at once      190.5 requests of these lengths fit, 24 ran at the peak" in list(render_kv(use))


def test_lengths_that_nobody_counted(tmp_path: Path) -> None:
    use = describe_kv(results(tmp_path, server(ENGINE), [(None, 20)]))
    assert use is not None
    assert use.requests_fit is None


@pytest.mark.parametrize(
    ("more", "usage", "sentence"),
    [
        ({}, 0.9, "No request waited"),
        (
            {"requests_waiting_peak": 5},
            0.3,
            "Memory was not the limit: requests waited while the cache was never",
        ),
        (
            {"requests_waiting_peak": 5},
            0.99,
            "Memory was the limit: requests waited while the cache was full",
        ),
        ({"preemptions": 3}, 0.99, "Memory was the limit: the cache was full, and 3 times"),
        ({"requests_waiting_peak": None}, 0.9, "Whether memory was the limit is not known"),
        ({"requests_waiting_peak": 5}, None, "Whether memory was the limit is not known"),
    ],
)
def test_who_was_the_limit(tmp_path: Path, more: Any, usage: float | None, sentence: str) -> None:
    use = describe_kv(results(tmp_path, server({**ENGINE, "kv_cache_usage_peak": usage}, **more)))
    assert use is not None
    assert use.sentence.startswith(sentence)


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
