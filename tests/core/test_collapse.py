"""When a server counts as broken down."""

import pytest

from tests.core.made_records import an_error, an_ok
from vllm_locust.core.collapse import collapsed
from vllm_locust.core.group import Group
from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, TIMEOUT, RequestRecord


def failing(outcomes: str, kind: str = "http_503") -> Group:
    """A request a second, `+` for one that was answered and `-` for one that failed."""
    group = Group()
    for second, mark in enumerate(outcomes):
        ok = an_ok(float(second), arrivals_s=[second + 0.1, second + 0.2])
        group.add(ok if mark == "+" else an_error(second + 0.5, kind), 0.0, True)
    return group


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        ("", None),
        ("----", None),
        ("-----", "all 5 requests failed, most with http_503 (overloaded)"),
        ("+" * 50, None),
        ("+" * 50 + "-" * 9, None),
        ("+" * 50 + "-" * 10, "10 of the last 10 requests failed, most with http_503 (overloaded)"),
        ("+" * 500 + "-+-" * 10, "20 of the last 30 requests failed, most with http_503 (overloaded)"),
        ("-+" * 50, None),
        ("+++-" * 50, None),
    ],
)
def test_a_server_that_breaks_down(outcomes, sentence):
    assert collapsed(failing(outcomes)) == sentence


def test_requests_that_we_cancelled_are_no_collapse():
    assert collapsed(failing("-" * 50, CANCELLED)) is None
    group = failing("+" * 20 + "-" * 6 + "+" * 3)
    for i in range(30):
        group.add(an_error(29.5 + i / 100, CANCELLED), 0.0, True)
    assert collapsed(group) is None
    for second in range(40, 44):
        group.add(an_error(float(second), TIMEOUT), 0.0, True)
    assert collapsed(group) == "10 of the last 13 requests failed, most with http_503 (overloaded)"


def test_requests_that_could_not_even_be_sent_count_and_dropped_ones_do_not():
    group = failing("+" * 20)
    for second in range(20, 40):
        dropped = RequestRecord(0, "s", "p", DROPPED, float(second), ended_s=float(second))
        group.add(dropped, 0.0, True)
    assert collapsed(group) is None
    for second in range(40, 52):
        group.add(an_error(float(second), CONNECT, "refused\nby the host", sent_s=None), 0.0, True)
    assert collapsed(group) == "12 of the last 12 requests failed, most with connect (refused by the host)"
