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


def test_tokens_are_usage_x_usable_blocks_x_block_size(tmp_path: Path) -> None:
    use = describe_kv(results(tmp_path, server(ENGINE)))
    assert use is not None
    (engine,) = use.engines
    assert (engine.tokens, engine.tokens_at_peak, engine.tokens_in_the_mean) == (15984, 3996, 1998)
    assert "  peak         at least 3996 tokens (25.0 %)" in list(render_kv(use))


def test_requests_that_would_have_fit(tmp_path: Path) -> None:
    # 100 + 20/2 tokens are 7 blocks, 200 + 10 are 14: 10.5 in the mean.
    use = describe_kv(results(tmp_path, server(ENGINE, {**ENGINE, "engine": "1"}), [(100, 20), (200, 20)]))
    assert use is not None
    assert use.requests_fit == pytest.approx(2 * 999 / 10.5)
    assert (
        "  at once      190.3 requests of these lengths fit that share nothing, 24 at least ran at the peak"
        in list(render_kv(use))
    )


@pytest.mark.parametrize("told", [{}, {"kv_cache_size_tokens": 5120}])
def test_one_block_is_nobodys(tmp_path: Path, told: Any) -> None:
    """vLLM 0.32 with 40 blocks and 13 in use says 13 / 39; 1000 + 30/2 tokens are 8 blocks of 128."""
    engine = {**ENGINE, "num_gpu_blocks": 40, "block_size": 128, "kv_cache_usage_peak": 13 / 39}
    use = describe_kv(results(tmp_path, server({**engine, **told}), [(1000, 30)]))
    assert use is not None
    assert (use.engines[0].tokens, use.engines[0].tokens_at_peak) == (39 * 128, 13 * 128)
    assert use.requests_fit == 39 / 8
    assert "  engine 0     4992 tokens, 40 blocks of 128, one of them vLLM's own" in list(render_kv(use))


def test_the_tokens_that_an_engine_tells_count(tmp_path: Path) -> None:
    """Where layers have a window several blocks hold the same tokens; and blocks may not be known at all."""
    for blocks, tokens, at_peak in ((1000, 8991, 2248), (None, 9000, 2250)):
        told = server({**ENGINE, "num_gpu_blocks": blocks, "kv_cache_size_tokens": 9000})
        use = describe_kv(results(tmp_path, told, [(100, 20)]))  # 7 blocks of 16, in the mean
        assert use is not None
        assert (use.engines[0].tokens, use.engines[0].tokens_at_peak) == (tokens, at_peak)
        assert use.requests_fit == pytest.approx(tokens / 112)


def test_lengths_that_nobody_counted(tmp_path: Path) -> None:
    use = describe_kv(results(tmp_path, server(ENGINE), [(None, 20)]))
    assert use is not None
    assert use.requests_fit is None


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
