"""What was sent, against numbers worked out by hand, and the tables that show it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_records import records
from tests.results.made_lines import NEW_KEYS, a_failed, a_line, without
from vllm_locust.core.record import to_json_line
from vllm_locust.report.sent import (
    Answers,
    Arrivals,
    Cached,
    Histogram,
    Promised,
    Prompts,
    SentByProfile,
    Spread,
    Turn,
    describe,
)
from vllm_locust.report.sent_text import WIDTH, render_sent
from vllm_locust.results.requests import read_lines


def described(*lines: bytes) -> SentByProfile:
    return describe(read_lines(lines).requests)


def test_whoever_was_dropped_was_not_sent_and_the_failed_were() -> None:
    total = described(
        a_line(),
        a_line(),
        a_failed("timeout"),
        a_failed("http_503"),
        a_failed("timeout"),
        a_failed("dropped"),
    ).total
    assert (total.planned, total.dropped, total.sent, total.answered) == (6, 1, 5, 2)
    assert total.failures == {"timeout": 2, "http_503": 1}


def test_prompts_that_were_sent_again() -> None:
    one, two, three = "00000000000000a1", "ffffffffffffffff", "7000000000000000"
    total = described(
        *(a_line(prompt_hash=prompt) for prompt in (one, two, one, one, three)),
        a_failed("timeout", prompt_hash=two),  # was sent as well
        a_failed("dropped", prompt_hash=three),  # was not
        a_line(prompt_hash=None),
    ).total
    assert total.prompts == Prompts(n=6, distinct=3, repeated=3, most_frequent=3)


def test_lengths_of_answered_requests() -> None:
    """Ordered prompts 10 20 30 40 100: p10 is at rank 0.4 of 0..4, p90 at 3.6, p99 at 3.96."""
    lengths = zip((100, 10, 30, 20, 40), (1, 2, 4, 8, 8), strict=True)
    total = described(
        *(a_line(prompt_tokens=prompt, output_tokens=output) for prompt, output in lengths),
        a_line(output_tokens=500, tokens_counted=True),  # counted by events: not the server's word
        a_failed("cancelled", prompt_tokens=999, output_tokens=3),
    ).total
    spread = total.prompt_tokens
    assert spread is not None
    assert (spread.n, spread.min, spread.max, spread.total, spread.mean) == (5, 10, 100, 200, 40.0)
    assert (spread.p10, spread.p50) == (14.0, 30.0)
    assert (spread.p90, spread.p99) == pytest.approx((76.0, 97.6))
    assert total.output_tokens == Spread(
        n=5,
        min=1,
        p10=pytest.approx(1.4),
        p50=4.0,
        mean=4.6,
        p90=8.0,
        p99=8.0,
        max=8,
        total=23,
        # 8 bins from 1 to 9, evenly in log, are narrower than a token at first: 1.3 1.7 2.3 3 3.9 5.2 6.8 9
        histogram=Histogram(edges=[1, 2, 3, 4, 5, 7, 9], counts=[1, 1, 0, 1, 0, 2]),
    )
    assert total.without_usage == 1


def test_histograms_of_profiles_have_edges_in_common_and_hold_each_length() -> None:
    lengths = {"a": (1, 2, 3, 700), "b": (16, 5000)}
    sent = described(*(a_line(profile=name, prompt_tokens=n) for name, of in lengths.items() for n in of))
    histograms = [one.prompt_tokens.histogram for one in (*sent.profiles, sent.total)]
    edges = histograms[0].edges
    assert all(histogram.edges == edges for histogram in histograms)
    assert (edges[0], edges[-1]) == (1, 5001)
    assert sorted(set(edges)) == edges
    for histogram, values in zip(histograms, (*lengths.values(), sum(lengths.values(), ())), strict=True):
        pairs = pairwise(edges)
        assert histogram.counts == [sum(low <= value < high for value in values) for low, high in pairs]


def test_a_length_of_zero_has_a_place() -> None:
    spread = described(a_line(output_tokens=0), a_line(output_tokens=0)).total.output_tokens
    assert (spread.min, spread.max, spread.histogram) == (0, 0, Histogram([1, 2], [2]))


def test_prompts_against_the_plan() -> None:
    pairs = [(100, 100), (100, 100), (101, 100), (90, 100), (50, None), (None, 100)]
    total = described(*(a_line(prompt_tokens=n, planned_prompt_tokens=plan) for n, plan in pairs)).total
    assert total.promised == Promised(n=4, exact=2, worst=-10)


def test_answers_against_the_plan() -> None:
    made = [(8, 8, "length"), (8, 8, "length"), (3, 8, "stop"), (9, 8, "stop"), (5, None, "stop")]
    total = described(
        *(a_line(output_tokens=n, max_tokens=asked, finish_reason=why) for n, asked, why in made),
        a_line(output_tokens=8, max_tokens=8, finish_reason=None, tokens_counted=True),
    ).total
    assert total.answers == Answers(
        n=4, as_asked=2, shorter=1, longer=1, finish_reasons={"stop": 3, "length": 2, "unknown": 1}
    )


def test_cached_shares() -> None:
    told = [(100, 64), (100, 0), (200, 128), (400, None)]
    lines = [a_line(prompt_tokens=n, cached_tokens=cached) for n, cached in told]
    assert described(*lines).total.cached == Cached(
        n=3, untold=1, hits=2, cached_tokens=192, prompt_tokens=400, share=0.48, least_share=0.24
    )
    assert described(lines[3]).total.cached is None


def test_models_and_targets() -> None:
    asked = [("x", "http://1"), ("y", "http://2"), ("y", "http://1"), ("y", None)]
    total = described(*(a_line(model=model, target=target) for model, target in asked)).total
    assert list(total.models.items()) == [("y", 3), ("x", 1)]
    assert total.targets == {"http://1": 2, "http://2": 1}


def a_turn(session: int, turn: int, ttft_s: float, tokens: int, cached: int, **more) -> bytes:
    """As the suite plans them: the turns are profiles, and the conversation is one of a scenario."""
    return a_line(
        profile=f"turn_{turn}",
        session=session,
        turn=turn,
        ttft_s=ttft_s,
        prompt_tokens=tokens,
        cached_tokens=cached,
        **more,
    )


def test_conversations_turn_by_turn() -> None:
    sent = described(
        a_turn(4, 1, 0.2, 100, 0),
        a_turn(9, 1, 0.4, 200, 0),
        a_turn(4, 2, 0.1, 300, 150),
        a_turn(4, 3, 0.3, 400, 300),
        *(a_turn(4, turn, 0.5, 500, 500) for turn in (4, 5, 6)),
        a_failed("timeout", session=9, turn=2),
        a_failed("dropped", session=10, turn=1),
        a_turn(4, 1, 1.0, 10, 0, scenario="other"),
        a_line(),
    )
    mine, other = sent.conversations
    assert (mine.scenario, mine.count, mine.mean_turns, mine.max_turns) == ("s", 2, 4.0, 6)
    assert mine.turns == [
        Turn("1", 2, pytest.approx(300.0), 150.0, 0.0),
        Turn("2", 2, pytest.approx(100.0), 300.0, 0.5),
        Turn("3", 1, pytest.approx(300.0), 400.0, 0.75),
        Turn("4", 1, pytest.approx(500.0), 500.0, 1.0),
        Turn("5+", 2, pytest.approx(500.0), 500.0, 1.0),
        Turn("2+", 6, pytest.approx(380.0), 440.0, 1950 / 2200),
    ]
    assert (other.scenario, other.count, other.mean_turns, other.max_turns) == ("other", 1, 1.0, 1)
    assert described(a_line()).conversations == []


def test_arrivals() -> None:
    """Five in 2 s, the dropped one too, are 4 gaps: 2 per second. Late by 0, 10, 20 and 50 ms."""
    times = [(0.0, 0.0), (0.25, 0.01), (1.0, 0.05), (2.0, 0.02)]
    total = described(a_failed("dropped", 1.5), *(a_line(at_s, late_s) for at_s, late_s in times)).total
    assert total.arrivals == Arrivals(
        rate=2.0,
        mean_late_ms=pytest.approx(20.0),
        p50_late_ms=pytest.approx(15.0),
        p99_late_ms=pytest.approx(20 + 30 * 0.97),
        max_late_ms=pytest.approx(50.0),
    )


@pytest.mark.parametrize("lines", [[a_line(3.0)], [a_line(3.0), a_line(3.0)]])
def test_a_rate_needs_time(lines: list[bytes]) -> None:
    assert described(*lines).total.arrivals.rate is None


def test_profiles_and_all_together() -> None:
    sent = described(
        a_line(profile="b", prompt_tokens=10), a_line(prompt_tokens=20), a_failed("timeout", profile="b")
    )
    assert [(one.profile, one.sent, one.answered) for one in sent.profiles] == [("b", 2, 1), ("a", 1, 1)]
    assert (sent.total.profile, sent.total.sent, sent.total.prompt_tokens.total) == (None, 3, 30)


def test_of_an_older_file_the_new_things_are_unknown() -> None:
    lines = [a_line(prompt_tokens=5, output_tokens=2), a_line(prompt_tokens=7, output_tokens=2)]
    sent = described(*(without(NEW_KEYS, line) for line in lines))
    total = sent.total
    assert (total.prompts, total.promised, total.answers.n, total.targets) == (None, None, 0, {})
    assert (total.sent, total.prompt_tokens.total, sent.conversations) == (2, 12, [])
    text = render_sent(sent)
    assert "Which prompts were the same was not recorded." in text
    assert "How long prompts and answers were to be was not recorded." in text


@given(st.lists(records(), max_size=12))
def test_nothing_is_lost_whatever_was_recorded(made) -> None:
    sent = described(*(to_json_line(record, 0.0) for record in made))
    for one in (*sent.profiles, sent.total):
        assert (
            one.planned == one.dropped + one.sent == one.dropped + one.answered + sum(one.failures.values())
        )
        for spread in (one.prompt_tokens, one.output_tokens):
            assert spread is None or sum(spread.histogram.counts) == spread.n
    for name in ("planned", "dropped", "sent", "answered", "without_usage"):
        assert sum(getattr(one, name) for one in sent.profiles) == getattr(sent.total, name)
    assert max(map(len, render_sent(sent, 0.5).splitlines())) <= WIDTH


SHOWN = """\
requests                planned  dropped  sent  answered  failed  distinct  repeats  most
  short                       4        1     3         2       1         2        1     2
  a_profile_of_a_very~        2        0     2         2       0         1        1     2
  all                         6        1     5         4       1         3        2     2
  Failed: timeout 1.
  distinct = different prompts, repeats = requests whose prompt an earlier one had, most = requests with the
  most frequent prompt.

arrivals                offered req/s  late, ms: mean     p50     p99     max
  short                          3.00            0.00    0.00    0.00    0.00
  a_profile_of_a_very~            n/a          250.00  250.00  250.00  250.00
  all                            5.00          100.00    0.00  250.00  250.00
  offered = as planned, dropped ones too (n/a: one, or all at one time); late = sent after the intended start.

prompt tokens           answers   min   p10   p50    mean   p90   p99   max  total
  short                       1     8     8     8     8.0     8     8     8      8
  a_profile_of_a_very~        2  1000  1000  1000  1000.0  1000  1000  1000   2000
  all                         3     8   206  1000   669.3  1000  1000  1000   2008

output tokens           answers  min  p10  p50  mean  p90  p99  max  total
  short                       1    4    4    4   4.0    4    4    4      4
  a_profile_of_a_very~        2    2    2    3   3.0    4    4    4      6
  all                         3    2    2    4   3.3    4    4    4     10
  Answers without usage, whose lengths are not known: 1.

spread, log scale       prompt tokens: 8 .. 1000             output tokens: 2 .. 4
  short                 |█                               |   |  █|
  a_profile_of_a_very~  |                               █|   |█ █|
  all                   |▄                              █|   |▄ █|
  From the shortest to the longest of all; the highest bar of each line is its fullest bin.

as planned?             promised  exact  worst off  answers  as asked  shorter  longer
  short                        0    n/a        n/a        1         1        0       0
  a_profile_of_a_very~         2      1         +1        2         1        1       0
  all                          2      1         +1        3         2        1       0
  promised = answered requests whose exact prompt length was planned, exact = the server counted just as many
  tokens, worst off = by so many more or less.
  as asked = answers of just as many tokens as were asked for (max_tokens).
  Answers ended by: length 2, stop 2.

prefix cache            answers  with a hit  cached tokens  prompt tokens  cached %
  short                       1           0              0              8       0.0
  a_profile_of_a_very~        2           2           1024           2000      51.2
  all                         3           2           1024           2008      51.0
  The server's own prefix cache hit rate (from its metrics, over the measured window, whoever asked): 25.4 %.

models asked            requests     %
  base                         3  60.0
  adapter                      2  40.0
"""


def test_the_tables_as_they_are_shown() -> None:
    short, long = {"profile": "short"}, {"profile": "a_profile_of_a_very_long_name"}
    sent = described(
        a_line(
            0.0, prompt_tokens=8, output_tokens=4, max_tokens=4, prompt_hash="1", cached_tokens=0, **short
        ),
        a_line(
            0.5, prompt_tokens=16, output_tokens=4, tokens_counted=True, prompt_hash="2", **short, target="u"
        ),
        a_failed("timeout", 0.75, prompt_hash="2", **short),
        a_failed("dropped", 1.0, prompt_hash="3", **short),
        *(
            a_line(
                0.5,
                0.25,
                prompt_tokens=1000,
                planned_prompt_tokens=999 + n // 4,
                output_tokens=n,
                max_tokens=4,
                finish_reason="stop",
                cached_tokens=512,
                prompt_hash="9",
                model="adapter",
                **long,
            )
            for n in (2, 4)
        ),
    )
    assert render_sent(sent, 0.254) == SHOWN


def test_without_usage_and_without_requests_it_is_said() -> None:
    text = render_sent(described(a_line(tokens_counted=True, output_tokens=9)))
    assert "Lengths of prompts and answers are not known: no answer had a usage." in text
    assert "start vLLM with --enable-prompt-tokens-details" in text
    assert "spread" not in text
    assert render_sent(described()) == "No requests were recorded.\n"
    assert "no usage" not in render_sent(described(a_failed("timeout")))
