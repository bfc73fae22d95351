"""/metrics, read back by Prometheus' own parser, against counts known beforehand."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.exposition import Exposition
from vllm_locust.simulator.stats import Histogram

LABELS = {"engine": "0", "model_name": "tiny"}


@pytest.fixture
def samples(player):
    """A function: what the page of an engine says about a metric with these labels."""

    def read(play):
        page = Exposition(play.engine, "tiny").render().decode()
        families = list(text_string_to_metric_families(page))

        def value(name, **labels):
            (found,) = (
                sample.value
                for family in families
                for sample in family.samples
                if sample.name == name and sample.labels == {**LABELS, **labels}
            )
            return found

        return value

    return read


def test_gauges_show_the_present_batch(player, samples):
    play = player(max_num_seqs=4, num_gpu_blocks=400)
    for _ in range(20):
        play.submit(100, 10)
    play.step()
    value = samples(play)
    assert value("vllm:num_requests_running") == 4
    assert value("vllm:num_requests_waiting") == 16
    assert value("vllm:num_requests_waiting_by_reason", reason="capacity") == 16
    assert value("vllm:num_requests_waiting_by_reason", reason="deferred") == 0
    assert value("vllm:kv_cache_usage_perc") == pytest.approx(4 * 7 / 399)


def test_counters_add_up(player, samples):
    play = player(num_gpu_blocks=5, block_size=4)
    play.submit(4, 8)
    play.submit(4, 8, finish_reason="stop")
    play.play()
    value = samples(play)
    assert value("vllm:num_preemptions_total") == 1
    assert value("vllm:prompt_tokens_total") == 8
    assert value("vllm:generation_tokens_total") == 16
    assert value("vllm:prefix_cache_queries_total") == 8
    assert value("vllm:prefix_cache_hits_total") == 0
    assert value("vllm:request_success_total", finished_reason="stop") == 1
    assert value("vllm:request_success_total", finished_reason="length") == 1
    assert value("vllm:request_success_total", finished_reason="abort") == 0


def test_histograms_are_cumulative_and_sum_up(player, samples):
    play = player(CostModel(0.02))
    for _ in range(3):
        play.submit(10, 5)
    play.play()
    value = samples(play)
    assert value("vllm:inter_token_latency_seconds_bucket", le="0.01") == 0
    assert value("vllm:inter_token_latency_seconds_bucket", le="0.025") == 12
    assert value("vllm:inter_token_latency_seconds_bucket", le="+Inf") == 12
    assert value("vllm:inter_token_latency_seconds_count") == 12
    assert value("vllm:inter_token_latency_seconds_sum") == pytest.approx(12 * 0.02)
    assert value("vllm:time_to_first_token_seconds_sum") == pytest.approx(3 * 0.02)
    assert value("vllm:e2e_request_latency_seconds_bucket", le="0.3") == 3


def test_the_page_is_plain_text_with_colons_and_vllms_buckets(player):
    page = Exposition(player().engine, "tiny").render().decode()
    assert "# TYPE vllm:num_preemptions_total counter" in page
    assert "# EOF" not in page
    assert 'vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="tiny"} 0.0' in page
    assert 'vllm:e2e_request_latency_seconds_bucket{engine="0",le="7680.0",model_name="tiny"} 0.0' in page
    assert 'vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"} 0.0' in page
    assert 'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True"' in page


def test_a_value_on_a_bound_belongs_to_its_bucket():
    histogram = Histogram((0.1, 0.2))
    histogram.observe(0.1)
    histogram.observe(0.15, times=2)
    histogram.observe(0.3)
    assert histogram.counts == [1, 2, 1]
    assert histogram.sum == pytest.approx(0.7)
