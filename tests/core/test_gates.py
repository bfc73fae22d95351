"""Gates: failed, unsent and unreadable requests count, and a search means the same by the same string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.made_recordings import a_recording, bounded, concluded, spread
from tests.core.made_records import an_error, an_ok, records
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
            "13 % of the requests failed, so 87 % at most were inside",
        ),
        ("p95_ttft_ms<500", 990, 10, "met", "the 10 that failed count as outside"),
        ("median_e2el_ms<500", 300, 290, "met", "the 290 that failed count as outside"),
        (
            "median_e2el_ms<500",
            300,
            310,
            "missed",
            "50.82 % of the requests failed, so 49.18 % at most were inside",
        ),
        ("max_ttft_ms<500", 299, 1, "missed", "1 of 300 requests failed"),
        ("p99_itl_ms<500", 261, 39, "missed", "13 % of the requests failed, so 87 % at most were inside"),
        ("p99_ttft_ms<1.05", 600, 6, "missed", "the 6 that failed count as outside"),
        ("mean_ttft_ms<500", 261, 39, "met", "the 39 that failed are not in it"),
        ("p99_ttft_ms<500", 0, 39, "missed", "100 % of the requests failed, so 0 % at most were inside"),
        (
            "p99.9_ttft_ms<500",
            3994,
            6,
            "missed",
            "0.15 % of the requests failed, so 99.85 % at most were inside",
        ),
        ("p99_ttft_ms<500", 20, 1, "undetermined", "the 1 that failed count as outside"),
    ],
)
def test_one_objective_means_the_same_in_a_gate_and_in_a_search(text, answered, failed, outcome, why):
    recording = a_recording(spread(answered), failed)
    judgement = gated(text, recording)
    assert (judgement.outcome, judgement.sentence.endswith(why)) == (outcome, True), judgement.sentence
    if outcome != "undetermined":
        assert concluded(text, recording).outcome == outcome


@pytest.mark.parametrize(("limit_ms", "outcome"), [(15, "missed"), (30, "undetermined"), (60, "met")])
def test_a_gate_on_connecting_allows_for_what_this_client_lost(limit_ms, outcome):
    """Each took 50 ms, of which 30 may have been ours."""
    made = Recording()
    for second in range(400):
        made.add(an_ok(float(second), connect_s=0.05, connect_bound_s=0.03))
    assert gated(f"p99_connect_ms<{limit_ms}", made).outcome == outcome
    assert gated(f"max_connect_ms<{limit_ms}", made).outcome == outcome


@pytest.mark.parametrize(
    ("text", "slow", "outcome"),
    [
        ("p99_ttft_ms<500", 8, "undetermined"),  # 400 of 400, or of 408 with 404 needed
        ("p95_ttft_ms<500", 8, "met"),  # 388 needed of 408
        ("max_ttft_ms<500", 8, "undetermined"),
        ("mean_ttft_ms<150", 8, "undetermined"),  # 100 ms, or 80 s of 408
        ("completed<=400", 8, "undetermined"),
        ("completed<=408", 8, "met"),
    ],
)
def test_a_gate_decides_where_it_makes_no_difference_who_is_in_the_window(text, slow, outcome):
    """400 requests of 0.1 s, and some of 5 s whose end was perhaps within the warm-up."""
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    for _ in range(slow):
        recording.add(an_ok(4.5, 10.1, arrivals_s=[9.5], ended_bound_s=0.5))
    for i in range(400):
        recording.add(an_ok(11 + i / 100, 11.3 + i / 100, arrivals_s=[11.1 + i / 100]))
    recording.close_phase(0, 20.0)
    assert gated(text, recording).outcome == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("failed==0", "undetermined"), ("error_rate<0.01", "undetermined"), ("error_rate<0.05", "met")],
)
def test_failures_that_were_perhaps_in_the_warm_up_decide_nothing(text, outcome):
    """8 of 408 perhaps failed in the window, or none of 400."""
    recording = Recording()
    recording.begin_phase(0, 0.0, warmup_s=10.0)
    for _ in range(8):
        recording.add(an_error(10.1, ended_bound_s=0.5))
    for i in range(400):
        recording.add(an_ok(11 + i / 100, 11.3 + i / 100, arrivals_s=[11.1 + i / 100]))
    recording.close_phase(0, 20.0)
    assert gated(text, recording).outcome == outcome


def test_failures_and_slow_answers_are_outside_together():
    """Of 1000 requests 6 failed and 8 were slow: each is less than 1 %, both together are not."""
    recording = a_recording(spread(994, 8), failed=6)
    assert gated("p99_ttft_ms<500", recording).sentence == (
        "p99_ttft_ms<500 is missed: 1.09766 of those answered, but 6 of 1000 requests failed: "
        "98.6 % of requests inside, 99 % needed"
    )


@given(st.lists(records(), max_size=40), st.sampled_from([300, 900, 3000]))
def test_other_objectives_are_what_their_value_says(made, bound_ms):
    recording = Recording()
    for record in made:
        if record.outcome in ("ok", DROPPED):
            recording.add(record)
    numbers = summarize(recording)
    for text in (f"mean_e2el_ms<{bound_ms}", f"p90_e2el_ms>{bound_ms}", "failed==0"):
        slo = parse_slo(text)
        assert gates([slo], recording.total(), numbers) == [evaluate(slo, numbers)]


@pytest.mark.parametrize(
    ("text", "answered", "slow", "sentence"),
    [
        (
            "p99_e2el_ms<500",
            368,
            4,
            "is missed: 98.91 % of requests inside, 99 % needed, though p99_e2el_ms, between two of them, is "
            "399",
        ),
        (
            "p95_e2el_ms<500",
            80,
            4,
            "is met: 95 % of requests inside, 95 % needed, though p95_e2el_ms, between two of them, is 535",
        ),
    ],
)
def test_the_number_of_requests_decides_where_the_value_lies_between_two(text, answered, slow, sentence):
    """At rank 363.33 of 368 from 0, and 75.05 of 80, numpy takes a part of the way to the next value."""
    between = 0.33 if answered == 368 else 0.05
    fast, slower = (300.0, 600.0) if answered == 368 else (300.0, 5000.0)
    recording = Recording()
    for second in range(answered):
        e2el_s = (
            slower if second % (answered // slow) == 0 and second // (answered // slow) < slow else fast
        ) / 1000
        recording.add(an_ok(float(second), arrivals_s=[second + 0.1, second + e2el_s]))
    judgement = gated(text, recording)
    assert judgement.value == pytest.approx(fast + between * (slower - fast))
    assert judgement.sentence == f"{text} {sentence}"
    assert concluded(text, recording).outcome == judgement.outcome


@given(
    st.integers(1, 1000),
    st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]),
    st.integers(-2, 3),
    st.integers(0, 3),
    st.sampled_from(["ttft", "e2el", "tpot", "itl", "e2el_from_plan"]),
)
@settings(max_examples=40, deadline=None)
def test_at_the_border_a_gate_and_a_search_agree(requests, q, beside, failed, family):
    """So many outside as are allowed, and some more or fewer."""
    allowed = requests * (1000 - round(q * 10)) // 1000
    outside = min(max(allowed + beside, 0), requests)
    failed = min(failed, outside)
    recording = Recording()
    for second in range(requests - failed):
        slow = second < outside - failed
        ttft_s, gap_s = (0.6, 0.06) if slow else (0.1, 0.01)
        recording.add(an_ok(float(second), arrivals_s=[second + ttft_s, second + ttft_s + gap_s]))
    for second in range(requests - failed, requests):
        recording.add(an_error(second + 0.5))
    limit_ms = 50 if family in ("tpot", "itl") else 500
    text = f"p{q:g}_{family}_ms<{limit_ms}"
    judgement, finding = gated(text, recording), concluded(text, recording)
    enough = (requests - outside) * 1000 >= requests * round(q * 10)
    assert finding.outcome == ("met" if enough else "missed")
    if judgement.outcome == "undetermined":
        assert requests < {50: 6, 90: 36, 95: 72, 99: 368, 99.9: 3688}[q]
        assert finding.close
        assert "it takes" in judgement.sentence or "no request was answered" in judgement.sentence
        return
    assert judgement.outcome == finding.outcome, judgement.sentence
    against = judgement.value is not None and judgement.slo.holds(judgement.value) != enough
    assert against == any(word in judgement.sentence for word in ("though", "of those answered"))


@pytest.mark.parametrize("requests", range(1, 51))
def test_few_requests_pass_no_gate_on_a_p99_and_it_says_how_many_would(requests):
    judgement = gated("p99_ttft_ms<500", a_recording(spread(requests)))
    assert judgement.outcome == "undetermined"
    assert judgement.sentence.endswith("from too few requests (it takes 368): run longer")
    assert gated("p99_ttft_ms<500", a_recording([900.0] * requests)).outcome == "missed"


def test_what_the_client_may_have_added_leaves_it_open_how_many_were_inside():
    judgement = gated("p99_ttft_ms<500", bounded(510, 20))
    assert judgement.sentence == (
        "p99_ttft_ms<500 is undetermined: 510 ms, but the client's own error may be up to 20 ms: 0 to 100 % "
        "of requests inside, 99 % needed"
    )


@pytest.mark.parametrize(("bound", "outcome"), [(505, "undetermined"), (489, "missed"), (511, "missed")])
def test_a_value_that_may_be_the_one_asked_for_is_not_missed(bound, outcome):
    """510 ms, and up to 20 ms less."""
    assert gated(f"mean_ttft_ms=={bound}", bounded(510, 20)).outcome == outcome


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


def given_up(unsent: int, answered: Recording) -> Recording:
    for second in range(unsent):
        answered.add(RequestRecord(0, "s", "p", DROPPED, float(second), ended_s=second + 0.2))
    return answered


def test_a_request_that_was_never_sent_is_in_the_value_with_its_wait():
    """Of 1000 and 20 that had waited 200 ms the 99th percentile is theirs, and 1000 of 1020 are 98.03 %."""
    assert gated("p99_ttft_from_plan_ms<500", given_up(20, a_recording([100.0] * 1000))).sentence == (
        "p99_ttft_from_plan_ms<500 is undetermined: at least 200, since 20 requests were never sent: "
        "98.03 to 100 % of requests inside, 99 % needed"
    )


def test_an_answer_of_unknown_pace_is_not_in_the_value():
    assert gated("p99_tpot_ms<50", with_pieces(980, 20)).sentence == (
        "p99_tpot_ms<50 is undetermined: 10 without the 20 answers whose time between tokens is not known: "
        "98 to 100 % of requests inside, 99 % needed"
    )


def test_the_clients_own_error_is_told_beside_what_is_not_known():
    """Each of the answers took 510 ms, of which 20 may have been ours; the median is theirs."""
    assert gated("p50_ttft_from_plan_ms<500", given_up(20, bounded(510, 20))).sentence == (
        "p50_ttft_from_plan_ms<500 is undetermined: at least 510 ms, since 20 requests were never sent, but "
        "the client's own error may be up to 20 ms: 0 to 100 % of requests inside, 50 % needed"
    )
    recording = with_pieces(0, 20)
    for second in range(20, 1020):  # each of 10 ms, or of 4, since the last token was perhaps read late
        arrivals_s = [second + 0.1, second + 0.11]
        recording.add(an_ok(float(second), arrivals_s=arrivals_s, bounds_s=[0.0, 0.006]))
    assert gated("p99_tpot_ms<8", recording).sentence == (
        "p99_tpot_ms<8 is undetermined: 10 ms without the 20 answers whose time between tokens is not known, "
        "but the client's own error may be up to 6 ms: 0 to 100 % of requests inside, 99 % needed"
    )
