"""A worker's beginning of the run is the master's but for its bound, whatever delays their messages."""

import random
from collections.abc import Sequence

import pytest

from vllm_locust.load.clock import RunClock

AHEAD_S = 1000.0
"""When the run begins, the worker's clock shows this."""


def asked(delays_s: Sequence[tuple[float, float]]) -> tuple[RunClock, int]:
    """A clock that asked until it was settled, and how often; the delays there and back come in turns."""
    clock, now_s, exchanges = RunClock(), AHEAD_S + 3.0, 0
    while not clock.settled:
        there_s, back_s = delays_s[exchanges % len(delays_s)]
        clock.take_in(now_s, now_s + there_s - AHEAD_S, now_s + there_s + back_s)
        now_s += there_s + back_s
        exchanges += 1
    return clock, exchanges


def test_the_shortest_exchange_counts() -> None:
    # The second answer waits for 0.6 s, the fifth comes after 0.1 + 0.3 ms.
    usual, delayed, short = (0.0004, 0.0004), (0.0001, 0.6), (0.0001, 0.0003)
    clock, exchanges = asked([usual, delayed, usual, usual, short, usual, usual, usual])
    assert exchanges == 8
    assert clock.bound_s == pytest.approx(0.0002, abs=1e-9)
    assert clock.began_s == pytest.approx(AHEAD_S + 0.0001, abs=1e-9)


def test_while_all_are_long_it_is_asked_again() -> None:
    clock, exchanges = asked([(0.05, 0.6)] * 20 + [(0.0001, 0.0001)])
    assert exchanges == 21
    assert clock.bound_s == pytest.approx(0.0001, abs=1e-9)


def test_far_away_it_is_asked_a_bounded_number_of_times() -> None:
    clock, exchanges = asked([(0.02, 0.04)])
    assert exchanges == 32
    assert clock.bound_s == pytest.approx(0.03)
    assert clock.began_s == pytest.approx(AHEAD_S + 0.01, abs=1e-9)


@pytest.mark.parametrize("seed", range(50))
def test_the_bound_is_one(seed: int) -> None:
    draw = random.Random(seed)
    clock, _ = asked([(draw.expovariate(500.0), draw.expovariate(50.0)) for _ in range(64)])
    assert abs(clock.began_s - AHEAD_S) <= clock.bound_s + 1e-9
