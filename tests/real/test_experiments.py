"""Experiments on the real vLLM: what a server refuses is a result, and kill -9 loses and leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.locust_command import wait_until
from tests.real.vllm_environment import ROOT
from vllm_locust.report.experiment import findings_of
from vllm_locust.results.experiment import read_experiment

# The first start installs vLLM.
pytestmark = pytest.mark.timeout(900)

S2 = """\
question: Which requests are refused without chunked prefill?
conclusions: token_budget
server:
  start: scripts/serve-tiny-vllm --port {port} {arguments}
  arguments: {max-num-seqs: 32}
  stop: {pause: 0s}
configurations:
  - {name: on, arguments: {enable-chunked-prefill: true, max-num-batched-tokens: 256}}
  - {name: off, arguments: {enable-chunked-prefill: false, max-num-batched-tokens: 256, max-model-len: 256}}
  - {name: off-long, arguments: {enable-chunked-prefill: false, max-num-batched-tokens: 256, max-model-len: 4096}}
workloads:
  - {name: sharegpt, options: {scenario: sharegpt, num-prompts: 30}}
loads:
  - {name: all-at-once, options: {request-rate: inf}}
warmup: {num-prompts: 2, users: 1}
"""  # noqa: E501 (as people write it)
S1 = """\
question: How large a batch?
conclusions: max_num_seqs
server:
  start: scripts/serve-tiny-vllm --port {port} {arguments}
  arguments: {num-gpu-blocks-override: 256}
  stop: {pause: 0s}
matrix:
  max-num-seqs: [2, 16]
workloads:
  - {name: chats, options: {scenario: sharegpt, num-prompts: 30}}
loads:
  - {name: all-at-once, options: {request-rate: inf}}
  - {name: one-batch, options: {users: "{max-num-seqs}"}}
warmup: false
"""


@pytest.fixture
def descendants() -> Iterator[set[int]]:
    """Process ids that a test has seen; at its end none of them may be left, and none is."""
    seen: set[int] = set()
    yield seen
    for pid in seen:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


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


def test_what_vllm_refuses_without_chunked_prefill_is_a_result(tmp_path: Path) -> None:
    file, folder = tmp_path / "s2.yaml", tmp_path / "out"
    file.write_text(S2)
    with started(file, folder) as process:
        assert process.wait(300) == 1
    experiment = read_experiment(folder)
    on, off, off_long = experiment.runs
    assert on.outcome in ("ok", "invalid")  # on a busy machine the client may be too slow
    assert on.results is not None
    assert on.results.summary is not None
    assert (on.results.summary["completed"], on.results.summary["failed"]) == (30, 0)
    assert off.outcome == "failed_requests"
    assert "http_400" in (off.why or "")
    assert "256" in (off.why or "")  # which the context length is
    assert off_long.outcome == "server_failed"
    assert "max_num_batched_tokens (256) is smaller than max_model_len (4096)" in (off_long.why or "")
    told = {finding.name: finding.sentence for finding in findings_of(experiment)}
    assert told["without a server"].startswith("off-long: the server ended with exit code 1: max_num_batched")
    assert "without a server" in (folder / "report.md").read_text()
    assert (folder / "report.html").is_file()
    assert (folder / "plots").is_dir()


def test_after_kill_9_no_server_is_left_and_the_same_command_goes_on(
    tmp_path: Path, descendants: set[int]
) -> None:
    file, folder = tmp_path / "s1.yaml", tmp_path / "out"
    file.write_text(S1)
    second = folder / "runs/max-num-seqs=2/chats-one-batch/1/requests.jsonl"
    with started(file, folder) as process:
        wait_until(lambda: second.is_file() or process.poll() is not None, "the second run", 300)
        descendants |= children_of(process.pid)
        assert len(descendants) >= 4  # two supervisors, Locust and vLLM
        process.kill()
    wait_until(lambda: not any(map(alive, descendants)), "everything to end", 60)
    first = (folder / "journal.jsonl").read_bytes().splitlines()
    assert len(first) == 1
    with started(file, folder) as process:
        assert process.wait(300) in (0, 4)  # 4: on a busy machine the client may be too slow
    assert (folder / "journal.jsonl").read_bytes().splitlines()[:1] == first
    experiment = read_experiment(folder)
    completed = [(run.results.summary or {})["completed"] for run in experiment.runs if run.results]
    assert completed == [30, 30, 30, 30]
    assert (folder / "unfinished/max-num-seqs=2/chats-one-batch/1").is_dir()
    peaks = [row.server["kv_cache_usage_peak"] for row in experiment.rows()]
    assert max(peaks[:2]) < min(peaks[2:])  # a larger batch holds more of the cache
