"""The live view against the summary of the same records, and its server rows against hand-made samples."""

import json
import math
from random import Random

import orjson
import pytest

from tests.core.made_records import an_ok
from tests.observe.made_runs import BEGAN_S, GOODPUT_MS, a_run, a_sample, delta_of, engine, identity, requests
from vllm_locust.core.record import TIMEOUT
from vllm_locust.core.server import GpuState
from vllm_locust.core.summary import summarize
from vllm_locust.observe.live import LiveRun, LoadState
from vllm_locust.observe.status import ServerStatus
from vllm_locust.observe.view import live_view, with_problem

CLOSE = 1.001e-3
EXPORTER = "http://127.0.0.1:9646/metrics"


def seen(run, servers=(), at_s=10.0):
    """What is shown so many seconds into the run; constants that JSON does not know are an error."""

    def fail(constant):
        raise AssertionError(constant)

    return json.loads(live_view(run, servers, EXPORTER, BEGAN_S + at_s), parse_constant=fail)


def server_row(**status):
    (row,) = seen(None, [ServerStatus(**({"source": "h:1", "up": True} | status))])["server"]
    return row


def test_before_the_first_run():
    view = seen(None, [ServerStatus("h:1", False, "refused")])
    assert (view["run"], view["verdict"], view["table"], view["phases"]) == (None, None, [], [])
    assert view["load"] == {"users": 0, "in_flight": 0, "request_rate_target": None, "phase": None}
    assert view["requests"] == {"ok": 0, "failed": 0, "dropped": 0, "outside_window": 0, "failures": {}}
    assert view["rates"] == {"request_throughput": None, "output_throughput": None, "request_goodput": None}
    assert (view["series"].pop("bin_s"), set(map(len, view["series"].values()))) == (1.0, {0})
    assert (len(view["server"]), view["exporter"]) == (1, EXPORTER)


def test_the_run_and_its_load():
    live = LiveRun(identity())
    live.begin_phase(0, "ss, 1 user", 1.0, "users", at_s=0.25, of=3)
    live.begin_phase(1, "ss, 2 users", 2.0, "users", at_s=5.0, of=3)
    live.state(6.0, LoadState(2, 1, None, {"client": 0.5}))
    view = seen(live, at_s=7.5)
    assert view["run"] == {
        "id": "r1",
        "scenario": "tiny",
        "model": "m",
        "host": "http://h:1",
        "state": "running",
        "elapsed_s": 7.5,
    }
    assert view["load"] == {
        "users": 2,
        "in_flight": 1,
        "request_rate_target": None,
        "phase": {"number": 2, "of": 3, "title": "ss, 2 users"},
    }
    assert view["phases"] == [
        {"number": 1, "title": "ss, 1 user", "at_s": 0.25},
        {"number": 2, "title": "ss, 2 users", "at_s": 5.0},
    ]
    assert (len(view["series"]["t_s"]), view["series"]["users"][6]) == (7, 2)
    live.end(8.5)
    view = seen(live, at_s=100.0)
    assert (view["run"]["state"], view["run"]["elapsed_s"]) == ("done", 8.5)
    assert view["series"]["t_s"][-1] == 9.0


def test_numbers_are_those_of_the_summary():
    made = requests(1000, Random(11))
    whole, live = a_run(made, goodput_ms=GOODPUT_MS)
    summary, view = summarize(whole, GOODPUT_MS), seen(live, at_s=60.0)
    for key, value in view["rates"].items():
        assert value == summary[key]
    shown = view["requests"] | {"planned": summary["requests"]["planned"]}
    assert shown.pop("failures") == summary["failures"]
    assert shown == summary["requests"]
    phase = summary["phases"][0]
    expected = [{"profile": "all", **summary}, *phase["profiles"]]
    assert [row["profile"] for row in view["table"]] == ["all", "a", "b"]
    for row, numbers in zip(view["table"], expected, strict=True):
        assert (row["completed"], row["failed"]) == (numbers["completed"], numbers["failed"])
        for family in ("ttft", "tpot", "itl", "e2el"):
            said = row[family]
            assert said["mean_ms"] == pytest.approx(numbers[f"mean_{family}_ms"], rel=1e-6)
            undetermined = [
                q for q in ("p50", "p90", "p99") if None in numbers["intervals"][f"{q}_{family}_ms"]
            ]
            assert said["uncertain"] == undetermined
            for q in ("p50", "p90", "p99"):
                assert said[f"{q}_ms"] == pytest.approx(numbers[f"{q}_{family}_ms"], rel=CLOSE)
        assert row["ttft"]["count"] == numbers["completed"]
    assert sum(view["series"]["requests_per_s"]) == summary["requests"]["ok"] + summary["requests"]["failed"]
    assert sum(view["series"]["failed_per_s"]) == summary["requests"]["failed"]
    # Those of failed requests too: this run's failed when they had two.
    received = sum(count for count in view["series"]["output_tokens_per_s"] if count is not None)
    assert received == summary["total_output_tokens"] + 2 * summary["failed"]


def test_tokens_of_the_last_seconds_are_not_known_before_the_run_is_over():
    _, live = a_run([an_ok(0.0, arrivals_s=[0.5 + i for i in range(4)])])
    running = seen(live, at_s=7.0)["series"]["output_tokens_per_s"]
    # An answer takes 3.5 s, and what ended is known 2 s later at most: 1.5 s are settled.
    assert running == [1, None, None, None, None, None, None]
    live.end(7.0)
    assert seen(live, at_s=9.0)["series"]["output_tokens_per_s"] == [1, 1, 1, 1, 0, 0, 0]


def test_one_profile_is_one_row_and_few_requests_are_marked():
    _, live = a_run([an_ok(arrivals_s=[1.0])])
    (row,) = seen(live)["table"]
    assert (row["profile"], row["completed"]) == ("p", 1)
    assert row["ttft"]["uncertain"] == ["p50", "p90", "p99"]
    nothing = {"count": 0, "mean_ms": None, "p50_ms": None, "p90_ms": None, "p99_ms": None, "uncertain": []}
    assert row["itl"] == row["tpot"] == nothing


def test_a_profile_called_all_is_not_lost():
    _, live = a_run([an_ok(profile="all"), an_ok(profile="b")])
    assert [(row["profile"], row["completed"]) for row in seen(live)["table"]] == [
        ("all", 2),
        ("all", 1),
        ("b", 1),
    ]


def test_the_verdict():
    live = LiveRun(identity())
    live.state(1.0, LoadState(cpu_shares={"client": 0.97}))
    live.add(delta_of(*[an_ok(lags_s=[0.004], bounds_s=[0.0005, 0.0])] * 10))
    verdict = seen(live)["verdict"]
    assert verdict.pop("ttft_bound_p99_ms") == pytest.approx(0.5)
    assert verdict.pop("itl_bound_p99_ms") == pytest.approx(0.5)
    assert verdict.pop("lag_p99_ms") == pytest.approx(4.0)
    assert verdict == {
        "verdict": "valid",
        "reasons": [],
        "metrics": dict.fromkeys(("ttft", "tpot", "itl", "e2el"), "valid"),
        "load": {"verdict": "invalid", "reasons": ["the process 'client' used 97 % of a core"]},
        "remarks": [],
        "send_lateness_p99_ms": 0.0,
        "cpu_shares": {"client": 0.97},
    }


def test_failed_requests_have_no_latency():
    _, live = a_run([an_ok(outcome=TIMEOUT)])
    view = seen(live)
    assert view["requests"]["failures"] == {"timeout": 1}
    assert (view["table"][0]["failed"], view["table"][0]["e2el"]["p50_ms"]) == (1, None)
    assert view["rates"]["output_throughput"] == 0.0


def test_a_server_row():
    before = a_sample(engine("0", preemptions=4, prefix_cache_hits=100, prefix_cache_queries=200))
    after = a_sample(
        engine(
            "0",
            running=3,
            waiting=2,
            kv_cache_usage=0.5,
            preemptions=6,
            prefix_cache_hits=130,
            prefix_cache_queries=300,
        ),
        engine("1", running=4, kv_cache_usage=0.75),
        gpus=[GpuState("0", 0.9, 7.0, 8.0), GpuState("1")],
    )
    assert server_row(sample=after, baseline=before) == {
        "source": "h:1",
        "up": True,
        "problem": None,
        "engines": 2,
        "running": 7,
        "waiting": 2,
        "kv_cache_usage": 0.75,
        "preemptions": 2,
        "prefix_cache_hit_ratio": 0.3,
        "gpus": [
            {"gpu": "0", "utilization_ratio": 0.9, "memory_used_bytes": 7.0, "memory_total_bytes": 8.0},
            {"gpu": "1", "utilization_ratio": None, "memory_used_bytes": None, "memory_total_bytes": None},
        ],
    }


def test_growth_needs_a_begin():
    row = server_row(sample=a_sample(engine(preemptions=6, prefix_cache_hits=1, prefix_cache_queries=2)))
    assert (row["preemptions"], row["prefix_cache_hit_ratio"]) == (None, None)


def test_the_hit_ratio_of_a_server_that_only_tells_the_ratio():
    row = server_row(sample=a_sample(engine(prefix_cache_hit_ratio=0.25)), baseline=a_sample(engine()))
    assert row["prefix_cache_hit_ratio"] == 0.25


def test_no_queries_are_no_ratio():
    sample = a_sample(engine(prefix_cache_hits=5, prefix_cache_queries=9))
    assert server_row(sample=sample, baseline=sample)["prefix_cache_hit_ratio"] is None


def test_a_server_that_is_down_says_why_and_nothing_else():
    row = server_row(up=False, problem="refused", sample=a_sample(engine(running=3)))
    assert row.pop("problem") == "refused"
    assert {key: value for key, value in row.items() if value} == {"source": "h:1"}


def test_what_is_no_number_is_null():
    live = LiveRun(identity())
    nan = a_sample(engine(running=math.nan, kv_cache_usage=math.nan), gpus=[GpuState("0", math.nan)])
    status = ServerStatus("h:1", True, sample=nan)
    live.series.add_servers(0.5, [status])
    view = seen(live, [status])
    assert view["server"][0]["running"] is None
    assert view["server"][0]["gpus"][0]["utilization_ratio"] is None
    assert set(view["series"]["server_running"]) == {None}


def test_the_last_view_may_say_why_no_other_comes():
    first = live_view(None, [], "http://127.0.0.1:1/metrics", 0.0)
    assert orjson.loads(first)["problem"] is None
    last = {**orjson.loads(first), "problem": "gone", "exporter": None}
    assert orjson.loads(with_problem(first, "gone")) == last
    assert orjson.loads(with_problem(None, "gone"))["run"] is None
