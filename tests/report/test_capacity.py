"""The words and the table of a capacity search, whole, and what must hold for any."""

import json
import re
from dataclasses import replace

import pytest

from vllm_locust.core.finding import Evidence, Finding
from vllm_locust.core.search import Answer, CapacitySearch, Probe
from vllm_locust.core.slo import Slo
from vllm_locust.core.trials import Hiccup
from vllm_locust.report.capacity import WIDTH, render_answer, render_probe

TTFT = Slo("p99_ttft_ms", "<", 500.0, 99.0)
TPOT = Slo("p99_tpot_ms", "<", 50.0, 99.0)
MAXIMUM = Slo("max_e2el_ms", "<", 20000.0)
NONE_FAILED = Slo("failed", "==", 0.0)


def ttft(value, inside, *, close=False, trials=1000, failed=0, worth=400.0) -> Finding:
    outcome = "met" if inside >= 0.99 * trials else "missed"
    low, high = inside / trials - 0.004, min(inside / trials + 0.003, 1.0)
    return Finding(TTFT, outcome, value, trials, worth, inside, 0.99, low, high, failed, close)


def tpot(value) -> Finding:
    outcome, inside = ("met", 1000) if value < 50 else ("missed", 900)
    return Finding(TPOT, outcome, value, 1000, 1000.0, inside, 0.99)


FINE = ttft(300.0, 1000)


def probe(level, *findings, seconds=31.04, rate=None, **more) -> Probe:
    numbers = {} if rate is None else {"request_throughput": rate}
    return Probe(level, Evidence(findings), requests=1000, seconds=seconds, numbers=numbers, **more)


def taken(*probes: Probe, **options) -> Answer:
    search = CapacitySearch(**options)
    for one in probes:
        search.take(one)
    return search.answer


PROBES = (
    probe(16, ttft(233.34, 1000), tpot(38.2), rate=11.2),
    probe(32, ttft(1812.5, 600, failed=12), tpot(71.0), seconds=5.0, rate=15.4),
    probe(24, ttft(481.2, 991, close=True), tpot(44.0), seconds=60.0, rate=14.0),
    probe(28, ttft(612.0, 952), tpot(48.0), rate=14.9),
    probe(26, ttft(540.0, 975), tpot(47.5), rate=14.7),
    probe(25, ttft(512.3, 984, close=True), tpot(45.5), seconds=60.0, rate=14.3),
    probe(24, ttft(483.0, 990, close=True), tpot(44.1), seconds=60.0, rate=14.1),
    probe(24, ttft(483.0, 990, close=True), tpot(44.1), seconds=60.0, rate=14.1),
    probe(25, ttft(512.3, 984, close=True), tpot(45.5), seconds=60.0, rate=14.3),
    probe(25, ttft(512.3, 984, close=True), tpot(45.5), seconds=60.0, rate=14.3),
    probe(23, ttft(450.0, 1000), tpot(43.0), rate=13.9),
)


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (
            PROBES[0],
            "16 users: met (1000 requests in 31.0 s); p99_ttft_ms<500: 233.3, p99_tpot_ms<50: 38.2",
        ),
        (
            PROBES[1],
            "32 users: missed (1000 requests in 5.0 s); p99_ttft_ms<500: 1812 x, p99_tpot_ms<50: 71.0 x",
        ),
        (
            PROBES[5],
            "25 users: missed, but close (1000 requests in 60.0 s); p99_ttft_ms<500: 512.3 x~, "
            "p99_tpot_ms<50: 45.5",
        ),
        (
            probe(1, ttft(None, 0, trials=3, failed=3), client="degraded"),
            "1 user: missed (1000 requests in 31.0 s, client degraded); p99_ttft_ms<500: n/a x",
        ),
        (
            probe(64, ttft(2.0, 1000), not_the_load="the client could not send 200 of 1200 requests"),
            "64 users: says nothing about the server: the client could not send 200 of 1200 requests "
            "(1000 requests in 31.0 s)",
        ),
        (
            probe(64, ttft(27.9, 200, trials=200, close=True)),
            "64 users: met, but of too few requests (1000 requests in 31.0 s); p99_ttft_ms<500: 27.9 ?",
        ),
        (
            probe(64, replace(ttft(900.0, 900), hiccup=Hiccup(90, 100, 3.1))),
            "64 users: missed (1000 requests in 31.0 s); p99_ttft_ms<500: 900.0 x; 90 of the 100 requests "
            "outside were under way in one stretch of 3.1 s for p99_ttft_ms<500: once more",
        ),
        (
            probe(64, ttft(2.0, 0), collapsed="all 12 requests failed, most with connect (refused)"),
            "64 users: the server broke down: all 12 requests failed, most with connect (refused) "
            "(1000 requests in 31.0 s)",
        ),
    ],
)
def test_a_line_for_a_probe(one, line):
    assert render_probe(one, "users") == line
    assert render_probe(json.loads(json.dumps(one.to_dict())), "users") == line


def test_a_rate_is_no_user():
    assert render_probe(probe(1, ttft(1.0, 1000)), "requests/s").startswith("1 requests/s: met")
    assert render_probe(probe(2.25, ttft(0.0314, 1000)), "requests/s").startswith("2.25 requests/s: met")


TABLE = """\
probe  users  requests  failed  seconds  req/s   outcome  p99_ttft_ms<500  p99_tpot_ms<50
    1     16      1000       0     31.0  11.20       met         233.3            38.2
    2     32      1000      12      5.0  15.40    missed          1812 x          71.0 x
    3     24      1000       0     60.0  14.00     met ~         481.2 ~          44.0
    4     28      1000       0     31.0  14.90    missed         612.0 x          48.0
    5     26      1000       0     31.0  14.70    missed         540.0 x          47.5
    6     25      1000       0     60.0  14.30  missed ~         512.3 x~         45.5
    7     24      1000       0     60.0  14.10     met ~         483.0 ~          44.1
    8     24      1000       0     60.0  14.10     met ~         483.0 ~          44.1
    9     25      1000       0     60.0  14.30  missed ~         512.3 x~         45.5
   10     25      1000       0     60.0  14.30  missed ~         512.3 x~         45.5
   11     23      1000       0     31.0  13.90       met         450.0            43.0
x = missed, ~ = close, ? = too few requests: the likelier outcome counts.
"""
WORDS = """\
Largest load that met all objectives: 24 users, 23 for certain (25 users missed: p99_ttft_ms<500: 512.3 ms,
98.4 % of requests inside, 99 % needed).
Below it 16 and 23 users met, too; others were not probed.
That 24 users met is close: for p99_ttft_ms<500 97.89 to 99.66 % of requests may be inside, 99 % are needed
(3000 requests, worth 1200 independent ones).
That 25 users missed is close: for p99_ttft_ms<500 96.97 to 99.29 % of requests may be inside, 99 % are needed
(3000 requests, worth 1200 independent ones); some 9416 like these would tell, 565 s of this load.
"""


def test_the_table_and_the_answer():
    answer = taken(*PROBES)
    assert render_answer(answer, "users") == TABLE + WORDS
    assert render_answer(json.loads(json.dumps(answer.to_dict())), "users") == TABLE + WORDS


def in_words(answer: Answer, unit: str = "users") -> str:
    """What stands below the table, in one line."""
    return " ".join(render_answer(answer, unit).split("likelier outcome counts.")[-1].split())


def test_what_was_not_probed_is_said():
    met, missed = probe(10.0, ttft(300.0, 1000)), probe(10.5, ttft(600.0, 900))
    assert in_words(taken(met, missed, missed, whole=False), "requests/s") == (
        "Largest load that met all objectives: 10 requests/s (10.5 requests/s missed: p99_ttft_ms<500: "
        "600 ms, 90 % of requests inside, 99 % needed). What lies between 10 and 10.5 requests/s was not "
        "probed."
    )


def test_the_limit_of_the_search():
    assert in_words(taken(probe(2, FINE), probe(1, FINE), start=2, limit=2)) == (
        "Largest load that met all objectives: 2 users, the limit of the search; no load missed them, so the "
        "server can take at least that. Below it 1 user met, too; others were not probed."
    )


def test_a_limit_that_few_requests_met():
    few = replace(ttft(27.9, 200, trials=200, close=True, worth=100.0), low=0.98)
    assert in_words(taken(*[probe(1, few)] * 3, limit=1)) == (
        "1 user, the limit of the search, met all objectives as far as could be told. That 1 user met comes "
        "from too few requests: for p99_ttft_ms<500 98.68 to 100 % of requests may be inside, 99 % are "
        "needed (600 requests, worth 300 independent ones); some 879 like these would tell, 136 s of this "
        "load. So it cannot be told what the largest load is: that 1 met comes from too few requests, it "
        "takes some 879 requests."
    )


def test_a_few_requests_say_how_many_would_do_at_least():
    few = replace(ttft(27.9, 12, trials=12, close=True, worth=1.0), low=0.4, worth_known=False)
    assert in_words(taken(*[probe(1, few)] * 3, limit=1)).endswith(
        "(36 requests); at least 430 like these would tell, 1112 s of this load. So it cannot be told what "
        "the largest load is: that 1 met comes from too few requests, it takes at least 430 requests."
    )


def test_nothing_to_go_by():
    nothing = Finding(TPOT, "missed", None, 0, 1.0, 0.0, 0.99, close=True)
    assert in_words(taken(*[probe(1, FINE, nothing)] * 3)).endswith(
        "So it cannot be told what the largest load is: at 1 there is nothing to go by, p99_tpot_ms<50: no "
        "request has a value for it."
    )


def test_nothing_met():
    missed = probe(1, ttft(600.0, 900), tpot(90.0))
    assert in_words(taken(missed, missed)) == (
        "No load met all objectives: even 1 user missed: p99_tpot_ms<50: 90 ms, 90 % of requests inside, "
        "99 % needed. 1 user also missed p99_ttft_ms<500: 600 ms, 90 % of requests inside, 99 % needed."
    )


def test_the_client_could_not_go_on():
    tired = probe(8, FINE, not_the_load="the client could not send 200 of 1200 requests")
    answer = taken(probe(4, FINE), tired, tired, start=4)
    text = render_answer(answer, "users")
    assert re.search(r"^ +2 +8 .* unknown ", text, re.MULTILINE)
    assert in_words(answer) == (
        "4 users met all objectives; whether a larger load does was not found out. So it cannot be told "
        "what the largest load is: at 8 the client could not send 200 of 1200 requests."
    )


def test_what_was_never_sent_has_a_column_and_a_word():
    capped = probe(2, FINE, not_the_load="76 of 1000 planned requests could not be sent", dropped=76)
    text = render_answer(taken(probe(1, FINE), capped, capped), "requests/s")
    head, first, second, *_ = text.splitlines()
    assert head.split() == [
        *("probe", "requests/s", "requests", "failed", "dropped", "seconds"),
        *("req/s", "outcome", "p99_ttft_ms<500"),
    ]
    assert (first.split()[4], second.split()[4]) == ("0", "76")
    assert render_probe(capped, "requests/s") == (
        "2 requests/s: says nothing about the server: 76 of 1000 planned requests could not be sent (1000 "
        "requests in 31.0 s, 76 never sent)"
    )


def test_the_search_was_broken_off():
    assert in_words(taken(probe(4, FINE), start=4)) == (
        "4 users met all objectives; whether a larger load does was not found out. So it cannot be told "
        "what the largest load is: the search was broken off before its end."
    )


def broken(level) -> Probe:
    return probe(level, ttft(None, 0, failed=12), collapsed="all 12 requests failed, most with connect")


def test_the_server_broke_down():
    assert in_words(taken(broken(8), broken(4), start=8)) == (
        "4 users broke the server down: all 12 requests failed, most with connect. Smaller loads were not "
        "probed. So it cannot be told what the largest load is: the server broke down at once, at 4."
    )
    assert in_words(taken(probe(4, FINE), broken(6), broken(5), broken(4), start=4)) == (
        "4 users met all objectives; 5 users broke the server down: all 12 requests failed, most with "
        "connect. So it cannot be told what the largest load is: the server broke down at 4, which had met "
        "before."
    )


def test_a_hiccup_is_told():
    stalled = replace(ttft(900.0, 900), hiccup=Hiccup(90, 100, 3.1))
    missed = probe(4, ttft(600.0, 900))
    assert in_words(
        taken(probe(2, FINE), probe(3, stalled), probe(3, FINE), missed, missed, probe(1, FINE))
    ) == (
        "Largest load that met all objectives: 3 users (4 users missed: p99_ttft_ms<500: 600 ms, 90 % of "
        "requests inside, 99 % needed). Below it 1 and 2 users met, too; others were not probed. A hiccup at "
        "3 users was set aside, since another probe there had none: 90 of the 100 requests outside were "
        "under way in one stretch of 3.1 s for p99_ttft_ms<500."
    )


@pytest.mark.parametrize(
    ("above", "so"),
    [
        (FINE, "not all lower loads hold"),
        (ttft(495.0, 991, close=True), "either may be chance, or not all lower loads hold"),
    ],
)
def test_an_island_is_told(above, so):
    missed = probe(10, ttft(600.0, 900))
    found = {8: FINE, 9: FINE, 12: above, 13: ttft(600.0, 900)}
    answer = taken(*(missed if at == 10 else probe(at, found[at]) for at in (8, 12, 13, 13, 10, 10, 12, 9)))
    assert f"10 users missed, though above it 12 met: {so}." in in_words(answer)
    assert in_words(answer).startswith("Largest load that met all objectives: 9 users (10 users missed: ")


def test_a_level_that_met_above_the_miss_and_then_missed_itself_is_told():
    missed = ttft(600.0, 900)
    probes = (probe(8, FINE), probe(6, missed), probe(8, missed), probe(6, missed), probe(5, FINE))
    assert in_words(taken(*probes)).endswith(
        "6 users missed, though a probe of 8 had met for certain: probes contradict each other, so the "
        "server or the machine may have changed meanwhile."
    )


def test_a_maximum_that_held_is_not_proved():
    held = Finding(MAXIMUM, "met", 18412.0, 300, 280.0, 300, 1.0, low=0.9931)
    broke = Finding(MAXIMUM, "missed", 20170.0, 80, 80.0, 79, 1.0, low=0.92, high=0.999)
    assert in_words(taken(probe(15, held), probe(16, broke), probe(7, held), start=15)) == (
        "Largest load that met all objectives: 15 users (16 users missed: max_e2el_ms<20000: 20170 ms, 1 of "
        "80 requests outside). Below it 7 users met, too; others were not probed. At 15 users none of 300 "
        "requests broke max_e2el_ms<20000, but up to 0.69 % may in a longer run."
    )


def test_probes_that_contradict_each_other():
    answer = taken(*(probe(1, ttft(*one)) for one in ((600.0, 900), (300.0, 1000), (300.0, 1000))), limit=1)
    assert "That 1 user met is close: its 3 probes do not agree." in in_words(answer)


def test_nothing_was_probed():
    assert render_answer(taken(), "users") == (
        "No probe came to its end.\n"
        "So it cannot be told what the largest load is: the search was broken off before its end.\n"
    )


def many_objectives(count: int) -> list[Finding]:
    slos = [Slo(f"p9{i % 10}.{i // 10}_e2el_from_plan_ms", "<", 1e5, 90.0) for i in range(count)]
    return [Finding(slo, "missed" if i == count - 1 else "met", 99999.0) for i, slo in enumerate(slos)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 12, 30])
def test_every_line_fits_and_nothing_is_left_out_unsaid(count):
    findings = many_objectives(count)
    answer = taken(*(probe(level, *findings, seconds=3600.0, rate=1234.5) for level in (8192, 4096)))
    lines = render_answer(answer, "requests/s").splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = " ".join(" ".join(lines).split())
    for finding in findings:
        assert str(finding.slo) in text
    assert all(" 99999 x" in row for row in lines[1:3])
    assert ("Without a column here: " in text) == (count > 4)


def test_a_probe_without_findings_fits_in():
    empty = Probe(8, Evidence(()), not_the_load="late")
    text = render_answer(taken(PROBES[0], empty), "users")
    assert re.search(r"^ +2 +8 +0 +0 +0\.0 +n/a +unknown +n/a +n/a", text, re.MULTILINE)


def test_counts_have_no_decimals():
    one = Finding(NONE_FAILED, "met", 0.0, 100, 100.0, 100, 1.0)
    two = Finding(Slo("error_rate", "<", 0.01), "met", 0.0031, 100, 100.0, 99.7, 0.99)
    assert render_probe(probe(2, one, two), "users").endswith("; failed==0: 0, error_rate<0.01: 0.003")
