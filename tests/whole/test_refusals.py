"""A command line that cannot work is refused at once: a sentence per mistake, nothing sent or written."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.locust_command import HEADLESS, Outcome, Simulator, counters, run_locust
from tests.zygote import output_of
from vllm_locust.workloads.replay import SMALL_TRACE

SENT = ("vllm:prompt_tokens_total", "vllm:num_requests_running", "vllm:num_requests_waiting")


@contextmanager
def refused(server: Simulator, folder: Path, *options: str, locustfile: str = "chat.py") -> Iterator[Outcome]:
    """A run that must end with exit code 2, without a trace at the server or on the disk."""
    before = counters(server.url)
    files = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    host = () if "--host" in options else ("--host", server.url)
    stepped = "--ladder" in options or locustfile == "ladder.py"
    load = ("--headless",) if stepped else (*HEADLESS, "-t", "2s")
    outcome = run_locust(*load, *host, *options, folder=folder, locustfile=locustfile)
    assert outcome.code == 2, outcome.text
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""
    yield outcome
    after = counters(server.url)
    assert [after[name] for name in SENT] == [before[name] for name in SENT]
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == files


MISTAKES: Sequence[tuple[list[str], str]] = [
    (["--host", "localhost:8000"], "--host 'localhost:8000' is not an address like http://"),
    (["--host", "http://127.0.0.1:9"], "does not answer: "),
    (["--model", "gpt-9"], "which has: tiny"),
    (["--scenario", "ss", "--input-len", "3"], "a prompt of 3 tokens is too short"),
    (
        ["--scenario", "ss", "--input-len", "16384"],
        "All requests of ss are more than the 16384 tokens that tiny takes, prompt and answer",
    ),
    (["--lora-modules", "law:2", "tiny"], "--lora-modules 'law' is not served, the server has: tiny"),
    (["--warmup", "1s", "--scenario", "tiny"], "take --step-warmup, or one of them, such as tiny.ss"),
    (["--max-concurrency", "2"], "--max-concurrency is for open loops"),
    (["--arrivals", "/nowhere/trace.csv"], "--arrivals '/nowhere/trace.csv' cannot be read"),
    (["--prefix-cache", "warm"], "needs a scenario whose requests share a prefix: sharegpt does not"),
    (["--scenario", "replay", "--request-rate", "inf", "--num-prompts", "9"], "must be one number for"),
    (["--scenario", "replay", "--ladder", "1,2"], "says when to send: ladders and searches do not go"),
    (["--scenario", "replay", "--request-rate", "1-9:5s"], "must be one number for --scenario replay"),
    (["--scenario", "replay", "--arrivals", str(SMALL_TRACE)], "both say when to send"),
    (["--step-warmup", "1s"], "--step-warmup is for ladders, searches and scenarios that run several"),
    (["--scenario", "ss", "--dataset-path", __file__], "scenario ss reads no data set"),
    (
        ["--scenario", "replay", "--request-rate", "5", "--burstiness", "2"],
        "both say what gaps there are",
    ),
    (["--scenario", "nope"], "there is no scenario 'nope': choose one of "),
    (["--num-prompts", "0"], "--num-prompts '0' is not a whole number of at least 1"),
    (["--dataset-path", "missing.json"], "missing.json: the data set cannot be read (No such file"),
    (["--dataset-path", __file__], "test_refusals.py is no valid JSON"),
    (["--extra-body", '{"stream": false}'], "sets stream, which the suite sets itself"),
    (["--warmup", "2s"], "--warmup leaves nothing of a --run-time of 2 s"),
    (["--input-len", "100"], "--input-len does not go with scenario sharegpt"),
    (["--request-rate", "-5"], "--request-rate '-5'"),
    (["--request-rate", "1-10"], "--request-rate '1-10'"),
    (["--request-rate", "inf"], "say how many with --num-prompts"),
    (["--burstiness", "2"], "--burstiness is for open loops"),
    (["--request-rate", "5", "--burstiness", "0"], "--burstiness '0' is not a number greater than 0"),
    (["--ladder", "1,two"], "--ladder '1,two'"),
    (["--ladder", "1,2.5"], "--ladder '1,2.5'"),
    (["--ladder", "1,2", "--request-rate", "5"], "take --levels rate"),
    (["--ladder", "1,2", "--levels", "rate", "--request-rate", "5"], "leave --request-rate"),
    (["--ladder", "1,2", "--warmup", "1s"], "has --step-warmup"),
    (["--ladder", "1,2", "--step-time", "2s", "--step-warmup", "2s"], "leaves nothing of a --step-time"),
    (["--levels", "rate"], "for one rate take --request-rate"),
    (["--input-len", "many"], "--input-len 'many' is no length"),
    (["--set", "n=5"], "--set n=5: scenario sharegpt has salt (default True)"),
    (["--ladder", "1,2", "--step-overlap", "--prefix-cache", "cold"], "a cache in use cannot be emptied"),
    (["--scenario", "conversation", "--endpoint-type", "completions"], "conversation"),
    (["--step-overlap"], "--step-overlap needs a --ladder"),
    (["--lora-assignment", "round-robin"], "--lora-assignment is for --lora-modules"),
]


def test_each_mistake_is_told_in_one_sentence(server: Simulator) -> None:
    lines = [
        [*(("--headless",) if "--ladder" in options else (*HEADLESS, "-t", "2s")), *options]
        for options, _ in MISTAKES
    ]
    command = ("tests.whole.preparing", server.url)
    told = json.loads(output_of(*command, given=json.dumps(lines)))
    assert [
        (options, problems)
        for (options, said), problems in zip(MISTAKES, told, strict=True)
        if len(problems) != 1 or said not in problems[0]
    ] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "http://127.0.0.1:9"], "does not answer: "),
        (["--model", "gpt-9"], "--model 'gpt-9' is not served by "),
        (["--warmup", "2s"], "--warmup leaves nothing of a --run-time of 2 s"),
    ],
    ids=["server", "model", "option"],
)
def test_a_mistake_ends_the_run_before_it_begins(
    server: Simulator, tmp_path: Path, options: list[str], said: str
) -> None:
    with refused(server, tmp_path / "results", *options) as outcome:
        (problem,) = outcome.problems
        assert said in problem


@pytest.mark.parametrize(
    ("locustfile", "options", "said"),
    [
        (
            "custom_user.py",
            ["--scenario", "ss", "--num-prompts", "3"],
            "--scenario, --num-prompts: for requests",
        ),
        (
            "ladder.py",
            ["-t", "2s"],
            "--run-time is for runs of one load: a ladder or capacity search has --step-time",
        ),
        ("ladder.py", ["-u", "4"], "--users is for runs of one load: the levels of a ladder say how many"),
    ],
)
def test_what_a_locustfile_cannot_do_is_refused(
    server: Simulator, tmp_path: Path, locustfile: str, options: list[str], said: str
) -> None:
    with refused(server, tmp_path / "results", *options, locustfile=locustfile) as outcome:
        (problem,) = outcome.problems
        assert said in problem


def test_all_mistakes_of_a_command_line_are_told_together(server: Simulator, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    mistakes = [
        (["--num-prompts", "many"], "--num-prompts 'many' is not a whole number of at least 1"),
        (["--warmup", "abc"], "--warmup 'abc' is not a time like 10s"),
        (["--header", "no value"], "--header 'no value' is not of the form NAME=VALUE"),
        (["--api-key", "two\nlines"], "--api-key holds characters that no HTTP header can carry"),
        (["--goodput", "ttft:fast"], "--goodput 'ttft:fast' must be METRIC:MILLISECONDS"),
        (["--slo", "p99_tfft_ms<500"], "--slo knows no key 'p99_tfft_ms': did you mean p99_ttft_ms"),
        (["--slo", "failed"], "--slo 'failed' must be KEY OP NUMBER"),
        (["--extra-body", '{"top_p": '], "--extra-body '{\"top_p\": ' is not JSON"),
        (["--scenario", "nope"], "there is no scenario 'nope'"),
        (["--model", "gpt-9"], "--model 'gpt-9' is not served by "),
        (["--endpoint", "chat"], "--endpoint 'chat' is not a path like /v1/chat/completions"),
        (["--max-tokens", "9~2"], "--max-tokens '9~2' is no length: allowed is a number of tokens"),
        (["--set", "n"], "--set 'n' is not of the form NAME=VALUE"),
        (["--vary", "20:{}"], "--vary '20:{}' is not of the form SHARE:JSON"),
        (["--vary", "20%:[1]"], "--vary '20%:[1]' is not a JSON object"),
        (["--vary", '20%:{"stream": false}'], "sets stream, which the suite sets itself"),
        (["--lora-modules", "tiny:2"], ""),
        (["--lora-assignment", "round-robin"], "leave the weights out"),
        (["--prefix-cache", "hot"], "--prefix-cache 'hot' is none of cold, warm"),
        (["--input-len", "100"], ""),  # nobody can count tokens without a model: that is no other mistake
        ([], f"--results-dir {tmp_path} holds another run (run.json)"),
    ]
    options = [option for given, _ in mistakes for option in given]
    with refused(server, tmp_path, *options) as outcome:
        sentences = [said for _, said in mistakes if said]
        assert len(outcome.problems) == len(sentences)
        for said in sentences:
            assert sum(said in problem for problem in outcome.problems) == 1, said


@pytest.mark.parametrize("left", ["run.json", "requests.jsonl", "summary.json"])
def test_results_of_another_run_are_never_overwritten(server: Simulator, tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("precious", encoding="utf-8")
    with refused(server, tmp_path) as outcome:
        (problem,) = outcome.problems
        assert f"holds another run ({left})" in problem


def test_a_folder_that_cannot_be_made_is_refused_before_the_load(server: Simulator) -> None:
    with refused(server, Path("/dev/null/results")) as outcome:
        (problem,) = outcome.problems
        assert "--results-dir /dev/null/results" in problem
