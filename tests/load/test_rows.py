"""What Locust's own tables show: one request per request, honest percentiles, Aggregated untouched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust import stats
from locust.env import Environment

from vllm_locust.core.record import RequestRecord
from vllm_locust.load.rows import Rows, bucket_ms, buckets_ms, use_fine_buckets


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(stats, "bucket_response_time", stats.bucket_response_time)  # restored afterwards
    use_fine_buckets()
    environment = Environment()
    environment.create_local_runner()
    return environment


def log_record(environment: Environment, record: RequestRecord) -> None:
    rows = Rows(environment)
    rows.add(record)
    rows.flush()


def record_of(arrivals_s: list[float], outcome: str = "ok", **fields: object) -> RequestRecord:
    return RequestRecord(
        index=0,
        scenario="s",
        profile="short_long",
        outcome=outcome,
        intended_s=0.0,
        sent_s=10.0,
        first_token_s=arrivals_s[0] if arrivals_s else None,
        last_token_s=arrivals_s[-1] if arrivals_s else None,
        ended_s=12.0,
        output_tokens=len(arrivals_s),
        arrivals_s=arrivals_s,
        **fields,  # type: ignore[arg-type]
    )


def test_one_request_and_three_rows(environment: Environment) -> None:
    log_record(environment, record_of([10.1, 10.11, 10.13, 10.2]))
    rows = {key: entry.num_requests for key, entry in environment.stats.entries.items()}
    assert rows == {
        ("short_long", "POST"): 1,
        ("short_long", "TTFT"): 1,
        ("short_long", "TPOT"): 1,
        ("short_long", "ITL"): 3,
    }
    assert environment.stats.total.num_requests == 1
    entries = environment.stats.entries
    assert entries[("short_long", "POST")].avg_response_time == pytest.approx(200)
    assert entries[("short_long", "TTFT")].avg_response_time == pytest.approx(100)
    assert entries[("short_long", "TPOT")].avg_response_time == pytest.approx(100 / 3)
    itl = entries[("short_long", "ITL")]
    assert itl.avg_response_time == pytest.approx(100 / 3)
    assert (itl.min_response_time, itl.max_response_time) == pytest.approx((10, 70))
    assert dict(itl.response_times) == {10.0: 1, 20.0: 1, 70.0: 1}
    assert sum(itl.num_reqs_per_sec.values()) == 3


def test_a_failure_is_a_failure_and_nothing_else(environment: Environment) -> None:
    log_record(environment, record_of([10.1], outcome="truncated", error="gone"))
    assert list(environment.stats.entries) == [("short_long", "POST")]
    assert environment.stats.total.num_failures == 1
    (error,) = environment.stats.errors.values()
    assert repr(error.error) == "RequestFailed('truncated: gone')"


def test_how_far_answers_had_come_when_time_ran_out_makes_no_rows(environment: Environment) -> None:
    for came in ("1 event came", "2 events came"):
        log_record(environment, record_of([], outcome="timeout", error=f"no answer within 1 s; {came}"))
    (error,) = environment.stats.errors.values()
    assert (repr(error.error), error.occurrences) == ("RequestFailed('timeout: no answer within 1 s')", 2)


def test_one_token_has_no_tpot_and_no_itl(environment: Environment) -> None:
    log_record(environment, record_of([10.1]))
    assert list(environment.stats.entries) == [("short_long", "POST"), ("short_long", "TTFT")]


def test_percentiles_in_locusts_tables_are_honest(environment: Environment) -> None:
    rng = np.random.default_rng(1)
    gaps_s = rng.lognormal(np.log(0.02), 0.8, 5000)
    arrivals_s = (10.1 + np.concatenate([[0.0], np.cumsum(gaps_s)])).tolist()
    log_record(environment, record_of(arrivals_s))
    itl = environment.stats.entries[("short_long", "ITL")]
    for q in (0.5, 0.9, 0.99):
        shown = itl.get_response_time_percentile(q)
        assert shown == pytest.approx(np.quantile(gaps_s * 1000, q), rel=0.01)


@given(st.floats(0.1, 1e7))
def test_buckets_keep_three_digits(value_ms: float) -> None:
    assert bucket_ms(value_ms) == pytest.approx(value_ms, rel=0.0051, abs=0.0051)


@given(st.lists(st.floats(0, 1e7), min_size=1, max_size=20))
def test_buckets_in_bulk_are_the_same(values_ms: list[float]) -> None:
    one_by_one = [bucket_ms(value_ms) for value_ms in values_ms]
    assert buckets_ms(np.array(values_ms)) == pytest.approx(one_by_one, rel=0.0101, abs=0.0101)


def test_buckets_are_few() -> None:
    assert len({bucket_ms(value / 10) for value in range(1, 1_000_000)}) < 4000
