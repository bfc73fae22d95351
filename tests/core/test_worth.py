"""How many independent requests those of a probe are worth."""

import math
from random import Random

import pytest

from tests.core.made_recordings import spread, weighed
from tests.core.made_records import an_error, an_ok
from vllm_locust.core.recording import Recording


def moody(count: int) -> list[float]:
    """TTFTs that drift slowly up and down."""
    return [200 + 100 * math.sin(i / 20) + Random(i).random() for i in range(count)]


def test_what_requests_are_worth_goes_by_time_and_not_by_profile():
    """Two profiles that take turns, one slow and one quick: their columns stand one behind the other."""
    calm, wild = Recording(), Recording()
    for recording, values in ((calm, spread(800)), (wild, moody(800))):
        for second, ttft_ms in enumerate(values):
            profile, first_s = "ab"[second % 2], second + ttft_ms / 1000 + second % 2
            record = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1], profile=profile)
            recording.add(record)
    assert weighed("p99_ttft_ms<1500", calm).worth > 400
    assert weighed("p99_ttft_ms<1500", wild).worth < 150


def test_what_requests_are_worth_goes_by_their_own_ends_however_many_others_failed():
    """Of two profiles only one has failures, so that the ends of the others lie unevenly among all ends."""
    alone, among = Recording(), Recording()
    for profile in "ab":
        for second, ttft_ms in enumerate(moody(400)):
            first_s = second + ttft_ms / 1000
            made = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1], profile=profile)
            alone.add(made)
            among.add(made)
            for i in range(5 if profile == "b" and second > 200 else 0):
                among.add(an_error(second + 0.5 + i / 100, profile=profile))
    finding = weighed("p50_ttft_ms<200", among)
    assert finding.trials / finding.worth == pytest.approx(800 / weighed("p50_ttft_ms<200", alone).worth)


@pytest.mark.parametrize("failed_every", [None, 9])
def test_the_times_are_found_behind_a_warm_up_and_past_the_end(failed_every):
    """The same requests are worth the same in a window that is only a part of the run."""
    whole, part = Recording(), Recording()
    part.begin_phase(0, 0.0, warmup_s=100.0)
    for second, ttft_ms in enumerate(moody(1000)):
        if second == 900:
            part.close_phase(0, 900.0)
        if failed_every and second % failed_every == 0:
            record = an_error(second + 0.5)
        else:
            first_s = second + ttft_ms / 1000
            record = an_ok(float(second), arrivals_s=[first_s, first_s + 0.1])
        part.add(record)
        if 100 <= second < 900:
            whole.add(record)
    inner, outer = weighed("p50_ttft_ms<200", part), weighed("p50_ttft_ms<200", whole)
    assert inner.trials == outer.trials == 800
    assert inner.inside == outer.inside
    assert inner.worth == pytest.approx(outer.worth)
