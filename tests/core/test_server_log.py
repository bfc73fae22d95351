"""Lines of vLLM's log, as they were seen, and everything else."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vllm_locust.core.server import EngineState
from vllm_locust.core.server_log import parse_line

V0 = (
    "INFO 07-14 14:38:07 [metrics.py:486] Avg prompt throughput: 15135.6 tokens/s, Avg generation "
    "throughput: 40.4 tokens/s, Running: 33 reqs, Swapped: 2 reqs, Pending: 925 reqs, "
    "GPU KV cache usage: 9.2%, CPU KV cache usage: 1.5%."
)
V1 = (
    "(APIServer pid=4556) INFO 11-20 21:22:01 [loggers.py:335] Engine 000: Avg prompt throughput: 1483.8 "
    "tokens/s, Avg generation throughput: 356.6 tokens/s, Running: 8 reqs, Waiting: 3 reqs, "
    "CPU KV cache usage: 0.3%, Prefix cache hit rate: 34.0%"
)


def approx(state: EngineState | None, engine: str, gauges: dict[str, float]) -> bool:
    assert state is not None
    return (state.engine, state.model_name) == (engine, "") and state.gauges == pytest.approx(gauges)


def test_v0():
    assert approx(
        parse_line(V0),
        "0",
        {
            "prompt_throughput": 15135.6,
            "generation_throughput": 40.4,
            "running": 33,
            "swapped": 2,
            "waiting": 925,
            "kv_cache_usage": 0.092,
        },
    )


@pytest.mark.parametrize(
    ("swapped", "gpu", "cpu", "usage"),
    [
        (0, "0.0", "1.5", 0.015),  # a CPU, whose cache is the only one
        (0, "0.0", "0.0", 0.0),
        (2, "0.0", "1.5", 0.0),  # a GPU whose requests were swapped out
        (0, "9.2", "1.5", 0.092),
    ],
)
def test_which_cache_v0_keeps_its_requests_in(swapped, gpu, cpu, usage):
    line = V0.replace("Swapped: 2", f"Swapped: {swapped}").replace(
        "GPU KV cache usage: 9.2", f"GPU KV cache usage: {gpu}"
    )
    state = parse_line(line.replace("CPU KV cache usage: 1.5", f"CPU KV cache usage: {cpu}"))
    assert state is not None
    assert state.gauges["kv_cache_usage"] == pytest.approx(usage)


def test_v1_on_a_cpu():
    assert approx(
        parse_line(V1),
        "0",
        {
            "prompt_throughput": 1483.8,
            "generation_throughput": 356.6,
            "running": 8,
            "waiting": 3,
            "kv_cache_usage": 0.003,
            "prefix_cache_hit_ratio": 0.34,
        },
    )


@pytest.mark.parametrize(
    ("changed", "engine"),
    [
        (V1.replace("Engine 000", "Engine 013").replace("CPU KV", "GPU KV"), "13"),
        (V1.replace("Engine 000", "4 Engines Aggregated"), "0"),
        (V1.replace("3 reqs, CPU", "3 reqs, Deferred: 1 reqs, Preemptions: 7, CPU"), "0"),
        (V1 + ", External prefix cache hit rate: 99.0%, MM cache hit rate: 98.0%", "0"),
        ("\x1b[1;36m(APIServer)\x1b[0;0m " + V1.replace("Avg", "\x1b[32mAvg") + "\x1b[0m\r", "0"),
        (f"2026-11-20T21:22:01Z vllm-0 | {V1}", "0"),
    ],
)
def test_v1_with_this_and_that(changed, engine):
    state = parse_line(changed)
    assert state is not None
    assert (state.engine, state.gauges) == (engine, parse_line(V1).gauges)


def test_the_hit_rate_that_v0_tells_in_a_line_of_its_own():
    line = "INFO 07-14 14:38:07 [metrics.py:502] Prefix cache hit rate: GPU: 12.50%, CPU: 0.00%"
    assert parse_line(line) == EngineState("0", "", {"prefix_cache_hit_ratio": 0.125})


def test_the_hit_rate_of_v0_on_a_cpu():
    line = "INFO 07-14 14:38:07 [metrics.py:502] Prefix cache hit rate: GPU: 0.00%, CPU: 37.00%"
    assert parse_line(line) == EngineState("0", "", {"prefix_cache_hit_ratio": 0.37})


def test_of_a_line_that_was_cut_off_what_is_whole_counts():
    assert parse_line(V1[: V1.index("Waiting: 3 re")]).gauges.keys() == {
        "prompt_throughput",
        "generation_throughput",
        "running",
    }
    assert parse_line(V1[: V1.index("4.0%") + 1]).gauges.keys() == parse_line(V1).gauges.keys() - {
        "prefix_cache_hit_ratio"
    }
    assert parse_line(V1[: V1.index(" reqs, Waiting")]) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        'INFO:     127.0.0.1:51234 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
        "INFO 07-14 14:38:07 Prefix cache hit rate: GPU: nan%, CPU: 0.00%",
        "Avg prompt throughput: nan tokens/s, Avg generation throughput: 1 tokens/s, Running: 1 reqs, ",
        "SpecDecoding metrics: Accepted throughput: 1.0 tokens/s, Drafted throughput: 2.0 tokens/s",
    ],
)
def test_other_lines(line):
    assert parse_line(line) is None


pieces = st.sampled_from([*V0.split(" "), *V1.split(" "), "GPU:", "hit rate: GPU: 1.0%"])


@given(st.text() | st.lists(pieces | st.text(max_size=3)).map(" ".join))
@example("Engine 999999: " + V0[37:])
@example("Avg prompt throughput: " * 50)
def test_no_line_is_too_odd(line):
    state = parse_line(line)
    if state is not None:
        assert all(math.isfinite(value) and value >= 0 for value in state.gauges.values())
