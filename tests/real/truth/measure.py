"""Claims of a real run, token by token, against what the kernel saw on the wire, under a disturbance.

    python -m tests.real.truth.measure [DISTURBANCE ...]      prints the table of docs/measuring.md

Truth is the stamp of the packet that completes a token's event, from a sniffer in a process of its own; where
a raw socket may not be opened it is the server's log, two moments between which the token was sent.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np

from tests.locust_command import ROOT, Outcome, started
from tests.real.truth.sniffer import HEAD

HERE = Path(__file__).parent
ALLOWED_S = 0.0001
USERS = 8
_RUN_S = 5
_LIMIT_S = 120.0

# Up to the byte that ends the event: of CRLF the CR does.
_TOKEN = re.compile(rb'"content":"([0-9]+)\.([0-9]+)".*?(?:\n\n|\r\n\r)', re.DOTALL)

Truth = Mapping[tuple[int, int], tuple[float, float]]
"""(request, number of the token) -> the two moments of `perf_counter` between which it was sent."""


class CannotBeDoneHereError(Exception):
    """This machine does not allow the disturbance, or the clock was set meanwhile."""


@dataclass(frozen=True)
class Measured:
    """Every token's claim, bound and truth in s, and what the run said of itself."""

    claims_s: Any
    bounds_s: Any
    truths_s: Any
    """Two columns."""
    contradictions: int
    witness: str
    outcome: Outcome

    @property
    def excess_s(self) -> Any:
        """By how much each token lies beyond its bound, on whichever side; negative inside it."""
        early_s = self.truths_s[:, 0] - self.claims_s
        late_s = self.claims_s - self.bounds_s - self.truths_s[:, 1]
        return np.maximum(early_s, late_s)


# -- disturbances: by name, what is done once the first request has come


def _nothing(_: int) -> None:
    pass


def _stop_and_go(pid: int) -> None:
    for _ in range(3):
        time.sleep(0.7)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(pid, signal.SIGCONT)


def _be_nice(pid: int) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)


@contextmanager
def _hogs() -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@contextmanager
def _quota() -> Iterator[Path]:
    """A control group that gets 15 ms of every 100."""
    group = f"vllm-locust-{os.getpid()}"
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    folder = (v1 if v1.is_dir() else v2) / group
    try:
        folder.mkdir()
    except OSError as error:
        raise CannotBeDoneHereError(f"no control group can be made: {error}") from None
    try:
        try:
            if v1.is_dir():
                (folder / "cpu.cfs_period_us").write_text("100000")
                (folder / "cpu.cfs_quota_us").write_text("15000")
            else:
                (folder / "cpu.max").write_text("15000 100000")
        except OSError as error:
            raise CannotBeDoneHereError(f"the control group takes no quota: {error}") from None
        yield folder
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (folder.parent / "cgroup.procs").write_text(pid)
        folder.rmdir()


@contextmanager
def _disturbance(name: str) -> Iterator[Callable[[int], None]]:
    """What to do to the process of this id; what needs no process is done already."""
    if name in ("hogs", "nice 19 and hogs"):
        with _hogs():
            yield _be_nice if name.startswith("nice") else _nothing
    elif name == "cpu quota":
        with _quota() as folder:
            yield lambda pid: (folder / "cgroup.procs").write_text(str(pid)) and None
    else:
        yield _stop_and_go if "stopped" in name else _nothing


@contextmanager
def _link(name: str) -> Iterator[tuple[str, str, str]]:
    """The interface, the server's address there, and the one that it has for its client."""
    if not name.startswith("packets out of order"):
        yield "lo", "127.0.0.1", "127.0.0.1"
        return
    # A pair of our own, of the addresses that are set aside for benchmarks.
    of_ours = ip_address("198.18.0.0") + os.getpid() % (1 << 14) * 4
    host, farther = str(of_ours + 1), str(of_ours + 2)
    with _process(_module("wire"), host, farther) as (_, interface):
        if not interface:
            raise CannotBeDoneHereError("no link that brings packets out of order can be made")
        yield interface, host, farther


DISTURBANCES = (
    "none",
    "stopped",
    "stopped, without kernel stamps",
    "hogs",
    "nice 19 and hogs",
    "cpu quota",
    "gc",
    "blocking task",
    "sleep in a listener",
    "packets out of order",
    "packets out of order, stopped",
)


# -- the run


def measure(name: str, folder: Path) -> Measured:
    """One run of chat.py under a disturbance. Raises CannotBeDoneHereError."""
    claims, packets, log = folder / "claims.jsonl", folder / "packets", folder / "sent.jsonl"
    offset_ns = _offset_ns()
    with ExitStack() as stack:
        interface, host, farther = stack.enter_context(_link(name))
        server, port = stack.enter_context(_process(_module("server"), str(log), host))
        witness = stack.enter_context(_sniffer(interface, int(port), packets))
        if witness is None and host != farther:
            raise CannotBeDoneHereError("the server does not know when what it sent comes out of the link")
        disturb = stack.enter_context(_disturbance(name))
        options = [
            "--headless",
            "-u",
            str(USERS + (name == "blocking task")),
            "-r",
            "100",
            "-t",
            f"{_RUN_S}s",
        ]
        options += ["--host", f"http://{farther}:{port}", "--max-tokens", "450", "--only-summary"]
        os.environ |= {"CLAIMS_FILE": str(claims), "DISTURBANCE": name}
        run = stack.enter_context(
            started(*options, folder=folder / "results", locustfile=f"chat.py,{HERE / 'probe.py'}")
        )
        assert server.stdout is not None
        if not server.stdout.readline():
            raise AssertionError(run.wait(0).text)
        disturb(run.process.pid)
        outcome = run.wait(_LIMIT_S)
        truths = _packets_truth(packets, offset_ns, witness) if witness else _log_truth(log)
    if abs(_offset_ns() - offset_ns) > 20_000:
        raise CannotBeDoneHereError("the clock was set during the run")
    return _joined(claims, truths, "packets" if witness else "the server's log", outcome)


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"tests.real.truth.{name}"]


@contextmanager
def _process(command: list[str], *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process, and the first line it says; "" when it ended instead."""
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def _sniffer(interface: str, port: int, file: Path) -> Iterator["subprocess.Popen[str] | None"]:
    with _process(_module("sniffer"), interface, str(port), str(file)) as (process, said):
        yield process if said else None


def _offset_ns() -> int:
    """`perf_counter_ns` minus the clock of the stamps: from the two readings that lay closest together."""

    def readings() -> tuple[int, int]:
        before_ns, stamp_ns, now_ns = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        return now_ns - before_ns, (before_ns + now_ns) // 2 - stamp_ns

    return min(readings() for _ in range(1000))[1]


def _packets_truth(file: Path, offset_ns: int, sniffer: "subprocess.Popen[str]") -> Truth:
    sniffer.send_signal(signal.SIGTERM)
    assert sniffer.stdout is not None
    lost = sniffer.stdout.readline()
    if not lost.startswith("0 "):
        raise CannotBeDoneHereError(f"the witness lost packets: {lost}")
    truths: dict[tuple[int, int], tuple[float, float]] = {}
    for stream, ends in _streams(file).values():
        stamps_ns = np.array([stamp for _, stamp in ends])
        positions = np.array([position for position, _ in ends])
        for key, position in _tokens(stream):
            at_s = (int(stamps_ns[np.searchsorted(positions, position)]) + offset_ns) / 1e9
            truths[key] = (at_s, at_s)
    return truths


def _streams(file: Path) -> dict[int, tuple[bytearray, list[tuple[int, int]]]]:
    """By the client's port, the bytes in order, and when they were there: (position of the end, stamp).

    A byte is there when all bytes before it are.
    """
    streams: dict[int, tuple[bytearray, list[tuple[int, int]]]] = {}
    first: dict[int, int] = {}
    early: dict[int, dict[int, bytes]] = defaultdict(dict)
    data, at = file.read_bytes(), 0
    while at < len(data):
        stamp_ns, port, sequence, size = HEAD.unpack_from(data, at)
        payload = data[at + HEAD.size : at + HEAD.size + size]
        at += HEAD.size + size
        stream, ends = streams.setdefault(port, (bytearray(), []))
        position = (sequence - first.setdefault(port, sequence)) % (1 << 32)
        early[port][position] = max(payload, early[port].get(position, b""), key=len)  # some are sent again
        while begins := [position for position in early[port] if position <= len(stream)]:
            for position in begins:
                stream += early[port].pop(position)[len(stream) - position :]
        if not ends or len(stream) > ends[-1][0]:
            ends.append((len(stream), stamp_ns))
    return streams


def _tokens(stream: bytes) -> Iterator[tuple[tuple[int, int], int]]:
    """Each token's (request, number) and where its event ends."""
    for token in _TOKEN.finditer(stream):
        yield (int(token[1]), int(token[2])), token.end()


def _log_truth(file: Path) -> Truth:
    lines = map(json.loads, file.read_text().splitlines())
    return {
        (line["index"], number): (before_s, after_s)
        for line in lines
        for number, (before_s, after_s) in enumerate(line["sent_s"])
    }


def _joined(claims: Path, truths: Truth, witness: str, outcome: Outcome) -> Measured:
    records = [json.loads(line) for line in claims.read_text().splitlines()]
    rows = [
        (claim_s, bound_s, *truths[record["index"], number])
        for record in records
        for number, (claim_s, bound_s) in enumerate(
            zip(record["arrivals_s"], record["bounds_s"], strict=True)
        )
    ]
    table = np.array(rows, np.float64)
    contradictions = sum(record["contradictions"] for record in records)
    return Measured(table[:, 0], table[:, 1], table[:, 2:], contradictions, witness, outcome)


# -- the table


def main(names: list[str]) -> None:
    print("| disturbance | tokens | beyond | worst by | bound p50 | p99 | max | contradicted | verdict |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in names or DISTURBANCES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, measure(name, Path(folder))), flush=True)


def row(name: str, measured: Measured) -> str:
    excess_s = measured.excess_s
    beyond = excess_s > ALLOWED_S
    worst_ms = max(float(excess_s.max()) * 1000, 0.0) if beyond.any() else 0.0
    bounds = " | ".join(f"{value * 1000:.3f}" for value in np.percentile(measured.bounds_s, [50, 99, 100]))
    return (
        f"| {name} | {len(excess_s)} | {beyond.mean():.2%} | {worst_ms:.1f} | {bounds} "
        f"| {measured.contradictions} | {measured.outcome.summary['client']['verdict']} |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
