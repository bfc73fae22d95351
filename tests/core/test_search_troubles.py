"""A search when something goes wrong on the way: with the client, with the server, or with a level."""

from dataclasses import replace

import pytest

from tests.core.made_probes import (
    CLOSE_MET,
    MET,
    MISSED,
    capacity,
    counted,
    probe,
    run,
)
from vllm_locust.core.finding import Finding
from vllm_locust.core.search import CapacitySearch, Probe
from vllm_locust.core.share import share_interval
from vllm_locust.core.trials import Hiccup


def invalid(level: float) -> Probe:
    return probe(level, MISSED, not_the_load="the client sent requests 900 ms late")


def test_an_invalid_client_says_nothing_about_the_server():
    search = CapacitySearch()
    assert run(search, lambda level: invalid(level) if level > 6 else probe(level, MET)) == [1, 2, 4, 8, 8]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended, answer.client_limit) == (4, None, "client", 8)
    assert answer.broke_first == ()
    assert answer.reason == ("at 8 the client sent requests 900 ms late")


def test_an_invalid_client_right_at_the_start():
    search = CapacitySearch(4)
    assert run(search, invalid) == [4, 4]
    assert (search.answer.level, search.answer.client_limit) == (None, 4)


def test_a_client_that_was_invalid_once_is_forgiven():
    first = iter([True])

    def server(level: float) -> Probe:
        return invalid(level) if level == 8 and next(first, False) else capacity(9)(level)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 8, 16, 12, 10, 9, 10, 6]
    assert search.answer.level == 9


def test_a_degraded_client_counts():
    search = CapacitySearch()
    run(search, lambda level: probe(level, MET if level <= 9 else MISSED, client="degraded"))
    assert search.answer.level == 9


def test_an_invalid_repeat_leaves_the_level_to_what_was_told_before():
    def server(level: float) -> Probe:
        if level != 2:
            return probe(level, MET if level < 2 else MISSED)
        return invalid(2) if any(p.level == 2 for p in search.answer.probes) else probe(2, CLOSE_MET)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 3, 2, 2, 3]
    assert (search.answer.level, search.answer.close, search.answer.ended) == (2, True, "narrowed")


def test_an_invalid_client_cannot_accuse_the_server_of_a_collapse():
    search = CapacitySearch()
    search.take(probe(1, MET))
    search.take(probe(2, MISSED, collapsed="all failed", not_the_load="late"))
    assert search.next_level() == 2


def blurred(surely: int, possibly: int) -> Finding:
    low, high = share_interval(surely, 1000, 0.99)[0], share_interval(possibly, 1000, 0.99)[1]
    return replace(
        CLOSE_MET, trials=1000, worth=1000, inside=995, low=low, high=high, least=surely, most=possibly
    )


def test_a_client_whose_error_leaves_both_outcomes_open_cannot_tell():
    search = CapacitySearch()
    assert run(search, lambda level: probe(level, blurred(900, 1000) if level > 2 else MET)) == [1, 2, 4, 4]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended, answer.client_limit) == (2, None, "client", 4)
    assert answer.undecided == (
        "at 4 the client's own error leaves it open whether p99_ttft_ms<500 is met: 90 to 100 % of requests "
        "were inside, 99 % needed"
    )


def test_however_small_an_error_that_changes_the_outcome_steers_no_search():
    """989 to 990 of 1000, and the sample itself leaves open 97.9 to 99.5 %."""
    search = CapacitySearch()
    assert run(search, lambda level: probe(level, blurred(989, 990) if level > 2 else MET)) == [1, 2, 4, 4]
    assert search.answer.ended == "client"


def test_probes_that_only_together_leave_it_to_the_clients_error_say_so():
    """1991 to 1995 of 2 x 1000 in the first, 984 to 988 in the second: 1979 to 1983 of 2000, 1980 needed."""
    sure = replace(counted(995, 1000), least=995, most=995)
    missed = replace(counted(984, 1000), least=984, most=988)
    search = CapacitySearch(1, limit=1)
    search.take(probe(1, sure))
    search.take(probe(1, missed))
    assert search.answer.levels[0].findings[0].torn
    while search.next_level() is not None:
        search.take(probe(1, sure))
        search.take(probe(1, missed))
    assert search.answer.undecided == (
        "at 1 the client's own error leaves it open whether p99_ttft_ms<500 is met: 98.95 to 99.15 % of "
        "requests were inside, 99 % needed"
    )


def test_an_error_that_changes_nothing_is_none():
    search = CapacitySearch()
    surely_met = replace(MET, least=999, most=1000)
    surely_missed = replace(MISSED, least=800, most=940)
    run(search, lambda level: probe(level, surely_met if level <= 5 else surely_missed))
    assert (search.answer.level, search.answer.undecided) == (5, None)


def broken(level: float) -> Probe:
    return probe(level, MISSED, collapsed="all 12 requests failed, most with connect (refused)")


def test_a_collapse_is_a_miss_and_is_approached_from_well_below():
    search = CapacitySearch()
    asked = run(search, lambda level: broken(level) if level > 30 else probe(level, MET))
    assert asked == [1, 2, 4, 8, 16, 32, 20, 23, 25, 27, 28, 29, 30, 31, 12, 31]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended) == (30, 31, "narrowed")
    assert answer.collapsed == "all 12 requests failed, most with connect (refused)"


def test_below_a_collapse_an_ordinary_edge_is_found():
    search = CapacitySearch()
    server = capacity(19)
    asked = run(search, lambda level: broken(level) if level > 30 else server(level))
    assert asked == [1, 2, 4, 8, 16, 32, 20, 18, 19, 20, 12]
    assert (search.answer.level, search.answer.missed_at, search.answer.collapsed) == (19, 20, None)


def test_after_two_collapses_in_a_row_one_looks_whether_the_server_is_still_there():
    search = CapacitySearch()
    asked = run(search, lambda level: broken(level) if level > 17 else probe(level, MET))
    assert asked == [1, 2, 4, 8, 16, 32, 20, 16, 17, 18, 12, 18]
    assert (search.answer.level, search.answer.missed_at, search.answer.ended) == (17, 18, "narrowed")


def test_a_server_that_is_gone_ends_the_search():
    search = CapacitySearch()
    gone = []

    def server(level: float) -> Probe:
        gone.extend([True] * (level > 17))
        return broken(level) if gone else probe(level, MET)

    assert run(search, server) == [1, 2, 4, 8, 16, 32, 20, 16]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended) == (16, 20, "collapsed")
    assert answer.undecided == "the server broke down at 16, which had met before"


def test_a_breakdown_that_does_not_come_again_passed():
    breakdowns = iter([broken(8)])

    def server(level: float) -> Probe:
        return next(breakdowns, probe(8, MET)) if level == 8 else probe(level, MET if level <= 9 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 5, 6, 7, 3, 8, 16, 12, 10, 9, 10]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.undecided) == (9, 10, None)
    (eight,) = [level for level in answer.levels if level.level == 8]
    assert (eight.outcome, eight.close, eight.collapsed) == ("met", False, None)
    assert eight.hiccups == ("all 12 requests failed, most with connect (refused)",)


@pytest.mark.parametrize("had_met", [True, False])
def test_a_breakdown_at_the_lowest_level_or_one_that_had_met_is_looked_at_again_at_once(had_met):
    search = CapacitySearch()
    if had_met:
        search.take(probe(1, CLOSE_MET))
    search.take(broken(1))
    assert search.next_level() == 1
    search.take(probe(1, MET))
    assert search.next_level() == 2
    assert search.answer.levels[0].hiccups


def test_a_start_that_collapses_again_ends_the_search():
    search = CapacitySearch()
    assert run(search, broken) == [1, 1]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended, answer.undecided) == (None, 1, "collapsed", None)
    assert answer.reason == "the server broke down at once, at 1"
    search = CapacitySearch(8)
    assert run(search, broken) == [8, 4]
    assert search.answer.undecided == "the server broke down at once, at 4"


def with_hiccup() -> Finding:
    return replace(MISSED, hiccup=Hiccup(90, 100, 3.0))


def test_a_hiccup_is_set_aside_when_its_repeat_has_none():
    hiccups = iter([with_hiccup()])

    def server(level: float) -> Probe:
        return probe(level, next(hiccups, MET) if level == 12 else MET if level <= 14 else MISSED)

    search = CapacitySearch()
    assert run(search, server) == [1, 2, 4, 8, 16, 12, 12, 14, 15, 15, 10]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.close) == (14, 15, False)
    (twelve,) = [level for level in answer.levels if level.level == 12]
    assert (twelve.outcome, twelve.close, twelve.asked) == ("met", False, 2)
    assert twelve.hiccups == (
        "90 of the 100 requests outside were under way in one stretch of 3.0 s for p99_ttft_ms<500",
    )


def test_what_comes_again_is_no_hiccup():
    search = CapacitySearch()
    asked = run(search, lambda level: probe(level, with_hiccup() if level > 8 else MET))
    assert asked == [1, 2, 4, 8, 16, 16, 12, 12, 10, 10, 9, 9, 6]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.close, answer.undecided) == (8, 9, False, None)
    assert all(level.hiccups == () for level in answer.levels)


def test_a_bad_island_below_the_answer_is_looked_for_in_the_widest_gap():
    search = CapacitySearch()
    asked = run(search, lambda level: probe(level, MISSED if level in (10, 11) or level > 12 else MET))
    assert asked == [1, 2, 4, 8, 16, 12, 14, 13, 13, 10, 10, 12, 9]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.undecided) == (9, 10, None)
    assert [level.level for level in answer.levels if level.outcome == "met"] == [1, 2, 4, 8, 9, 12]


def test_a_miss_that_the_clients_own_error_leaves_open_decides_nothing():
    """Of 1000 requests each, 900 to 986, 1000, and 900 to 986 were inside: 2800 to 2972, 2970 are asked."""
    dim = replace(counted(900, 1000), least=900, most=986, close=True)
    at_3 = iter([dim, MET, dim])
    search = CapacitySearch()
    asked = run(
        search, lambda level: probe(level, next(at_3) if level == 3 else MET if level < 3 else MISSED)
    )
    assert asked == [1, 2, 4, 3, 3, 3]
    answer = search.answer
    assert (answer.level, answer.certain, answer.missed_at, answer.ended) == (2, 2, 3, "narrowed")
    assert answer.undecided == (
        "at 3 the client's own error leaves it open whether p99_ttft_ms<500 is met: 93.33 to 99.06 % of "
        "requests were inside, 99 % needed"
    )
