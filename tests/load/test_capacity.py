"""Where a search begins, and what it leaves of the options."""

from typing import Any, cast

import pytest

from vllm_locust.core.rate import parse_rate
from vllm_locust.core.slo import parse_slo
from vllm_locust.load.capacity import SearchCourse
from vllm_locust.load.crew import Crew
from vllm_locust.load.settings import Settings


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


def test_no_more_is_tried_than_was_allowed() -> None:
    assert first_phase(levels="rate", step_time_s=3.0, request_rate=parse_rate("2")).rate == "2"
