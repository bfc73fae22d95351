"""The search against servers whose capacity is known."""

import json
import math
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_probes import (
    MET,
    MISSED,
    P99,
    capacity,
    counted,
    maximum,
    probe,
    run,
    twice,
)
from vllm_locust.core.finding import Finding
from vllm_locust.core.search import MAX_PROBES, Answer, CapacitySearch, Probe
from vllm_locust.core.slo import Slo
from vllm_locust.errors import UsageError


def test_how_a_search_goes():
    search = CapacitySearch()
    assert run(search, capacity(11)) == [1, 2, 4, 8, 16, 12, 10, 11, 12, 6]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.certain, answer.close) == (11, 12, 11, False)
    assert answer.undecided is None
    assert (answer.ended, answer.reason) == ("narrowed", "11 met and 12 missed")
    assert answer.broke_first == (twice(MISSED),)
    assert [probe.level for probe in answer.probes] == [1, 2, 4, 8, 16, 12, 10, 11, 12, 6]
    assert [level.level for level in answer.levels] == [1, 2, 4, 6, 8, 10, 11, 12, 16]
    assert (answer.client_limit, answer.collapsed) == (None, None)


@given(st.integers(1, 5000), st.integers(1, 600))
def test_every_number_of_users_is_found(truth, start):
    search = CapacitySearch(start)
    asked = run(search, capacity(truth))
    answer = search.answer
    assert answer.ended == "narrowed"
    assert answer.level <= truth < answer.missed_at
    assert answer.missed_at - answer.level <= max(1, 0.05 * answer.level)
    assert all(isinstance(level, int) for level in asked)
    assert len(asked) <= 4 + abs(math.log2(truth / start)) + 6


@given(st.floats(0.05, 5000), st.floats(0.5, 100), st.sampled_from([0.01, 0.05, 0.3]))
def test_every_rate_is_found(truth, start, resolution):
    search = CapacitySearch(start, whole=False, resolution=resolution)
    run(search, capacity(truth))
    answer = search.answer
    if truth < start / 64:
        assert (answer.ended, answer.level, answer.missed_at) == ("none", None, start / 64)
        return
    assert answer.level <= truth < answer.missed_at <= answer.level * (1 + resolution) * (1 + 1e-12)


def test_the_limit_of_the_search_can_be_met():
    search = CapacitySearch(3, limit=20)
    assert run(search, capacity(99)) == [3, 6, 12, 20, 16]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended) == (20, None, "limit")
    assert answer.broke_first == ()


def test_below_a_limit_the_edge_is_found_as_without():
    search = CapacitySearch(limit=20.7)
    assert run(search, capacity(18)) == [1, 2, 4, 8, 16, 20, 18, 19, 19, 12]
    assert search.answer.level == 18


def test_a_start_that_misses_is_followed_by_lower_levels():
    search = CapacitySearch(50)
    assert run(search, capacity(9)) == [50, 25, 12, 6, 9, 10, 10, 3]
    assert search.answer.level == 9


def test_down_to_one_user_and_then_there_is_none():
    search = CapacitySearch(10)
    assert run(search, capacity(0)) == [10, 5, 2, 1, 1]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended) == (None, 1, "none")
    assert answer.reason == "even 1 missed"
    assert answer.broke_first == (twice(MISSED),)
    assert answer.undecided is None


def test_down_to_a_64th_of_a_rate():
    search = CapacitySearch(16, whole=False)
    assert run(search, capacity(0)) == [16, 8, 4, 2, 1, 0.5, 0.25, 0.25]
    assert search.answer.level is None


def test_a_wide_bracket_is_halved_by_ratio_and_a_narrow_one_by_difference():
    search = CapacitySearch(whole=False)
    search.take(probe(1, MET))
    search.take(probe(100, MISSED))
    assert search.next_level() == 10
    search.take(probe(10, MISSED))
    search.take(probe(6, MET))
    assert search.next_level() == 8


def test_the_objective_that_broke_first_is_the_worst_one_of_the_smallest_miss():
    other = Finding(Slo("p99_tpot_ms", "<", 50.0, 99.0), "missed", 200.0, 500, 500, 450, 0.99)
    fine = Finding(Slo("mean_e2el_ms", "<", 1000.0), "met", 900.0, 500)

    def server(level: float) -> Probe:
        findings = {16: (MISSED, other, fine), 12: (MISSED, other, fine)}
        return probe(
            level, *findings.get(level, (MET, Finding(other.slo, "met", 40.0, 500, 500, 500, 0.99), fine))
        )

    search = CapacitySearch()
    run(search, server)
    assert search.answer.level == 11
    assert [finding.slo for finding in search.answer.broke_first] == [other.slo, P99]


def test_a_broken_maximum_needs_no_second_look():
    search = CapacitySearch()
    assert run(search, lambda level: probe(level, maximum(level > 15))) == [1, 2, 4, 8, 16, 12, 14, 15, 10]
    assert search.answer.broke_first == (maximum(True),)


def test_an_answer_can_be_read_at_any_time():
    search = CapacitySearch()
    assert (search.answer.level, search.answer.ended, search.answer.probes) == (None, "running", ())
    search.take(probe(1, MET))
    assert (search.answer.level, search.answer.missed_at, search.answer.ended) == (1, None, "running")
    assert search.answer.reason == "the search has not ended"


def test_open_evidence_is_no_probe():
    with pytest.raises(ValueError, match="concluded"):
        CapacitySearch().take(probe(1, Finding(P99, "open", None)))


def test_no_search_goes_on_for_ever():
    turns: Iterator[Finding] = iter([MET] * 1000)
    search = CapacitySearch(whole=False)
    assert len(run(search, lambda level: probe(level, next(turns)))) == MAX_PROBES
    assert (search.answer.ended, search.answer.reason) == ("probes", "stopped after 40 probes")
    assert search.answer.level == 2.0 ** (MAX_PROBES - 1)


def somehow(random: Random, level: float) -> Probe:
    """A probe with any outcome."""
    kind = random.random()
    if kind < 0.1:
        return probe(level, not_the_load="late")
    if kind < 0.15:
        return probe(level, MISSED, maximum(True), collapsed="all failed")
    trials = random.choice([3, 60, 400, 2000])
    share = random.choice([1.0, 0.995, 0.99, 0.985, 0.9])
    return probe(level, counted(round(trials * share), trials), maximum(random.random() < 0.1))


@given(
    st.randoms(use_true_random=False),
    st.booleans(),
    st.sampled_from([1, 7, 100]),
    st.sampled_from([100, math.inf]),
)
@settings(max_examples=75)
def test_whatever_the_server_does_the_search_ends_and_its_answer_makes_sense(random, whole, start, limit):
    search = CapacitySearch(start, limit, whole)
    asked = run(search, lambda level: somehow(random, level))
    assert 1 <= len(asked) <= MAX_PROBES
    assert all(0 < level <= limit for level in asked)
    answer = search.answer
    assert answer.ended != "running"
    assert len(answer.probes) == len(asked)
    assert max(asked.count(level) for level in asked) <= 5
    by_level = {level.level: level for level in answer.levels}
    if answer.level is not None:
        assert by_level[answer.level].outcome == "met"
        assert all(level.outcome != "missed" for level in answer.levels if level.level <= answer.level)
    if answer.missed_at is not None:
        assert by_level[answer.missed_at].outcome == "missed"
        assert answer.level is None or answer.level < answer.missed_at
        assert answer.missed_at == min(x.level for x in answer.levels if x.outcome == "missed")
        assert answer.broke_first or answer.collapsed
    collapses = [i for i, taken in enumerate(answer.probes) if taken.outcome == "collapsed"]
    for i in collapses:
        higher = [level for level in asked[i + 1 :] if level > asked[i]]
        assert not higher or asked[i] in asked[i + 1 :], "more than that only after it did not come again"
    data = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert data["level"] == answer.level
    assert len(data["probes"]) == len(asked)


def share_at(level: float, truth: float) -> float:
    """Requests inside the bound: exactly 99 % at `truth`, and the fewer the more load."""
    return 1 - 0.01 * (level / truth) ** 8


def looked_at(random: Random, share: float, most: int = 4000) -> Finding:
    """A probe that is looked at every 100 requests and ended when the interval decides."""
    inside = trials = 0
    while trials < most:
        inside += sum(random.random() < share for _ in range(100))
        trials += 100
        finding = counted(inside, trials)
        if not finding.close:
            break
    return finding


def searched(seed: int, truth: float) -> Answer:
    random = Random(seed)
    search = CapacitySearch(start=4)
    run(search, lambda level: probe(level, looked_at(random, share_at(level, truth))))
    return search.answer


def test_answers_under_noise_are_near_the_truth():
    """The truth is 24.5, and a user more or less changes the 1 % outside by a third."""
    answers = [searched(seed, 24.5) for seed in range(40)]
    assert all(23 <= answer.level <= 26 for answer in answers)
    right = [answer for answer in answers if answer.level == 24]
    assert len(right) >= 0.85 * len(answers)
    # Whoever does not call itself close errs as rarely as the intervals do.
    assert sum(not answer.close for answer in answers if answer not in right) <= 0.05 * len(answers)
    assert sum(len(answer.probes) for answer in answers) <= 16 * len(answers)
    assert sum(answer.undecided is not None for answer in answers) <= 0.05 * len(answers)
    assert all(answer.certain <= 24 for answer in answers if answer.undecided is None)


def test_how_an_answer_is_written_down():
    search = CapacitySearch(2)
    search.take(probe(2, MET, numbers={"request_throughput": 3.5}))
    search.take(probe(4, MISSED, client="degraded", client_reasons=("busy",)))
    data = search.answer.to_dict()
    assert list(data) == [
        "level",
        "missed_at",
        "certain",
        "close",
        "undecided",
        "ended",
        "reason",
        "client_limit",
        "collapsed",
        "broke_first",
        "levels",
        "probes",
    ]
    assert data["broke_first"] == [MISSED.to_dict()]
    assert data["levels"][0] == {
        "level": 2,
        "outcome": "met",
        "close": False,
        "few": False,
        "probes": 1,
        "seconds": 30.0,
        "hiccups": [],
        "collapsed": None,
        "findings": [MET.to_dict()],
    }
    assert data["probes"][1] == {
        "level": 4,
        "outcome": "missed",
        "close": False,
        "few": False,
        "hiccup": None,
        "requests": 1000,
        "dropped": 0,
        "seconds": 30.0,
        "client": "degraded",
        "client_reasons": ["busy"],
        "cannot_tell": None,
        "collapsed": None,
        "findings": [MISSED.to_dict()],
        "numbers": {},
    }
    assert data["probes"][0]["numbers"] == {"request_throughput": 3.5}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"start": 0}, "whole number of users, 1 at least, not 0"),
        ({"start": 2.5}, "whole number of users, 1 at least, not 2.5"),
        ({"start": math.nan}, "whole number of users"),
        ({"start": math.inf}, "whole number of users"),
        ({"start": 0, "whole": False}, "a rate above 0, not 0"),
        ({"start": 8, "limit": 4}, "cannot end at 4 when it starts from 8"),
        ({"resolution": 0}, "between 0 and 1, not 0"),
        ({"resolution": 1.5}, "between 0 and 1, not 1.5"),
    ],
)
def test_impossible_searches_are_the_users_mistake(options, problem):
    with pytest.raises(UsageError, match=problem):
        CapacitySearch(**options)
