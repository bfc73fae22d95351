"""Where the clocks of several processes are apart, the ends of what compares their times hold the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording, Window
from vllm_locust.core.summary import summarize
from vllm_locust.core.validity import Loop, Measured, judge

COMPARED = (
    "duration",
    "completed",
    "failed",
    "error_rate",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
)
PHASES = (0, 1)
LOAD_ENDS = an_ok(0.0, 31.0)


def of_workers(
    made: Sequence[RequestRecord], offs_s: Sequence[float], warmup_s: float = 0.0, bound_s: float = 0.0
) -> dict[str, Any]:
    """The summary when requests go by turns to workers whose clocks show so much more than the master's."""
    whole = Recording()
    for worker, off_s in enumerate(offs_s):
        recording = Recording(-off_s, clock_bound_s=bound_s)
        for phase in PHASES:  # each worker waits for the same time, by its own clock
            recording.begin_phase(phase, -off_s, warmup_s)
        for record in sorted([*made[worker :: len(offs_s)], LOAD_ENDS], key=lambda record: record.ended_s):
            if record is not LOAD_ENDS:
                recording.add(record)
                continue
            for phase in PHASES:
                recording.close_phase(phase, record.ended_s)
        whole.merge(Recording.from_dict(recording.to_dict()))
    return summarize(whole)


def assert_held(truth: Mapping[str, Any], claimed: Mapping[str, Any]) -> None:
    for name in COMPARED:
        low, high = claimed["error_bounds"][name]
        if truth[name] is None or low is None:
            continue
        assert low - 1e-9 <= truth[name], name
        assert high is None or truth[name] <= high + 1e-9, name


@given(
    st.lists(records(), min_size=1, max_size=12),
    st.tuples(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0)),
    st.sampled_from([0.001, 0.3, 1.5]),
    st.sampled_from([0.0, 5.0]),
)
def test_the_ends_hold_the_truth_however_the_clocks_are_apart(made, shares, bound_s, warmup_s):
    exact = [replace(record, bounds_s=[0.0] * len(record.bounds_s)) for record in made]
    truth = of_workers(exact, [0.0, 0.0], warmup_s)
    offs_s = [share * bound_s for share in shares]
    assert_held(truth, of_workers(exact, offs_s, warmup_s, bound_s + 1e-9))


def test_two_requests_one_behind_the_other_seem_to_be_side_by_side():
    # 0 to 2 s and 2 to 4 s. The clock of the second one's worker is 0.25 s behind: 1.75 to 3.75 s.
    made = [an_ok(0.0, 2.0), an_ok(2.0, 4.0)]
    claimed = of_workers(made, [0.0, -0.25], bound_s=0.25)
    assert (claimed["duration"], claimed["max_concurrent_requests"]) == (3.75, 2)
    bounds = claimed["error_bounds"]
    assert bounds["duration"] == [3.25, 4.25]
    assert bounds["request_throughput"] == [2 / 4.25, 2 / 3.25]
    assert bounds["max_concurrent_requests"] == [1, 2]
    # Tokens at 1.0, 2.0, 2.75 and 3.75 s: in seconds 0 or 1, 1 or 2, 2 or 3, 3 or 4.
    assert bounds["max_output_tokens_per_s"] == [0, 2]


def test_at_the_border_of_the_window_a_request_is_perhaps_inside():
    # The warm-up ends at 5 s: they end at 4.9, which may be 5.15, at 5.1, which may be 4.85, and at 6.
    made = [an_ok(4.0, 4.9), an_ok(4.0, 5.1), an_ok(4.0, 6.0)]
    claimed = of_workers(made, [0.0], warmup_s=5.0, bound_s=0.25)
    assert (claimed["completed"], claimed["error_bounds"]["completed"]) == (2, [1, 3])
    assert of_workers(made, [0.0], warmup_s=5.0)["error_bounds"]["completed"] == [2, 2]


def test_of_one_process_nothing_is_wider():
    window = Window(1.0, 9.0, slack_s=0.5)
    assert (window.shortest_s, window.longest_s) == (7.5, 8.0)
    assert replace(window, clock_bound_s=0.25).shortest_s == 7.0
    assert replace(window, clock_bound_s=0.25).longest_s == 8.5
    assert replace(window, clock_bound_s=5.0).shortest_s == 0.0


@pytest.mark.parametrize(
    ("loop", "bound_s", "verdict"),
    [("open", 0.0, "valid"), ("open", 0.03, "degraded"), ("open", 0.3, "invalid"), ("closed", 0.3, "valid")],
)
def test_clocks_that_are_apart_displace_the_schedule(loop: Loop, bound_s: float, verdict: str) -> None:
    recording = Recording()
    recording.add(an_ok(0.0, 1.0))  # the mean E2EL is 1 s: up to 20 ms is valid, up to 100 ms degraded
    client = judge(Measured.of(recording.total(), bound_s), {}, "kernel", loop=loop)
    assert client.load.verdict == verdict
    assert client.to_dict()["clock_bound_ms"] == pytest.approx(bound_s * 1000)
    assert [reason.split(" off")[0] for reason in client.load.reasons] == (
        [] if verdict == "valid" else [f"the clocks of the processes may be {bound_s * 1000:g} ms"]
    )
