"""What is derived from one record, and the line that it leaves."""

import json

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.record import TIMEOUT, to_json_line


@pytest.mark.parametrize(
    ("arrivals_s", "longest_s"),
    [
        ([1.0], None),
        ([1.0, 1.5], 0.5),
        ([1.0, 1.25, 3.25, 3.5], 2.0),  # the time to the first token is no gap
        ([9.0, 9.125, 9.125], 0.125),  # two events of one moment
    ],
)
def test_the_longest_stall_is_the_largest_gap_between_events(arrivals_s, longest_s):
    assert an_ok(sent_s=0.0, arrivals_s=arrivals_s).max_itl_s == longest_s


def test_the_line_has_the_longest_stall_of_successful_requests_only():
    fine = json.loads(to_json_line(an_ok(sent_s=10.0, arrivals_s=[11.0, 11.25, 13.0]), run_start_s=10.0))
    assert (fine["max_itl_s"], fine["ttft_s"], fine["total_s"]) == (1.75, 1.0, 3.0)
    failed = an_ok(sent_s=10.0, arrivals_s=[11.0, 13.0], outcome=TIMEOUT)
    assert json.loads(to_json_line(failed, run_start_s=10.0))["max_itl_s"] is None
    one_token = an_ok(sent_s=10.0, arrivals_s=[11.0])
    assert json.loads(to_json_line(one_token, run_start_s=10.0))["max_itl_s"] is None
