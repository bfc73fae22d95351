"""The time line: what falls into which bin, and what doubling the bins leaves as it was."""

from random import Random

import numpy as np
import pytest

from tests.core.made_records import an_ok
from tests.observe.made_runs import a_sample, engine, requests
from vllm_locust.core.group import Group
from vllm_locust.core.record import CONNECT, DROPPED, TIMEOUT, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.observe.series import BINS, Series
from vllm_locust.observe.status import ServerStatus, growth

CLOSE = 1.001e-3


def group_of(*made: RequestRecord) -> Group:
    recording = Recording()
    for record in made:
        recording.add(record)
    return recording.total()


def up(*engines, at_s=0.0, source="h:1") -> ServerStatus:
    return ServerStatus(source, True, sample=a_sample(*engines, at_s=at_s, source=source))


def test_a_request_counts_when_it_ended_and_its_tokens_when_they_came():
    series = Series()
    series.add(
        group_of(an_ok(0.5, arrivals_s=[1.5, 1.7, 4.0]), an_ok(0.5, arrivals_s=[1.2, 1.3], ended_s=2.1))
    )
    columns = series.columns(5.0)
    assert columns["t_s"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert columns["requests_per_s"] == [0, 0, 1, 0, 1]
    assert columns["output_tokens_per_s"] == [0, 4, 0, 0, 1]
    assert columns["ttft_p50_ms"] == [
        None,
        None,
        pytest.approx(700, rel=CLOSE),
        None,
        pytest.approx(1000, rel=CLOSE),
    ]
    # The middle of the two ends is at 3.05 s.
    gaps_ms = [200, 2300, 100]
    assert columns["itl_p50_ms"] == [None] * 3 + [pytest.approx(np.percentile(gaps_ms, 50), rel=CLOSE), None]
    assert columns["itl_p99_ms"][3] == pytest.approx(np.percentile(gaps_ms, 99), rel=CLOSE)


def test_failures_of_every_kind_count_and_dropped_requests_do_not():
    series = Series()
    series.add(
        group_of(
            an_ok(0.0, 0.5, outcome=TIMEOUT),
            RequestRecord(0, "s", "p", CONNECT, 1.0, ended_s=1.5),
            RequestRecord(0, "s", "p", CONNECT, 1.0, ended_s=1.6),
            RequestRecord(0, "s", "p", DROPPED, 1.0, ended_s=1.5),
            an_ok(0.0, 2.5),
        )
    )
    columns = series.columns(3.0)
    assert columns["failed_per_s"] == [1, 2, 0]
    assert sum(columns["requests_per_s"]) == 4


def test_tokens_fill_bins_of_long_ago():
    series = Series()
    series.add(group_of(an_ok(9.0, 10.0)))
    series.add(group_of(an_ok(0.0, arrivals_s=[0.5, 5.5, 10.5])))
    assert series.columns(11.0)["output_tokens_per_s"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 2]
    settling = series.columns(11.0, settling_s=2.5)["output_tokens_per_s"]
    assert settling == [1, 0, 0, 0, 0, 1, 0, 0, None, None, None]
    assert series.columns(11.0, settling_s=60.0)["output_tokens_per_s"] == [None] * 11


def test_an_unfinished_bin_is_shown_only_when_the_run_is_over():
    series = Series()
    series.add(group_of(an_ok(1.0, 2.5)))
    assert len(series.columns(2.9)["t_s"]) == 2
    assert series.columns(2.9, over=True)["requests_per_s"] == [0, 0, 1]


def test_users_and_gauges_are_means_and_the_kv_cache_its_peak():
    series = Series()
    for at_s, users, usage in ((0.1, 4, 0.5), (0.9, 8, 0.25)):
        series.add_load(at_s, users, in_flight=users - 1)
        a, b = engine("0", running=users, waiting=1, kv_cache_usage=usage), engine("1", running=2)
        series.add_servers(at_s, [up(a, at_s=at_s), up(b, at_s=at_s, source="h:2")])
    columns = series.columns(2.0)
    assert (columns["users"], columns["in_flight"]) == ([6, None], [5, None])
    assert (columns["server_running"], columns["server_waiting"]) == ([8, None], [1, None])
    assert columns["server_kv_usage"] == [0.5, None]


def test_a_server_that_is_down_says_nothing():
    series = Series()
    down = ServerStatus("h:1", False, "refused", a_sample(engine(running=3, kv_cache_usage=0.5)))
    series.add_servers(0.5, [down])
    columns = series.columns(1.0)
    assert (columns["server_running"], columns["server_kv_usage"]) == ([None], [None])


def test_the_rate_of_generated_tokens_comes_from_the_counter_between_two_samples():
    series = Series()
    for second, tokens in enumerate([1000, 1500, 1500, 100]):
        at_s = 50.0 + 2 * second
        status = up(engine(generation_tokens=tokens, generation_throughput=7.0), at_s=at_s)
        series.add_servers(float(second), [status])
        series.add_servers(second + 0.5, [status])  # the same sample is seen again
    # At first only what the server says of itself; at last it was started again.
    assert series.columns(4.0)["server_generation_tokens_per_s"] == [7.0, 250.0, 0.0, 50.0]


def test_a_server_without_the_counter_is_believed():
    series = Series()
    for second in range(2):
        series.add_servers(float(second), [up(engine(generation_throughput=90.0), at_s=float(second))])
    assert series.columns(2.0)["server_generation_tokens_per_s"] == [90.0, 90.0]


def test_growth_of_counters():
    before = a_sample(engine("0", preemptions=5), engine("1", preemptions=9))
    after = a_sample(
        engine("0", preemptions=7), engine("1", preemptions=1), engine("2", preemptions=3), engine("3")
    )
    assert growth("preemptions", after, before) == 2 + 1 + 3
    assert growth("prompt_tokens", after, before) is None


@pytest.mark.parametrize(
    ("last_s", "bin_s"), [(599.9, 1.0), (600.0, 2.0), (1199.0, 2.0), (1200.0, 4.0), (5000.0, 16.0)]
)
def test_bins_double_when_they_run_out(last_s, bin_s):
    series = Series()
    series.add_load(last_s, 1, 1)
    columns = series.columns(last_s + 0.5, over=True)
    assert columns["bin_s"] == bin_s
    assert len({len(column) for column in columns.values() if isinstance(column, list)}) == 1
    assert len(columns["t_s"]) <= BINS
    assert (columns["users"][-1], columns["t_s"][-1] - bin_s <= last_s) == (1, True)


def test_wider_bins_say_what_one_histogram_of_all_their_values_would():
    made = sorted(requests(1200, Random(2), "a"), key=lambda record: record.ended_s)
    narrow, wide = Series(), Series()
    wide._reach(4 * BINS - 1)
    assert wide.bin_s == 4.0
    for start in range(0, len(made), 40):
        group = group_of(*made[start : start + 40])
        narrow.add(group)
        wide.add(group)
    narrow.add_load(3.0, 4, 4)
    narrow.add_load(4.5, 6, 6)
    assert narrow.bin_s == 1.0
    narrow._reach(4 * BINS - 1)
    columns, expected = narrow.columns(64.0), wide.columns(64.0)
    for name in ("t_s", "requests_per_s", "failed_per_s", "output_tokens_per_s"):
        assert columns[name] == expected[name]
    for name in ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms"):
        assert columns[name] == expected[name]
    assert columns["users"][:2] == [4, 6]
    assert len([value for value in columns["ttft_p50_ms"] if value is not None]) == 16


def test_the_percentiles_of_a_bin_are_those_of_its_values():
    made = [record for record in requests(1000, Random(4), "a") if record.outcome == "ok"]
    made.sort(key=lambda record: record.ended_s)
    series = Series()
    for start in range(0, len(made), 10):
        series.add(group_of(*made[start : start + 10]))
        if start % 50 == 0:
            series.columns(100.0)  # to look must not change anything
    columns = series.columns(60.0)
    for second in range(50):
        values = [record.ttft_s * 1000 for record in made if int(record.ended_s) == second]
        assert columns["ttft_p50_ms"][second] == pytest.approx(np.percentile(values, 50), rel=CLOSE)
        assert columns["ttft_p99_ms"][second] == pytest.approx(np.percentile(values, 99), rel=CLOSE)
        assert columns["requests_per_s"][second] == len(values)
