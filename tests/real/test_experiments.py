"""Experiments on the real vLLM: what a server refuses is a result, and kill -9 loses and leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from tests.locust_command import wait_until
from tests.real.vllm_environment import ROOT
from vllm_locust.report.experiment import findings_of
from vllm_locust.results.experiment import ExperimentResults, read_experiment

# The first start installs vLLM.
LIMIT_S = 900.0
pytestmark = pytest.mark.timeout(2 * LIMIT_S)

FILE = """\
question: Which requests are refused without chunked prefill?
conclusions: token_budget
server:
  start: scripts/serve-tiny-vllm --port {port} {arguments}
  arguments: {enable-chunked-prefill: false, max-num-batched-tokens: 256}
  stop: {pause: 0s}
configurations:
  - {name: fits, arguments: {max-model-len: 256}}
  - {name: too-long, arguments: {max-model-len: 4096}}
workloads:
  - {name: short, options: {scenario: ss, max-tokens: 4}}
  - {name: chats, options: {scenario: sharegpt}}
loads:
  - {name: all-at-once, options: {request-rate: inf, num-prompts: 30}}
warmup: false
"""
KILLED = "fits/chats-all-at-once/1"


@dataclass(frozen=True)
class Experiment:
    """One that was killed in its second run, and then told to go on."""

    folder: Path
    journal: Sequence[bytes]
    """As it was left behind."""
    code: int
    """Of the command that went on."""

    @cached_property
    def results(self) -> ExperimentResults:
        return read_experiment(self.folder)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Fails when the killed one leaves a process behind."""
    folder = tmp_path_factory.mktemp("experiment")
    file, output = folder / "experiment.yaml", folder / "out"
    file.write_text(FILE)
    second = output / "runs" / KILLED / "requests.jsonl"
    with started(file, output) as process:
        wait_until(lambda: second.is_file() or process.poll() is not None, "the second run", LIMIT_S)
        descendants = children_of(process.pid)
        process.kill()
    assert len(descendants) >= 4  # two supervisors, Locust and vLLM
    try:
        wait_until(lambda: not any(map(alive, descendants)), "everything to end", 60)
    finally:
        for pid in filter(alive, descendants):
            os.kill(pid, signal.SIGKILL)
    journal = (output / "journal.jsonl").read_bytes().splitlines()
    with started(file, output) as process:
        return Experiment(output, journal, process.wait(LIMIT_S))


def started(file: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vllm_locust", "experiment", str(file), "--output", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def children_of(pid: int) -> set[int]:
    """All that a process has started, directly or not."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_was_done_before_kill_9_is_kept_and_the_rest_is_made(experiment: Experiment) -> None:
    assert len(experiment.journal) == 1
    assert (experiment.folder / "journal.jsonl").read_bytes().splitlines()[:1] == experiment.journal
    assert (experiment.folder / "unfinished" / KILLED).is_dir()
    assert experiment.code == 1  # requests failed, and a server did
    assert all(run.outcome is not None for run in experiment.results.runs)
    for name in ("report.html", "report.md", "table.csv"):
        assert (experiment.folder / name).is_file()


def test_what_vllm_refuses_without_chunked_prefill_is_a_result(experiment: Experiment) -> None:
    short, chats, *too_long = experiment.results.runs
    assert short.outcome in ("ok", "invalid")  # on a busy machine the client may be too slow
    assert short.results is not None
    assert short.results.summary is not None
    assert (short.results.summary["completed"], short.results.summary["failed"]) == (30, 0)
    assert chats.outcome == "failed_requests"
    assert "http_400" in (chats.why or "")
    assert "256" in (chats.why or "")  # which the context length is
    assert [run.outcome for run in too_long] == ["server_failed"] * 2
    why = "max_num_batched_tokens (256) is smaller than max_model_len (4096)"
    assert all(why in (run.why or "") for run in too_long)
    told = {finding.name: finding.sentence for finding in findings_of(experiment.results)}
    assert told["without a server"].startswith("too-long: the server ended with exit code 1: max_num_batched")
    assert "without a server" in (experiment.folder / "report.md").read_text()
