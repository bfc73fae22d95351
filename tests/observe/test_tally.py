"""Buckets by brute force, and what a tally adds up."""

from random import Random

import numpy as np
import pytest

from tests.core.made_records import an_ok
from tests.observe.made_runs import requests
from vllm_locust.core.group import Group
from vllm_locust.core.percentile import interval_of_histogram
from vllm_locust.core.recording import Recording
from vllm_locust.observe.tally import BOUNDS_S, Buckets, Tally


def group_of(made) -> Group:
    recording = Recording()
    for record in made:
        recording.add(record)
    return recording.total()


def cumulated(buckets: Buckets, family: str) -> list[int]:
    return np.cumsum(buckets.counts[family]).tolist()


@pytest.mark.parametrize("family", BOUNDS_S)
def test_bounds_ascend_and_are_some_25(family):
    assert len(BOUNDS_S[family]) == 25
    assert (np.diff(BOUNDS_S[family]) > 0).all()


def test_buckets_count_what_is_at_most_their_bound():
    made = requests(1500, Random(3))
    buckets = Buckets()
    for start in range(0, len(made), 100):
        buckets.add(group_of(made[start : start + 100]))
    ok = [record for record in made if record.outcome == "ok"]
    exact = {
        "ttft": [record.ttft_s for record in ok],
        "e2el": [record.e2el_s for record in ok],
        "tpot": [record.tpot_s for record in ok if record.tpot_s is not None],
    }
    for family, values in exact.items():
        expected = [sum(value <= bound for value in values) for bound in BOUNDS_S[family]]
        assert cumulated(buckets, family) == [*expected, len(values)]
    gaps = np.concatenate([np.diff(record.arrivals_s) for record in ok])
    lags = np.array([lag for record in made for lag in record.lags_s])
    for family, values in (("itl", gaps), ("lag", lags)):
        counts = cumulated(buckets, family)
        assert counts[-1] == len(values)
        for bound, count in zip(BOUNDS_S[family], counts, strict=False):
            assert (values <= bound * (1 - 1 / 512)).sum() <= count <= (values <= bound).sum()


def test_a_value_that_is_a_bound_is_in_its_bucket_and_one_beyond_all_in_the_last():
    buckets = Buckets()
    buckets.add(group_of([an_ok(arrivals_s=[0.25]), an_ok(arrivals_s=[200.0])]))
    at = BOUNDS_S["ttft"].tolist().index(0.25)
    assert np.flatnonzero(buckets.counts["ttft"]).tolist() == [at, 25]
    assert np.flatnonzero(buckets.counts["tpot"]).tolist() == []


def test_tallies_merge_to_the_tally_of_all():
    made = requests(300, Random(5))
    limits = {"ttft": 60.0}
    parts, whole = [Tally(), Tally()], Tally()
    parts[0].add(group_of(made[:100]), limits)
    parts[1].add(group_of(made[100:]), limits)
    whole.add(group_of(made), limits)
    parts[0].merge(parts[1])
    assert parts[0].measured() == whole.measured()
    for name in (
        "planned",
        "ok",
        "completed",
        "streams",
        "good",
        "failures",
        "output_tokens",
        "prompt_tokens",
    ):
        assert getattr(parts[0], name) == getattr(whole, name)


@pytest.mark.parametrize("count", [1, 5, 6, 35, 36, 367, 368])
def test_a_percentile_is_uncertain_when_its_interval_is_not_determined(count):
    tally, group = Tally(), group_of([an_ok(arrivals_s=[0.1, 0.2, 0.3])] * count)
    tally.add(group, None)
    for q in (50, 90, 99):
        of_ttft = interval_of_histogram(tally.ttft, q, count)
        of_itl = interval_of_histogram(group.itl, q, group.streams)
        assert tally.uncertain("ttft", q) == (not of_ttft.determined)
        assert tally.uncertain("itl", q) == (not of_itl.determined)


def test_where_there_is_nothing_nothing_is_uncertain():
    assert not Tally().uncertain("ttft", 99)
