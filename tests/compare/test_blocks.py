"""One run against one: blocks of time are the unit."""

from pathlib import Path
from typing import Any

import orjson

from tests.compare.made_runs import metric, verdicts, write_run
from vllm_locust.compare.result import compare_folders


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
