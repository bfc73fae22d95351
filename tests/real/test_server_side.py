"""What a real vLLM tells of itself, beside what the client measured."""

from pathlib import Path
from urllib.request import urlopen

from tests.locust_command import assert_nothing_is_lost, counters, growth, run_locust
from vllm_locust.core.server import COUNTERS, HISTOGRAMS, parse_page

# Throughputs and hit rates are told by logs only; what swapped was v0.
GAUGES_OF_A_PAGE = {
    *("running", "waiting", "waiting_deferred"),
    *("kv_cache_usage", "block_size", "num_gpu_blocks", "kv_cache_size_tokens"),
}


def test_all_that_is_looked_for_is_on_the_page(vllm_url: str) -> None:
    with urlopen(f"{vllm_url}/metrics", timeout=10) as answer:
        (engine,), gpus = parse_page(answer.read().decode())
    assert (engine.engine, engine.model_name) == ("0", "tiny")
    assert set(engine.gauges) == GAUGES_OF_A_PAGE
    assert set(engine.counters) == set(COUNTERS)
    assert set(engine.histograms) == set(HISTOGRAMS)
    assert not gpus


def test_vllm_and_the_client_agree(vllm_url: str, tmp_path: Path) -> None:
    before = counters(vllm_url)
    run = run_locust(
        "--headless", "-u", "2", "-r", "2", "--host", vllm_url, "--server-metrics-url", vllm_url,
        "--scenario", "ss:1,sl:1", "--max-tokens", "32", "--num-prompts", "40", folder=tmp_path / "results",
    )  # fmt: skip
    grown = growth(before, counters(vllm_url))
    assert_nothing_is_lost(run)
    server = run.summary["server"]
    both = server["reconciliation"]
    assert server["requests_finished"] == grown["vllm:request_success_total"] == 40
    assert both["tokens"]["generation"] == {"client": 40 * 32, "server": 40 * 32}
    assert both["tokens"]["prompt"]["client"] == both["tokens"]["prompt"]["server"]
    for family, name in (("ttft", "time_to_first_token"), ("e2el", "e2e_request_latency")):
        mean_s = grown[f"vllm:{name}_seconds_sum"] / grown[f"vllm:{name}_seconds_count"]
        assert abs(both[family]["server_mean_ms"] - mean_s * 1000) < 1e-6
        # What the client waits for begins before and ends behind what the server sees.
        assert both[family]["server_mean_ms"] < both[family]["client_mean_ms"]
    assert 1 <= server["requests_running_peak"] <= 2
    assert 0 < server["kv_cache_usage_peak"] < 1
    assert server["restarts"] == 0
