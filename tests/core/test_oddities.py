"""Answers that are ok and odd: what they leave undefined, which gates are not met by them, what is said."""

from dataclasses import replace

import pytest

from tests.core.made_records import an_ok
from vllm_locust.core.evidence import conclude
from vllm_locust.core.group import Group
from vllm_locust.core.record import RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.core.slo import evaluate, parse_slo
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
    assert ("1 answers that arrived in one piece" in judgement.sentence) == (outcome == "undetermined")


def test_a_gate_on_nothing_but_pieces_says_why_it_has_no_value() -> None:
    judgement = evaluate(parse_slo("p99_tpot_ms<50"), summarize(recorded(PIECE)))
    assert (judgement.outcome, judgement.value) == ("undetermined", None)
    assert judgement.sentence.endswith("p99_tpot_ms has no value, since 1 answers arrived in one piece")


def test_a_piece_is_no_good_request_where_tpot_is_limited() -> None:
    piece = recorded(PIECE)
    assert summarize(piece, {"tpot": 50.0})["request_goodput"] == 0
    assert summarize(piece, {"ttft": 600.0})["request_goodput"] > 0


@pytest.mark.parametrize("slo", ["p90_tpot_ms<50", "p90_itl_ms<50", "max_tpot_ms<50"])
def test_a_search_finds_no_level_by_pieces(slo: str) -> None:
    recording = recorded(*[PIECE] * 100)
    evidence = conclude([parse_slo(slo)], recording.total(), summarize(recording))
    assert evidence.outcome == "missed"
    assert "100 arrived in one piece" in evidence.findings[0].sentence


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
        an_ok(arrivals_s=[0.5 + 0.01 * n for n in range(5)], tokens=2005),  # reasoning that is not shown
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
            replace(EXACT, output_tokens=4),
            "In 1 of 3 answers usage counts more tokens than were asked for. TPOT and tokens per second "
            "follow usage",
        ),
    ],
)
def test_lengths_that_do_not_fit_are_told(odd: RequestRecord, sentence: str) -> None:
    summary = summarize(recorded(odd, EXACT, replace(EXACT, max_tokens=None)))
    assert summary["answers"]["sentences"] == [sentence]
    assert f"  - {sentence}\n" in render(summary)


@pytest.mark.parametrize(
    "record",
    [
        EXACT,
        replace(EXACT, output_tokens=2, exact_length=False, visible_events=2),
        replace(EXACT, output_tokens=2, tokens_counted=True, visible_events=2),
        replace(EXACT, output_tokens=None),
        replace(EXACT, output_tokens=6, choices=2),
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
