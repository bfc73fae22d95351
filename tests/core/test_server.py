"""Pages of metrics: a real one of vLLM 0.32, older and stranger ones, and what is no page of ours."""

import math
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vllm_locust.core.server import EngineState, GpuState, HistogramState, ServerSample, parse_page

SAMPLES = Path(__file__).parent / "samples"
PAGE = (SAMPLES / "metrics_load.txt").read_text(encoding="utf-8")
DATA_PARALLEL = (SAMPLES / "metrics_data_parallel.txt").read_text(encoding="utf-8")
"""Lines of vLLM 0.32 with --data-parallel-size 2 --num-gpu-blocks-override 36, before its first request."""


def engines(page: str) -> tuple[EngineState, ...]:
    return parse_page(page)[0]


def one(page: str) -> EngineState:
    (engine,) = engines(page)
    return engine


# -- a real page ------------------------------------------------------------------------------------------


def test_a_real_page():
    """The numbers are read off the page by eye."""
    (engine,), gpus = parse_page(PAGE)
    assert gpus == ()
    assert (engine.engine, engine.model_name) == ("0", "tiny")
    assert engine.gauges == {
        "running": 4,
        "waiting": 16,
        "kv_cache_usage": 0.0019533634476864847,
        "waiting_deferred": 0,
        "num_gpu_blocks": 8192,
        "block_size": 128,
        "kv_cache_size_tokens": 1048576,
    }
    assert engine.started_s == 1.79520851938e9
    assert engine.counters == {
        "preemptions": 0,
        "prompt_tokens": 1456,
        "generation_tokens": 229,
        "prefix_cache_queries": 1456,
        "prefix_cache_hits": 0,
        "requests_finished": 0,
        "admission_rejections": 0,
    }
    assert set(engine.histograms) == {"ttft", "itl", "tpot", "e2e", "queue", "prefill", "decode", "inference"}
    ttft = engine.histograms["ttft"]
    assert ttft.sum_s == 0.39034295082092285
    assert ttft.count == 4
    assert dict(zip(ttft.bounds, ttft.counts, strict=False)) | {0.1: 1, 0.25: 3} == {
        bound: {0.1: 1, 0.25: 3}.get(bound, 0) for bound in ttft.bounds
    }
    assert engine.histograms["itl"].counts[:4] == (220, 4, 1, 0)
    assert engine.histograms["e2e"].count == 0


def test_the_size_of_the_cache_is_that_of_its_engine():
    """Its metric has no label for the model."""
    running = 'vllm:num_requests_running{engine="%s",model_name="m"} 1\n'
    config = 'vllm:cache_config_info{engine="%s",num_gpu_blocks="%s",block_size="16"} 1.0\n'
    first, second = engines(running % 0 + running % 1 + config % (0, 100) + config % (1, "None"))
    assert first.gauges == {"running": 1, "num_gpu_blocks": 100, "block_size": 16}
    assert second.gauges == {"running": 1, "block_size": 16}
    (only,) = engines(
        'vllm:num_requests_running{model_name="m"} 1\nvllm:cache_config_info{num_gpu_blocks="7"} 1\n'
    )
    assert (only.engine, only.gauges) == ("0", {"running": 1, "num_gpu_blocks": 7})


def test_a_real_page_of_two_engines_with_36_blocks_each():
    assert DATA_PARALLEL.count('num_gpu_blocks="72"') == 2
    cache = {"num_gpu_blocks": 36, "block_size": 128, "kv_cache_size_tokens": 4608}
    assert [(one.engine, one.gauges) for one in engines(DATA_PARALLEL)] == [("0", cache), ("1", cache)]


@pytest.mark.parametrize(
    ("blocks", "size", "tokens", "own"),
    [
        # 36 blocks of 128 tokens in each engine, of which vLLM writes the sum into both series.
        (72, 128, 4608, 36),
        (36, 128, 4608, 36),
        (72, 128, "None", None),  # it cannot be told whether this is the sum
        (72, 128, 3000, None),  # some layers have a window: tokens do not tell blocks
        # The last block of max_model_len = 1000 has 8 places to spare: 10 blocks of 16, 158 tokens.
        (20, 16, 158, 10),
    ],
)
def test_the_cache_of_each_of_several_engines(blocks, size, tokens, own):
    running = 'vllm:num_requests_running{engine="%s",model_name="m"} 1\n'
    config = (
        f'vllm:cache_config_info{{engine="%s",num_gpu_blocks="{blocks}",block_size="{size}",'
        f'kv_cache_size_tokens="{tokens}"}} 1.0\n'
    )
    found = engines("".join(line % number for number in (0, 1) for line in (running, config)))
    assert [engine.gauges.get("num_gpu_blocks") for engine in found] == [own, own]
    known = None if tokens == "None" else tokens
    assert [engine.gauges.get("kv_cache_size_tokens") for engine in found] == [known, known]


def test_of_one_engine_the_blocks_are_its_own_whatever_its_tokens():
    config = 'vllm:cache_config_info{num_gpu_blocks="72",block_size="128",kv_cache_size_tokens="3000"} 1\n'
    assert one(f"vllm:num_requests_running 1\n{config}").gauges["num_gpu_blocks"] == 72


ANNOUNCED = (
    "# HELP vllm:num_requests_running Number of requests currently running on GPU.\n"
    "# TYPE vllm:num_requests_running gauge\n# TYPE vllm:generation_tokens_total counter\n"
)


@pytest.mark.parametrize(
    "before", ["", 'python_info{implementation="CPython"} 1.0\n', f"{'process_start_time_seconds'} 5\n"]
)
def test_a_page_that_only_announces_is_one_of_a_server_that_did_nothing_yet(before):
    """As v0 has it until its first request ended."""
    assert parse_page(before + ANNOUNCED) == ((), ())


@pytest.mark.parametrize(("starts", "known"), [((5,), 5.0), ((5, 5), 5.0), ((5, 7), None), ((), None)])
def test_when_it_started_is_known_of_a_page_of_one_process(starts, known):
    """A gateway may join the pages of several, in any order."""
    lines = [f'process_start_time_seconds{{pod="{i}"}} {start}\n' for i, start in enumerate(starts)]
    (engine,), _ = parse_page("".join(lines) + 'vllm:num_requests_running{engine="0",model_name="m"} 1\n')
    assert engine.started_s == known


def test_a_page_of_ray_without_vllm_is_one_of_a_server_that_did_nothing_yet():
    assert parse_page('ray_node_cpu_utilization{ip="10.0.0.1"} 3.5\n') == ((), ())


def test_the_requests_that_are_passed_over():
    by_reason = 'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="%s"} %d\n'
    found = one(by_reason % ("capacity", 5) + by_reason % ("deferred", 3))
    assert found.gauges == {"waiting_deferred": 3}


@pytest.mark.parametrize("order", [1, -1])
def test_a_counter_under_two_names_counts_once(order):
    """Ray writes both; the sums over the reasons are 5 and 5, not 10."""
    lines = [
        f'{prefix}request_success{total}{{engine="0",model_name="m",finished_reason="{reason}"}} {count}\n'
        for prefix in ("ray_vllm_", "vllm:")
        for total in ("", "_total")
        for reason, count in (("stop", 2), ("length", 3))
    ]
    assert one("".join(lines[::order])).counters == {"requests_finished": 5}


def test_what_ray_serve_writes():
    """Its names, and several replicas on one page, each of which has an engine 0."""
    labels = 'SessionName="s",WorkerId="%s",ReplicaId="%s",engine="0",model_name="m"'
    page = "".join(
        f"ray_vllm_{name}{{{labels % (place, replica)}}} {value}\n"
        for place, replica in enumerate(("abc", "xyz"))
        for name, value in (
            ("num_requests_running", 2 + place),
            ("kv_cache_usage_perc", 0.25),
            ("generation_tokens", 70),
            ("generation_tokens_total", 70),
        )
    )
    found = engines(page)
    assert [(one.engine, one.model_name) for one in found] == [("abc/0", "m"), ("xyz/0", "m")]
    assert [one.gauges for one in found] == [
        {"running": 2, "kv_cache_usage": 0.25},
        {"running": 3, "kv_cache_usage": 0.25},
    ]
    assert [one.counters for one in found] == [{"generation_tokens": 70}] * 2


def test_what_the_library_writes_is_read():
    """An independent way: prometheus_client writes a page of known values."""
    registry = CollectorRegistry()
    labels = ("engine", "model_name")
    for engine, shift in (("0", 0.0), ("1", 1.0)):
        values = (engine, "m")
        if engine == "0":
            gauge = Gauge("vllm:num_requests_running", "Running.", labels, registry=registry)
            counter = Counter("vllm:generation_tokens", "Tokens.", labels, registry=registry)
            histogram = Histogram(
                "vllm:e2e_request_latency_seconds", "E2E.", labels, registry=registry, buckets=(0.5, 2.0)
            )
        gauge.labels(*values).set(3 + shift)
        counter.labels(*values).inc(100 + shift)
        for value in (0.25, 0.5, 1.0, 4.0):
            histogram.labels(*values).observe(value + shift)
    first, second = engines(generate_latest(registry).decode())
    assert first == EngineState(
        "0",
        "m",
        {"running": 3},
        {"generation_tokens": 100},
        {"e2e": HistogramState((0.5, 2.0), (2, 1, 1), 5.75)},
    )
    assert second.gauges == {"running": 4}
    assert second.counters == {"generation_tokens": 101}
    assert second.histograms["e2e"] == HistogramState((0.5, 2.0), (0, 3, 1), 9.75)


# -- names and labels -------------------------------------------------------------------------------------


def test_v0_has_no_engines_other_names_and_a_hit_rate():
    page = """\
vllm:num_requests_running{model_name="m"} 3.0
vllm:num_requests_swapped{model_name="m"} 2.0
vllm:num_requests_waiting{model_name="m"} 1.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.25
vllm:gpu_prefix_cache_hit_rate{model_name="m"} 0.75
vllm:avg_prompt_throughput_toks_per_s{model_name="m"} 100.5
vllm:avg_generation_throughput_toks_per_s{model_name="m"} 50.5
vllm:time_per_output_token_seconds_bucket{le="0.1",model_name="m"} 3.0
vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 4.0
vllm:time_per_output_token_seconds_sum{model_name="m"} 0.5
"""
    engine = one(page)
    assert engine.engine == "0"
    assert engine.gauges == {
        "running": 3,
        "swapped": 2,
        "waiting": 1,
        "kv_cache_usage": 0.25,
        "prefix_cache_hit_ratio": 0.75,
        "prompt_throughput": 100.5,
        "generation_throughput": 50.5,
    }
    assert engine.histograms == {"itl": HistogramState((0.1,), (3, 1), 0.5)}


@pytest.mark.parametrize(
    ("swapped", "gpu", "cpu", "usage"),
    [
        (0, 0.0, 0.015, 0.015),  # a CPU, whose cache is the only one
        (2, 0.0, 0.015, 0.0),  # a GPU whose requests were swapped out
        (0, 0.25, 0.015, 0.25),
        (0, 0.0, 0.0, 0.0),
    ],
)
def test_which_cache_v0_keeps_its_requests_in(swapped, gpu, cpu, usage):
    page = (
        f'vllm:num_requests_swapped{{model_name="m"}} {swapped}\n'
        f'vllm:gpu_cache_usage_perc{{model_name="m"}} {gpu}\n'
        f'vllm:cpu_cache_usage_perc{{model_name="m"}} {cpu}\n'
    )
    assert one(page).gauges == {"swapped": swapped, "kv_cache_usage": usage}


def test_a_cpu_that_does_not_tell_of_swapping_has_its_requests_in_the_cpu_cache():
    page = 'vllm:gpu_cache_usage_perc{model_name="m"} 0.0\nvllm:cpu_cache_usage_perc{model_name="m"} 0.015\n'
    assert one(page).gauges == {"kv_cache_usage": 0.015}


@pytest.mark.parametrize(
    ("gpu", "cpu", "ratio"),
    [(0.0, 0.37, 0.37), (-1.0, 0.37, 0.37), (0.5, 0.0, 0.5), (0.5, -1.0, 0.5), (0, 0, 0)],
)
def test_the_hit_rate_of_the_cache_that_v0_looks_in(gpu, cpu, ratio):
    page = (
        f'vllm:gpu_prefix_cache_hit_rate{{model_name="m"}} {gpu}\n'
        f'vllm:cpu_prefix_cache_hit_rate{{model_name="m"}} {cpu}\n'
    )
    assert one(page).gauges == {"prefix_cache_hit_ratio": ratio}


def test_without_prefix_caching_v0_says_minus_one_which_is_no_rate():
    page = (
        'vllm:gpu_prefix_cache_hit_rate{model_name="m"} -1.0\nvllm:num_requests_running{model_name="m"} 1\n'
    )
    assert one(page).gauges == {"running": 1}


def test_of_the_old_and_the_new_name_the_new_one_counts_whatever_their_order():
    labels = '{engine="0",model_name="m"}'
    lines = [
        f"vllm:gpu_cache_usage_perc{labels} 0.1",
        f"vllm:kv_cache_usage_perc{labels} 0.2",
        f"vllm:gpu_prefix_cache_hits_total{labels} 1",
        f"vllm:prefix_cache_hits_total{labels} 2",
        f"vllm:gpu_prefix_cache_queries_total{labels} 3",
        f"vllm:prefix_cache_queries_total{labels} 4",
        'vllm:time_per_output_token_seconds_bucket{engine="0",model_name="m",le="+Inf"} 5',
        f"vllm:time_per_output_token_seconds_sum{labels} 5",
        'vllm:inter_token_latency_seconds_bucket{engine="0",model_name="m",le="+Inf"} 6',
        f"vllm:inter_token_latency_seconds_sum{labels} 6",
    ]
    for page in ("\n".join(lines) + "\n", "\n".join(reversed(lines)) + "\n"):
        engine = one(page)
        assert engine.gauges == {"kv_cache_usage": 0.2}
        assert engine.counters == {"prefix_cache_hits": 2, "prefix_cache_queries": 4}
        assert engine.histograms == {"itl": HistogramState((), (6,), 6.0)}


def test_underscores_for_colons_and_counters_without_total():
    page = (
        'vllm_num_requests_waiting{engine="0",model_name="m"} 7\n'
        'vllm_prompt_tokens{engine="0",model_name="m"} 8\n'
    )
    assert one(page) == EngineState("0", "m", {"waiting": 7}, {"prompt_tokens": 8})


def test_labels_that_say_nothing_of_the_engine_are_summed_over():
    page = "".join(
        f'vllm:request_success_total{{engine="{engine}",finished_reason="{reason}",model_name="m"}} {value}\n'
        for engine, reason, value in (
            ("0", "stop", 1),
            ("0", "length", 2),
            ("1", "stop", 4),
            ("1", "abort", 8),
        )
    )
    assert [engine.counters["requests_finished"] for engine in engines(page)] == [3, 12]


def test_what_is_about_the_whole_server_counts_with_the_first_engine_of_its_model():
    rejected = 'vllm:admission_rejections_total{model_name="m",reason="a"} 3\n'
    rejected += 'vllm:admission_rejections_total{model_name="m",reason="b"} 4\n'
    running = "".join(
        f'vllm:num_requests_running{{engine="{e}",model_name="{m}"}} 1\n'
        for m, e in (("m", "10"), ("m", "2"), ("a", "0"))
    )
    found = {(e.model_name, e.engine): e.counters for e in engines(rejected + running)}
    assert list(found) == [("a", "0"), ("m", "2"), ("m", "10")]
    assert found == {("a", "0"): {}, ("m", "2"): {"admission_rejections": 7}, ("m", "10"): {}}
    assert one(rejected) == EngineState("0", "m", {}, {"admission_rejections": 7})


def test_time_stamps_odd_spaces_and_windows_line_ends():
    page = 'vllm:num_requests_running{engine="0",model_name="a b\\"c\\\\"}\t 4  1520879607789\r\n'
    assert one(page) == EngineState("0", 'a b"c\\', {"running": 4})


# -- what cannot be is not known --------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e400"])
def test_a_value_that_is_no_number_is_skipped(value):
    page = (
        f"vllm:num_requests_running {value}\nvllm:prompt_tokens_total {value}\nvllm:num_requests_waiting 1\n"
    )
    assert one(page) == EngineState("0", "", {"waiting": 1})


@pytest.mark.parametrize(
    "histogram",
    [
        'x_bucket{le="1"} 2\nx_sum 1\n',  # no last bucket
        'x_bucket{le="1"} 2\nx_bucket{le="+Inf"} 3\n',  # no sum
        'x_bucket{le="1"} 4\nx_bucket{le="+Inf"} 3\nx_sum 1\n',  # not cumulative
        'x_bucket{le="one"} 2\nx_bucket{le="+Inf"} 3\nx_sum 1\n',
        'x_bucket{le="1"} 2\nx_bucket{le="+Inf"} 1e300\nx_sum 1\n',
        'x_bucket{le="-Inf"} 2\nx_bucket{le="+Inf"} 3\nx_sum 1\n',
        'x_bucket{le="+Inf"} NaN\nx_sum 1\n',
        "x_sum 1\n",
    ],
)
def test_half_a_histogram_is_none(histogram):
    page = histogram.replace("x_", "vllm:time_to_first_token_seconds_") + "vllm:num_requests_waiting 1\n"
    assert one(page).histograms == {}


# -- no page of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "clause"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("<!doctype html><html><body>vllm:num_requests_running</body></html>\n", "it is no page of metrics"),
        ('{"detail": "Not Found"}', "it is no page of metrics"),
        ("# TYPE gpu:num_requests_running gauge\n", "it is no page of metrics"),
        (
            "# HELP up Up.\nprocess_start_time_seconds 1\n",
            "its metrics are neither vLLM's nor a DCGM exporter's",
        ),
        ("# TYPE vllm:num_requests_running gauge", "it ends in the middle of a line"),
        (
            '# HELP up Up.\nup 1\npython_info{a="b"} 1.0\n',
            "its metrics are neither vLLM's nor a DCGM exporter's",
        ),
        ("vllm:num_requests_running 1\nvllm:num_requests_waiting 1", "it ends in the middle of a line"),
        ("vllm:num_requests_running one\n", "a line of it is broken"),
        ('vllm:num_requests_running{engine="0} 1\n', "a line of it is broken"),
        ('vllm:num_requests_running{ ="0"} 1\n', "a line of it is broken"),
        ("vllm:num_requests_running 1 {}\n", "a line of it is broken"),
        ("vllm:num_requests_running \n", "a line of it is broken"),
        (f"vllm:num_requests_running {'9' * 4000}\n", "a line of it is broken"),
        (
            f'vllm:num_requests_running{{model_name="{"x" * 9000}"}} 1\n',
            "it has a line of more than 8192 characters",
        ),
    ],
)
def test_a_clause_says_what_is_wrong(page, clause):
    with pytest.raises(ValueError) as caught:
        parse_page(page)
    assert str(caught.value) == clause


NAMES = ["vllm:num_requests_running", "vllm_prompt_tokens", "vllm:e2e_request_latency_seconds_bucket"]
odd_lines = st.builds(
    "".join,
    st.tuples(
        st.sampled_from([*NAMES, "DCGM_FI_DEV_FB_USED", "up", "# TYPE"]),
        st.text('{}="\\,le engine+Inf# \t0', max_size=12) | st.just('{le="+Inf"}'),
        st.sampled_from([" ", "\t", ""]),
        st.text("0123456789.eE+-NaIf_ ", max_size=6),
    ),
)


@given(st.lists(odd_lines, max_size=6).map(lambda lines: "\n".join(lines) + "\n") | st.text())
def test_whatever_stands_there_it_is_read_or_refused(page):
    with suppress(ValueError):
        found, _ = parse_page(page)
        values = [value for e in found for value in (*e.gauges.values(), *e.counters.values())]
        assert all(math.isfinite(value) for value in values)


# -- GPUs -------------------------------------------------------------------------------------------------


def test_the_gpus_of_a_dcgm_exporter():
    page = """\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",device="nvidia0",pod="one"} 35
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",device="nvidia0",pod="two"} 35
DCGM_FI_DEV_GPU_UTIL{gpu="10",UUID="GPU-b",device="nvidia10"} 100
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",device="nvidia0"} 1000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",device="nvidia0"} 24
DCGM_FI_DEV_FB_USED{gpu="2",GPU_I_ID="7"} 8
DCGM_FI_DEV_FB_FREE{UUID="GPU-c"} -1
DCGM_FI_DEV_MEM_COPY_UTIL{gpu="0"} 3
"""
    found, gpus = parse_page(page)
    assert found == ()
    mib = 1024 * 1024
    assert gpus == (
        GpuState("0", 0.35, 24 * mib, 1024 * mib),
        GpuState("10", 1.0, None, None),
        GpuState("2.7", None, 8 * mib, None),
    )


# -- histograms and samples -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantile", "borders"),
    [
        (0.0, (0.0, 0.1)),
        (0.2, (0.0, 0.1)),  # the second of ten
        (0.21, (0.1, 0.5)),
        (0.5, (0.1, 0.5)),
        (0.9, (0.1, 0.5)),
        (0.99, (2.0, None)),
    ],
)
def test_the_bucket_of_a_quantile(quantile, borders):
    """Ten values: two up to 0.1 s, seven up to 0.5 s, none up to 2 s, one beyond."""
    assert HistogramState((0.1, 0.5, 2.0), (2, 7, 0, 1), 6.0).bucket_of(quantile) == borders


def test_an_empty_histogram_has_neither_mean_nor_quantile():
    empty = HistogramState((0.1,), (0, 0), 0.0)
    assert (empty.count, empty.mean_s, empty.bucket_of(0.5)) == (0, None, None)
    assert HistogramState((0.1,), (3, 1), 1.0).mean_s == 0.25


def test_a_sample_travels():
    found, _ = parse_page(PAGE)
    gpus = (GpuState("0", 0.5, None, 80e9),)
    sample = ServerSample("host:8000", 12.5, (*found, EngineState("1", "m")), gpus)
    assert ServerSample.from_dict(msgpack.loads(msgpack.dumps(sample.to_dict()))) == sample
