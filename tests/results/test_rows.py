"""Rows of runs: which there are, what they are of, and that their numbers are those of the summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vllm_locust.results.folder import Results
from vllm_locust.results.requests import read_lines
from vllm_locust.results.rows import Row, rows_of


def results(summary: Mapping[str, Any] | None, run: Mapping[str, Any] | None = None) -> Results:
    return Results(Path("results/mine"), run, summary, read_lines(()).requests, ())


def phase(number: int, name: str = "chat", **more: Any) -> dict[str, Any]:
    return {"phase": number, "name": name, "profile": None, **more}


def places(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row.workload, row.phase, row.profile, row.level, row.unit) for row in rows]


def test_a_run_without_a_summary_has_no_rows() -> None:
    assert rows_of(results(None, {"users": 4})) == []


def test_a_run_of_one_phase_is_one_row_with_the_numbers_of_its_summary() -> None:
    summary = {"scenario": "chat", "phases": [phase(0)], "completed": 3}
    (row,) = rows_of(results(summary, {"users": 8}))
    assert row.numbers is summary
    assert (row.run, *places([row])[0]) == ("mine", "chat", None, None, 8.0, "users")


def test_a_ladder_has_a_row_of_no_load_and_one_for_each_step() -> None:
    steps = [phase(0, users=1, profile="a"), phase(1, users=4, profile="a")]
    rows = rows_of(results({"scenario": "chat", "phases": steps}, {"users": 4}))
    assert places(rows) == [
        ("chat", None, None, None, None),
        ("chat", 0, "a", 1.0, "users"),
        ("chat", 1, "a", 4.0, "users"),
    ]
    assert rows[1].numbers is steps[0]


def test_profiles_one_after_another_under_one_load_keep_that_load() -> None:
    steps = [phase(0, "tiny.ss", users=4, profile="ss"), phase(1, "tiny.ll", users=4, profile="ll")]
    rows = rows_of(results({"scenario": "tiny", "phases": steps}))
    assert places(rows)[0] == ("tiny", None, None, 4.0, "users")
    assert places(rows)[2] == ("tiny.ll", 1, "ll", 4.0, "users")


def test_a_mix_has_a_row_for_each_of_its_profiles() -> None:
    mixed = phase(0, "mix", users=2, profiles=[{"profile": "short"}, {"profile": "long"}])
    rows = rows_of(results({"scenario": "mix", "phases": [mixed]}))
    assert places(rows) == [
        ("mix", None, None, 2.0, "users"),
        ("mix", 0, None, 2.0, "users"),
        ("mix", 0, "short", 2.0, "users"),
        ("mix", 0, "long", 2.0, "users"),
    ]
    assert rows[2].numbers is mixed["profiles"][0]


@pytest.mark.parametrize(("rate", "level"), [(8, 8.0), (0.5, 0.5), ("inf", None), ("1-64:120s", None)])
def test_an_open_loop_is_at_its_rate_where_that_is_a_number(rate: float | str, level: float | None) -> None:
    (row,) = rows_of(results({"request_rate": rate, "phases": [phase(0)]}, {"users": 100}))
    assert (row.level, row.unit) == (level, "requests/s")


def test_steps_of_an_open_loop_are_at_their_rates() -> None:
    steps = [phase(0, request_rate=1), phase(1, request_rate=2)]
    rows = rows_of(results({"scenario": "chat", "request_rate": "1,2", "phases": steps}))
    assert [(row.level, row.unit) for row in rows[1:]] == [(1.0, "requests/s"), (2.0, "requests/s")]


def test_name_and_factors_are_given_to_every_row() -> None:
    steps = [phase(0, users=1), phase(1, users=2)]
    rows = rows_of(results({"phases": steps}), "on-64", {"max-num-batched-tokens": 64})
    assert {(row.run, row.factors["max-num-batched-tokens"]) for row in rows} == {("on-64", 64)}
    assert rows[0].workload == "n/a"


def test_a_server_that_said_nothing_is_empty() -> None:
    assert Row("a", "b", {"server": None}).server == {}
    assert Row("a", "b", {"server": {"sources": [{"problem": "no"}]}}).server == {}
    said = {"samples": 4, "preemptions": 0}
    assert Row("a", "b", {"server": said}).server is said
