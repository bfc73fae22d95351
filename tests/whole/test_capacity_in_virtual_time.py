"""The capacity search against the truth: a simulated server in virtual time, searched quickly, run for long.

An answer counts as right when the truth lies within 1 user, or a tenth of the rate, of it: it meets below and
misses above. That is the search's own resolution (1 user, 5 %) and as much again, because the shares of
neighbouring levels differ by less than what a probe of a minute can tell (98.7 and 99.3 % inside where 99 %
are needed, from the worth of 300 to 700 independent requests).
"""

import pytest

from tests.whole.virtual_load import (
    FIRST_LOOK_S,
    PROBE_S,
    Driver,
    Trouble,
    found,
    long_run,
    met_by_the_truth,
    parsed,
)
from vllm_locust.core.evidence import conclude

P95 = parsed("p95_tpot_ms<50")
P99S = parsed("p99_ttft_ms<150", "p99_tpot_ms<60")


def assert_within_a_user_of_the_truth(level, slos):
    assert met_by_the_truth(True, level - 1, slos)
    assert not met_by_the_truth(True, level + 2, slos)


@pytest.mark.parametrize(("slos", "seed"), [(P99S, 0), (P95, 1)], ids=["p99s", "p95"])
def test_the_largest_number_of_users_is_found(slos, seed):
    driver = Driver(seed, closed=True)
    answer = found(driver, slos)
    assert answer.ended == "narrowed"
    assert answer.missed_at == answer.level + 1
    assert_within_a_user_of_the_truth(answer.level, slos)
    assert len(answer.probes) <= 20
    assert answer.broke_first[0].slo.key.endswith("tpot_ms")


@pytest.mark.parametrize(("slos", "seed"), [(P99S, 0), (P95, 1)], ids=["p99s", "p95"])
def test_the_largest_rate_is_found(slos, seed):
    driver = Driver(seed, closed=False)
    answer = found(driver, slos, start=4)
    assert answer.ended == "narrowed"
    assert answer.level < answer.missed_at <= 1.05 * answer.level
    assert met_by_the_truth(False, 0.9 * answer.level, slos)
    assert not met_by_the_truth(False, 1.1 * answer.level, slos)
    assert len(answer.probes) <= 25


def test_a_maximum_is_as_true_as_its_probes_are_long():
    """The longer one looks the larger the maximum: the truth is here what runs as long as a probe say."""
    slos = parsed("max_e2el_ms<900")
    answer = found(Driver(0, closed=True), slos)
    driver = Driver(98, closed=True)

    def misses_of_four(level: float) -> int:
        runs = [driver.run(level, PROBE_S) for _ in range(4)]
        return sum(conclude(slos, *run).outcome == "missed" for run in runs)

    assert misses_of_four(answer.level - 2) == 0
    assert misses_of_four(answer.level - 1) < 4
    assert misses_of_four(answer.missed_at) > 0


def test_all_objectives_are_searched_at_once_and_the_first_to_break_is_named():
    slos = parsed("p50_ttft_ms<5000", "mean_e2el_ms<5000", "failed==0", "max_e2el_ms<700", "p90_itl_ms<90")
    answer = found(Driver(1, closed=True), slos, start=4, limit=64)
    assert 6 <= answer.level <= 11
    assert [finding.slo.key for finding in answer.broke_first] == ["max_e2el_ms"]


def test_a_clear_miss_ends_a_probe_at_the_first_look():
    driver = Driver(1, closed=True)
    probe = driver.probe(40, P99S)
    assert (probe.outcome, probe.evidence.close) == ("missed", False)
    assert probe.seconds < FIRST_LOOK_S + 1
    assert driver.looks == 1


def test_a_clear_hit_ends_a_probe_long_before_its_time():
    probe = Driver(1, closed=True).probe(8, parsed("p95_tpot_ms<60"))
    assert (probe.outcome, probe.evidence.close) == ("met", False)
    assert probe.seconds < PROBE_S / 2


def test_quick_moments_of_an_overload_do_not_pass_for_its_truth():
    """At a rate where 91 % of requests are inside and 95 % are needed, few probes are sure that it is met."""
    driver = Driver(3, closed=False)
    (long,) = conclude(P95, *long_run(False, 22.0)).findings
    assert 0.88 < long.share < 0.93
    wrong = [probe for probe in (driver.probe(22.0, P95) for _ in range(10)) if probe.outcome == "met"]
    assert sum(not probe.evidence.close for probe in wrong) <= 1


@pytest.mark.parametrize(("seed", "failing"), [(0, 0), (1, 1), (2, 0), (3, 3)])
def test_a_hiccup_of_two_seconds_does_not_cost_a_third_of_the_answer(seed, failing):
    driver = Driver(seed, closed=True, trouble=Trouble(hiccups_at_s=[40.0 + 50.0 * seed], failing=failing))
    answer = found(driver, P95)
    assert_within_a_user_of_the_truth(answer.level, P95)
    assert answer.undecided is None


def test_an_island_that_is_seen_is_what_the_answer_stays_below():
    answer = found(Driver(1, closed=True, trouble=Trouble(island=(10,))), P95)
    assert (answer.level, answer.missed_at) == (9, 10)
    assert any(level.outcome == "met" and level.level > 10 for level in answer.levels)


def test_a_server_that_becomes_slower_is_found_to_be_one_of_those_that_it_was():
    """By 5 % while it is searched: what it can hold goes down from 12 users, to 11."""
    answer = found(Driver(2, closed=True, trouble=Trouble(slower_per_s=1e-4)), P95)
    assert 10 <= answer.level <= 13


def test_a_client_that_cannot_go_on_ends_the_search_and_says_so():
    """Beyond 8 requests in flight it knows of each token within 0.2 s only: 50 ms a token cannot be told."""
    answer = found(Driver(3, closed=True, trouble=Trouble(blind_above=8)), P95)
    assert (answer.ended, answer.level, answer.missed_at) == ("client", 8, None)
    assert answer.undecided.startswith(
        "at 16 the client's own error leaves it open whether p95_tpot_ms<50 is"
    )
