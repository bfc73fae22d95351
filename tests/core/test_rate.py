"""The grammar of rates and levels, and the integral that arrivals are drawn through."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from vllm_locust.core.rate import OperationalTime, Rate, Stage, parse_levels, parse_rate
from vllm_locust.errors import UsageError

PROFILES = (
    "10",
    "5:30s",
    "1-64:120s",
    "64-1:120s",
    "0-64:120s",
    "64-0:120s",
    "10-10.000001:120s",
    "1^64:120s",
    "64^1:120s",
    "5:10s,0:5s,1-20:20s,20^2:20s,7",
)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("10", [Stage(10, 10)]),
        (".5", [Stage(0.5, 0.5)]),
        ("1e2", [Stage(100, 100)]),
        ("5:30s", [Stage(5, 5, 30)]),
        ("5:30", [Stage(5, 5, 30)]),
        ("5:700ms", [Stage(5, 5, 0.7)]),
        ("5:1.5m", [Stage(5, 5, 90)]),
        ("5:1h", [Stage(5, 5, 3600)]),
        ("5:1H", [Stage(5, 5, 3600)]),
        ("1-64:120s", [Stage(1, 64, 120)]),
        ("0-64:120s", [Stage(0, 64, 120)]),
        ("64-0:120s", [Stage(64, 0, 120)]),
        ("1e-3-1e+1:2m", [Stage(0.001, 10, 120)]),
        ("1^64:120s", [Stage(1, 64, 120, exponential=True)]),
        ("5-5:10s", [Stage(5, 5, 10)]),
        ("5^5:10s", [Stage(5, 5, 10)]),
        (
            " 5 : 30 s , 0:10s,1 - 64 : 2 m , 3",
            [Stage(5, 5, 30), Stage(0, 0, 10), Stage(1, 64, 120), Stage(3, 3)],
        ),
    ],
)
def test_the_grammar(text, stages):
    assert parse_rate(text) == Rate(tuple(stages))


@pytest.mark.parametrize("text", ["inf", " inf ", "INF"])
def test_everything_at_once(text):
    rate = parse_rate(text)
    assert rate.is_infinite
    assert rate.duration_s == math.inf
    assert rate.rate_at(3.0) == math.inf
    assert str(rate) == "inf"
    assert not parse_rate("10").is_infinite


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("5:30s,,6", "malformed or negative"),
        (",", "malformed or negative"),
        ("5:30s,", "malformed or negative"),
        ("-5", "malformed or negative"),
        ("5--6:10s", "malformed or negative"),
        ("5:-10s", "malformed or negative"),
        ("nan", "malformed or negative"),
        ("5:nan", "malformed or negative"),
        ("5:inf", "malformed or negative"),
        ("ten", "malformed or negative"),
        ("1 0", "malformed or negative"),
        ("5:", "malformed or negative"),
        (":30s", "malformed or negative"),
        ("5:30d", "malformed or negative"),
        ("5:30s:2", "malformed or negative"),
        ("1-64", "ramp '1-64', which needs a time"),
        ("1-2-3:30s", "malformed or negative"),
        ("٣", "malformed or negative"),
        ("5:0s", "whose time must be more than 0"),
        ("5:1e-323ms", "whose time must be more than 0"),
        ("1^64", "needs a time"),
        ("0^64:10s", "exponential ramp '0^64:10s', of which both ends must be more than 0"),
        ("64^0:10s", "of which both ends must be more than 0"),
        ("0^0:10s", "of which both ends must be more than 0"),
        ("1e999", "a number is too large"),
        ("1-1e999:5s", "a number is too large"),
        ("1:1e999", "a number is too large"),
        ("1:1e308h", "a number is too large"),
        ("5,6", "goes on behind the stage '5', which has no end"),
        ("5:10s,6,7:10s", "goes on behind the stage '6', which has no end"),
        ("0", "needs a time, as in '0:10s'"),
        ("5:10s,0", "'0', a pause, which needs a time"),
        ("0:10s", "never sends a request"),
        ("0:10s,0-0:5s", "never sends a request"),
        ("inf,5", "must stand alone"),
        ("5:30s,inf", "must stand alone"),
        ("inf:30s", "must stand alone"),
    ],
)
def test_what_is_wrong_with_a_rate_is_said_in_one_sentence(text, why):
    with pytest.raises(UsageError) as caught:
        parse_rate(text)
    (problem,) = caught.value.problems
    assert problem.startswith(f"--request-rate {text!r} ")
    assert why in problem


numbers = st.floats(min_value=1e-6, max_value=1e9)
timed = st.one_of(
    st.builds(lambda rate, time: f"{rate}:{time}s", numbers, numbers),
    st.builds(lambda time: f"0:{time}ms", numbers),
    st.builds(lambda a, b, time: f"{a}-{b}:{time}m", numbers | st.just(0.0), numbers, numbers),
    st.builds(lambda a, b, time: f"{a} ^ {b} : {time} h", numbers, numbers, numbers),
)


@given(st.lists(timed, max_size=4), numbers.map(str))
def test_the_text_of_a_rate_is_the_same_rate(stages, last):
    for text in (",".join([*stages, last]), ",".join([f"{last}:1s", *stages])):
        rate = parse_rate(text)
        assert parse_rate(str(rate)) == rate
        assert rate.duration_s == sum(stage.duration_s for stage in rate.stages)


def problem_with(text: str) -> str | None:
    try:
        parse_rate(text)
    except UsageError as error:
        return str(error)
    return None


@given(st.text(alphabet="0123456789.-^:,smhinfe ", max_size=15))
def test_nonsense_is_refused_with_a_sentence_and_nothing_else(text):
    problem = problem_with(text)
    assert problem is None or problem.startswith(f"--request-rate {text!r} ")


@pytest.mark.parametrize(
    ("t_s", "expected"),
    [(0, 5), (9.9, 5), (10, 0), (14.9, 0), (15, 1), (25, 10.5), (35, 20), (45, 40**0.5), (55, 7), (1e6, 7)],
)
def test_the_rate_at_a_time(t_s, expected):
    assert parse_rate("5:10s,0:5s,1-20:20s,20^2:20s,7").rate_at(t_s) == pytest.approx(expected)


@given(numbers, numbers)
def test_a_ramp_down_to_0_never_falls_below_it(rate, duration_s):
    assert Stage(rate, 0.0, duration_s).rate_at(math.nextafter(duration_s, 0)) >= 0


def test_behind_the_end_the_rate_is_0():
    rate = parse_rate("5:10s,1-3:10s")
    assert rate.duration_s == 20
    assert [rate.rate_at(20), rate.rate_at(21)] == [0, 0]
    assert [rate.expected(0), rate.expected(20), rate.expected(1e9)] == [0, 70, 70]


@pytest.mark.parametrize("text", PROFILES)
def test_expected_is_the_integral_of_the_rate(text):
    rate = parse_rate(text)
    ends = np.cumsum([stage.duration_s for stage in rate.stages if stage.duration_s < math.inf])
    for t_s in (0.3, 9.0, 12.0, 33.3, 77.0, 119.0):
        breaks = sorted({0.0, t_s, *ends[ends < t_s].tolist()})
        parts = [integrate.quad(rate.rate_at, a, b)[0] for a, b in pairwise(breaks)]
        assert rate.expected(t_s) == pytest.approx(sum(parts), rel=1e-9)


@pytest.mark.parametrize("text", PROFILES)
def test_operational_time_is_reached_when_the_integral_is(text):
    rate = parse_rate(text)
    units = np.linspace(0.001, rate.expected(100.0) * 0.999, 500)
    times = OperationalTime(rate, math.inf, 1.0).reaches(units)
    assert np.all(np.diff(times) > 0)
    assert [rate.expected(t) for t in times.tolist()] == pytest.approx(units.tolist(), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("text", PROFILES)
def test_what_is_reached_when_does_not_depend_on_what_else_is_asked(text):
    """Workers ask from different arrivals on, and must see the same, to the last bit."""
    time = OperationalTime(parse_rate(text), math.inf, 0.7)
    for at_s in (3.3, 11.0, 30.0):
        time.scale_from(at_s, at_s / 20)
    units = np.cumsum(np.full(300, 0.317))
    whole = time.reaches(units).tolist()
    for first in range(1, 300, 7):
        assert time.reaches(units[first:]).tolist() == whole[first:]


@settings(max_examples=20)
@given(
    st.sampled_from(PROFILES),
    st.lists(st.tuples(st.floats(0, 60), st.floats(0, 2) | st.just(0.0)), max_size=5),
)
def test_reaching_is_the_same_as_adding_up_small_steps(text, amendments):
    rate = parse_rate(text)
    time = OperationalTime(rate, 60.0, 1.0)
    step_s = 0.001
    grid = np.arange(0, 60, step_s)
    scale = np.ones_like(grid)
    for at_s, value in sorted(amendments):
        time.scale_from(at_s, value)
        scale[grid >= at_s] = value
    speed = np.array([rate.rate_at(t + step_s / 2) for t in grid.tolist()]) * scale
    total = np.concatenate([[0.0], np.cumsum(speed * step_s)])
    # The steps are wrong by at most one where the speed jumps.
    slack = 5 * step_s * 64
    units = np.arange(0.5, total[-1] - slack, 0.5)
    if len(units):
        times = time.reaches(units)
        reached = np.interp(times, np.append(grid, 60.0), total)
        assert np.all(np.abs(reached - units) <= slack)
    assert np.all(time.reaches(np.array([total[-1] + slack])) == math.inf)


@given(st.floats(0, 50), st.floats(0, 50))
def test_the_later_word_replaces_what_an_earlier_one_said_about_the_time_from_then_on(first_s, second_s):
    units = np.arange(0.1, 400, 0.7)
    amended, fresh = (OperationalTime(parse_rate("1-20:40s,3^9:20s,4"), 55.0, 1.0) for _ in range(2))
    amended.scale_from(max(first_s, second_s), 0.1)
    amended.scale_from(min(first_s, second_s), 2.0)
    fresh.scale_from(min(first_s, second_s), 2.0)
    assert amended.reaches(units).tolist() == pytest.approx(fresh.reaches(units).tolist(), rel=1e-12)


def test_levels():
    assert parse_levels("1,2,4,8") == (1, 2, 4, 8)
    assert parse_levels(" 4, 32 ,4 ") == (4, 32, 4)
    assert parse_levels("0.5,1e1") == (0.5, 10)
    assert parse_levels("1,2.0,4e0", whole=True) == (1, 2, 4)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", ""),
        ("1,,2", ""),
        ("1,", ""),
        ("0,1", "0"),
        ("-1", "-1"),
        ("1,two", "two"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("1e999", "1e999"),
        ("1 2", "1 2"),
    ],
)
def test_levels_are_finite_and_more_than_0(text, level):
    with pytest.raises(UsageError) as caught:
        parse_levels(text)
    (problem,) = caught.value.problems
    assert problem.startswith(
        f"--ladder {text!r} has the level {level!r}: allowed are numbers of more than 0"
    )


def test_levels_of_users_are_whole():
    with pytest.raises(UsageError, match=r"^--ladder '1,2.5' has the level '2.5': allowed are whole numbers"):
        parse_levels("1,2.5", whole=True)
