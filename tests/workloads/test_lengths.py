"""Lengths that are drawn: the distributions by scipy, the bounds by hand, the refusals by name."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vllm_locust.errors import UsageError
from vllm_locust.workloads.lengths import Lengths

COUNT = 4_000


def drawn(text: str) -> np.ndarray:
    lengths = Lengths.parse(text)
    return np.array([lengths.at("test", index) for index in range(COUNT)])


@pytest.mark.parametrize(
    ("text", "smallest", "largest"),
    [
        ("512", 512, 512),
        ("512~0.2", 410, 614),
        ("1~0.9", 1, 2),
        ("100-200", 100, 200),
        ("normal:512:64", 1, None),
        ("normal:512:64:100-900", 100, 900),
        ("lognormal:512:0.8", 1, None),
        (" lognormal:512:0.8:32-3000 ", 32, 3000),
    ],
)
def test_the_bounds(text: str, smallest: int, largest: int | None) -> None:
    lengths = Lengths.parse(text)
    assert (lengths.smallest, lengths.largest) == (smallest, largest)
    assert str(lengths) == text.strip()
    values = drawn(text)
    assert values.min() >= smallest
    assert largest is None or values.max() <= largest


def test_every_whole_number_of_a_range_is_equally_likely() -> None:
    counts = Counter(drawn("11-20").tolist())
    assert sorted(counts) == list(range(11, 21))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal:512:64", stats.norm(512, 64)),
        ("normal:100:80:50-120", stats.truncnorm((49.5 - 100) / 80, (120.5 - 100) / 80, 100, 80)),
        ("lognormal:512:0.8", stats.lognorm(0.8, scale=512)),
    ],
)
def test_the_distribution_is_the_one_that_is_named(text: str, expected: "stats.rv_frozen") -> None:
    """A whole number k stands for the interval from k - 1/2 to k + 1/2."""
    values = np.sort(drawn(text))
    probabilities = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    quantiles = np.round(expected.ppf(probabilities))
    below = np.searchsorted(values, quantiles + 0.5) / COUNT
    # Four standard errors of a share, and the width of one whole number.
    slack = 4 * np.sqrt(probabilities * (1 - probabilities) / COUNT) + expected.pdf(quantiles)
    assert np.all(np.abs(below - expected.cdf(quantiles + 0.5)) < slack)


def test_without_a_range_the_shortest_possible_length_is_where_it_begins() -> None:
    lengths = Lengths.parse("normal:100:40").above(80)
    values = np.array([lengths.at("test", index) for index in range(COUNT)])
    expected = stats.truncnorm((79.5 - 100) / 40, np.inf, 100, 40)
    assert values.min() == 80
    assert abs(values.mean() - expected.mean()) < 4 * expected.std() / np.sqrt(COUNT)
    for kept in ("normal:100:40:50-150", "100-200", "100"):
        assert Lengths.parse(kept).above(80).smallest == Lengths.parse(kept).smallest


def test_what_is_cut_off_does_not_pile_up_at_the_ends() -> None:
    values = drawn("normal:100:1000:50-150")
    assert np.mean(values == 50) < 0.03
    assert np.mean(values == 150) < 0.03


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers())
def test_a_length_is_a_function_of_its_key(low: int, more: int, index: int) -> None:
    lengths = Lengths.parse(f"{low}-{low + more}")
    assert low <= lengths.at("t", index) <= low + more
    assert lengths.at("t", index) == Lengths.parse(f"{low}-{low + more}").at("t", index)


@pytest.mark.parametrize("text", ["30\n10\n20\n10\n", "tokens,other\n30,1\n10,2\n20,3\n10,4\n"])
def test_lengths_from_a_file_are_as_frequent_as_there(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text(text)
    counts = Counter(drawn(f"file:{path}").tolist())
    assert set(counts) == {10, 20, 30}
    assert abs(counts[10] / COUNT - 0.5) < 0.04


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "ten", "20-10", "0-5", "5~1", "5~-0.1", "normal:5", "normal:0:1", "lognormal:5:-1",
     "normal:5:1:2-1", "normal:5:1:2:3", "gamma:1:2", "5:6", "normal:5:nan", "nan", "1e3",
     "normal:1:0.01:500-600"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no length: allowed is a number of tokens, 512~0\.2"):
        Lengths.parse(text)


def test_files_that_hold_no_lengths_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    for content, problem in [
        ("", "holds no numbers"),
        ("a\nb\n", "must hold whole numbers"),
        ("5\n0\n", "must"),
    ]:
        path.write_text(content)
        with pytest.raises(UsageError, match=problem):
            Lengths.parse(f"file:{path}")
        path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        Lengths.parse(f"file:{tmp_path}/none.csv")
