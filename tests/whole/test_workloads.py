"""What is sent is what the plan says: request `number` of (scenario, seed), by whatever process and phase."""

import json
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.locust_command import (
    HEADLESS,
    assert_ended_well,
    assert_nothing_is_lost,
    in_processes,
    run_locust,
)
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context


def prompt_hash(prompt: str) -> str:
    """Of a user's message, by Python's json."""
    messages = [{"role": "user", "content": prompt}]
    content = json.dumps(messages, separators=(",", ":"), ensure_ascii=False).encode()
    return blake2b(content, digest_size=8).hexdigest()


@pytest.mark.parametrize("processes", [1, 2])
def test_each_phase_sends_its_requests_from_the_first_to_the_last(tmp_path: Path, processes: int) -> None:
    """Packed and single hold the same reviews: both begin with request 0 of their own."""
    outcome = run_locust(
        *HEADLESS, "--scenario", "imdb", "--set", "n=10", "--set", "reviews=44", *in_processes(processes),
        folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    phases = catalogue.load("imdb", Context(parameters={"n": "10", "reviews": "44"})).phases
    for phase, expected in zip(phases, (5, 44), strict=True):
        sent = {r["number"]: r for r in outcome.requests if r["scenario"] == phase.name}
        assert sorted(sent) == list(range(expected))
        for number, request in sent.items():
            planned = phase.request(1, number)
            assert request["prompt_hash"] == prompt_hash(str(planned.prompt))
            assert request["output_tokens"] == request["max_tokens"] == planned.max_tokens


def test_run_json_says_what_the_requests_were_made_of(tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    data.write_text('prompt,output_len\n"Say ""hello"", please",3\n"Two\nlines",4\n', encoding="utf-8")
    outcome = run_locust(
        *HEADLESS, "--scenario", "prompts", "--dataset-path", str(data), "--num-prompts", "4",
        "--vary", '100%:{"priority": 3}', folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    run = json.loads((outcome.folder / "run.json").read_text())
    (source,) = run["datasets"]
    assert (source["rows"], source["kept"], source["bytes"]) == (2, 2, data.stat().st_size)
    assert run["options"]["variations"] == [{"share": 1.0, "fields": {"priority": 3}, "max_tokens": None}]
    assert sorted(request["max_tokens"] for request in outcome.requests) == [3, 3, 4, 4]
    assert len({request["prompt_hash"] for request in outcome.requests}) == 4, "the second pass has salts"
