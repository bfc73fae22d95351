"""Comparisons of folders: units, verdicts, exit codes, and what is wrong with what people have."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.compare.made_runs import write_run, write_runs
from vllm_locust.compare.baseline import write_baseline
from vllm_locust.compare.judge import Judged
from vllm_locust.compare.metrics import parse
from vllm_locust.compare.outcome import EXIT_NOT_CONCLUSIVE
from vllm_locust.compare.result import Comparison, compare_folders
from vllm_locust.compare.units import read_side
from vllm_locust.errors import UsageError


def verdicts(comparison: Comparison) -> dict[str, str]:
    (cell,) = comparison.cells
    return {metric.key: metric.verdict for metric in cell.metrics}


def metric(comparison: Comparison, key: str) -> Judged:
    return next(one for cell in comparison.cells for one in cell.metrics if one.key == key)


def test_the_same_is_the_same(tmp_path: Path) -> None:
    found = compare_folders(write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50))
    assert found.exit_code == 0
    assert found.cells[0].unit == "run"
    assert verdicts(found)["p50_e2el_ms"] == "same"
    assert "request_goodput" not in verdicts(found)
    assert not found.sentences


def test_slower_is_a_regression_and_faster_is_better(tmp_path: Path) -> None:
    slow, fast = (
        write_runs(tmp_path / name, 5, seed=seed, factor=factor)
        for name, seed, factor in (("slow", 0, 1.3), ("fast", 50, 1.0))
    )
    worse, better = compare_folders(fast, slow), compare_folders(slow, fast)
    assert (worse.exit_code, better.exit_code) == (3, 0)
    assert verdicts(worse)["p50_e2el_ms"] == verdicts(worse)["request_throughput"] == "regression"
    assert verdicts(better)["p50_e2el_ms"] == verdicts(better)["request_throughput"] == "better"
    found = metric(worse, "p50_e2el_ms")
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.3 < found.high
    assert metric(worse, "request_throughput").change == pytest.approx(1 / 1.3 - 1)


def test_a_change_that_may_be_within_the_tolerance_is_only_worse(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 5), write_runs(tmp_path / "b", 5, seed=50, factor=1.06)
    found = compare_folders(base, new, tolerance=0.06, metrics=["p50_e2el_ms"])
    assert verdicts(found) == {"p50_e2el_ms": "worse"}
    assert found.exit_code == 0


def test_unclear_says_what_would_do_and_fails_only_if_strict(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    found = compare_folders(base, new, tolerance=0.001)
    one = metric(found, "p50_e2el_ms")
    assert one.verdict == "unclear"
    assert one.needed is None or one.needed > 4
    assert found.exit_code == 0
    assert "would show 0.1 %" in found.text()
    assert compare_folders(base, new, tolerance=0.001, strict=True).exit_code == 4


def test_a_rising_error_rate_is_a_regression(tmp_path: Path) -> None:
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50, completed=216, failed=24, error_rate=0.1)
    found = metric(compare_folders(base, new), "error_rate")
    assert found.verdict == "regression"
    assert found.change == pytest.approx(0.1)


def test_no_failure_in_few_requests_is_no_proof(tmp_path: Path) -> None:
    sides = [write_runs(tmp_path / name, 4, completed=20) for name in "ab"]
    assert metric(compare_folders(*sides), "error_rate").verdict == "unclear"


def test_runs_in_turns_are_pairs(tmp_path: Path) -> None:
    """A drift of 50 % that both sides share hides 10 % from runs, and not from pairs."""
    for turn in range(6):
        for side, factor in (("a", 1.0), ("b", 1.1)):
            write_run(
                tmp_path / side / str(turn),
                seed=turn,
                factor=factor * (1 + turn / 10),
                start_time=f"2026-01-01T00:0{turn}:{'00' if (side == 'a') == (turn % 2 == 0) else '30'}",
            )
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert found.cells[0].unit == "pair"
    assert metric(found, "p50_e2el_ms").change == pytest.approx(0.1)
    assert verdicts(found)["p50_e2el_ms"] == "regression"


def test_runs_one_side_after_the_other_are_no_pairs(tmp_path: Path) -> None:
    for number in range(12):
        write_run(
            tmp_path / ("a" if number < 6 else "b") / str(number),
            seed=number,
            start_time=f"2026-01-01T00:{number:02}",
        )
    assert compare_folders(tmp_path / "a", tmp_path / "b").cells[0].unit == "run"


def test_one_against_one_is_judged_by_blocks_and_says_so(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", count=3000)
    found = compare_folders(base, write_run(tmp_path / "b", seed=9, factor=1.3, count=3000))
    assert found.cells[0].unit == "block"
    assert verdicts(found)["p50_e2el_ms"] == "worse"
    assert found.exit_code == 4
    assert found.conclusion == (
        "No verdict: runs are the unit, and 1 of base and 1 of new are too few: make 4 of each."
    )
    assert "p99_itl_ms" not in verdicts(found)
    told = " ".join(found.cells[0].sentences)
    assert "does not have it for each block of time: p99_itl_ms" in told
    assert "not whether the configurations do" in told


def test_a_percentile_that_few_requests_are_beyond_is_left_out(tmp_path: Path) -> None:
    sides = [write_run(tmp_path / str(seed), seed=seed, count=1500) for seed in range(2)]
    found = compare_folders(*sides)
    assert "p50_e2el_ms" in verdicts(found)
    assert "p99_e2el_ms" not in verdicts(found)
    assert "less than 20 requests are beyond it: p99_ttft_ms, p99_tpot_ms, p99_e2el_ms" in " ".join(
        found.cells[0].sentences
    )


def test_one_short_run_is_refused(tmp_path: Path) -> None:
    found = compare_folders(write_run(tmp_path / "a", count=50), write_run(tmp_path / "b", seed=9, count=50))
    assert (found.cells[0].unit, found.exit_code) == (None, 4)
    assert "Too little to judge" in found.text()


def test_an_invalid_run_decides_nothing(tmp_path: Path) -> None:
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(
        tmp_path / "b", 4, seed=50, factor=2.0, client={"verdict": "invalid", "reasons": ["it was late"]}
    )
    found = compare_folders(base, new)
    assert found.exit_code == 4
    assert (
        "No verdict: no metric can be compared, since b/00 of new is invalid: it was late" in found.conclusion
    )
    assert "b/03 of new is invalid: it was late." in found.invalid


def of_client(**verdicts: str) -> dict[str, Any]:
    """The block of a summary; its own verdict is that of the worst metric."""
    judged = {
        name: {"verdict": verdict, "reasons": [f"{name} was off"]} for name, verdict in verdicts.items()
    }
    load = judged.pop("load", {"verdict": "valid", "reasons": []})
    invalid = any(one["verdict"] == "invalid" for one in judged.values())
    return {"verdict": "invalid" if invalid else "valid", "reasons": [], "metrics": judged, "load": load}


@pytest.mark.parametrize(
    ("client", "spoiled"),
    [
        (of_client(ttft="valid", load="invalid"), {"request_throughput", "output_throughput"}),
        (of_client(ttft="invalid", load="valid"), {"p50_ttft_ms", "p99_ttft_ms"}),
        (of_client(ttft="degraded", itl="invalid"), {"p99_itl_ms"}),
        (of_client(ttft="degraded", load="degraded"), set()),
    ],
)
def test_what_is_invalid_spoils_what_rests_on_it_alone(
    tmp_path: Path, client: dict[str, Any], spoiled: set[str]
) -> None:
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50)
    write_run(new / "one", seed=60, client=client)
    found = compare_folders(base, new)
    assert {one.key for cell in found.cells for one in cell.metrics if one.change is None} == spoiled
    assert found.exit_code == (4 if spoiled else 0)
    if spoiled:
        assert "cannot be compared, since b/one of new is invalid" in found.conclusion


def test_a_regression_stands_beside_a_load_that_was_not_as_planned(tmp_path: Path) -> None:
    client = of_client(ttft="valid", load="invalid")
    new = write_runs(tmp_path / "b", 4, seed=50, factor=1.4, client=client)
    found = compare_folders(write_runs(tmp_path / "a", 4), new)
    assert verdicts(found)["p50_ttft_ms"] == "regression"
    assert verdicts(found)["request_throughput"] == "unclear"
    assert found.exit_code == 3
    assert "b/00 of new is invalid as to its load: load was off." in found.text().replace("\n", " ")


def test_where_requests_were_lost_all_is_invalid(tmp_path: Path) -> None:
    client = of_client(ttft="invalid") | {"lost": 3, "reasons": ["3 requests were lost"]}
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50, client=client)
    found = compare_folders(base, new)
    assert "no metric can be compared, since b/00 of new is invalid: 3 requests were lost" in found.conclusion


@pytest.mark.parametrize(
    ("key", "rests_on"),
    [
        ("p99_ttft_ms", ("ttft",)),
        ("mean_ttft_from_plan_ms", ("ttft", "load")),
        ("p50_itl_per_token_ms", ("itl",)),
        ("output_throughput", ("load",)),
        ("request_goodput", ("load", "ttft", "tpot", "e2el")),
        ("error_rate", ()),
    ],
)
def test_what_a_metric_rests_on(key: str, rests_on: tuple[str, ...]) -> None:
    assert parse([key])[0].rests_on == rests_on


def test_of_sides_with_runs_of_one_name_it_is_said_which_is_invalid(tmp_path: Path) -> None:
    client = {"verdict": "invalid", "reasons": ["it was late"]}
    base = write_run(tmp_path / "x" / "results" / "1", client=client)
    new = write_run(tmp_path / "y" / "results" / "1", seed=50)
    found = compare_folders(base, new)
    assert found.invalid == ["results/1 of base is invalid: it was late."]


@pytest.mark.parametrize("counts", [(1, 3), (3, 3), (9, 3)])
def test_less_than_four_runs_of_a_side_show_no_regression_of_a_configuration(
    tmp_path: Path, counts: tuple[int, int]
) -> None:
    base = write_runs(tmp_path / "a", counts[0], count=500)
    new = write_runs(tmp_path / "b", counts[1], seed=50, count=500, factor=2.0)
    found = compare_folders(base, new, metrics=["p50_e2el_ms"])
    assert verdicts(found) == {"p50_e2el_ms": "worse"}
    assert found.exit_code == EXIT_NOT_CONCLUSIVE
    assert found.conclusion.endswith(f"{counts[1]} of new are too few: make 4 of each.")


def test_where_no_request_was_answered_nothing_is_green(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"completed": 0, "failed": 240, "error_rate": 1.0, "p50_e2el_ms": None}
    nothing |= {"request_throughput": 0.0, "output_throughput": 0.0}
    sides = [write_runs(tmp_path / side, 4, **nothing) for side in "ab"]
    found = compare_folders(*sides)
    assert found.exit_code == EXIT_NOT_CONCLUSIVE
    assert "no request of base was answered; no request of new was answered" in found.conclusion
    only = compare_folders(*sides, metrics=["p50_e2el_ms"])
    assert (only.exit_code, "without a value in any run" in only.conclusion) == (4, True)


def test_strict_says_what_would_do_on_the_last_line(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    found = compare_folders(base, new, metrics=["p50_e2el_ms"], tolerance=0.01, strict=True)
    needed = metric(found, "p50_e2el_ms").needed
    assert found.conclusion == f"No verdict: p50_e2el_ms stay unclear, {needed} runs each would tell."


def test_dropped_requests_stand_beside_failed_ones(tmp_path: Path) -> None:
    """303 of 600 are 50.5 %."""
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50, requests={"planned": 600, "dropped": 303})
    found = compare_folders(base, new)
    assert verdicts(found)["drop_rate"] == "regression"
    assert metric(found, "drop_rate").new == pytest.approx(0.505)
    told = "Never sent (dropped): 0 of 960 requests in base, 1212 of 2400 requests in new."
    assert told in " ".join(found.sentences)
    none = compare_folders(base, write_runs(tmp_path / "c", 4, seed=50))
    assert "drop_rate" not in verdicts(none)
    assert not none.sentences


def test_odd_answers_are_told_of_both_sides(tmp_path: Path) -> None:
    pieces = {"in_one_piece": 10, "shorter_than_asked": 0, "usage_below_stream": 0, "usage_above_asked": 0}
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50, answers={**pieces, "sentences": []})
    told = "Answers in one piece, or perhaps so (without TPOT and ITL): "
    unknown = f"{told}an unknown number of 960 in base, 40 of 960 in new."
    assert unknown in compare_folders(base, new).sentences
    file = tmp_path / "baseline.json"
    write_baseline(file, read_side(new))
    found = compare_folders(file, write_runs(tmp_path / "c", 4, answers={**pieces, "in_one_piece": 0}))
    assert f"{told}40 of 960 in base, 0 of 960 in new." in found.sentences


@pytest.mark.parametrize(("hits", "told"), [((0.07, 0.8), True), ((0.07, 0.09), False)])
def test_different_hits_of_the_prefix_cache_are_said(
    tmp_path: Path, hits: tuple[float, float], told: bool
) -> None:
    sides = [
        write_runs(tmp_path / name, 4, seed=50 * number, server={"prefix_cache_hit_rate": rate})
        for number, (name, rate) in enumerate(zip("ab", hits, strict=True))
    ]
    said = " ".join(compare_folders(*sides).sentences)
    assert ("prefix cache held 7.0 % of the prompt tokens in base and 80.0 % in new" in said) == told


@pytest.mark.parametrize(
    "hit",
    [
        lambda share: {"total_input_tokens": 30_000, "total_cached_tokens": round(30_000 * share)},
        lambda share: {"server": {"prefix_cache_hit_rate": None, "prefix_cache_hit_rate_told_mean": share}},
    ],
)
def test_hits_are_known_from_answers_and_from_the_log_as_well(tmp_path: Path, hit: Any) -> None:
    sides = [
        write_runs(tmp_path / name, 4, seed=50 * number, **hit(share))
        for number, (name, share) in enumerate((("a", 0.07), ("b", 0.8)))
    ]
    said = " ".join(compare_folders(*sides).sentences)
    assert "prefix cache held 7.0 % of the prompt tokens in base and 80.0 % in new" in said


def test_hits_that_differ_within_the_only_side_that_has_them_are_said(tmp_path: Path) -> None:
    for number, share in enumerate((0.0, 0.97, 0.0, 0.97)):
        write_run(tmp_path / "a" / str(number), seed=number, server={"prefix_cache_hit_rate": share})
    found = compare_folders(tmp_path / "a", write_runs(tmp_path / "b", 4, seed=50))
    told = "held 0.0 % to 97.0 % of the prompt tokens in base and an unknown part in new"
    assert told in " ".join(found.sentences)


def test_a_seed_that_one_side_kept_to_is_said_and_seeds_that_were_drawn_are_not(tmp_path: Path) -> None:
    drawn, other = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    kept = write_runs(tmp_path / "c", 4, seed=90)
    for number, folders in enumerate(
        zip(*(sorted(one.iterdir()) for one in (drawn, other, kept)), strict=True)
    ):
        for folder, seed in zip(folders, (number, 100 + number, 7), strict=True):
            run = orjson.loads((folder / "run.json").read_bytes())
            (folder / "run.json").write_bytes(orjson.dumps(run | {"seed": seed}))
    assert not compare_folders(drawn, other).sentences
    assert compare_folders(drawn, kept).sentences == ["They differ in seed: 0, 1, 2, 3 in base, 7 in new."]


def test_cells_of_an_experiment_are_compared_one_by_one(tmp_path: Path) -> None:
    for side, seed, factor in (("a", 0, 1.0), ("b", 50, 1.3)):
        write_runs(tmp_path / side / "chat-8", 4, seed=seed)
        write_runs(tmp_path / side / "chat-64", 4, seed=seed, factor=factor)
    write_runs(tmp_path / "b" / "chat-128", 4)
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    judged = {cell.name: {one.key: one.verdict for one in cell.metrics} for cell in found.cells}
    assert judged["chat-8"]["p50_e2el_ms"] == "same"
    assert judged["chat-64"]["p50_e2el_ms"] == "regression"
    assert "Only new has chat-128: left out." in found.sentences


def test_phases_of_a_ladder_are_cells(tmp_path: Path) -> None:
    keys = ("error_rate", "p50_e2el_ms", "completed", "failed")
    for side, seed in (("a", 0), ("b", 50)):
        for number in range(4):
            folder = write_run(tmp_path / side / str(number), seed=seed + number)
            summary = orjson.loads((folder / "summary.json").read_bytes())
            phases = [
                {"phase": i, "name": "made", "users": users, **{key: summary[key] for key in keys}}
                for i, users in enumerate((1, 8))
            ]
            (folder / "summary.json").write_bytes(orjson.dumps(summary | {"phases": phases}))
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert [cell.name for cell in found.cells] == ["made at 1 users", "made at 8 users"]
    assert [one.key for one in found.cells[0].metrics] == ["error_rate", "p50_e2el_ms"]


def test_what_was_asked_differently_is_said(tmp_path: Path) -> None:
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50, model_id="other", total_input_tokens=24000, request_rate=5.0)
    told = " ".join(compare_folders(base, new).sentences)
    assert "They differ in model: m in base, other in new." in told
    assert "Prompts had 50 tokens on average in base and 100 in new." in told
    assert "the plan sets the throughput" in told


def test_a_killed_run_is_left_out(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 5), write_runs(tmp_path / "b", 4, seed=50)
    (base / "00" / "summary.json").unlink()
    found = compare_folders(base, new)
    assert found.cells[0].units == (4, 4)
    assert "has no summary" in found.text()


def test_only_killed_runs_are_too_little(tmp_path: Path) -> None:
    base, new = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=50)
    (base / "summary.json").unlink()
    found = compare_folders(base, new)
    assert found.exit_code == 4
    assert found.conclusion == "No verdict: one side has no run that has ended."


@pytest.mark.parametrize("side", ["a", "b"])
def test_all_failed_in_one_run(tmp_path: Path, side: str) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    summary = orjson.loads((tmp_path / side / "00" / "summary.json").read_bytes())
    nothing: dict[str, Any] = {key: None for key in summary if key.endswith("_ms")}
    rates = {"request_throughput": 0.0, "output_throughput": 0.0, "error_rate": 1.0}
    (tmp_path / side / "00" / "summary.json").write_bytes(
        orjson.dumps(summary | nothing | rates | {"failed": 240, "completed": 0})
    )
    found = compare_folders(base, new)
    word = {"a": "base", "b": "new"}[side]
    assert metric(found, "p50_ttft_ms").verdict == "unclear"
    assert (
        f"p99_e2el_ms cannot be compared, without a value in {side}/00 of {word}."
        in found.cells[0].sentences[-1]
    )
    assert metric(found, "request_throughput").change is not None
    only = compare_folders(base, new, metrics=["p50_ttft_ms"])
    assert only.exit_code == EXIT_NOT_CONCLUSIVE


def test_a_metric_that_was_asked_for_and_is_not_there_is_no_green_gate(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    found = compare_folders(base, new, metrics=["p99.9_ttft_ms", "p50_ttft_ms"])
    assert found.exit_code == EXIT_NOT_CONCLUSIVE
    assert "p99.9_ttft_ms cannot be compared, without a value in any run." in found.text()
    assert metric(found, "p50_ttft_ms").verdict == "same"


def with_others(folder: Path, outcome: str, ended_s: float, **summary: Any) -> None:
    """Add 60 requests that ended so, and change the summary."""
    line = {"outcome": outcome, "phase": 0, "ended_s": ended_s}
    with (folder / "requests.jsonl").open("ab") as file:
        file.writelines(orjson.dumps(line | {"index": 240 + i}) + b"\n" for i in range(60))
    known = orjson.loads((folder / "summary.json").read_bytes())
    (folder / "summary.json").write_bytes(orjson.dumps(known | summary))


def test_blocks_count_the_requests_that_the_summary_counts(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a")
    with_others(write_run(tmp_path / "hung", seed=1), "cancelled", 90.0, failed=60, error_rate=0.2)
    with_others(write_run(tmp_path / "warmed", seed=1), "cancelled", 90.0)  # not in the window
    with_others(write_run(tmp_path / "dropped", seed=1), "dropped", 30.0)
    rates = {
        name: metric(compare_folders(base, tmp_path / name), "error_rate").new
        for name in ("hung", "warmed", "dropped")
    }
    assert rates == {"hung": 0.2, "warmed": 0.0, "dropped": 0.0}


def test_a_load_that_a_run_tries_twice_is_one_unit(tmp_path: Path) -> None:
    for side, seed in (("a", 0), ("b", 50)):
        for number in range(4):
            folder = write_run(tmp_path / side / str(number), seed=seed + number)
            summary = orjson.loads((folder / "summary.json").read_bytes())
            phases = [
                {"phase": i, "name": "made", "users": 8, "completed": count, "failed": 0, "p50_e2el_ms": ms}
                for i, (count, ms) in enumerate(((100, 900.0), (300, summary["p50_e2el_ms"])))
            ]
            (folder / "summary.json").write_bytes(orjson.dumps(summary | {"phases": phases}))
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    (cell,) = found.cells
    assert (cell.unit, cell.units) == ("run", (4, 4))
    assert metric(found, "p50_e2el_ms").base == pytest.approx(300, rel=0.05)
    assert "was 2 times made at 8 users: the time with the most requests counts" in found.sentences[0]


def test_cells_of_runs_and_of_blocks_stand_side_by_side(tmp_path: Path) -> None:
    for side, seed, factor in (("a", 0, 1.0), ("b", 50, 1.3)):
        write_runs(tmp_path / side / "many", 4, seed=seed, factor=factor)
        write_run(tmp_path / side / "one" / "1", seed=seed, count=4000, factor=factor)
    found = compare_folders(tmp_path / "a", tmp_path / "b")
    assert {cell.unit for cell in found.cells} == {"run", "block"}
    judged = {cell.unit: {one.key: one.verdict for one in cell.metrics} for cell in found.cells}
    assert judged["run"]["p50_e2el_ms"] == "regression"
    assert judged["block"]["p50_e2el_ms"] == "worse"
    assert found.exit_code == 3


def test_nothing_in_base_and_something_in_new(tmp_path: Path) -> None:
    base = write_runs(tmp_path / "a", 4, request_goodput=0.0)
    new = write_runs(tmp_path / "b", 4, seed=50, request_goodput=3.0)
    assert metric(compare_folders(base, new), "request_goodput").verdict == "better"
    assert metric(compare_folders(new, base), "request_goodput").verdict == "regression"


def test_a_copy_of_a_run_is_no_run_more(tmp_path: Path) -> None:
    base, new = (write_runs(tmp_path / side, 2, factor=factor) for side, factor in (("a", 1.0), ("b", 2.0)))
    for side in (base, new):
        for run in sorted(side.iterdir()):
            summary = orjson.loads((run / "summary.json").read_bytes())
            (run / "summary.json").write_bytes(orjson.dumps({**summary, "run": f"{side.name}{run.name}"}))
            shutil.copytree(run, run.with_name(f"{run.name}c"))
    found = compare_folders(base, new)
    assert found.exit_code == 4
    assert f"{base / '00c'} is a copy of {base / '00'}: left out." in found.sentences
    shutil.copytree(base / "00", new / "stray")
    with pytest.raises(UsageError, match="stray is in BASE and in NEW"):
        compare_folders(base, new)


def test_mistakes_are_told(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 2), tmp_path / "none"
    with pytest.raises(UsageError, match="does not exist"):
        compare_folders(base, new)
    with pytest.raises(UsageError, match="is in BASE and in NEW"):
        compare_folders(base, base / "00")
    with pytest.raises(UsageError, match="did you mean p99_ttft_ms"):
        compare_folders(base, write_run(tmp_path / "b"), metrics=["p99_tfft_ms"])
    with pytest.raises(UsageError, match="only BASE may be a baseline file"):
        compare_folders(base, base / "00" / "run.json")
    with pytest.raises(UsageError, match="is no baseline"):
        compare_folders(base / "00" / "run.json", base)


def test_the_same_runs_give_the_same_text(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    assert compare_folders(base, new).text() == compare_folders(base, new).text()
