"""Troubles of one short stretch of time, told from those of the load."""

from itertools import accumulate

import pytest

from tests.core.made_recordings import a_recording, concluded, spread
from tests.core.made_records import an_error, an_ok
from vllm_locust.core.evidence import conclude
from vllm_locust.core.finding import Evidence
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import parse_slo
from vllm_locust.core.summary import summarize
from vllm_locust.core.trials import limits_of


def stalled(stall: bool) -> Recording:
    """Ten requests a second for 60 s, and one second in which all take a second more."""
    recording = Recording()
    for i in range(600):
        sent_s = i / 10
        slow = 1.0 if stall and 30 <= sent_s < 31 else 0.0
        ttft_s = 0.1 + slow + i % 7 / 1000
        recording.add(an_ok(sent_s, arrivals_s=[sent_s + ttft_s, sent_s + ttft_s + 0.05]))
    return recording


def test_requests_outside_of_one_stretch_of_time_are_a_hiccup():
    evidence = conclude([parse_slo("p99_ttft_ms<500")], stalled(True).phase(0), {})
    assert evidence.outcome == "missed"
    assert evidence.hiccup == (
        "10 of the 10 requests outside were under way in one stretch of 3.0 s for p99_ttft_ms<500"
    )
    assert conclude([parse_slo("p99_ttft_ms<500")], stalled(False).phase(0), {}).hiccup is None
    assert conclude([parse_slo("p95_ttft_ms<500")], stalled(True).phase(0), {}).outcome == "met"


@pytest.mark.parametrize("outside", [12, 60, 600])
def test_requests_outside_all_over_are_none(outside):
    evidence = conclude([parse_slo("p99_ttft_ms<500")], a_recording(spread(600, outside)).phase(0), {})
    assert (evidence.outcome, evidence.hiccup) == ("missed", None)


@pytest.mark.parametrize(
    ("failed_at_s", "hiccup"),
    [
        ([30.9], "11 of the 11 requests outside"),  # one of those that were under way in it
        ([55.0], "10 of the 11 requests outside"),  # one that alone would have been no miss
        ([10.0, 20.0, 40.0, 50.0], None),  # not three quarters of those outside
    ],
)
def test_a_failure_in_a_hiccup_is_a_part_of_it(failed_at_s, hiccup):
    recording = stalled(True)
    for ended_s in failed_at_s:
        recording.add(an_error(ended_s))
    said = conclude([parse_slo("p99_ttft_ms<500")], recording.phase(0), {}).hiccup
    assert said == (hiccup and f"{hiccup} were under way in one stretch of 3.0 s for p99_ttft_ms<500")


def failing_for_a_moment(answered: int = 600, failed: int = 12) -> Recording:
    """Ten requests a second, and some that failed together halfway."""
    recording = Recording()
    for i in range(answered):
        recording.add(an_ok(i / 10, arrivals_s=[i / 10 + 0.1, i / 10 + 0.2]))
    for i in range(failed):
        recording.add(an_error(30.0 + i / 10))
    return recording


@pytest.mark.parametrize("text", ["failed==0", "error_rate<0.01", "requests.failed<1"])
def test_failures_of_one_stretch_of_time_are_a_hiccup(text):
    end = concluded(text, failing_for_a_moment())
    assert (end.outcome, Evidence((end,)).hiccup) == (
        "missed",
        f"12 of the 12 requests outside were under way in one stretch of 3.0 s for {end.slo}",
    )
    assert concluded(text, failing_for_a_moment(failed=4)).hiccup is None, "a handful is 5"


def test_a_maximum_that_one_stretch_of_time_broke_was_broken_by_a_hiccup():
    end = conclude([parse_slo("max_ttft_ms<500")], stalled(True).phase(0), summarize(stalled(True)))
    assert (end.outcome, end.hiccup is not None) == ("missed", True)
    twice = stalled(True)
    twice.add(an_ok(5.0, arrivals_s=[5.9, 6.0]))
    assert concluded("max_ttft_ms<500", twice).hiccup is None, "it would have missed without, too"


def stuttering(long: int, told: bool = False) -> Recording:
    """Ten streams a second for 60 s, 99 gaps of 10 ms each; in one second `long` of each take 100 ms."""
    recording = Recording(limits=limits_of(ITL_PER_TOKEN if told else ITL))
    for i in range(600):
        sent_s = i / 10
        gaps_s = [0.01] * 99
        if 30 <= sent_s < 31:
            gaps_s[:long] = [0.1] * long
        arrivals_s = list(accumulate(gaps_s, initial=sent_s + 0.1))
        recording.add(an_ok(sent_s, arrivals_s=arrivals_s, event_tokens=[1] * 100 if told else []))
    return recording


ITL = [parse_slo("p99_itl_ms<50")]
ITL_PER_TOKEN = [parse_slo("p99_itl_per_token_ms<50")]


@pytest.mark.parametrize(("slos", "told"), [(ITL, False), (ITL_PER_TOKEN, True)])
def test_long_gaps_of_one_stretch_of_time_are_a_hiccup(slos, told):
    """10 x 60 of 600 x 99 gaps are more than the 594 that may be outside, and 10 x 59 are not."""
    evidence = conclude(slos, stuttering(60, told=told).phase(0), {})
    assert (evidence.outcome, evidence.hiccup) == (
        "missed",
        f"600 of the 600 gaps outside were under way in one stretch of 3.0 s for {slos[0]}",
    )
    calm = conclude(slos, stuttering(59, told=told).phase(0), {})
    assert (calm.outcome, calm.hiccup) == ("met", None)


def test_long_gaps_all_over_are_none():
    """20 of 99 in each tenth stream, wherever it is."""
    recording = Recording(limits=limits_of(ITL))
    for i in range(600):
        gaps_s = [0.1 if i % 10 == 0 and gap < 20 else 0.01 for gap in range(99)]
        recording.add(an_ok(i / 10, arrivals_s=list(accumulate(gaps_s, initial=i / 10 + 0.1))))
    evidence = conclude(ITL, recording.phase(0), {})
    assert (evidence.outcome, evidence.hiccup) == ("missed", None)


@pytest.mark.parametrize(("failed_at_s", "hiccup"), [([30.9], True), ([5.0, 15.0, 45.0, 55.0], False)])
def test_a_failure_counts_as_all_the_gaps_of_a_stream(failed_at_s, hiccup):
    """Four elsewhere are 396 of 996 gaps outside: not a quarter at most."""
    recording = stuttering(60)
    for ended_s in failed_at_s:
        recording.add(an_error(ended_s))
    evidence = conclude(ITL, recording.phase(0), {})
    assert evidence.outcome == "missed"
    assert (evidence.hiccup is not None) == hiccup


def test_a_longest_gap_of_one_stretch_of_time_was_a_hiccup():
    slos = [parse_slo("max_itl_ms<50")]
    recording = stuttering(1)
    end = conclude(slos, recording.phase(0), summarize(recording))
    assert end.hiccup == "10 of the 10 gaps outside were under way in one stretch of 3.0 s for max_itl_ms<50"


def test_when_gaps_were_long_is_known_in_every_process_and_of_every_part():
    whole, parts = stuttering(60), Recording()
    for part in whole.split():
        parts.merge(Recording.from_dict(part.to_dict()))
    later = whole.successor()
    later.add(an_ok(100.0, arrivals_s=[100.1, 100.2]))
    parts.merge(Recording.from_dict(later.to_dict()))
    (known,) = parts.phase(0).long_gaps.values()
    assert (len(known.sent_s), known.sent_s[-1], known.ended_s[-1]) == (601, 100.0, 100.2)
    assert (known.gaps[300], known.long[300], known.gaps[-1], known.long[-1]) == (99, 60, 1, 1)
