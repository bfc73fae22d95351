"""The command line as users have it: Locust and the simulator as processes, and what they leave behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from tests.zygote import ROOT, Fork

LIMIT_S = 200.0
"""No run of a test takes longer, on however busy a machine."""

USUAL = ("--seed", "1", "--exporter-port", "off", "--server-metrics-url", "off", "--no-report")
"""Unless a test says otherwise: the same requests and arrivals every time, no observer and no report."""

HEADLESS = ("--headless", "-u", "4", "-r", "4")
PATIENT = f"chat.py,{ROOT / 'tests' / 'patient.py'}"
"""The locustfile of runs of many processes whose master gives them the time they need."""

TOO_LATE = "the load was over before this process came to send it"
"""Why an open loop's request is dropped in a process that was put aside as the load ended."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def in_processes(count: int) -> Sequence[str]:
    """Options for so many processes, whose master has a port that no other run has."""
    if count == 1:
        return ()
    port = str(free_port())
    return ("--processes", str(count), "--master-bind-port", port, "--master-port", port)


@dataclass(frozen=True)
class Outcome:
    """What a run of Locust has left behind."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests.jsonl."""
        return read_lines(self.folder / "requests.jsonl")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json"""
        return read_json(self.folder / "summary.json")

    @property
    def problems(self) -> list[str]:
        """The sentences that say why the run was refused."""
        return re.findall(r"^vllm-locust: (.*)", self.stderr, re.MULTILINE)

    @property
    def text(self) -> str:
        """All that was printed, for the messages of failing tests."""
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


class LocustProcess:
    """A run that goes on; `--results-dir` is `folder`."""

    def __init__(self, *options: str, folder: Path, locustfile: str = "chat.py") -> None:
        self.folder = folder
        self._requests: list[dict[str, Any]] = []
        self._read = 0
        locust = ("locust", "-f", str(ROOT / "locustfiles" / locustfile))
        self.process = Fork(*locust, *USUAL, *options, "--results-dir", str(folder))

    @property
    def observer(self) -> int:
        """The process id of its observer."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for child in (int(pid) for task in tasks for pid in task.read_text().split()):
            if b"vllm_locust.observe" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                return child
        raise AssertionError("it has no observer")

    @property
    def requests(self) -> Sequence[Mapping[str, Any]]:
        """The whole lines of requests.jsonl so far."""
        with (self.folder / "requests.jsonl").open("rb") as file:
            file.seek(self._read)
            lines, _, _ = file.read().rpartition(b"\n")
        self._requests += map(json.loads, lines.splitlines())
        self._read += len(lines) + bool(lines)
        return self._requests

    def stop(self) -> Outcome:
        """What the run has left when it is told to end, as a container is."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait_for_its_word(self, words: str) -> None:
        """Return once it has said this to stderr."""
        wait_until(lambda: words in self.process.stderr, words)

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, limit_s: float = LIMIT_S) -> Outcome:
        """What the run has left when it ends by itself; fails when that takes longer than `limit_s`."""
        try:
            stdout, stderr = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            stdout, stderr = self.process.communicate()
            pytest.fail(f"Locust did not end within {limit_s:g} s:\n{stdout}\n{stderr}")
        return Outcome(self.process.returncode, stdout, stderr, self.folder)


@contextmanager
def started(*options: str, folder: Path, locustfile: str = "chat.py") -> Iterator[LocustProcess]:
    """A run that goes on, and is killed at the end if it still does."""
    run = LocustProcess(*options, folder=folder, locustfile=locustfile)
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


def run_locust(*options: str, folder: Path, locustfile: str = "chat.py", limit_s: float = LIMIT_S) -> Outcome:
    """A run from start to end."""
    with started(*options, folder=folder, locustfile=locustfile) as run:
        return run.wait(limit_s)


def first_calm(runs: Iterable[Outcome], is_calm: Callable[[Outcome], bool]) -> Outcome:
    """The first run that the machine did not disturb, by the run's own word."""
    calm = next((outcome for outcome in runs if is_calm(outcome)), None)
    assert calm is not None, "this machine disturbs every run"
    return calm


@dataclass(frozen=True)
class Simulator:
    """A simulator that listens, and where it notes what it sends."""

    url: str
    send_log: Path
    process: "subprocess.Popen[str]"

    def sent(self, run: str) -> dict[int, dict[str, Any]]:
        """What was sent in a run, to whatever worker, by the index of the request."""
        entries = (line for line in read_lines(self.send_log) if line["request_id"].startswith(f"{run}-"))
        return {int(entry["request_id"].rpartition("-")[2]): entry for entry in entries}

    def served(self, outcome: Outcome) -> dict[int, dict[str, Any]]:
        """What was sent in a run of which every request came here, as `sent`."""
        run, planned = outcome.summary["run"], outcome.summary["requests"]["planned"]
        # It writes its log when it has nothing better to do.
        wait_until(lambda: len(self.sent(run)) == planned, "the server's log")
        return self.sent(run)

    def in_flight(self) -> int:
        """Requests that wait or run."""
        with urlopen(f"{self.url}/load", timeout=5) as answer:
            load: int = json.load(answer)["server_load"]
        return load


@contextmanager
def simulator(folder: Path, *options: str) -> Iterator[Simulator]:
    """A simulator of its own; its send log is in `folder`."""
    log = folder / "sent.jsonl"
    command = [sys.executable, "-m", "vllm_locust", "simulate", "--port", "0", "--exit-with-parent"]
    with subprocess.Popen(
        [*command, "--send-log", str(log), *options], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            yield Simulator(ready.split()[-1], log, process)
        finally:
            process.terminate()


def counters(url: str) -> dict[str, float]:
    """A page of /metrics: the name of each sample -> its value, summed over the labels."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    values: dict[str, float] = {}
    for name, value in re.findall(r"^(\w[\w:]*)(?:\{.*\})? (\S+)$", page, re.MULTILINE):
        values[name] = values.get(name, 0.0) + float(value)
    return values


def growth(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By how much each counter has grown."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def wait_until(is_true: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
    """Return once `is_true` says so; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with suppress(OSError):
            if is_true():
                return
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {limit_s:g} s")


def assert_ended_with(code: int, outcome: Outcome) -> None:
    """This exit code; or that of a machine too busy to measure validly, or to send in time, which is said."""
    client, requests = outcome.summary["client"], outcome.summary["requests"]
    lost = any("accounted" in reason for reason in client["reasons"])
    too_busy = outcome.code == 4 and client["verdict"] == "invalid" and not lost
    dropped = {request["error"] for request in outcome.requests if request["outcome"] == "dropped"}
    too_late = outcome.code == 1 and dropped == {TOO_LATE} and not requests["failed"]
    assert outcome.code == code or too_busy or too_late, outcome.text


def assert_ended_well(outcome: Outcome) -> None:
    """No request failed, no gate was missed."""
    assert_ended_with(0, outcome)


def assert_nothing_is_lost(outcome: Outcome) -> None:
    """planned = ok + failed + dropped, with a line for each, and the summary agrees with the lines."""
    counts = outcome.summary["requests"]
    outcomes = [request["outcome"] for request in outcome.requests]
    assert counts["planned"] == counts["ok"] + counts["failed"] + counts["dropped"] == len(outcomes)
    assert counts["ok"] == outcomes.count("ok")
    assert sum(outcome.summary["failures"].values()) == counts["failed"]
    assert len({request["id"] for request in outcome.requests}) == len(outcomes)
    if outcome.summary["workers"]:
        return  # they have stocks of indices, and do not use them all
    indices = sorted(request["index"] for request in outcome.requests)
    assert indices == list(range(indices[0], indices[0] + len(outcomes)))


def column(requests: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The known values of a key."""
    return [request[key] for request in requests if request[key] is not None]


def most_at_once(requests: Sequence[Mapping[str, Any]]) -> int:
    """The largest number of requests in flight; all are ended."""
    sent_s, ended_s = (np.array(column(requests, name)) for name in ("sent_s", "ended_s"))
    return int(max(((sent_s <= at_s) & (at_s < ended_s)).sum() for at_s in sent_s))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
