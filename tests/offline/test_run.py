"""Offline runs on an engine that is none: what is sent, what comes out, what is written."""

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.offline.fake_vllm import LLM, TEMPLATE_TOKENS, SamplingParams
from vllm_locust.client.chat import render_prompt
from vllm_locust.errors import UsageError
from vllm_locust.load.bodies import request_body
from vllm_locust.offline.engine import Engine
from vllm_locust.offline.results import make_folders
from vllm_locust.offline.run import Settings, run_offline
from vllm_locust.report.identity import report_text
from vllm_locust.report.sent import describe
from vllm_locust.results.folder import read_results
from vllm_locust.results.rows import rows_of
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context


def run(llm: LLM, scenario: str, folder: Path | None = None, **more: Any) -> bool:
    """`folder` is there already; with a sweep those in it are made here, as the command makes them."""
    settings = Settings("model", scenario, seed=5, results_dir=folder, **more)
    make_folders(one.results_dir for _, one in settings.runs() if one.results_dir is not None)
    return run_offline(settings, Engine(llm, SamplingParams, "0.10.0"))


def summary_of(folder: Path) -> Any:
    return orjson.loads((folder / "summary.json").read_bytes())


def requests_of(folder: Path) -> list[Any]:
    return [orjson.loads(line) for line in (folder / "requests.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("endpoint_type", ["chat", "completions"])
def test_requests_are_those_of_an_online_run(tmp_path: Path, endpoint_type: str) -> None:
    assert run(LLM(), "ss", tmp_path, num_prompts=6, endpoint_type=endpoint_type)
    scenario = catalogue.load("ss", Context(endpoint_type=endpoint_type))
    bodies = [request_body(scenario.request(5, index), endpoint_type)[1] for index in range(6)]
    hashes = [request["prompt_hash"] for request in requests_of(tmp_path)]
    assert hashes == [render_prompt(body).hash for body in bodies]
    assert len(set(hashes)) == 6


def test_prompts_stand_in_the_chat_template_or_alone() -> None:
    chat, plain = LLM(), LLM()
    for llm, endpoint_type in ((chat, "chat"), (plain, "completions")):
        run(llm, "ss", num_prompts=3, endpoint_type=endpoint_type, num_warmups=0)
    (((in_template, _),), ((alone, _),)) = chat.calls, plain.calls
    # Alone the beginning of the text is a token, as a server's tokenizer adds it.
    assert [len(ids) - TEMPLATE_TOKENS for ids in in_template] == [len(ids) - 1 for ids in alone]


def test_exact_lengths_are_kept_with_the_engines_tokenizer(tmp_path: Path) -> None:
    lengths = Lengths.parse("60-90")
    run(LLM(), "worst_case", tmp_path, num_prompts=20, input_len=lengths, max_tokens=Lengths.parse("5"))
    requests = requests_of(tmp_path)
    assert all(
        60 <= request["planned_prompt_tokens"] == request["prompt_tokens"] <= 90 for request in requests
    )
    assert summary_of(tmp_path)["prompt_lengths"] == {"promised": 20, "exact": 20}


def test_each_request_asks_for_its_own_tokens() -> None:
    llm = LLM()
    run(llm, "random", num_prompts=12, num_warmups=0, max_tokens=Lengths.parse("3-60"), ignore_eos=False)
    ((_, sampling),) = llm.calls
    assert len({params.max_tokens for params in sampling}) > 5
    assert not any(params.ignore_eos for params in sampling)


def test_the_numbers_of_a_run(tmp_path: Path) -> None:
    run(LLM(), "ss", tmp_path, num_prompts=10)
    summary, requests = summary_of(tmp_path), requests_of(tmp_path)
    prompts = sum(request["prompt_tokens"] for request in requests)
    assert (summary["completed"], summary["total_output_tokens"]) == (10, 80)
    assert summary["total_input_tokens"] == prompts
    elapsed_s = summary["elapsed_time"]
    assert summary["num_requests"] == 10
    assert summary["total_num_tokens"] == prompts + 80
    assert math.isclose(summary["requests_per_second"], 10 / elapsed_s)
    assert math.isclose(summary["tokens_per_second"], (prompts + 80) / elapsed_s)
    assert math.isclose(summary["avg_generation_throughput"] + summary["avg_prompt_throughput"],
                        summary["tokens_per_second"])  # fmt: skip
    # Times are vLLM's own: 10, 20, ... 100 ms to the first token, then 7 more of 2 ms.
    assert summary["mean_ttft_ms"] == pytest.approx(55.0)
    assert summary["mean_tpot_ms"] == pytest.approx(2.0)
    assert summary["max_e2el_ms"] == pytest.approx(114.0)
    assert summary["mean_itl_ms"] is None
    assert summary["max_output_tokens_per_s"] is None
    assert requests[3]["ttft_s"] == pytest.approx(0.040)


def test_without_times_latencies_are_null_and_counts_are_not(tmp_path: Path) -> None:
    run(LLM(with_metrics=False), "ss", tmp_path, num_prompts=10)
    summary, requests = summary_of(tmp_path), requests_of(tmp_path)
    assert (summary["completed"], summary["requests"]["planned"]) == (10, 10)
    assert summary["request_throughput"] > 0
    for key in ("mean_ttft_ms", "p99_tpot_ms", "mean_e2el_ms"):
        assert summary[key] is None
    assert {(one["outcome"], one["ttft_s"], one["total_s"]) for one in requests} == {("ok", None, None)}


def test_packed_and_single_are_the_same_reviews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LLM(), "imdb", tmp_path, parameters={"n": "8", "reviews": "36"})
    summary = summary_of(tmp_path)
    packed, single = summary["phases"]
    assert [packed["completed"], packed["reviews"], packed["total_output_tokens"]] == [5, 36, 36]
    assert [single["completed"], single["reviews"], single["total_output_tokens"]] == [36, 36, 36]
    assert summary["same_reviews"] is True
    assert [request["id"] for request in requests_of(tmp_path)][::40] == ["req_000001", "req_000041"]
    out = capsys.readouterr().out
    assert "Both asked about the same reviews, in the same order." in out
    assert "Throughput: " in out
    assert "avg_generation_throughput (tok/s)" in out


def test_packed_and_single_that_were_cut_short_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(LLM(), "imdb", tmp_path, parameters={"n": "8"}, num_prompts=5)
    assert summary_of(tmp_path)["same_reviews"] is False
    assert "They did NOT ask about the same reviews" in capsys.readouterr().out


def test_copies_are_cached_and_what_ran_before_is_not(tmp_path: Path) -> None:
    llm = LLM()
    run(llm, "imdb", tmp_path, parameters={"n": "4", "reviews": "8", "copies": "5"})
    assert llm.resets == 2  # before each of the phases
    requests = requests_of(tmp_path)
    first_ones = [request for request in requests if request["number"] % 5 == 0]
    copies = [request for request in requests if request["number"] % 5]
    assert all(request["cached_tokens"] >= request["prompt_tokens"] // 4 * 4 for request in copies)
    # Others share the first token of the template at most, which is no block.
    assert [request["cached_tokens"] for request in first_ones] == [0] * len(first_ones)
    assert summary_of(tmp_path)["same_reviews"] is True


def test_a_warm_cache_holds_every_prompt(tmp_path: Path) -> None:
    run(LLM(), "imdb.single", tmp_path, parameters={"reviews": "8"}, prefix_cache="warm")
    assert all(one["cached_tokens"] == one["prompt_tokens"] // 4 * 4 for one in requests_of(tmp_path))
    assert summary_of(tmp_path)["phases"][0]["prefix_cache"] == "warm"


def test_the_warm_up_is_brief_and_of_other_prompts() -> None:
    llm = LLM()
    run(llm, "ls", num_prompts=4, num_warmups=3, max_tokens=Lengths.parse("100"))
    (warm, brief), (measured, _) = llm.calls
    assert len(warm) == 3
    assert {params.max_tokens for params in brief} == {16}
    assert not {tuple(ids) for ids in warm} & {tuple(ids) for ids in measured}


def test_a_sweep_is_one_run_for_each_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(LLM(), "imdb.packed", tmp_path, parameters={"reviews": "12"}, sweep=("n", ["6", "4", "1"]))
    found = {folder.name: summary_of(folder)["completed"] for folder in tmp_path.iterdir()}
    assert found == {"n=6": 2, "n=4": 3, "n=1": 12}
    table = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split()[:3] for line in table[1:]] == [
        ["n=6", "imdb.packed", "2"],
        ["n=4", "imdb.packed", "3"],
        ["n=1", "imdb.packed", "12"],
    ]
    assert "reviews/s" in table[0]


def test_an_engine_that_dies_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(LLM(fails_at=3), "imdb", tmp_path, parameters={"n": "4", "reviews": "8"})
    summary = summary_of(tmp_path)
    packed, single = summary["phases"]
    assert [packed["completed"], packed["failed"]] == [2, 0]
    assert [single["completed"], single["failed"], single["error_rate"]] == [0, 8, 1.0]
    assert single["request_throughput"] == 0.0
    assert summary["failures"] == {"server_error_event": 8}
    assert "RuntimeError: Engine core died" in capsys.readouterr().out


def test_an_engine_that_dies_in_its_warm_up_has_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match=r"failed in its warm-up, RuntimeError: Engine core died"):
        run(LLM(fails_at=1), "ss", num_prompts=2)


def test_a_dead_engine_cannot_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: LLM) -> bool:
        raise RuntimeError("dead")

    monkeypatch.setattr(LLM, "reset_prefix_cache", dead)
    assert not run(LLM(), "ss", tmp_path, num_prompts=2)
    assert summary_of(tmp_path)["failure_examples"] == {"server_error_event": "RuntimeError: dead"}


def test_results_are_read_as_those_of_an_online_run(tmp_path: Path) -> None:
    run(LLM(), "imdb", tmp_path, parameters={"n": "4", "reviews": "8"})
    results = read_results(tmp_path)
    assert results.problems == []
    rows = rows_of(results, "offline")
    assert [(row.workload, row.phase) for row in rows] == [
        ("imdb", None),
        ("imdb.packed", 0),
        ("imdb.single", 1),
    ]
    report = report_text(results, describe(results.requests))
    assert "Total input tokens:" in report
    assert "not as this version writes it" not in report
    manifest = orjson.loads((tmp_path / "run.json").read_bytes())
    assert (manifest["engine"], manifest["seed"], manifest["max_model_len"]) == ("offline", 5, 4096)
    assert manifest["datasets"][0]["kept"] == 120


@pytest.mark.parametrize(
    ("llm", "scenario", "more", "sentence"),
    [
        (LLM(), "tools", {}, "scenario tools sets tool_choice, tools, which only a server knows"),
        (LLM(), "vision", {}, "scenario vision sends more than text"),
        (LLM(), "conversation", {}, "scenario conversation asks on when it has been answered"),
        (LLM(max_model_len=100), "ls", {}, "are longer than the 100 tokens that the engine takes"),
        (
            LLM(chat_template=False),
            "ss",
            {},
            "has no chat template for this (tokenizer.chat_template is not set)",
        ),
        (LLM(), "ss", {"prefix_cache": "warm"}, "--prefix-cache warm needs a scenario whose requests share"),
        (LLM(), "nonsense", {}, "there is no scenario 'nonsense'"),
        (LLM(), "imdb", {"sweep": ("n", ["4", "x"])}, "--set n=x: n of scenario imdb is a whole number"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    llm: LLM, scenario: str, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        run(llm, scenario, **more)
    assert sentence in str(error.value)
    assert llm.calls == []
