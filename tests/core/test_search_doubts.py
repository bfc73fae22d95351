"""What a search makes of levels that are close, of too few requests, or in contradiction."""

import pytest

from tests.core.made_probes import (
    CLOSE_MET,
    CLOSE_MISSED,
    MET,
    MISSED,
    capacity,
    counted,
    maximum,
    probe,
    run,
)
from vllm_locust.core.finding import Finding
from vllm_locust.core.search import CapacitySearch, Probe
from vllm_locust.core.share import share_interval


def test_a_limit_that_is_close_is_an_end_like_any_other():
    search = CapacitySearch(4, limit=4)
    assert run(search, lambda level: probe(level, CLOSE_MET)) == [4, 4, 4, 2, 3, 3, 3]
    answer = search.answer
    assert (answer.level, answer.close, answer.ended) == (4, True, "limit")
    assert answer.undecided == "that 4 met is close, it takes some 8865 requests"


@pytest.mark.parametrize("truth", [1, 2, 3, 11, 15, 31])
def test_the_miss_that_caps_the_answer_is_looked_at_once_more(truth):
    search = CapacitySearch()
    asked = run(search, capacity(truth))
    assert [level for level in asked if asked.count(level) == 2] == [truth + 1] * 2


def test_a_passing_hiccup_does_not_halve_the_answer():
    hiccup = iter([MISSED])

    def server(level: float) -> Probe:
        return probe(level, next(hiccup, MET) if level == 4 else MET if level <= 40 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 3, 4, 4, 8, 16, 32, 64, 48, 40, 44, 42, 42, 24]
    answer = search.answer
    assert (answer.level, answer.missed_at) == (40, 42)  # within 5 %
    (four,) = [level for level in answer.levels if level.level == 4]
    assert (four.outcome, four.close, four.asked) == ("met", True, 3)


def test_an_end_that_is_close_is_probed_three_times_and_its_counts_are_pooled():
    def server(level: float) -> Probe:
        return probe(level, MET if level < 5 else CLOSE_MET if level == 5 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 6, 5, 5, 5, 6, 3]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.close) == (5, 6, True)
    assert (answer.certain, answer.undecided) == (4, None)
    (level,) = [level for level in answer.levels if level.level == 5]
    assert (level.findings[0].trials, level.findings[0].inside) == (900, 894)


def test_pooling_ends_the_repeats_as_soon_as_it_decides():
    open_alone = counted(300, 300)
    assert open_alone.close

    def server(level: float) -> Probe:
        return probe(level, open_alone if level <= 5 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 6, 5, 5, 6, 3]
    assert not search.answer.close


def test_close_levels_on_the_way_are_not_repeated():
    """Only what the answer rests on is worth it: few requests at a low level say enough to go on."""
    few = counted(50, 50)

    def server(level: float) -> Probe:
        return probe(level, few if level <= 8 else MET if level <= 24 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 16, 32, 24, 28, 26, 25, 25, 20]
    assert (search.answer.level, search.answer.close) == (24, False)


def test_an_end_that_turns_round_moves_the_search_on():
    five = iter([CLOSE_MISSED])

    def server(level: float) -> Probe:
        return probe(level, next(five, MET) if level == 5 else MET if level <= 6 else MISSED)

    search = CapacitySearch(5)
    assert run(search, server) == [5, 2, 3, 4, 5, 10, 8, 6, 7, 7, 1]
    assert (search.answer.level, search.answer.missed_at) == (6, 7)


def test_an_answer_of_too_few_requests_is_undecided():
    few = counted(50, 50)
    search = CapacitySearch()
    asked = run(search, lambda level: probe(level, few if level <= 8 else MISSED))
    assert asked == [1, 2, 4, 8, 16, 12, 10, 9, 8, 8, 9]
    answer = search.answer
    assert (answer.level, answer.certain) == (8, None)
    (eight,) = [level for level in answer.levels if level.level == 8]
    assert (eight.close, eight.few) == (True, True)
    (finding,) = eight.findings
    assert (
        answer.undecided == f"that 8 met comes from too few requests, it takes some {finding.takes} requests"
    )
    assert share_interval(finding.takes, finding.takes, 0.99)[0] > 0.99
    assert 400 < finding.takes < 450


def test_a_miss_of_too_few_requests_says_so_and_how_many_would_do():
    few = counted(0, 1)
    search = CapacitySearch()
    assert run(search, lambda level: probe(level, few)) == [1, 1, 1]
    (one,) = search.answer.levels
    (finding,) = one.findings
    assert one.few
    assert search.answer.undecided == (
        f"that 1 missed comes from too few requests, it takes some {finding.takes} requests"
    )


def test_what_was_broken_off_is_undecided():
    search = CapacitySearch()
    search.take(probe(1, MET))
    assert search.answer.undecided == "the search was broken off before its end"


def test_levels_in_the_wrong_order_are_both_probed_once_more_and_the_lower_is_believed():
    search = CapacitySearch()
    for level, finding in ((8, MET), (16, MET), (32, MISSED), (12, MISSED)):
        search.take(probe(level, finding))
    assert search.next_level() == 12
    search.take(probe(12, MISSED))
    assert search.next_level() == 16
    search.take(probe(16, MET))
    assert (search.answer.level, search.answer.missed_at) == (8, 12)
    assert search.next_level() == 10
    search.take(probe(10, MET))
    search.take(probe(11, MET))
    assert search.next_level() is None
    assert (search.answer.level, search.answer.missed_at) == (11, 12)


def test_a_wrong_order_that_was_noise_dissolves():
    search = CapacitySearch()
    for level, finding in ((8, MET), (16, MET), (32, MISSED), (12, CLOSE_MISSED), (12, MET)):
        search.take(probe(level, finding))
    assert search.next_level() == 24
    search = CapacitySearch()
    for level, finding in ((8, MET), (16, CLOSE_MET), (32, MISSED), (12, MISSED), (12, MISSED), (16, MISSED)):
        search.take(probe(level, finding))
    assert search.next_level() == 10


def test_probes_that_contradict_each_other_are_decided_by_most_of_them_and_in_doubt_missed():
    def level_of(*findings: Finding):
        search = CapacitySearch()
        for finding in findings:
            search.take(probe(1, finding))
        return search.answer.levels[0]

    for findings, outcome in (
        ((MET, MISSED), "missed"),
        ((MISSED, MET, MET), "met"),
        ((MET, MISSED, MISSED), "missed"),
    ):
        level = level_of(*findings)
        assert (level.outcome, level.close) == (outcome, True)
        assert bool(level.missed) == (outcome == "missed")
    assert level_of(maximum(True), maximum(False), maximum(False)).outcome == "missed"
