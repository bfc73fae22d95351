"""The fold of a server's samples: windows, growth, restarts, gauges over time."""

import gc
import json
import tracemalloc
from itertools import pairwise

import pytest

from tests.core.made_samples import counted, engine, of, running, sample, tokens, told
from vllm_locust.core.server import GpuState, HistogramState
from vllm_locust.core.server_recording import ServerRecording
from vllm_locust.core.server_window import Level, histogram_sum

# -- windows ----------------------------------------------------------------------------------------------


def test_without_a_warm_up_a_phase_lasts_until_the_next_and_includes_its_draining():
    recording = of(counted(0, 100), counted(1, 110), counted(2, 130))
    recording.close_phase(1, 2.0)
    recording.begin_phase(2, 3.0)
    recording.add(counted(3, 170))
    recording.add(counted(4, 250))
    assert tokens(recording, 1) == 70
    assert tokens(recording, 2) == 80
    assert tokens(recording) == 150
    assert recording.phase(1).samples == 3
    assert recording.phase(2).samples == 2
    assert recording.phase(1).covered_s == 3


def test_with_a_warm_up_it_lasts_from_its_end_to_the_close():
    recording = of(counted(0, 0), counted(1, 1), counted(2, 3), counted(3, 7), warmup_s=2.0)
    recording.close_phase(1, 3.2)
    recording.close_phase(1, 9.0)  # only the first call counts
    recording.add(counted(4, 100))
    assert tokens(recording, 1) == 4
    assert recording.phase(1).samples == 2
    assert recording.phase(1).covered_s == pytest.approx(1.2)


def test_growth_belongs_to_the_phase_with_the_middle_of_the_time_between_two_looks():
    recording = of(counted(0, 0))
    recording.begin_phase(2, 1.2)
    recording.add(counted(2, 10))
    recording.add(counted(3, 15))
    assert tokens(recording, 1) == 10
    assert tokens(recording, 2) == 5


def test_what_was_before_the_first_phase_is_in_none():
    recording = ServerRecording()
    recording.add(counted(0, 0))
    recording.add(counted(1, 5))
    assert recording.total() is None
    assert recording.phase(1) is None
    recording.begin_phase(1, 1.0)
    recording.begin_phase(1, 50.0)  # a second call changes nothing
    assert recording.phase(1) is None
    recording.add(counted(2, 6))
    assert tokens(recording) == 1


def test_a_phase_that_nobody_looked_at():
    recording = of(counted(0, 0))
    recording.begin_phase(2, 100.0)
    recording.begin_phase(3, 101.0)
    recording.add(counted(102, 7))
    assert recording.phase(2) is None
    assert tokens(recording, 1) == 7  # the middle of the gap
    assert recording.phase(3).counters == {}
    assert recording.phase(3).samples == 1


# -- growth -----------------------------------------------------------------------------------------------


def test_a_single_look_knows_no_growth():
    window = of(counted(1, 100)).phase(1)
    assert window.counters == {}
    assert window.to_dict()["generation_tokens"] is None


def test_a_counter_that_stands_still_grew_by_zero():
    assert tokens(of(counted(0, 100), counted(1, 100))) == 0


def test_an_engine_or_a_counter_that_appears_later_grew_from_zero():
    recording = of(
        sample(0, engine(counters={"generation_tokens": 1000})),
        sample(
            1,
            engine(counters={"generation_tokens": 1001, "preemptions": 3}),
            engine("1", None, {"preemptions": 4}),
        ),
    )
    assert recording.total().counters == {"generation_tokens": 1, "preemptions": 7}


def test_one_that_appears_in_the_middle_of_a_gap_belongs_there():
    recording = of(counted(0, 0), counted(4, 0))
    recording.begin_phase(2, 4.4)
    recording.add(sample(5, engine("1", None, {"generation_tokens": 9})))
    assert tokens(recording, 2) == 9


def test_of_a_first_look_that_comes_after_the_begin_only_what_is_whole_is_known():
    """The 20 tokens between the looks are not all that the first phase had."""
    recording = ServerRecording()
    recording.begin_phase(1, 2.0)
    recording.add(sample(2.5, engine(gauges={"running": 3}, counters={"generation_tokens": 40})))
    recording.add(counted(3.5, 60))
    recording.begin_phase(2, 4.0)
    recording.add(counted(4.5, 70))
    assert (recording.phase(1).first_look_late_s, recording.phase(1).counters) == (0.5, {})
    assert recording.phase(1).gauges["running"].peak == 3
    assert (recording.phase(2).first_look_late_s, tokens(recording, 2)) == (0.0, 10)
    assert (recording.total().first_look_late_s, recording.total().counters) == (0.5, {})


def test_a_second_source_that_comes_late_was_missing_in_all_phases_before():
    recording = of(counted(0, 0), counted(2, 30))
    recording.begin_phase(2, 4.0)
    recording.add(sample(6.0, engine(counters={"generation_tokens": 5}), source="b:8000"))
    assert [recording.phase(number).first_look_late_s for number in (1, 2)] == [6.0, 2.0]
    assert recording.phase(1).counters == {}


def test_what_is_asked_between_phases_is_of_none():
    """As the 60 tokens that warm a cache."""
    recording = of(counted(0, 0), counted(2, 30))
    recording.leave_phase(1, 2.0)
    recording.add(counted(5, 90))
    recording.begin_phase(2, 5.0)
    recording.add(counted(6, 100))
    assert (tokens(recording, 1), tokens(recording, 2), tokens(recording)) == (30, 10, 40)


def test_a_source_without_counters_lacks_no_counts():
    """As the log of a server: it tells of the moment only."""
    recording = ServerRecording()
    recording.begin_phase(1, 2.0)
    recording.add(running(2.5, 4))
    assert recording.phase(1).first_look_late_s == 0.0


def test_a_restart():
    recording = of(counted(0, 100), counted(1, 150), counted(2, 20), counted(3, 25))
    assert tokens(recording) == 50 + 20 + 5
    assert recording.total().restarts == 1


def test_the_restart_of_a_server_with_many_engines_is_one():
    def both(at_s, n):
        return sample(at_s, engine("0", None, {"preemptions": n}), engine("1", None, {"preemptions": n}))

    window = of(both(0, 9), both(10, 2), both(20, 1)).total()
    assert (window.restarts, window.counters["preemptions"]) == (2, 6)


def test_a_restart_whose_counters_have_grown_past_the_old_ones():
    """The process says that it is another one: 60 tokens of it are 60, not 10."""
    window = of(told(0, 40, 7.0), told(1, 50, 7.0), told(30, 60, 9.0), told(31, 65, 9.0)).total()
    assert (window.restarts, window.counters["generation_tokens"]) == (1, 10 + 60 + 5)
    assert not window.several_servers


@pytest.mark.parametrize(
    "looks",
    [
        # Of two servers behind a load balancer the one has made 17,000 tokens and the other 310,000.
        [told(0, 17000, 7.0), told(1, 310000, 9.0), told(2, 17100, 7.0)],
        [told(0, 310000, 9.0), told(1, 17000, 7.0)],  # a restart makes none that is older
        # No start is told: a vLLM does not start twice within seconds.
        [counted(0, 310000), counted(1, 17000), counted(2, 310100), counted(3, 17100)],
    ],
)
def test_servers_that_take_turns_behind_one_address_tell_nothing(looks):
    recording = of(*looks, running(4, 3, "another address"))
    assert recording.takes_turns("a")
    assert not recording.takes_turns("another address")
    for window in (recording.total(), recording.phase(1)):
        assert window.several_servers
        assert (window.restarts, window.engines, window.gauges, window.counters) == (0, {}, {}, {})
        assert window.to_dict()["generation_tokens"] is None


def test_a_server_that_was_started_twice_is_one():
    window = of(counted(0, 9), counted(20, 2), counted(40, 1)).total()
    assert (window.restarts, window.several_servers) == (2, False)


def test_what_was_so_while_requests_waited():
    def look(at_s, waiting, deferred, running, usage, tokens):
        gauges = {"waiting": waiting, "waiting_deferred": deferred, "running": running}
        return sample(at_s, engine("0", {**gauges, "kv_cache_usage": usage}, {"generation_tokens": tokens}))

    window = of(
        look(0, 0, 0, 9, 0.9, 0),
        look(1, 5, 0, 4, 0.5, 10),
        look(2, 5, 3, 3, 0.7, 20),
        look(3, 2, 0, 4, 0.6, 20),
        look(4, 3, 3, 1, 0.1, 30),  # all of them passed over: until they run, nobody knows for what they wait
        look(5, 0, 0, 9, 0.9, 40),
    ).total()
    (queue,) = window.queues.values()
    assert queue.to_dict() == {
        "looks": 4,
        "running_least": 1,
        "running_most": 4,
        "kv_cache_usage_least": 0.1,
        "kv_cache_usage_most": 0.7,
    }
    block = window.to_dict()
    assert block["engines"][0]["when_waiting"] == queue.to_dict()
    assert (block["requests_waiting_peak"], block["requests_waiting_deferred_peak"]) == (5, 3)


def test_while_requests_waited_what_one_look_lacks_is_not_known():
    window = of(running(0, 1), running(1, 2), sample(2, engine("0", {"waiting": 1, "running": 2}))).total()
    (queue,) = window.queues.values()
    assert (queue.to_dict()["looks"], queue.to_dict()["kv_cache_usage_most"]) == (1, None)


def test_what_a_source_did_while_it_was_away_counts():
    recording = of(counted(0, 0), counted(1, 5), counted(100, 50))
    assert tokens(recording) == 50
    assert recording.total().covered_s == 6  # 5 s at most are held


def test_a_page_that_lacks_something_for_once():
    recording = of(counted(0, 10), sample(1, engine()), counted(2, 30))
    assert tokens(recording) == 20
    assert recording.total().restarts == 0


def test_sources_are_kept_apart():
    recording = of(counted(0, 10), counted(0, 1000, "b"), counted(1, 11), counted(1.5, 1002, "b"))
    assert tokens(recording) == 3


def test_an_old_sample_is_ignored():
    recording = of(counted(0, 10), counted(2, 20), counted(1, 500), counted(3, 21))
    assert tokens(recording) == 11
    assert recording.total().samples == 3


BOUNDS = (0.1, 1.0)


def timed(at_s, counts, sum_s, bounds=BOUNDS):
    return sample(at_s, engine(ttft=HistogramState(bounds, counts, sum_s)))


def test_histograms_grow_bucket_by_bucket():
    window = of(timed(0, (5, 5, 5), 10.0), timed(1, (6, 5, 7), 14.0), timed(2, (6, 6, 7), 14.5)).total()
    assert window.histograms["ttft"] == HistogramState(BOUNDS, (1, 1, 2), 4.5)
    assert window.mean_ms("ttft") == 1125
    assert window.mean_ms("itl") is None


@pytest.mark.parametrize(
    ("counts", "sum_s", "bounds"),
    [
        ((1, 2, 1), 3.0, BOUNDS),  # fewer
        ((9, 1, 9), 30.0, BOUNDS),  # more, but not in each bucket
        ((5, 6, 5), 9.0, BOUNDS),  # more in less time
        ((5, 6, 9), 90.0, (0.1, 2.0)),  # between other bounds
    ],
)
def test_a_histogram_that_began_anew(counts, sum_s, bounds):
    window = of(timed(0, (5, 5, 5), 10.0), timed(1, counts, sum_s, bounds)).total()
    assert window.histograms["ttft"] == HistogramState(bounds, counts, sum_s)
    assert window.restarts == 1


def test_growth_between_other_bounds_is_added_between_those_that_both_have():
    window = of(
        timed(0, (0, 0, 0), 0.0), timed(1, (1, 2, 3), 9.0), timed(2, (1, 1, 1, 1), 2.0, (0.1, 0.5, 1.0))
    ).total()
    assert window.histograms["ttft"] == HistogramState(BOUNDS, (2, 4, 4), 11.0)
    nothing_shared = histogram_sum(HistogramState((1.0,), (1, 2), 3.0), HistogramState((2.0,), (3, 4), 5.0))
    assert nothing_shared == HistogramState((), (10,), 8.0)


# -- gauges -----------------------------------------------------------------------------------------------


def test_a_gauge_holds_until_the_next_sample():
    window = of(running(0, 2), running(1, 8), running(4, 0), running(5, 0)).total()
    assert window.gauges["running"] == Level(8, (2 * 1 + 8 * 3 + 0 * 1) / 5)


def test_for_five_seconds_at_most():
    window = of(running(0, 4), running(100, 1), running(101, 1)).total()
    assert window.gauges["running"] == Level(4, (4 * 5 + 1 * 1) / 6)


def test_it_holds_over_the_border_of_a_window():
    recording = of(running(0, 6), running(1, 6))
    recording.begin_phase(2, 1.5, 0.25)
    recording.close_phase(2, 2.5)
    recording.add(running(2, 2))
    recording.add(running(3, 9))
    assert recording.phase(1).gauges["running"] == Level(6, 6)
    assert recording.phase(1).covered_s == 1.5
    assert recording.phase(2).gauges["running"] == Level(6, (6 * 0.25 + 2 * 0.5) / 0.75)


def test_one_value_is_its_own_mean():
    assert of(running(1, 7)).total().gauges["running"] == Level(7, 7)


def test_a_peak_is_one_however_short():
    assert of(running(1, 1), running(2, 50)).total().gauges["running"].peak == 50


def test_requests_are_summed_over_engines_and_sources():
    def look(at_s, source, *requests):
        return sample(at_s, *(engine(str(i), {"waiting": n}) for i, n in enumerate(requests)), source=source)

    window = of(look(0, "a", 1, 2), look(0, "b", 10), look(1, "a", 3, 4), look(2, "b", 0)).total()
    assert window.gauges["waiting"] == Level(17, (13 + 17) / 2)
    assert window.engines["a", "0", "m"]["waiting"] == Level(3, 2)
    assert window.engines["a", "1", "m"]["waiting"] == Level(4, 3)
    assert window.engines["b", "0", "m"]["waiting"] == Level(10, 10)


def test_of_ratios_the_highest_makes_the_peak_and_the_mean_over_engines_the_mean():
    window = of(
        sample(0, engine("0", {"kv_cache_usage": 0.25}), engine("1", {"kv_cache_usage": 0.75})),
        sample(1, engine("0", {"kv_cache_usage": 0.5}), engine("1", {"kv_cache_usage": 0.0})),
        sample(2),
    ).total()
    assert window.gauges["kv_cache_usage"] == Level(0.75, (0.5 + 0.25) / 2)


def test_an_engine_that_went_is_not_held():
    window = of(
        sample(0, engine("0", {"running": 1}), engine("1", {"running": 1})),
        sample(1, engine("0", {"running": 1})),
        sample(2),
    ).total()
    assert window.gauges["running"] == Level(2, 1.5)


def test_a_sample_of_another_source_may_come_late():
    window = of(running(0, 1), running(2, 1), running(1.5, 10, "b"), running(4, 1)).total()
    assert window.gauges["running"] == Level(11, (1 * 2 + 11 * 2) / 4)


def test_gpus():
    window = of(
        sample(0, gpus=[GpuState("0", 0.5, 10.0, 80.0), GpuState("1")]),
        sample(1, gpus=[GpuState("0", 1.0, 30.0, 80.0), GpuState("1")]),
        sample(4),
    ).total()
    assert window.to_dict()["gpus"] == {
        "a/0": {
            "utilization_peak": 1.0,
            "utilization_mean": (0.5 + 3 * 1.0) / 4,
            "memory_used_bytes_peak": 30,
            "memory_used_bytes_mean": (10 + 3 * 30) / 4,
            "memory_total_bytes": 80,
        },
        "a/1": {
            "utilization_peak": None,
            "utilization_mean": None,
            "memory_used_bytes_peak": None,
            "memory_used_bytes_mean": None,
            "memory_total_bytes": None,
        },
    }


# -- the block of the summary -----------------------------------------------------------------------------


def test_the_block_of_the_summary():
    def look(at_s, n, usage):
        counters = {"prefix_cache_queries": 8 * n, "prefix_cache_hits": 2 * n, "preemptions": n}
        gauges = {
            "kv_cache_usage": usage,
            "running": 3,
            "waiting": 1,
            "num_gpu_blocks": 100,
            "block_size": 16,
        }
        ttft = HistogramState(BOUNDS, (n, 0, 0), 0.05 * n)
        return sample(
            at_s, engine("0", gauges, counters, ttft=ttft, queue=HistogramState(BOUNDS, (0, 0, 0), 0))
        )

    block = of(look(0, 1, 0.5), look(2, 5, 0.25), look(3, 5, 0.0)).total().to_dict()
    assert json.loads(json.dumps(block)) == block
    assert block == {
        "samples": 3,
        "covered_s": 3,
        "engines": [
            {
                "source": "a",
                "engine": "0",
                "model_name": "m",
                "num_gpu_blocks": 100,
                "block_size": 16,
                "kv_cache_usage_peak": 0.5,
                "kv_cache_usage_mean": pytest.approx((0.5 * 2 + 0.25) / 3),
                "requests_running_peak": 3,
                "when_waiting": {
                    "looks": 2,
                    "running_least": 3,
                    "running_most": 3,
                    "kv_cache_usage_least": 0.0,
                    "kv_cache_usage_most": 0.25,
                },
            }
        ],
        "several_servers": False,
        "partial": False,
        "restarts": 0,
        "first_look_late_s": 0.0,
        "kv_cache_usage_peak": 0.5,
        "kv_cache_usage_mean": pytest.approx((0.5 * 2 + 0.25) / 3),
        "requests_running_peak": 3,
        "requests_running_mean": 3,
        "requests_waiting_peak": 1,
        "requests_waiting_mean": 1,
        "requests_waiting_deferred_peak": None,
        "requests_waiting_deferred_mean": None,
        "preemptions": 4,
        "prefix_cache_hit_rate": 0.25,
        "prefix_cache_hit_rate_told_peak": None,
        "prefix_cache_hit_rate_told_mean": None,
        "prompt_tokens": None,
        "generation_tokens": None,
        "requests_finished": None,
        "admission_rejections": None,
        "mean_ttft_ms": pytest.approx(50),
        "mean_itl_ms": None,
        "mean_tpot_ms": None,
        "mean_e2e_ms": None,
        "mean_queue_ms": None,
        "mean_prefill_ms": None,
        "mean_decode_ms": None,
        "mean_inference_ms": None,
        "gpus": {},
    }


def test_without_queries_there_is_no_hit_rate():
    counters = {"prefix_cache_queries": 5, "prefix_cache_hits": 5}
    window = of(sample(0, engine("0", None, counters)), sample(1, engine("0", None, counters))).total()
    assert window.prefix_cache_hit_rate is None


def test_a_long_run_takes_no_more_memory_than_a_short_one():
    recording = ServerRecording()
    recording.begin_phase(1, 0.0)

    def add(begin, end):
        for i in range(begin, end):
            histogram = HistogramState(BOUNDS, (i, i, i), float(i))
            recording.add(
                sample(float(i), engine("0", {"running": i % 7}, {"preemptions": float(i)}, ttft=histogram))
            )

    add(0, 200)
    tracemalloc.start()
    add(200, 300)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    add(300, 3000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096
    assert recording.total().counters["preemptions"] == 2999


def test_times_of_looks_need_not_be_regular():
    looks = [0.0, 0.1, 0.1, 3.0, 3.5]
    recording = of(*(counted(at_s, 10 * i) for i, at_s in enumerate(looks)))
    assert tokens(recording) == sum(10 for _ in pairwise(looks))
