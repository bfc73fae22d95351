"""Two engines of a real vLLM behind one address: each has a KV cache of its own."""

from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.locust_command import assert_ended_well, assert_nothing_is_lost, run_locust
from tests.real.conftest import START_LIMIT_S, serving
from vllm_locust.core.server import EngineState, parse_page
from vllm_locust.kv_cache.server import ask_server
from vllm_locust.report.kv import describe_kv
from vllm_locust.results.folder import read_results

pytestmark = pytest.mark.timeout(START_LIMIT_S + 300)

PREFIX_TOKENS = 512
"""Four blocks."""
TOO_SLOW = "failed to report ZMQ addresses within timeout"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data-parallel")
    try:
        with serving(folder, "--data-parallel-size", "2", "--enable-prompt-tokens-details") as url:
            yield url
    except pytest.fail.Exception:
        if TOO_SLOW in (folder / "server.log").read_text(encoding="utf-8", errors="replace"):
            pytest.skip("this machine is too busy: vLLM waits for its processes no longer than two minutes")
        raise


def engines(url: str) -> dict[str, EngineState]:
    with urlopen(f"{url}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    return {state.engine: state for state in parse_page(page)[0]}


def test_each_engine_is_warm_and_has_the_cache_of_one(both: str, vllm_url: str, tmp_path: Path) -> None:
    """`num_gpu_blocks` of each is the sum of both; a server of one engine has the same memory for it."""
    before = engines(both)
    outcome = run_locust(
        "--headless", "-u", "4", "-r", "4", "--host", both, "--server-metrics-url", both,
        "--endpoint-type", "completions", "--scenario", "prefix", "--set", f"prefix_len={PREFIX_TOKENS}",
        "--set", "prefixes=2", "--set", "input_len=40", "--set", "output_len=8", "--prefix-cache", "warm",
        "--num-prompts", "24", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["phases"][0]["prefix_cache"] == "warmed"
    assert {request["cached_tokens"] for request in outcome.requests} == {PREFIX_TOKENS}
    for name, engine in engines(both).items():  # each answered some of the requests
        hits = engine.counters["prefix_cache_hits"] - before[name].counters["prefix_cache_hits"]
        assert hits > 0
    (one,) = ask_server(vllm_url)
    use = describe_kv(read_results(tmp_path / "results"))
    assert use is not None
    assert [(engine.engine, engine.tokens) for engine in use.engines] == [
        (name, one.capacity_tokens - one.block_size)
        for name in ("0", "1")  # vLLM counts its own block
    ]
    assert [cache.num_gpu_blocks for cache in ask_server(both)] == [one.num_gpu_blocks] * 2
