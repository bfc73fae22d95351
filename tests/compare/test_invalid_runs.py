"""Runs that are invalid, in all or in one thing, were killed, or had no answer."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.compare.made_runs import metric, verdicts, write_run, write_runs
from vllm_locust.compare.metrics import parse
from vllm_locust.compare.outcome import EXIT_NOT_CONCLUSIVE
from vllm_locust.compare.result import compare_folders


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


def test_where_no_request_was_answered_nothing_is_green(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"completed": 0, "failed": 240, "error_rate": 1.0, "p50_e2el_ms": None}
    nothing |= {"request_throughput": 0.0, "output_throughput": 0.0}
    sides = [write_runs(tmp_path / side, 4, **nothing) for side in "ab"]
    found = compare_folders(*sides)
    assert found.exit_code == EXIT_NOT_CONCLUSIVE
    assert "no request of base was answered; no request of new was answered" in found.conclusion
    only = compare_folders(*sides, metrics=["p50_e2el_ms"])
    assert (only.exit_code, "without a value in any run" in only.conclusion) == (4, True)


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
