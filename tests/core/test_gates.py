"""Gates: failed, unsent and unreadable requests count, and a search means the same by the same string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_records import an_ok, records
from tests.core.test_evidence import a_recording, concluded, spread
from vllm_locust.core.gates import gates
from vllm_locust.core.record import DROPPED, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import UNPACED, evaluate, parse_slo, percentiles_of
from vllm_locust.core.summary import summarize


def gated(text: str, recording: Recording):
    slo = parse_slo(text)
    numbers = summarize(recording, percentiles=percentiles_of([slo]))
    (judgement,) = gates([slo], recording.phase(0), numbers)
    return judgement


@pytest.mark.parametrize(
    ("text", "answered", "failed", "outcome", "why"),
    [
        (
            "p99_ttft_ms<500",
            261,
            39,
            "missed",
            "13.0 % of the requests failed, so 87.0 % at most were inside",
        ),
        ("p95_ttft_ms<500", 990, 10, "met", "the 10 that failed count as outside"),
        ("median_e2el_ms<500", 300, 290, "met", "the 290 that failed count as outside"),
        (
            "median_e2el_ms<500",
            300,
            310,
            "missed",
            "50.8 % of the requests failed, so 49.2 % at most were inside",
        ),
        ("max_ttft_ms<500", 299, 1, "missed", "1 of 300 requests failed"),
        ("p99_itl_ms<500", 261, 39, "missed", "13.0 % of the requests failed, so 87.0 % at most were inside"),
        ("p99_ttft_ms<1.05", 600, 6, "missed", "the 6 that failed count as outside"),
        ("mean_ttft_ms<500", 261, 39, "met", "the 39 that failed are not in it"),
        ("p99_ttft_ms<500", 0, 39, "missed", "100.0 % of the requests failed, so 0.0 % at most were inside"),
        ("p99_ttft_ms<500", 20, 1, "undetermined", "the 1 that failed count as outside"),
    ],
)
def test_one_objective_means_the_same_in_a_gate_and_in_a_search(text, answered, failed, outcome, why):
    recording = a_recording(spread(answered), failed)
    judgement = gated(text, recording)
    assert (judgement.outcome, judgement.sentence.endswith(why)) == (outcome, True), judgement.sentence
    if outcome != "undetermined":
        assert concluded(text, recording).outcome == outcome


def test_failures_and_slow_answers_are_outside_together():
    """Of 1000 requests 6 failed and 8 were slow: each is less than 1 %, both together are not."""
    recording = a_recording(spread(994, 8), failed=6)
    assert gated("p99_ttft_ms<500", recording).sentence == (
        "p99_ttft_ms<500 is missed: 1.09766 of those answered, but 6 of 1000 requests failed: "
        "98.6 % of requests inside, 99 % needed"
    )


@given(st.lists(records(), max_size=40), st.sampled_from([300, 900, 3000]))
def test_without_failures_a_gate_is_what_its_value_says(made, bound_ms):
    recording = Recording()
    for record in made:
        if record.outcome in ("ok", DROPPED):
            recording.add(record)
    slo = parse_slo(f"p90_e2el_ms<{bound_ms}")
    numbers = summarize(recording)
    assert gates([slo], recording.total(), numbers) == [evaluate(slo, numbers)]


def with_pieces(streamed: int, pieces: int) -> Recording:
    """Answers with gaps of 10 ms, and answers whose three tokens came at once."""
    recording = a_recording(spread(streamed))
    for second in range(pieces):
        at_s = streamed + second + 0.1
        recording.add(an_ok(float(streamed + second), arrivals_s=[at_s] * 3))
    return recording


@pytest.mark.parametrize("family", ["tpot", "itl"])
@pytest.mark.parametrize(
    ("streamed", "pieces", "limit_ms", "outcome"),
    [
        (999, 1, 50, "met"),  # 99.9 % are inside whatever the last one was
        (980, 20, 50, "undetermined"),  # 98 % at least, 100 % at most
        (999, 1, 5, "missed"),
        (0, 9, 50, "undetermined"),
    ],
)
def test_answers_in_one_piece_may_be_outside(family, streamed, pieces, limit_ms, outcome):
    judgement = gated(f"p99_{family}_ms<{limit_ms}", with_pieces(streamed, pieces))
    assert judgement.outcome == outcome, judgement.sentence
    assert UNPACED in judgement.sentence


@pytest.mark.parametrize("family", ["tpot", "itl"])
@pytest.mark.parametrize(
    ("streamed", "late", "limit_ms", "outcome", "share"),
    [
        (999, 1, 50, "met", 99.9),
        (980, 20, 50, "undetermined", 98.0),
        (200, 388, 5, "undetermined", 0.0),  # 66 % may have been inside
        (999, 1, 5, "missed", 0.0),
    ],
)
def test_answers_that_were_perhaps_read_late_may_be_inside(family, streamed, late, limit_ms, outcome, share):
    """Three tokens at once, of which the first came up to 60 ms earlier."""
    recording = a_recording(spread(streamed))
    for second in range(streamed, streamed + late):
        recording.add(an_ok(float(second), arrivals_s=[second + 0.1] * 3, bounds_s=[0.06] * 3))
    percentile = "p50" if limit_ms == 5 else "p99"
    text = f"{percentile}_{family}_ms<{limit_ms}"
    judgement = gated(text, recording)
    assert judgement.outcome == outcome, judgement.sentence
    finding = concluded(text, recording)
    assert finding.surely / finding.trials == pytest.approx(share / 100)
    assert finding.possibly == finding.surely + late
    assert finding.torn == (outcome == "undetermined")


def test_a_miss_stands_only_if_it_would_with_answers_in_one_piece_inside():
    """100 are outside; of 110 more nobody knows."""
    recording = with_pieces(100, 110)
    assert gated("p50_tpot_ms<5", recording).outcome == "undetermined"
    assert gated("p90_tpot_ms<5", recording).sentence.endswith(
        "the 110 whose time between tokens is not known would not change that"
    )
    assert gated("mean_tpot_ms<5", recording).outcome == "undetermined"  # 10 * 100 / 210 with zeros
    assert gated("mean_tpot_ms<4.7", recording).outcome == "missed"


@pytest.mark.parametrize(
    ("text", "unsent", "wait_s", "outcome"),
    [
        ("p90_ttft_from_plan_ms<500", 20, 0.2, "met"),  # 980 of 1000 inside
        ("p99_ttft_from_plan_ms<500", 20, 0.2, "undetermined"),  # 20 may have been inside, had they been sent
        ("p99_ttft_from_plan_ms<500", 20, 2.0, "missed"),  # had already waited too long
        ("p99_ttft_ms<500", 20, 2.0, "met"),  # counts from when a request was sent
    ],
)
def test_requests_that_were_never_sent_may_be_outside(text, unsent, wait_s, outcome):
    recording = a_recording(spread(980))
    for second in range(unsent):
        recording.add(RequestRecord(0, "s", "p", DROPPED, float(second), ended_s=second + wait_s))
    judgement = gated(text, recording)
    assert judgement.outcome == outcome, judgement.sentence
