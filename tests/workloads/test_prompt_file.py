"""Prompts of a file of one's own: what a row asks for, in which order, and how often."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prompt_file import read_prompts
from vllm_locust.workloads.scenario import Context, Scenario, sources_of


def write(folder: Path, rows: list[Any], name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


def load(path: Path | None, **options: Any) -> Scenario:
    return catalogue.load("prompts", Context(dataset_path=path, **options))


def test_each_row_is_sent_once_per_pass_with_its_own_output(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {n}", "output_len": n + 1} for n in range(50)]
    scenario = load(write(tmp_path, rows))
    passes = [[scenario.request(3, turn * 50 + n) for n in range(50)] for turn in range(3)]
    for planned in passes:
        texts = [request.prompt for request in planned]
        assert all(isinstance(text, str) for text in texts)
        bare = [str(text).split(": ")[-1] for text in texts]
        assert Counter(bare) == Counter(row["prompt"] for row in rows)
        assert [request.max_tokens for request in planned] == [int(text.split()[1]) + 1 for text in bare]
        assert all(re.fullmatch(r"\d{10}: prompt \d+", str(text)) for text in texts)
    everything = [request.prompt for planned in passes for request in planned]
    assert len(set(everything)) == 150
    orders = {tuple(str(request.prompt).split(": ")[-1] for request in planned) for planned in passes}
    assert len(orders) == 3
    assert {(request.scenario, request.profile) for request in passes[0]} == {("prompts", "prompts")}


def test_rows_that_say_nothing_get_the_parameter_and_max_tokens_is_for_all(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "a", "output_tokens": 5}, {"prompt": "b"}])

    def outputs(**options: Any) -> dict[str, set[int]]:
        scenario = load(path, **options)
        planned = [scenario.request(1, index) for index in range(200)]
        return {
            row: {request.max_tokens for request in planned if str(request.prompt)[-1] == row} for row in "ab"
        }

    assert outputs() == {"a": {5}, "b": {128}}
    drawn = outputs(parameters={"output_len": "10-14"})
    assert drawn == {"a": {5}, "b": {10, 11, 12, 13, 14}}
    assert outputs(max_tokens=Lengths.parse("7-8")) == {"a": {7, 8}, "b": {7, 8}}


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(3, 3), (3.0, 3), ("3", 3), (" 3.0 ", 3), (None, None), ("", None), (2**31 - 1, 2**31 - 1)],
)
def test_output_lengths_as_files_write_them(tmp_path: Path, value: Any, tokens: int | None) -> None:
    prompts, _ = read_prompts(write(tmp_path, [{"prompt": "x", "output_len": value}]))
    assert prompts[0] == ("x", tokens)


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True, [3], 2**31, "inf", "9" * 5000])
def test_output_lengths_that_are_none_break_the_row(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        UsageError, match=r"\(line 1: 'output_len' is '.{1,40}', not a whole number of at least 1\)"
    ):
        read_prompts(write(tmp_path, [{"prompt": "x", "output_len": value}]))


def test_a_table_with_a_column_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,review,output_len\n1,"good, and\nlong",4\n0,bad,\n')
    scenario = load(path, parameters={"column": "review", "salt": "false"})
    planned = {request.prompt: request.max_tokens for request in map(scenario.request, [1, 1], [0, 1])}
    assert planned == {"good, and\nlong": 4, "bad": 128}
    (source,) = sources_of(scenario)
    assert (source["path"], source["rows"], source["kept"]) == (str(path), 2, 2)

    sentence = (
        r"a\.csv has no column 'prompt', its columns are: label, review, output_len; expected are rows with "
        r"a text in 'prompt' \(--set column=NAME takes another\), and a number in 'output_len' or nothing\.$"
    )
    with pytest.raises(UsageError, match=sentence):
        load(path)


def test_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"^scenario prompts needs --dataset-path: .* column 'prompt', or hf:"
    ):
        load(None)
    path = write(tmp_path, [{"prompt": "x"}])
    with pytest.raises(UsageError, match="--input-len does not go with scenario prompts"):
        load(path, input_len=Lengths.constant(5))
    (tmp_path / "a.csv").write_text("prompt,output_len\n")
    with pytest.raises(UsageError, match=r"a\.csv has no rows; expected are rows with a text in 'prompt'"):
        load(tmp_path / "a.csv")


def test_prompts_outside_of_memory_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write(
        tmp_path, [{"prompt": f"Grüße {n} 😀" * (n % 7 + 1), "output_len": n % 5 or None} for n in range(300)]
    )
    inside, _ = read_prompts(path)
    outside, _ = read_prompts(path, memory_bytes=100)
    assert (tmp_path / "cache" / "vllm-locust").is_dir()
    assert list(inside) == list(outside)
    assert inside[-1].output_tokens == 4
    assert outside[5:7] == [inside[5], inside[6]]
