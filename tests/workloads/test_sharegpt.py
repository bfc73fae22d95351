"""The ShareGPT format, vLLM's rules at their edges, each conversation once per pass, and whole ones."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.prompt_set import Prompt, PromptSet
from vllm_locust.workloads.scenario import Context, sources_of
from vllm_locust.workloads.sharegpt import (
    SMALL_DATASET,
    conversations,
    estimated_tokens,
    is_kept,
    read_conversations,
    read_dataset,
    sharegpt,
)

SMALL = sharegpt("sharegpt", Context())
SMALL_ROWS = orjson.loads(SMALL_DATASET.read_bytes())


def count_words(text: str) -> int:
    return len(text.split())


def row(prompt_words: int, answer_words: int) -> dict[str, Any]:
    return {
        "id": "x",
        "conversations": [
            {"from": "human", "value": "word " * prompt_words},
            {"from": "gpt", "value": "word " * answer_words},
        ],
    }


def counts(source: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(source[count] for count in ("rows", "kept", "filtered", "skipped"))


def write(folder: Path, content: Any, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else orjson.dumps(content))
    return path


@pytest.mark.parametrize(
    ("prompt", "answer", "kept"),
    [
        (4, 4, True),
        (3, 4, False),
        (4, 3, False),
        (1024, 4, True),
        (1025, 4, False),
        (1024, 1024, True),
        (1024, 1025, False),
        (4, 2044, True),
        (4, 2045, False),
    ],
)
def test_vllms_rules_at_their_edges(tmp_path: Path, prompt: int, answer: int, kept: bool) -> None:
    path = write(tmp_path, [row(10, 20), row(prompt, answer)])
    dataset = read_dataset(path, count_words)
    assert [conversation.output_tokens for conversation in dataset.kept] == ([20, answer] if kept else [20])
    assert dataset.source["filtered"] == (not kept)
    assert is_kept(prompt, answer) is kept


def test_with_max_tokens_short_answers_count_too(tmp_path: Path) -> None:
    path = write(tmp_path, [row(10, 1), row(10, 3000), row(3, 20)])
    dataset = read_dataset(path, count_words, max_tokens=2)
    assert [conversation.prompt.count("word") for conversation in dataset.kept] == [10, 10]
    assert dataset.source["filtered"] == 1


def test_of_drawn_lengths_the_largest_decides_what_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, [row(48, 1), row(10, 1), row(49, 1), row(3, 1)])
    drawn = Lengths.parse("1025-2000")
    scenario = sharegpt("s", Context(dataset_path=path, count_text=count_words, max_tokens=drawn))
    assert scenario.source["kept"] == 2
    planned = [scenario.request(7, index) for index in range(300)]
    expected = [drawn.at("s", 7, index, "max_tokens") for index in range(300)]
    assert [request.max_tokens for request in planned] == expected
    assert min(expected) < 1100
    assert max(expected) > 1900


def test_the_first_two_turns_are_prompt_and_answer(tmp_path: Path) -> None:
    turns = [
        {"from": "gpt", "value": "what is it now?"},
        {"from": "human", "value": "b c d e f"},
        {"from": 3},
    ]
    dataset = read_dataset(write(tmp_path, [{"conversations": turns}]), count_words)
    assert list(dataset.kept) == [Prompt("what is it now?", 5)]


def test_a_conversation_of_one_turn_is_filtered_not_malformed(tmp_path: Path) -> None:
    single = {"conversations": [{"from": "human", "value": "a b c d e"}]}
    dataset = read_dataset(write(tmp_path, [row(9, 9), single, {"conversations": []}]), count_words)
    assert counts(dataset.source) == (3, 1, 2, 0)


MALFORMED: list[Any] = [
    None,
    "text",
    {},
    {"conversations": "text"},
    {"conversations": [{"from": "human"}, {"from": "gpt", "value": "x"}]},
    {"conversations": ["text", "text"]},
    {"conversations": [{"value": 3}, {"value": "x"}]},
]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_malformed_rows_are_skipped_and_counted(tmp_path: Path, malformed: Any) -> None:
    dataset = read_dataset(write(tmp_path, [row(9, 9), malformed]), count_words)
    assert counts(dataset.source) == (2, 1, 0, 1)


def test_more_malformed_rows_than_good_ones_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, [row(9, 9), *MALFORMED])
    with pytest.raises(
        UsageError,
        match=r"data\.json: 7 of 8 rows are no conversations \(row 2: .+\); expected is a ShareGPT",
    ):
        read_dataset(path, count_words)


@pytest.mark.parametrize("content", [[], [row(2, 9), row(9, 2)]])
def test_nothing_left_is_an_error(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UsageError, match=rf"none of its {len(content)} rows .* 4 to 1024 tokens"):
        read_dataset(write(tmp_path, content), count_words)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("imdb.csv", b"review,sentiment\ngood,positive\n", "imdb.csv is a CSV file, not JSON"),
        ("a.json", b'[{"id": 1', "a.json is no valid JSON"),
        ("a.json", b"review,sentiment\ngood,positive\n", "a.json is no valid JSON"),
        ("a.txt", b"review,sentiment\ngood,positive\n", "a.txt is no valid JSON"),
        ("a.json", b"", "a.json is empty"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2}\n', "(line 1: no 'conversations', but 'id')"),
        ("a.json", b'{"conversations": {}}', "(line 1: 'conversations' is no list (dict))"),
        ("a.json", b'{\n"id": 1}', "a.json is no valid JSON: it begins with an object that goes over"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(UsageError) as caught:
        read_dataset(path)
    (problem,) = caught.value.problems
    assert sentence in problem
    assert str(path) in problem
    assert problem.endswith('"conversations": [{"from": ..., "value": ...}, ...]}, ...].')
    assert "\n" not in problem


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: the data set cannot be read \(No such file"):
        read_dataset(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read_dataset(tmp_path)


def test_the_small_data_set_is_clean_and_spread_like_conversations() -> None:
    assert counts(SMALL.source) == (200, 200, 0, 0)
    assert SMALL_DATASET.stat().st_size < 400_000
    prompts = [estimated_tokens(conversation.prompt) for conversation in SMALL.prompts]
    answers = [conversation.output_tokens or 0 for conversation in SMALL.prompts]
    assert 30 <= median(prompts) <= 60
    assert 200 <= max(prompts) <= 500
    assert 130 <= median(answers) <= 180
    assert 450 <= max(answers) <= 650
    assert len({conversation.prompt for conversation in SMALL.prompts}) == 200


@given(st.integers(), st.integers(1, 50), st.integers(0, 3))
def test_each_pass_takes_every_conversation_once(seed: int, size: int, turn: int) -> None:
    scenario = PromptSet("s", "s", [Prompt(f"<{n}>", n) for n in range(size)])
    taken = [scenario.request(seed, turn * size + position).max_tokens for position in range(size)]
    assert sorted(taken) == list(range(size))


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    size = len(SMALL.prompts)

    def order(seed: int, turn: int) -> tuple[str, ...]:
        return tuple(SMALL.request(seed, turn * size + n).prompt.split(": ")[-1] for n in range(size))

    assert len({order(seed, turn) for seed in range(3) for turn in range(3)}) == 9


def test_no_prompt_comes_twice_in_a_run_nor_in_two() -> None:
    size = len(SMALL.prompts)
    originals = Counter(conversation.prompt for conversation in SMALL.prompts)
    runs = [[str(SMALL.request(seed, index).prompt) for index in range(5_000)] for seed in (4, 5)]
    prompts = runs[0] + runs[1]
    assert all(re.match(r"\d{10}: ", prompt) for prompt in prompts)
    assert len({prompt[:10] for prompt in prompts}) == 10_000, "they differ before anything that is alike"
    for first in (0, size):
        assert Counter(prompt[12:] for prompt in prompts[first : first + size]) == originals


def test_prompts_as_they_were_written() -> None:
    size = len(SMALL.prompts)
    bare = catalogue.load("sharegpt", Context(parameters={"salt": "false"}))
    originals = {conversation.prompt for conversation in SMALL.prompts}
    assert {str(bare.request(4, index).prompt) for index in range(size)} == originals
    assert {str(bare.request(4, size + index).prompt)[12:] for index in range(size)} == originals
    assert [source["salted"] for source in sources_of(bare)] == [False]


def test_the_users_options() -> None:
    assert {
        sharegpt("s", Context(max_tokens=Lengths.constant(33))).request(1, i).max_tokens for i in range(50)
    } == {33}
    counted = sharegpt("s", Context(count_text=count_words)).prompts
    assert counted[0].output_tokens == count_words(SMALL_ROWS[0]["conversations"][1]["value"])
    with pytest.raises(UsageError, match="--input-len does not go with scenario s"):
        sharegpt("s", Context(input_len=Lengths.constant(100), count_tokens=count_words))


def test_the_source_of_the_data_is_told() -> None:
    content = SMALL_DATASET.read_bytes()
    (source,) = sources_of(SMALL)
    assert source == {
        "path": str(SMALL_DATASET),
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": 200,
        "kept": 200,
        "filtered": 0,
        "skipped": 0,
        "salted": True,
    }


def test_json_lines_and_parquet_are_read_like_json(tmp_path: Path) -> None:
    write(tmp_path, b"\n".join(map(orjson.dumps, SMALL_ROWS)), "a.jsonl")
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(SMALL_ROWS), tmp_path / "a.parquet"
    )
    for name in ("a.jsonl", "a.parquet"):
        assert list(read_dataset(tmp_path / name).kept) == list(SMALL.prompts)
        assert list(read_conversations(tmp_path / name)) == list(conversations(Context()))


def turns(*spoken: str) -> dict[str, Any]:
    return {"conversations": [dict(zip(("from", "value"), one.split(":"), strict=True)) for one in spoken]}


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        ("human:a gpt:b human:c gpt:d", [("a", "b"), ("c", "d")]),
        ("user:a assistant:b", [("a", "b")]),
        ("system:s human:a gpt:b human:c", [("a", "b")]),
        ("gpt:hello gpt:you human:a gpt:b", [("a", "b")]),
        ("human:a gpt:b gpt:c human:d gpt:e", [("a", "b")]),
        ("human:a gpt:b human:c human:d gpt:e", [("a", "b")]),
        ("human:a gpt:b human: gpt:d", [("a", "b")]),
        ("human:a gpt:b human:c gpt: human:e gpt:f", [("a", "b")]),
        ("human:a human:b gpt:c", None),
        ("human:a", None),
        ("gpt:a", None),
        ("", None),
    ],
)
def test_a_conversation_is_questions_with_their_answers(
    tmp_path: Path, spoken: str, expected: list[tuple[str, str]] | None
) -> None:
    good = turns("human:q", "gpt:a")
    store = read_conversations(write(tmp_path, [turns(*spoken.split()), good]))
    assert list(store) == [*([expected] if expected else []), [("q", "a")]]
    assert counts(store.source) == (2, len(store), 2 - len(store), 0)


@pytest.mark.parametrize("malformed", [*MALFORMED, turns("human:a", "gpt:\ud800")])
def test_malformed_conversations_are_skipped_and_counted(tmp_path: Path, malformed: Any) -> None:
    path = write(tmp_path, json.dumps([malformed, turns("human:q", "gpt:a")]).encode())
    store = read_conversations(path)
    assert store[:] == [[("q", "a")]]
    assert counts(store.source) == (2, 1, 0, 1)


def test_no_conversations_at_all_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="none of its 1 rows has a question and an answer; expected is a Share"
    ):
        read_conversations(write(tmp_path, [turns("gpt:a")]))


def test_conversations_outside_of_memory_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outside = read_conversations(SMALL_DATASET, memory_bytes=1000)
    assert (tmp_path / "vllm-locust").is_dir()
    assert list(outside) == list(conversations(Context()))
    assert list(read_dataset(SMALL_DATASET, memory_bytes=1000).kept) == list(SMALL.prompts)
    texts = [turn["value"] for turn in SMALL_ROWS[0]["conversations"]]
    assert [text for pair in outside[0] for text in pair] == texts
