"""The search against servers whose capacity is known, and against everything that can go wrong on the way."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.search import MAX_PROBES, Answer, CapacitySearch, Probe
from vllm_locust.core.share import share_interval
from vllm_locust.core.slo import Slo
from vllm_locust.core.trials import Hiccup
from vllm_locust.errors import UsageError

P99 = Slo("p99_ttft_ms", "<", 500.0, 99.0)
MAXIMUM = Slo("max_e2el_ms", "<", 20000.0)


def counted(inside: float, trials: int, needed: float = 0.99) -> Finding:
    """What `conclude` makes of counts of independent requests."""
    low, high = share_interval(inside, trials, needed)
    sure = low > needed or high < needed
    outcome = "met" if inside >= needed * trials else "missed"
    return Finding(
        P99,
        outcome,
        400 if outcome == "met" else 600,
        trials,
        trials,
        inside,
        needed,
        low,
        high,
        close=not sure,
    )


def maximum(broken: bool) -> Finding:
    outcome, inside = ("missed", 99) if broken else ("met", 100)
    return Finding(MAXIMUM, outcome, 20170 if broken else 9000, 100, 100, inside, 1.0)


MET, MISSED = counted(1000, 1000), counted(900, 1000)
CLOSE_MET, CLOSE_MISSED = counted(298, 300), counted(296, 300)


def probe(level: float, *findings: Finding, **more) -> Probe:
    return Probe(level, Evidence(findings), requests=1000, seconds=30.0, **more)


def twice(finding: Finding) -> Finding:
    """Two such probes together: their counts, and the value of each."""
    both = counted(2 * finding.inside, 2 * finding.trials)
    return replace(both, value=None, values=(finding.value, finding.value))


def run(search: CapacitySearch, server: Callable[[float], Probe]) -> list[float]:
    """Play a search to its end; the levels it asked for."""
    asked = []
    while (level := search.next_level()) is not None:
        assert search.next_level() == level, "asking changes nothing"
        asked.append(level)
        search.take(server(level))
    return asked


def capacity(limit: float) -> Callable[[float], Probe]:
    return lambda level: probe(level, MET if level <= limit else MISSED)


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


def test_a_limit_that_is_close_is_an_end_like_any_other():
    search = CapacitySearch(4, limit=4)
    assert run(search, lambda level: probe(level, CLOSE_MET)) == [4, 4, 4, 2, 3, 3, 3]
    answer = search.answer
    assert (answer.level, answer.close, answer.ended) == (4, True, "limit")
    assert answer.undecided == "that 4 met is close, it takes some 8865 requests"


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


def test_a_start_that_collapses_again_ends_the_search():
    search = CapacitySearch()
    assert run(search, broken) == [1, 1]
    answer = search.answer
    assert (answer.level, answer.missed_at, answer.ended, answer.undecided) == (None, 1, "collapsed", None)
    assert answer.reason == "the server broke down at once, at 1"
    search = CapacitySearch(8)
    assert run(search, broken) == [8, 4]
    assert search.answer.undecided == "the server broke down at once, at 4"


def test_an_invalid_client_cannot_accuse_the_server_of_a_collapse():
    search = CapacitySearch()
    search.take(probe(1, MET))
    search.take(probe(2, MISSED, collapsed="all failed", not_the_load="late"))
    assert search.next_level() == 2


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
