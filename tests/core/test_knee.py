"""The knee against curves whose knee is known from their formula, and against curves that have none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.core.knee import find_knee

LADDER = [1, 2, 4, 8, 16, 32, 64]


def saturating(loads: list[float], limit: float) -> list[float]:
    """A server with so many places: each user gets its rate until they are taken."""
    return [10.0 * min(load, limit) for load in loads]


@pytest.mark.parametrize("limit", [2, 4, 8, 16])
def test_the_knee_is_where_all_places_are_taken(limit: int) -> None:
    assert find_knee(LADDER, saturating(LADDER, limit)) == limit


def test_the_knee_does_not_depend_on_order_and_scale() -> None:
    throughputs = saturating(LADDER, 8)
    assert find_knee(LADDER[::-1], throughputs[::-1]) == 8
    assert find_knee([load * 1000 for load in LADDER], [one * 1e-6 for one in throughputs]) == 8000


def test_of_a_load_measured_several_times_the_mean_counts() -> None:
    throughputs = saturating(LADDER, 8)
    low, high = [0.8 * one for one in throughputs], [1.2 * one for one in throughputs]
    assert find_knee(LADDER * 2, low + high) == 8


def test_amdahls_curve_has_its_knee_where_it_stands_highest_above_the_diagonal() -> None:
    # N. Gunther's C(n) = n / (1 + a (n - 1)) from 1 to N: the slope is that of the chord at
    # 1 + a (n - 1) = sqrt(1 + a (N - 1)), so at n = 1 + (sqrt(1 + a (N - 1)) - 1) / a.
    a, largest = 0.1, 64
    loads = [float(n) for n in range(1, largest + 1)]
    exact = 1 + (np.sqrt(1 + a * (largest - 1)) - 1) / a
    assert find_knee(loads, [n / (1 + a * (n - 1)) for n in loads]) == round(exact)


def test_a_curve_that_falls_has_its_knee_at_its_peak() -> None:
    # The universal scalability law, n / (1 + a (n - 1) + b n (n - 1)), is largest at sqrt((1 - a) / b): 15.7.
    a, b = 0.02, 0.004
    assert find_knee(LADDER, [n / (1 + a * (n - 1) + b * n * (n - 1)) for n in LADDER]) == 16


def test_an_open_loop_has_its_knee_at_the_capacity() -> None:
    # M/M/1 answers what arrives until the rate of service, and never more.
    rates = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
    assert find_knee(rates, [min(rate, 10.0) for rate in rates]) == 10


@pytest.mark.parametrize(
    "throughputs",
    [
        [3.0 * load for load in LADDER],
        [load**1.2 for load in LADDER],
        [0.0] * len(LADDER),
    ],
    ids=["straight", "still gaining", "nothing"],
)
def test_a_curve_without_a_knee(throughputs: list[float]) -> None:
    assert find_knee(LADDER, throughputs) is None


def test_a_flat_curve_has_its_knee_at_the_first_load() -> None:
    assert find_knee(LADDER, [20.0, 20.3, 20.1, 19.8, 20.2, 20.4, 20.0]) == 1


@given(st.lists(st.floats(0.95, 1.05), min_size=len(LADDER), max_size=len(LADDER)))
def test_noise_of_five_percent_makes_no_knee(noise: list[float]) -> None:
    throughputs = [load * factor for load, factor in zip(LADDER, noise, strict=True)]
    assert find_knee(LADDER, throughputs) is None


@given(st.lists(st.floats(0.97, 1.03), min_size=len(LADDER), max_size=len(LADDER)))
def test_noise_of_three_percent_moves_no_sharp_knee(noise: list[float]) -> None:
    throughputs = [one * factor for one, factor in zip(saturating(LADDER, 8), noise, strict=True)]
    assert find_knee(LADDER, throughputs) == 8


@given(st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0, 1e6)), max_size=12))
def test_the_knee_is_none_or_one_of_the_loads(points: list[tuple[float, float]]) -> None:
    knee = find_knee([load for load, _ in points], [throughput for _, throughput in points])
    assert knee is None or knee in {load for load, _ in points}


def test_two_loads_have_no_knee() -> None:
    assert find_knee([1, 2], [10, 10]) is None
    assert find_knee([], []) is None


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 loads, but 1 throughputs"):
        find_knee([1, 2], [10])
