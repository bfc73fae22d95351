"""Comparisons of folders: units, verdicts, exit codes, and what is wrong with what people have."""

import shutil
from pathlib import Path

import orjson
import pytest

from tests.compare.made_runs import metric, verdicts, write_run, write_runs
from vllm_locust.compare.outcome import EXIT_NOT_CONCLUSIVE
from vllm_locust.compare.result import compare_folders
from vllm_locust.errors import UsageError


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


def test_strict_says_what_would_do_on_the_last_line(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    found = compare_folders(base, new, metrics=["p50_e2el_ms"], tolerance=0.01, strict=True)
    needed = metric(found, "p50_e2el_ms").needed
    assert found.conclusion == f"No verdict: p50_e2el_ms stay unclear, {needed} runs each would tell."


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


def test_a_metric_that_was_asked_for_and_is_not_there_is_no_green_gate(tmp_path: Path) -> None:
    base, new = write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50)
    found = compare_folders(base, new, metrics=["p99.9_ttft_ms", "p50_ttft_ms"])
    assert found.exit_code == EXIT_NOT_CONCLUSIVE
    assert "p99.9_ttft_ms cannot be compared, without a value in any run." in found.text()
    assert metric(found, "p50_ttft_ms").verdict == "same"


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
