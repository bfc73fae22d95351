"""What is said of runs that differ in more than their numbers."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.compare.made_runs import metric, verdicts, write_run, write_runs
from vllm_locust.compare.baseline import write_baseline
from vllm_locust.compare.result import compare_folders
from vllm_locust.compare.units import read_side


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


def test_what_was_asked_differently_is_said(tmp_path: Path) -> None:
    base = write_runs(tmp_path / "a", 4)
    new = write_runs(tmp_path / "b", 4, seed=50, model_id="other", total_input_tokens=24000, request_rate=5.0)
    told = " ".join(compare_folders(base, new).sentences)
    assert "They differ in model: m in base, other in new." in told
    assert "Prompts had 50 tokens on average in base and 100 in new." in told
    assert "the plan sets the throughput" in told
