"""Where a search begins, and what it leaves of the options."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from locust.env import Environment

from tests.core.made_records import an_ok
from vllm_locust.core.rate import parse_rate
from vllm_locust.core.record import DROPPED, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.search import Probe
from vllm_locust.core.slo import parse_slo
from vllm_locust.load import web
from vllm_locust.load.capacity import MOST, SearchCourse
from vllm_locust.load.crew import Crew
from vllm_locust.load.settings import Settings, read_settings
from vllm_locust.load.shapes import CapacityShape, LadderShape


def first_phase(**options: Any) -> Any:
    settings = Settings(slos=[parse_slo("p99_ttft_ms<500")], capacity=True, **options)
    return SearchCourse(settings, "ss", cast(Crew, None), patience_s=60).next_phase(0.0)


def test_a_search_of_users_begins_with_one() -> None:
    phase = first_phase(levels="users")
    assert (phase.users, phase.rate, phase.seconds, phase.warmup_s) == (1, None, 30.0, 5.0)


@pytest.mark.parametrize(("step_s", "rate"), [(None, "1"), (12.0, "1"), (3.0, "4"), (0.6, "20")])
def test_a_search_of_rates_begins_where_a_probe_has_some_ten_requests(
    step_s: float | None, rate: str
) -> None:
    assert first_phase(levels="rate", step_time_s=step_s).rate == rate


def test_only_a_search_asks_when_gaps_between_tokens_were_long() -> None:
    slos = [parse_slo(text) for text in ("p99_itl_ms<50", "max_itl_ms<50", "p99_ttft_ms<500")]
    assert Settings(slos=slos, capacity=True).limits == (("itl", 0.05),)
    assert Settings(slos=slos).limits == ()


def test_no_more_is_tried_than_was_allowed() -> None:
    assert first_phase(levels="rate", step_time_s=3.0, request_rate=parse_rate("2")).rate == "2"


@pytest.mark.parametrize(("given", "most"), [(1, 1), (3, 3), (None, MOST)])
def test_as_many_users_as_were_given_are_the_most_that_is_tried(given: int | None, most: int) -> None:
    """One, too, which Locust takes where nobody has said how many."""
    options = Namespace(num_users=given, slo=["p99_ttft_ms<500"])
    settings, problems = read_settings(options, "capacity")
    assert not problems
    course = SearchCourse(settings, "ss", cast(Crew, None), patience_s=60)
    assert course._search._limit == most


def test_the_start_form_names_the_most_that_a_search_tries_instead_of_one_user() -> None:
    def in_the_form(shape: Any, given: int | None) -> Any:
        options = Namespace(num_users=given, spawn_rate=None, levels="users")
        environment = Environment(parsed_options=options, shape_class=shape)
        web._fill_in_users(environment)
        return options.num_users

    assert in_the_form(CapacityShape(), None) == MOST
    assert in_the_form(CapacityShape(), 1) == 1
    assert in_the_form(LadderShape(), None) is None


def probed(dropped: int, *, ttft_s: float = 0.1, cap: int | None = 2) -> Probe:
    """The first probe of a search of rates: 37 answers, and requests that waited for half a second."""
    recording = Recording()
    for second in range(37):
        recording.add(an_ok(float(second), arrivals_s=[second + ttft_s, second + ttft_s + 0.1]))
    for second in range(dropped):
        never = RequestRecord(0, "s", profile="p", outcome=DROPPED, intended_s=second, ended_s=second + 0.5)
        recording.add(never)
    crew = SimpleNamespace(recording=recording, settle=lambda: None, cpu_shares={}, stamps="kernel")
    settings = Settings(
        slos=[parse_slo("p50_ttft_ms<500")], capacity=True, levels="rate", max_concurrency=cap
    )
    course = SearchCourse(settings, "ss", cast(Crew, crew), patience_s=60)
    phase = course.next_phase(0.0)
    assert phase is not None
    course.finished(phase, 40.0)
    (probe,) = course._search.answer.probes
    return probe


def test_a_rate_that_a_cap_did_not_let_through_was_not_the_load() -> None:
    probe = probed(dropped=76)
    assert (probe.outcome, probe.requests, probe.dropped) == ("invalid", 113, 76)
    assert probe.cannot_tell == "76 of 113 planned requests found no place, and were never sent"


def test_what_even_a_part_of_the_rate_missed_all_of_it_would_miss() -> None:
    probe = probed(dropped=76, ttft_s=0.6)
    assert (probe.outcome, probe.dropped) == ("missed", 76)


def test_what_was_all_sent_was_the_load() -> None:
    assert probed(dropped=0).outcome == "met"


def test_without_a_cap_it_is_the_client_that_could_not_send() -> None:
    assert probed(dropped=76, cap=None).cannot_tell == "76 of 113 planned requests could not be sent"
