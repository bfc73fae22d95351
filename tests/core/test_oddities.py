"""Answers that are ok and odd: what they leave undefined, which gates are not met by them, what is said."""

from dataclasses import replace
from typing import Any

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.evidence import conclude
from vllm_locust.core.gates import gates
from vllm_locust.core.group import Group
from vllm_locust.core.record import RequestRecord, in_few_pieces
from vllm_locust.core.recording import Recording
from vllm_locust.core.search import CapacitySearch, Probe
from vllm_locust.core.slo import UNPACED, evaluate, parse_slo
from vllm_locust.core.summary import summarize
from vllm_locust.report.text import render

STREAMED = an_ok(arrivals_s=[0.5, 0.6, 0.7], ended_s=0.7)
# Fifty tokens within a tenth of a millisecond of each other, as from a proxy that kept them: 2 us each.
PIECE = an_ok(arrivals_s=[0.5 + 2e-6 * n for n in range(50)], ended_s=0.6, bounds_s=[0.0005] * 50)
EXACT = replace(STREAMED, max_tokens=3, exact_length=True, visible_events=3)


def recorded(*records: RequestRecord) -> Recording:
    recording = Recording()
    for record in records:
        recording.add(record)
    return recording


def test_an_answer_in_one_piece_has_no_tpot_and_no_gaps() -> None:
    assert (PIECE.in_one_piece, PIECE.tpot_s, PIECE.max_itl_s) == (True, None, None)
    assert (STREAMED.in_one_piece, STREAMED.tpot_s) == (False, pytest.approx(0.1))
    summary = summarize(recorded(PIECE, STREAMED))
    assert summary["mean_tpot_ms"] == summary["max_tpot_ms"] == pytest.approx(100)
    assert summary["mean_itl_ms"] == pytest.approx(100)
    alone = summarize(recorded(PIECE))
    assert [alone[f"{word}_{of}_ms"] for word in ("mean", "p99") for of in ("tpot", "itl")] == [None] * 4
    assert alone["mean_ttft_ms"] == pytest.approx(500)


@pytest.mark.parametrize(
    ("tokens", "arrivals_s", "in_one_piece"),
    [
        (1, [0.5], False),
        (8, [0.5], False),  # one event says nothing about others
        (2005, [0.5 + 0.01 * n for n in range(5)], False),  # reasoning that is not shown
        (8, [0.5, 0.5001], False),  # four tokens an event, as speculative decoding sends them
        (None, [0.5, 0.5], True),
        (1, [0.5] * 20, True),  # a usage that cannot be changes nothing about it
        (None, [0.5, 0.501], False),
        (None, [0.5 + 0.00004 * n for n in range(11)], True),
        (None, [0.5 + 0.00006 * n for n in range(11)], False),
    ],
)
def test_what_came_in_one_piece(tokens: int | None, arrivals_s: list[float], in_one_piece: bool) -> None:
    assert an_ok(arrivals_s=arrivals_s, tokens=tokens).in_one_piece is in_one_piece


# 60 events in three reads 400 ms apart, each within 0.5 ms of a look that had found nothing.
FEW = an_ok(
    arrivals_s=[0.5 + 0.4 * (n // 20) for n in range(60)],
    bounds_s=[0.0005] * 60,
    lags_s=[1e-4] * 4,
    few_pieces=3,
)


def test_an_answer_in_a_few_pieces_has_no_tpot_and_no_gaps() -> None:
    assert (FEW.in_one_piece, FEW.tpot_s, FEW.max_itl_s) == (False, None, None)
    summary = summarize(recorded(FEW, STREAMED), {"tpot": 150.0})
    assert (summary["mean_tpot_ms"], summary["mean_itl_ms"]) == pytest.approx((100, 100))
    assert summary["request_goodput"] == pytest.approx(summary["request_throughput"] / 2)
    assert summary["answers"]["sentences"] == [
        "1 of 2 answers arrived in a few pieces, 20 events at once on average: their TPOT and ITL are "
        "undefined, and their TTFT is that of the first piece. A proxy may buffer them, or the server may "
        "make several at once, or send late what it made"
    ]


def pieces(*sizes: int, every_s: float = 0.4, bound_s: float = 0.002, **fields: Any) -> RequestRecord:
    """An answer in pieces of so many events, each read within `bound_s`."""
    arrivals_s = [0.1 + every_s * place for place, size in enumerate(sizes) for _ in range(size)]
    return an_ok(
        arrivals_s=arrivals_s,
        bounds_s=[bound_s] * len(arrivals_s),
        lags_s=[0.0] * (len(sizes) + 2),
        **fields,
    )


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (FEW, 3),
        (replace(FEW, bounds_s=[0.3] * 60), 0),  # perhaps read late
        (replace(FEW, bounds_s=()), 0),  # nobody knows how late
        (pieces(40, 39), 2),  # a buffer of 4 KB
        (pieces(1, 78), 2),  # the first token passed on, and all others at the end
        (pieces(2, 77), 2),
        (pieces(77, 2), 2),  # a tail
        (pieces(10, 10, 10, 3, every_s=0.2), 4),  # handed on every 0.2 s
        (pieces(4, 4), 2),
        (pieces(3, 3, 3, 3), 0),  # three tokens a step, each an event of its own
        (pieces(*[1] * 40), 0),
        # within a tenth of the time before them
        (pieces(10, 10, every_s=0.020, bound_s=0.002), 2),
        (pieces(10, 10, every_s=0.019, bound_s=0.002), 0),
        # or faster than one in 0.05 ms: 11 events in 0.49 ms are, 10 are not
        (pieces(11, 11, every_s=0.0045, bound_s=0.00049), 2),
        (pieces(10, 10, every_s=0.0045, bound_s=0.00049), 0),
        # of 13 events in one piece and 4 of their own, 12 of 16 later ones are known to have come together
        (pieces(13, 1, 1, 1, 1, every_s=1.0, bound_s=0.1), 0),  # 3.4 a piece
        (pieces(13, 1, 1, 1, every_s=1.0, bound_s=0.1), 4),
        (pieces(1, 9, 1, 1, 1, 12, every_s=1.0), 6),  # 21 of 24
        (pieces(9, 1, 1, 5, every_s=1.0), 4),
        (pieces(1, 5, 1, 1, 14, 2, every_s=1.0, choices=2), 0),
        (pieces(24, 24, choices=24), 0),  # steps of 24 choices
        # a stall in each tenth of a streamed answer
        (
            an_ok(
                arrivals_s=[0.02 * n + 0.4 * (n // 20) for n in range(100)] + [5.0] * 12 + [6.0] * 12,
                bounds_s=[0.0001] * 124,
                lags_s=[0.0] * 103,
            ),
            0,
        ),
        # a piece in packets 30 us apart is one
        (
            an_ok(
                arrivals_s=[0.1 + 0.4 * (n // 30) + 3e-5 * (n % 30 // 2) for n in range(60)],
                bounds_s=[0.0001] * 60,
                lags_s=[0.0] * 32,
            ),
            2,
        ),
    ],
)
def test_what_came_in_a_few_pieces(record: RequestRecord, found: int) -> None:
    assert in_few_pieces(record) == found


def test_events_whose_first_piece_was_perhaps_read_late_are_not_known_to_have_come_together() -> None:
    """12 of the 31 later ones are."""
    record = pieces(20, 12)
    assert in_few_pieces(replace(record, bounds_s=[0.1] * 20 + [0.002] * 12)) == 0


@pytest.mark.parametrize("slo", ["p99_tpot_ms<500", "p99_itl_ms<500", "max_itl_ms<500"])
def test_no_gate_is_met_by_answers_in_a_few_pieces(slo: str) -> None:
    recording = recorded(*[FEW] * 20, *[STREAMED] * 80)
    (judgement,) = gates([parse_slo(slo)], recording.total(), summarize(recording))
    assert judgement.outcome == "undetermined"


@pytest.mark.parametrize(
    ("slo", "outcome"),
    [
        ("p99_tpot_ms<500", "undetermined"),
        ("max_itl_ms<500", "undetermined"),
        ("mean_tpot_ms<50", "missed"),
        ("mean_ttft_ms<600", "met"),
    ],
)
def test_no_gate_on_what_is_not_known_is_met(slo: str, outcome: str) -> None:
    judgement = evaluate(parse_slo(slo), summarize(recorded(PIECE, *[STREAMED] * 500)))
    assert judgement.outcome == outcome
    assert (f"1 answers {UNPACED}" in judgement.sentence) == (outcome == "undetermined")


def test_a_gate_on_nothing_but_pieces_says_why_it_has_no_value() -> None:
    judgement = evaluate(parse_slo("p99_tpot_ms<50"), summarize(recorded(PIECE)))
    assert (judgement.outcome, judgement.value) == ("undetermined", None)
    assert judgement.sentence.endswith(f"p99_tpot_ms has no value: there are 1 answers {UNPACED}")


def test_a_piece_is_no_good_request_where_tpot_is_limited() -> None:
    piece = recorded(PIECE)
    assert summarize(piece, {"tpot": 50.0})["request_goodput"] == 0
    assert summarize(piece, {"ttft": 600.0})["request_goodput"] > 0


def test_a_search_cannot_tell_by_answers_of_unknown_times_as_a_gate_cannot() -> None:
    for slo in map(parse_slo, ["p90_tpot_ms<500", "p90_itl_ms<500", "max_tpot_ms<500", "mean_tpot_ms<105"]):
        for odd in (PIECE, CHOICES):
            recording = recorded(*[STREAMED] * 80, *[odd] * 20)
            numbers = summarize(recording)
            assert gates([slo], recording.total(), numbers)[0].outcome == "undetermined"
            evidence = conclude([slo], recording.total(), numbers)
            assert "20 answers" in str(evidence.blur), (slo, odd)


@pytest.mark.parametrize("slo", ["p90_tpot_ms<50", "p90_itl_ms<50", "max_tpot_ms<50"])
@pytest.mark.parametrize("pieces", [True, False])
def test_a_search_of_answers_of_unknown_times_alone_says_that_it_cannot_tell(slo: str, pieces: bool) -> None:
    recording = recorded(*[PIECE if pieces else CHOICES] * 100)
    evidence = conclude([parse_slo(slo)], recording.total(), summarize(recording))
    assert evidence.blur is not None
    assert evidence.blur.startswith(
        f"the time between tokens, which is not known of 100 answers, leaves it open whether {slo} is met"
    )
    search = CapacitySearch()
    while (level := search.next_level()) is not None:
        search.take(Probe(level, evidence))
    assert search.answer.undecided == f"at 1 {evidence.blur}"


def test_pieces_are_told_with_the_causes_that_are_left() -> None:
    attentive = summarize(recorded(PIECE, STREAMED))["answers"]
    assert (attentive["in_one_piece"], attentive["perhaps_read_late"]) == (1, 0)
    kept = (
        "1 of 2 answers arrived in one piece, all events at once: their TPOT and ITL are undefined. A proxy "
        "may buffer them, the server may not stream, or it may send late what it made"
    )
    assert attentive["sentences"] == [kept]
    stopped = replace(PIECE, bounds_s=[0.3] * 50)
    late = summarize(recorded(PIECE, stopped, STREAMED))["answers"]
    assert (late["in_one_piece"], late["perhaps_read_late"]) == (2, 1)
    assert late["sentences"] == [
        kept.replace("of 2", "of 3"),
        "Whether 1 of 3 answers arrived in one piece is not known, since this client may have read them "
        "late: their TPOT and ITL are undefined",
    ]


@pytest.mark.parametrize(
    "record",
    [
        an_ok(arrivals_s=[0.5], tokens=2),  # a word, and the token that ends the answer
        an_ok(arrivals_s=[0.5], tokens=20),  # a whole call of a tool
        an_ok(arrivals_s=[0.5, 0.50001], tokens=2, choices=2),  # a token of each choice, of one step
    ],
)
def test_an_answer_without_time_between_tokens_has_no_tpot_and_nothing_is_said(record: RequestRecord) -> None:
    assert (record.in_one_piece, record.later_tokens, record.tpot_s) == (False, 0, None)
    summary = summarize(recorded(record, STREAMED), {"tpot": 150.0})
    assert summary["mean_tpot_ms"] == pytest.approx(100)
    assert summary["answers"]["sentences"] == []
    assert (summary["answers"]["in_one_piece"], summary["answers"]["of_several_tokens"]) == (0, 1)
    assert summary["request_goodput"] == pytest.approx(summary["request_throughput"])
    assert evaluate(parse_slo("mean_tpot_ms<150"), summary).outcome == "met"


CHOICES = an_ok(arrivals_s=[0.5, 0.5, 0.52, 0.52, 0.54, 0.54], choices=2)
HIDDEN = an_ok(arrivals_s=[0.5 + 0.02 * n for n in range(20)], tokens=220, hidden_tokens=200)
# Of 8 that were asked for, in five events.
ABOVE_ASKED = an_ok(arrivals_s=[0.5 + 0.02 * n for n in range(5)], tokens=100, max_tokens=8)
# 2005 tokens in 40 ms: no model is so fast, so that not all of them came after the first event.
TOO_MANY = an_ok(arrivals_s=[0.5 + 0.01 * n for n in range(5)], tokens=2005)


@pytest.mark.parametrize(
    ("record", "gaps", "sentences"),
    [
        (
            CHOICES,
            0,
            [
                "1 of 2 answers have several choices, whose tokens come side by side and are counted "
                "together: their TPOT and ITL are undefined"
            ],
        ),
        (
            HIDDEN,
            19,
            [
                "In 1 of 2 answers usage counts reasoning of which the stream shows nothing: their TPOT is "
                "undefined"
            ],
        ),
        (
            ABOVE_ASKED,
            4,
            [
                "In 1 of 2 answers usage counts more tokens than were asked for: their TPOT is undefined, "
                "and tokens per second follow usage"
            ],
        ),
        (TOO_MANY, 4, []),
    ],
)
def test_an_answer_whose_tokens_came_nobody_knows_when_has_no_tpot(
    record: RequestRecord, gaps: int, sentences: list[str]
) -> None:
    assert (record.in_one_piece, record.later_tokens, record.tpot_s) == (False, None, None)
    assert (record.max_itl_s is None) == (gaps == 0)
    recording = recorded(record, STREAMED)
    summary = summarize(recording, {"tpot": 150.0})
    assert summary["mean_tpot_ms"] == summary["max_tpot_ms"] == pytest.approx(100)
    assert recording.total().itl.count == gaps + 2
    assert summary["answers"]["sentences"] == sentences
    assert summary["request_goodput"] == pytest.approx(summary["request_throughput"] / 2)
    assert evaluate(parse_slo("p50_tpot_ms<150"), summarize(recorded(record))).outcome == "undetermined"


@pytest.mark.parametrize(
    ("record", "tpot", "itl"),
    [
        (CHOICES, "undetermined", "undetermined"),
        (HIDDEN, "undetermined", "met"),
        (ABOVE_ASKED, "undetermined", "met"),
        (replace(ABOVE_ASKED, output_tokens=8), "met", "met"),
        (STREAMED, "met", "met"),
    ],
)
def test_no_gate_is_met_by_answers_whose_tokens_came_nobody_knows_when(
    record: RequestRecord, tpot: str, itl: str
) -> None:
    recording = recorded(*[record] * 20, *[STREAMED] * 80)
    slos = [parse_slo("p90_tpot_ms<150"), parse_slo("p90_itl_ms<150")]
    judgements = gates(slos, recording.total(), summarize(recording))
    assert [judgement.outcome for judgement in judgements] == [tpot, itl]
    assert (f"without the 20 answers {UNPACED}" in judgements[0].sentence) == (tpot != "met")


def test_tokens_of_the_first_event_did_not_come_after_it() -> None:
    """A call of a tool: 22 of 60 tokens when its name was complete, two in each of 19 events that follow."""
    call = an_ok(arrivals_s=[0.5 + 0.04 * n for n in range(20)], tokens=60, event_tokens=[22] + [2] * 19)
    assert (call.later_tokens, call.tpot_s) == (38, pytest.approx(0.020))  # 19 * 40 ms / 38
    assert replace(call, event_tokens=()).tpot_s == pytest.approx(19 * 0.040 / 59)
    # All of them before the second event: none came after the first.
    assert replace(call, output_tokens=22).later_tokens == 0


def test_choices_of_one_step_are_no_piece_and_choices_at_once_are() -> None:
    steps = [0.5 + 0.02 * step + 1e-5 * choice for step in range(5) for choice in range(2)]
    assert not an_ok(arrivals_s=steps, choices=2).in_one_piece
    assert an_ok(arrivals_s=[0.5] * 10, choices=2).in_one_piece


@pytest.mark.parametrize(
    ("odd", "sentence"),
    [
        (
            replace(EXACT, output_tokens=2, visible_events=2),
            "1 of 2 answers are shorter than asked, although ignore_eos was sent",
        ),
        (
            replace(EXACT, output_tokens=2),
            "In 1 of 3 answers usage contradicts the stream: it counts fewer tokens than there were events "
            "with output. TPOT and tokens per second follow usage",
        ),
        (
            replace(EXACT, output_tokens=2, visible_events=2, tokens_counted=True, finish_reason="stop"),
            "1 of 2 answers may be shorter than asked, although ignore_eos was sent: by its finish reason "
            "the model ended them, and the server did not count their tokens, of which an event may bring "
            "several",
        ),
        (
            replace(EXACT, output_tokens=4),
            "In 1 of 3 answers usage counts more tokens than were asked for: their TPOT is undefined, and "
            "tokens per second follow usage",
        ),
    ],
)
def test_lengths_that_do_not_fit_are_told(odd: RequestRecord, sentence: str) -> None:
    summary = summarize(recorded(odd, EXACT, replace(EXACT, max_tokens=None)))
    assert summary["answers"]["sentences"] == [sentence]
    assert f"  - {sentence}\n" in render(summary)


@pytest.mark.parametrize("reason", ["stop", "EOS", "eos_token", "end-turn", "FINISH_REASON_STOP"])
def test_a_model_ends_an_answer_in_every_spelling(reason: str) -> None:
    ended = replace(EXACT, output_tokens=2, visible_events=2, tokens_counted=True, finish_reason=reason)
    assert summarize(recorded(ended))["answers"]["perhaps_shorter"] == 1


@pytest.mark.parametrize(
    "record",
    [
        EXACT,
        replace(EXACT, output_tokens=2, exact_length=False, visible_events=2),
        replace(EXACT, output_tokens=2, tokens_counted=True, visible_events=2),
        replace(EXACT, output_tokens=2, tokens_counted=True, visible_events=2, finish_reason="length"),
        replace(EXACT, tokens_counted=True, finish_reason="stop"),
        replace(EXACT, output_tokens=4, visible_events=4, tokens_counted=True),
        replace(EXACT, output_tokens=None),
        replace(EXACT, output_tokens=6, max_tokens=6),
    ],
)
def test_nothing_is_said_of_lengths_that_fit_or_are_not_known(record: RequestRecord) -> None:
    assert summarize(recorded(record))["answers"]["sentences"] == []


def test_oddities_are_merged_and_survive_the_way_to_the_master() -> None:
    one, other = (
        recorded(PIECE, EXACT).total(),
        recorded(PIECE, replace(EXACT, output_tokens=2, visible_events=2)).total(),
    )
    one.merge(Group.from_dict(other.to_dict()))
    counts = one.oddities
    assert (counts.in_one_piece, counts.asked_for_exact_length, counts.shorter_than_asked) == (2, 2, 1)
