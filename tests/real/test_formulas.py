"""The summary of a run is what `vllm bench serve` computes from the same requests, by its own code."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.locust_command import Outcome, read_lines, run_locust
from tests.real.vllm_environment import ENVIRONMENT, PYTHON

pytestmark = pytest.mark.timeout(300)

PERCENTILES = (50, 90, 95, 99)
GOODPUT_MS = {"ttft": 40.0, "tpot": 9.0, "e2el": 400.0}

# requests.jsonl has no gaps between tokens, so they are taken where records still have them.
RECORDER = """
import json
from locust import events
import vllm_locust

file = open({path!r}, "w")

@events.stream_finished.add_listener
def keep(record, **_):
    stamps = record.sent_s, record.first_token_s, record.last_token_s, record.ended_s
    tokens = record.prompt_tokens, record.output_tokens
    line = {{"id": record.id, "stamps": stamps, "tokens": tokens, "arrivals": list(record.arrivals_s)}}
    line["has_gaps"] = not record.in_one_piece
    line["has_tpot"] = record.output_tokens == 1 or record.tpot_s is not None
    print(json.dumps({{**line, "ok": record.outcome == "ok"}}), file=file, flush=True)
"""

# Runs in the environment of vLLM, and answers a line with a line.
CALCULATE = """
import json, sys
from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput
from vllm.benchmarks.serve import calculate_metrics

sys.stdout, stdout = sys.stderr, sys.stdout
for asked in map(json.loads, sys.stdin):
    outputs = [RequestFuncOutput(**output) for output in asked["outputs"]]
    found, _ = calculate_metrics([], outputs, asked["duration"], None, asked["percentiles"], asked["goodput"])
    plain = {key: float(value) for key, value in vars(found).items() if not isinstance(value, list)}
    for family in ("ttft", "tpot", "itl", "e2el"):
        for q, value in getattr(found, f"percentiles_{family}_ms"):
            plain[f"p{q}_{family}_ms"] = float(value)
    print(json.dumps(plain), file=stdout, flush=True)
"""

RUNS = {
    "whole run": ("--scenario", "ss:1,sl:1", "--max-tokens", "24", "--num-prompts", "60"),
    "after a warm-up": ("--scenario", "ss", "--max-tokens", "12", "-t", "5s", "--warmup", "2s"),
    "one token and failures": (
        "--scenario", "worst_case", "--input-len", "3900-4300", "--max-tokens", "1-4", "--num-prompts", "24",
    ),
}  # fmt: skip


def run_recorded(url: str, folder: Path, *options: str) -> tuple[Outcome, list[dict[str, Any]]]:
    """A run, and its records with the arrival of each token."""
    records, recorder = folder / "records.jsonl", folder / "recorder.py"
    recorder.write_text(RECORDER.format(path=str(records)), encoding="utf-8")
    limits = [f"{metric}:{limit}" for metric, limit in GOODPUT_MS.items()]
    outcome = run_locust(
        "--headless", "-u", "4", "-r", "4", "--host", url, *options, "--goodput", *limits,
        folder=folder / "results", locustfile=f"chat.py,{recorder}",
    )  # fmt: skip
    return outcome, read_lines(records)


def as_vllm_has_it(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of its RequestFuncOutput."""
    sent_s, first_s, last_s, _ = record["stamps"]
    if not record["ok"]:
        return {"success": False, "start_time": sent_s}
    prompt_tokens, output_tokens = record["tokens"]
    arrivals = record["arrivals"]
    return {
        "success": True,
        "start_time": sent_s,
        "ttft": first_s - sent_s,
        "latency": last_s - sent_s,
        "itl": [later - earlier for earlier, later in pairwise(arrivals)],
        "prompt_len": prompt_tokens,
        "output_tokens": output_tokens,
    }


class Calculator:
    """vLLM's own code, which takes long to load and so serves all runs."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log

    def calculate(self, records: Sequence[Mapping[str, Any]], duration_s: float) -> dict[str, float]:
        """What vLLM's `calculate_metrics` says, by the keys of a summary."""
        asked = {
            "outputs": [as_vllm_has_it(record) for record in records],
            "duration": duration_s,
            "percentiles": PERCENTILES,
            "goodput": GOODPUT_MS,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text()[-2000:]
        found: dict[str, float] = json.loads(answer)
        return found


@pytest.fixture(scope="module")
def calculator(vllm_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calculator]:
    log = tmp_path_factory.mktemp("calculator") / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [PYTHON, "-c", CALCULATE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=ENVIRONMENT, text=True,
        ) as process,
    ):  # fmt: skip
        yield Calculator(process, log)


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
def test_every_number_is_that_of_vllm_bench_serve(
    vllm_url: str, calculator: Calculator, tmp_path: Path, options: Sequence[str]
) -> None:
    outcome, records = run_recorded(vllm_url, tmp_path, *options)
    summary = outcome.summary
    assert len(records) == len(outcome.requests) > 0, outcome.text
    if "1-4" in options:
        assert summary["failed"] > 0
        assert summary["completed"] > 0
        assert any(request["output_tokens"] == 1 for request in outcome.requests)
    # Stamps of records and seconds of the run differ by when it began, which no file says exactly.
    lines = {line["id"]: line for line in outcome.requests}
    began_s = records[0]["stamps"][0] - lines[records[0]["id"]]["sent_s"]
    if "--warmup" in options:
        start_s, end_s = summary["start_s"] + began_s, summary["end_s"] + began_s
        records = [record for record in records if start_s <= record["stamps"][3] <= end_s]
        assert 0 < len(records) < len(lines)
    else:
        start_s = min(record["stamps"][0] for record in records)
        end_s = max(record["stamps"][3] for record in records)
    assert summary["duration"] == pytest.approx(end_s - start_s, abs=1e-5)

    theirs = calculator.calculate(records, summary["duration"])
    # Tokens that came at once, as on a busy machine, have no TPOT here; vLLM says that they took no time.
    for known, endings in (("has_gaps", ("_itl_ms",)), ("has_tpot", ("_tpot_ms", "_goodput"))):
        some = [record for record in records if record[known] or not record["ok"]]
        of_some = calculator.calculate(some, summary["duration"])
        theirs |= {key: value for key, value in of_some.items() if key.endswith(endings)}
    ours = {
        **summary,
        "total_input": summary["total_input_tokens"],
        "total_output": summary["total_output_tokens"],
    }
    # Two differ on purpose, see docs/measuring.md: vLLM counts whole seconds, and chunks as tokens.
    assert ours["max_concurrent_requests"] <= theirs.pop("max_concurrent_requests")
    assert theirs.pop("max_output_tokens_per_s") > 0
    assert theirs.pop("rtfx") == 0, "of audio"
    assert len(theirs) == 4 * (3 + len(PERCENTILES)) + 8
    for key, value in theirs.items():
        percentile_of_gaps = key.endswith("_itl_ms") and key[:4] not in ("mean", "std_")
        assert ours[key] == pytest.approx(value, rel=1e-3 if percentile_of_gaps else 1e-9, abs=1e-6), key
