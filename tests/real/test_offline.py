"""vLLM's real offline engine over the scenarios: the same requests, and as many tokens as it says itself."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.locust_command import Outcome, read_json
from tests.real.vllm_environment import ENGINE_ARGUMENTS, ENVIRONMENT, MODEL, PYTHON, ROOT
from vllm_locust.client.chat import render_prompt
from vllm_locust.load.bodies import request_body
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, Scenario
from vllm_locust.workloads.tokenizer import local_counter, local_encoder

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("vllm_url")]

# What vLLM's environment may lack of what this package needs. Of the same Python, they can be lent.
LENT = ("orjson", "scipy", "scipy.libs")
SEED = 5
ENDED = "== ended with exit code"


# In the environment of vLLM, whose import takes longer than all that is asked here. Each ends with a line.
RUN_ALL = f"""
import json, sys
from vllm.distributed import cleanup_dist_env_and_memory
from vllm_locust.cli import main
if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        print("{ENDED}", main(arguments), flush=True)
        cleanup_dist_env_and_memory()
"""
RUNS = {
    "reviews": ("--scenario", "imdb", "--set", "n=4", "--set", "reviews=40"),
    "copies": (
        "--scenario", "imdb.packed", "--set", "n=4", "--set", "reviews=8", "--set", "copies=5",
        "--prefix-cache", "warm",
    ),
    **{
        kind: (
            "--scenario", "worst_case", "--num-prompts", "6", "--max-tokens", "3", "--input-len", "300-600",
            "--endpoint-type", kind,
        )
        for kind in ("chat", "completions")
    },
    "several values": ("--scenario", "imdb.packed", "--set", "reviews=12", "--sweep", "n=6,1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages of this environment for that of vLLM."""
    import scipy

    folder, packages = tmp_path_factory.mktemp("lent"), Path(scipy.__file__).parents[1]
    for name in LENT:
        (folder / name).symlink_to(packages / name)
    return folder


@pytest.fixture(scope="module")
def outcomes(lent: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Outcome]:
    """Of all `RUNS`."""
    folder = tmp_path_factory.mktemp("offline")
    command = ("offline", "--model", str(MODEL), "--seed", str(SEED))
    wanted = [
        [*command, "--results-dir", str(folder / name), *options, "--", *ENGINE_ARGUMENTS]
        for name, options in RUNS.items()
    ]
    script = folder / "run_all.py"
    script.write_text(RUN_ALL, encoding="utf-8")
    done = subprocess.run(
        [PYTHON, script, json.dumps(wanted)],
        env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{lent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.split(f"{ENDED} 0\n")
    assert len(said) == len(RUNS) + 1, done.stdout[-2000:] + done.stderr[-2000:]
    return {
        name: Outcome(0, text, done.stderr, folder / name) for name, text in zip(RUNS, said, strict=False)
    }


def assert_tokens_and_prompts_are(scenario: Scenario, requests: list[Mapping[str, Any]]) -> None:
    """Those of the plan, made and counted here, by another tokenizer's code and without vLLM."""
    count = local_counter(str(MODEL), chat=True)
    for request in requests:
        planned = scenario.request(SEED, request["number"])
        assert isinstance(planned.prompt, str)
        assert request["prompt_tokens"] == count(planned.prompt)
        assert request["output_tokens"] == planned.max_tokens
        assert request["prompt_hash"] == render_prompt(request_body(planned, "chat")[1]).hash


def test_packed_and_single_reviews(outcomes: Mapping[str, Outcome]) -> None:
    parameters = {"n": "4", "reviews": "40"}
    outcome = outcomes["reviews"]
    packed, single = outcome.summary["phases"]
    assert (packed["completed"], packed["total_output_tokens"], packed["reviews"]) == (10, 40, 40)
    assert (single["completed"], single["total_output_tokens"], single["reviews"]) == (40, 40, 40)
    assert outcome.summary["same_reviews"] is True
    assert "Both asked about the same reviews, in the same order." in outcome.stdout
    scenario = catalogue.load("imdb", Context(parameters=parameters))
    for number, phase in enumerate(scenario.phases):
        assert_tokens_and_prompts_are(phase, [one for one in outcome.requests if one["phase"] == number])
    # Nothing of one is in the cache for the other, but for copies, which there are none of.
    assert outcome.summary["total_cached_tokens"] == 0
    assert outcome.summary["mean_ttft_ms"] > 0


def test_copies_come_out_of_the_cache(outcomes: Mapping[str, Outcome]) -> None:
    outcome = outcomes["copies"]
    assert len(outcome.requests) == 10
    block = 128
    for request in outcome.requests:
        # The last token is always computed.
        assert request["cached_tokens"] == (request["prompt_tokens"] - 1) // block * block
    assert outcome.summary["total_cached_tokens"] > 0.5 * outcome.summary["total_input_tokens"]


@pytest.mark.parametrize("endpoint_type", ["chat", "completions"])
def test_prompts_of_an_exact_length(outcomes: Mapping[str, Outcome], endpoint_type: str) -> None:
    outcome = outcomes[endpoint_type]
    assert outcome.summary["prompt_lengths"] == {"promised": 6, "exact": 6}
    chat = endpoint_type == "chat"
    context = Context(
        input_len=Lengths.parse("300-600"),
        max_tokens=Lengths.parse("3"),
        count_tokens=local_counter(str(MODEL), chat=chat),
        encode=local_encoder(str(MODEL)),
        endpoint_type=endpoint_type,
    )
    scenario = catalogue.load("worst_case", context)
    for request in outcome.requests:
        planned = scenario.request(SEED, request["number"])
        assert request["prompt_tokens"] == planned.prompt_tokens
        assert request["prompt_hash"] == render_prompt(request_body(planned, endpoint_type)[1]).hash


def test_several_values_on_one_engine(outcomes: Mapping[str, Outcome]) -> None:
    folders = outcomes["several values"].folder.iterdir()
    summaries = {folder.name: read_json(folder / "summary.json") for folder in folders}
    assert {name: one["completed"] for name, one in summaries.items()} == {"n=6": 2, "n=1": 12}
    assert {one["total_output_tokens"] for one in summaries.values()} == {12}
