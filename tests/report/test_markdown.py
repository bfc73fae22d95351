"""The Markdown of runs: what is said first, the cells of the table, and that nothing in a name is markup."""

import html
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.findings.made_rows import CHUNKED_PREFILL, a_row, at_level
from vllm_locust.report.findings import Finding
from vllm_locust.report.markdown import escaped, markdown
from vllm_locust.results.folder import Results
from vllm_locust.results.requests import read_lines
from vllm_locust.results.rows import Row

VALID = {"client": {"verdict": "valid", "reasons": []}}


def a_run(*problems: str, folder: str = "results/mine") -> Results:
    return Results(Path(folder), None, None, read_lines(()).requests, problems)


def text_of(*rows: Row, **more: Any) -> str:
    return markdown([a_run() for _ in rows], rows, **more)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table."""
    found: list[list[list[str]]] = []
    for line, before in zip(text.splitlines(), ["", *text.splitlines()], strict=False):
        if line.startswith("|"):
            found += [] if before.startswith("|") else [[]]
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def verdict(text: str) -> str:
    return text.splitlines()[2]


def test_the_verdict_comes_first() -> None:
    text = text_of(a_row(completed=50, failed=0, **VALID), title="Nightly")
    assert text.startswith("## Nightly\n\n**The measurement is valid; 50 requests, none failed.**\n")


def test_failures_and_objectives_are_in_the_verdict() -> None:
    slos = [
        {"slo": "a<1", "outcome": "met", "sentence": "a<1: 0.5, met"},
        {"slo": "b<1", "outcome": "missed", "sentence": "b<1: 2, missed"},
    ]
    text = text_of(a_row(completed=48, failed=2, slo=slos, **VALID))
    assert verdict(text) == (
        "**The measurement is valid; 2 of 50 requests failed; of 2 objectives 1 met and 1 missed.**"
    )
    assert text.index("- **missed** b&#60;1: 2, missed") < text.index("- **met** a&#60;1: 0.5, met")
    assert verdict(text_of(a_row(completed=50, slo=slos[:1], **VALID))).endswith("the objective is met.**")


def test_an_objective_says_in_which_phases_it_held() -> None:
    phases = [{"slo": [{"outcome": outcome}]} for outcome in ("met", "missed", "met", "undetermined")]
    slos = [{"slo": "a<1", "outcome": "met", "sentence": "a<1: 0.5, met"}]
    assert "- **met** a&#60;1: 0.5, met (by phase: met in 1, 3; missed in 2; undetermined in 4)\n" in text_of(
        a_row(completed=50, slo=slos, phases=phases, **VALID)
    )


def test_a_measurement_in_doubt_says_why() -> None:
    client = {"verdict": "degraded", "reasons": ["The client was late."]}
    text = text_of(a_row(completed=50, client=client))
    assert verdict(text).startswith("**The measurement is degraded;")
    assert "- degraded: The client was late." in text


def test_odd_answers_are_told_of_each_run() -> None:
    odd = {"answers": {"in_one_piece": 4, "sentences": ["4 of 10 answers arrived in one piece."]}}
    rows = [a_row("base", completed=10, **VALID), a_row("new", completed=10, **odd, **VALID)]
    assert "\n- new: 4 of 10 answers arrived in one piece.\n" in text_of(*rows)
    assert "\n- 4 of 10 answers arrived in one piece.\n" in text_of(rows[1])


def test_several_runs_are_counted_and_named() -> None:
    rows = [
        a_row("base", completed=10, **VALID),
        a_row("new", completed=10, client={"verdict": "invalid", "reasons": ["CPU."]}),
    ]
    text = text_of(*rows)
    assert verdict(text) == "**Measurements: 1 valid and 1 invalid; 20 requests, none failed.**"
    assert "- new: invalid: CPU." in text
    assert tables(text)[0][0][0] == "run"


def test_a_killed_run_says_what_is_missing() -> None:
    text = markdown([a_run("summary.json is missing.")], [])
    assert text == "## Load test\n\n**Nothing was measured to its end.**\n\n- summary.json is missing.\n"


def test_what_was_dropped_leads_with_what_failed() -> None:
    row = a_row(requests={"planned": 770, "ok": 467, "failed": 0, "dropped": 303}, dropped=303)
    assert "770 requests, none failed; 303 dropped, which were planned and never sent" in text_of(row)


def test_the_table_has_the_numbers_and_their_intervals() -> None:
    row = a_row(
        completed=50,
        failed=0,
        request_throughput=12.345,
        output_throughput=1234.5,
        mean_ttft_ms=9.876,
        p50_ttft_ms=8.0,
        p99_ttft_ms=20.0,
        mean_tpot_ms=None,
        p99_itl_ms=3.5,
        intervals={"p50_ttft_ms": [7.5, 8.5], "p99_ttft_ms": [18.0, None], "p99_itl_ms": [None, None]},
    )
    heads, _, cells = tables(text_of(row))[0]
    assert dict(zip(heads, cells, strict=True)) == {
        "ok": "50",
        "failed": "0",
        "dropped": "n/a",
        "req/s": "12.3",
        "output tok/s": "1234",
        "TTFT mean": "9.88",
        "TTFT p50": "8.00 <sub>7.50 .. 8.50</sub>",
        "TTFT p99": "20.0\\*",
        "TPOT mean": "n/a",
        "TPOT p99": "n/a",
        "ITL p99": "3.50\\*",
    }


def test_columns_that_tell_rows_apart_are_shown_and_no_others() -> None:
    rows = [at_level(profile, users, completed=9) for users in (1, 4) for profile in ("ss", "ll")]
    table = tables(text_of(*rows))[0]
    assert table[0][:3] == ["profile", "load", "ok"]
    assert [row[:2] for row in table[2:]] == [
        ["ss", "1 user"],
        ["ll", "1 user"],
        ["ss", "4 users"],
        ["ll", "4 users"],
    ]


def test_of_too_many_rows_those_of_whole_runs_stay() -> None:
    rows = [a_row("whole", completed=1), *(at_level("ss", users, completed=1) for users in range(1, 80))]
    text = text_of(*rows)
    assert len(tables(text)[0]) == 3
    assert "79 rows are left out: `--csv` has them." in text


def test_failures_are_told_by_kind_with_their_first_message() -> None:
    row = a_row(
        completed=1,
        failed=3,
        failures={"http_400": 2, "timeout": 1},
        failure_examples={"http_400": "too long | 9 > 8\nsecond line", "timeout": "x" * 500},
    )
    text = text_of(row)
    _, failures = tables(text)
    assert failures[0] == ["run", "kind", "requests", "the first message"]
    assert failures[2][1:] == ["http_400", "2", "too long &#124; 9 &#62; 8 second line"]
    assert failures[3][1:] == ["timeout", "1", "x" * 160 + "..."]


def test_findings_are_told_in_words() -> None:
    text = text_of(a_row(completed=1), findings=[Finding("H1", "confirmed", "TTFT grows.")])
    assert text.endswith("### Findings\n\n- **H1: confirmed.** TTFT grows.\n")


def test_every_row_has_as_many_cells_as_the_heading() -> None:
    for table in tables(text_of(*CHUNKED_PREFILL)):
        assert len({len(row) for row in table}) == 1


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("long_short-v2.1", "long_short-v2.1"),
        ("a|b", "a&#124;b"),
        ("*x* `y`", "&#42;x&#42; &#96;y&#96;"),
        ("<b>&lt;", "&#60;b&#62;&#38;lt;"),
        ("[l](u)", "&#91;l&#93;(u)"),
        ("_x_", "&#95;x&#95;"),
        ("see #12", "see &#35;12"),
        ("on-64#2", "on-64#2"),
        ("ask @someone", "ask @<!-- -->someone"),
        ("two\nlines", "two lines"),
    ],
)
def test_markup_in_a_name_is_none(name: str, written: str) -> None:
    assert escaped(name) == written


@given(st.text())
def test_any_name_is_one_line_and_reads_as_it_was(name: str) -> None:
    text = escaped(name)
    assert not set("\\`*[]|~$") & set(text)
    assert len(text.splitlines()) <= 1
    assert html.unescape(text.replace("@<!-- -->", "@")) == " ".join(name.split())


@given(st.text(), st.text())
def test_tables_keep_their_shape_whatever_runs_and_messages_are_called(name: str, message: str) -> None:
    rows = [
        a_row(name, completed=1, failed=1, failures={name: 1}, failure_examples={name: message}),
        a_row("other", completed=1),
    ]
    for table in tables(text_of(*rows)):
        assert len({len(row) for row in table}) == 1
