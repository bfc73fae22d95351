"""Draws are uniform, pure, and a permutation is one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.workloads.draw import draw, draw_bytes, fraction, permuted, salt


def test_the_same_key_draws_the_same_number_for_ever() -> None:
    assert draw("ss", 0, 0) == 0x813D779A01D00CF7
    assert salt("ss", 0, 0) == "813d779a01d00cf7"


def test_neighbouring_keys_are_not_confused() -> None:
    assert draw("a", 1, 11) != draw("a", 11, 1)
    assert draw("a", 1, 11) != draw("a", 111)


def test_fractions_are_uniform() -> None:
    tenths = Counter(int(10 * fraction("uniform", 3, index)) for index in range(10_000))
    assert set(tenths) == set(range(10))
    assert all(abs(count - 1000) < 5 * 30 for count in tenths.values())


@given(st.integers(0, 300), st.integers(0, 300), st.integers())
def test_a_longer_draw_begins_with_the_shorter_one(one: int, other: int, seed: int) -> None:
    short, long = sorted((one, other))
    assert draw_bytes(long, "bytes", seed)[:short] == draw_bytes(short, "bytes", seed)


@given(st.integers(1, 300), st.integers())
def test_a_permutation_takes_every_place_once(size: int, seed: int) -> None:
    assert sorted(permuted(position, size, seed) for position in range(size)) == list(range(size))


def test_permutations_put_each_entry_everywhere() -> None:
    places = Counter(permuted(0, 10, "first", seed) for seed in range(5_000))
    assert all(abs(places[place] - 500) < 5 * 22 for place in range(10))
