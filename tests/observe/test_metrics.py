"""The exporter's page, parsed back, against the summary of the same records and against hand-made samples."""

import math
from random import Random

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.core.made_records import an_ok
from tests.observe.made_runs import GOODPUT_MS, a_run, a_sample, delta_of, engine, identity, requests
from vllm_locust.core.record import TIMEOUT
from vllm_locust.core.server import COUNTERS, GAUGES, HISTOGRAMS, GpuState, HistogramState
from vllm_locust.core.summary import summarize
from vllm_locust.observe.live import LiveRun, LoadState
from vllm_locust.observe.metrics import Page
from vllm_locust.observe.status import ServerStatus

RUN = {"run": "r1", "scenario": "tiny", "model": "m"}


class Read:
    """A page as Prometheus reads it."""

    def __init__(self, run, servers=()):
        self.text = Page(run, servers).render().decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def all(self, name, **labels):
        """Every value of a sample by its other labels."""
        return {
            tuple(
                sorted((key, value) for key, value in sample.labels.items() if key not in labels)
            ): sample.value
            for sample in self.samples
            if sample.name == f"vllm_locust_{name}" and labels.items() <= sample.labels.items()
        }

    def one(self, name, **labels):
        (value,) = self.all(name, **labels).values()
        return value


def test_counts_and_sums_are_those_of_the_summary():
    made = requests(800, Random(7))
    whole, live = a_run(made, goodput_ms=GOODPUT_MS)
    page, total = Read(live), summarize(whole, GOODPUT_MS)
    for profile in ("a", "b"):
        of_it = {**RUN, "profile": profile}
        group = whole.groups[0, profile]
        assert page.one("output_tokens_total", **of_it) == sum(group.output_tokens)
        assert page.one("prompt_tokens_total", **of_it) == sum(group.prompt_tokens)
        assert page.one("received_tokens_total", **of_it) == sum(group.tokens_by_second.values())
        for name, column in (("ttft", group.ttft_s), ("e2e", group.e2el_s)):
            assert page.one(f"{name}_seconds_count", **of_it) == group.completed
            assert page.one(f"{name}_seconds_sum", **of_it) == pytest.approx(sum(column), rel=1e-6)
            for labels, count in page.all(f"{name}_seconds_bucket", **of_it).items():
                bound = float(dict(labels)["le"])
                assert count == sum(value <= bound for value in column)
        tpot = np.asarray(group.tpot_s)
        assert page.one("tpot_seconds_count", **of_it) == np.isfinite(tpot).sum()
        assert page.one("itl_seconds_sum", **of_it) == pytest.approx(group.itl.sum_s)
        assert page.one("lag_seconds_count", **of_it) == group.lag.count
        outcomes = {dict(labels)["outcome"]: n for labels, n in page.all("requests_total", **of_it).items()}
        assert outcomes == {"ok": group.ok, "dropped": group.dropped, "timeout": group.failed}
    assert sum(page.all("output_tokens_total").values()) == total["total_output_tokens"]
    assert sum(page.all("ttft_seconds_count").values()) == total["completed"]
    assert sum(page.all("requests_total").values()) == total["requests"]["planned"]
    good = total["request_goodput"] * total["duration"]
    assert sum(page.all("goodput_requests_total").values()) == pytest.approx(good)


def test_the_load_and_the_verdict():
    _, live = a_run([an_ok(bounds_s=[0.02, 0.0])] * 10)
    live.state(1.0, LoadState(8, 5, 12.5, {"client": 0.25, "worker 2": 0.96}, "kernel", "running"))
    page = Read(live)
    assert (page.one("users", **RUN), page.one("inflight_requests", **RUN)) == (8, 5)
    assert page.one("request_rate_target", **RUN) == 12.5
    assert page.all("client_cpu_ratio", **RUN) == {
        (("process", "client"),): 0.25,
        (("process", "worker 2"),): 0.96,
    }
    assert (page.one("validity"), page.one("run_running")) == (1, 1)
    # The gaps of answers of two tokens are off by 20 ms of 500 at most, as their TPOT is.
    expected = {"ttft": 1, "tpot": 1, "itl": 1, "e2el": 0, "load": 2}
    assert page.all("metric_validity", **RUN) == {(("metric", name),): v for name, v in expected.items()}
    live.state(2.0, LoadState(load_state="ending"))
    page = Read(live)
    assert (page.one("validity"), page.one("run_running")) == (1, 0)
    assert not page.all("request_rate_target")


def test_what_is_not_known_has_no_sample():
    _, live = a_run([an_ok(prompt_tokens=None)])
    page = Read(live)
    assert not page.all("prompt_tokens_total")
    assert page.one("output_tokens_total") == 2
    for name in (
        "goodput_requests_total",
        "phase_request_goodput",
        "request_rate_target",
        "client_cpu_ratio",
    ):
        assert not page.all(name)
    assert page.one("phase_error_ratio") == 0
    assert "nan" not in page.text.lower()


def test_phases():
    live = LiveRun(identity(goodput_ms={"e2el": 1500.0}))
    live.begin_phase(0, "ss, 1 user", 1.0, "users", at_s=0.0)
    live.add(
        delta_of(an_ok(0.0, 2.0, tokens=10), an_ok(0.0, 1.0, tokens=10), an_ok(0.0, 4.0, outcome=TIMEOUT))
    )
    live.begin_phase(1, 'ss, "5" requests/s', 5.0, "rate", at_s=4.0)
    live.begin_phase(2, "last", None, "users", at_s=5.0)
    page = Read(live)
    first = {**RUN, "phase": "1", "title": "ss, 1 user"}
    assert page.one("phase_level", **first, unit="users") == 1
    assert page.one("phase_level", phase="2", title='ss, "5" requests/s', unit="rate") == 5
    assert not page.all("phase_level", phase="3")
    assert page.one("phase_request_throughput", **first) == 0.5
    assert page.one("phase_output_throughput", **first) == 5.0
    assert page.one("phase_request_goodput", **first) == 0.25
    assert page.one("phase_error_ratio", **first) == pytest.approx(1 / 3)
    # Latencies 1 s and 2 s, first tokens halfway.
    for quantile, e2e_s in (("0.5", 1.5), ("0.9", 1.9), ("0.99", 1.99)):
        assert page.one("phase_e2e_seconds", **first, quantile=quantile) == pytest.approx(e2e_s, rel=1e-3)
        ttft_s = page.one("phase_ttft_seconds", **first, quantile=quantile)
        assert ttft_s == pytest.approx(e2e_s / 2, rel=1e-3)
        assert page.one("phase_itl_seconds", **first, quantile=quantile) == pytest.approx(e2e_s / 2, rel=1e-3)
        assert page.one("phase_tpot_seconds", **first, quantile=quantile) == pytest.approx(
            e2e_s / 18, rel=1e-3
        )
    assert page.all("phase_info", **RUN) == {(("phase", "3"), ("title", "last")): 1}
    assert not page.all("phase_ttft_seconds", phase="2")
    assert page.families["vllm_locust_phase_ttft_seconds"].type == "summary"
    live.end(6.0)
    assert not Read(live).all("phase_info")


def test_the_server():
    histogram = HistogramState((0.1, 0.5), (3, 2, 1), 4.5)
    numbers = {name: float(i) for i, name in enumerate((*GAUGES, *COUNTERS), 1)}
    sample = a_sample(
        engine("0", dict.fromkeys(HISTOGRAMS, histogram), **numbers),
        engine("1", running=7.0),
        gpus=[GpuState("0", 0.5, 100.0, None)],
    )
    page = Read(None, [ServerStatus("h:1", True, sample=sample, scrape_s=0.004)])
    which = {"server": "h:1", "engine": "0", "model_name": "m"}
    names = {"running": "requests_running", "waiting": "requests_waiting", "swapped": "requests_swapped"}
    names |= {"num_gpu_blocks": "kv_cache_blocks", "block_size": "kv_cache_block_size_tokens"}
    names |= {"waiting_deferred": "requests_waiting_deferred"}
    names |= {"kv_cache_usage": "kv_cache_usage_ratio"} | {name: f"{name}_total" for name in COUNTERS}
    for name, value in numbers.items():
        assert page.one(f"server_{names.get(name, name)}", **which) == value
    for name in HISTOGRAMS:
        buckets = page.all(f"server_{name}_seconds_bucket", **which)
        assert {dict(labels)["le"]: n for labels, n in buckets.items()} == {"0.1": 3, "0.5": 5, "+Inf": 6}
        assert page.one(f"server_{name}_seconds_count", **which) == 6
        assert page.one(f"server_{name}_seconds_sum", **which) == 4.5
    assert page.one("server_requests_running", engine="1") == 7
    assert not page.all("server_requests_waiting", engine="1")
    assert (page.one("server_up", server="h:1"), page.one("server_scrape_seconds", server="h:1")) == (
        1,
        0.004,
    )
    assert page.one("server_gpu_utilization_ratio", server="h:1", gpu="0") == 0.5
    assert page.one("server_gpu_memory_used_bytes", server="h:1", gpu="0") == 100
    assert not page.all("server_gpu_memory_total_bytes")


def test_a_server_that_is_down_is_only_that():
    sample = a_sample(engine(running=3.0), gpus=[GpuState("0", 0.5)])
    page = Read(None, [ServerStatus("h:1", False, "refused", sample, scrape_s=1.0)])
    assert [(sample.name, sample.labels, sample.value) for sample in page.samples] == [
        ("vllm_locust_server_up", {"server": "h:1"}, 0)
    ]


def test_nothing_to_tell_is_an_empty_page():
    assert Page(None, []).render() == b""


def test_the_page_is_plain_text_in_which_counters_end_in_total_and_no_name_stands_twice():
    _, live = a_run(requests(100, Random(1)), goodput_ms=GOODPUT_MS)
    live.state(1.0, LoadState(1, 1, 1.0, {"client": 0.1}))
    page = Read(live, [ServerStatus("h:1", True, sample=a_sample(engine(preemptions=1.0)))])
    assert "# EOF" not in page.text
    assert "_created" not in page.text
    types = [line.split()[2:4] for line in page.text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len({name for name, _ in types})
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in types)
    series = [line.rpartition(" ")[0] for line in page.text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))
    assert not any(math.isnan(sample.value) for sample in page.samples)


def test_a_page_stays_as_it_was_made():
    _, live = a_run([an_ok()])
    page = Page(live, [])
    before = page.render()
    live.add(delta_of(an_ok(), an_ok(outcome=TIMEOUT)))
    live.end(3.0)
    assert page.render() == before


def test_planned_profiles_begin_with_zeros():
    page = Read(LiveRun(identity(profiles=["a"], goodput_ms=GOODPUT_MS)))
    assert page.one("requests_total", profile="a", outcome="ok") == 0
    for name in ("ttft_seconds_count", "itl_seconds_count", "output_tokens_total", "goodput_requests_total"):
        assert page.one(name, profile="a") == 0
