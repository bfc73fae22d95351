"""Runs clients against the simulator and holds their claims against its log of true send times.

Truth: the simulator's kernel stamped the request's arrival, and the simulator noted the time just before each
token's send. Claim: what the client's own summary says. Error = claim - truth, over the same requests.

ours       this suite's client by itself, with one prompt of 40 words for all
planned    the same, with prompts of a scenario: 512 tokens each, every one different
observed   the same, with the server's metrics scraped and the exporter fetched once a second
usual      Locust's HttpUser with requests and sseclient-py
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
MODEL = "simulated/metronome"
METRICS = ("mean_ttft", "p99_ttft", "mean_e2el", "p99_e2el", "p99_itl")


@dataclass(frozen=True)
class Cell:
    """One client under one load: claims and truths in ms, and what the client's process used."""

    client: str
    streams: int
    requests: int
    tokens: int
    seconds: float
    claimed: Mapping[str, float]
    true: Mapping[str, float]
    cpu_s: float
    growth_mb: float
    observer_cpu: float
    """The share of a core that the process beside the client used."""
    itl_bounds_ms: Sequence[float]
    """How wrong a gap may be by the client's own account, mean and p99; empty where it gives none."""


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256, 512, 1024], help="users at once")
    parser.add_argument("--clients", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--seconds", type=int, default=20, help="length of each run")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each answer, one every 20 ms")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"answers of {options.tokens} tokens, one every 20 ms, all streams in one burst; times in ms\n")
    print(HEADER)
    for streams in options.streams:
        for client in options.clients:
            print(row(measure(client, streams, options.seconds, options.tokens)), flush=True)


def measure(client: str, streams: int, seconds: int, tokens: int) -> Cell:
    """Run `client` for `seconds` against a simulator of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with simulator(folder / "sent.jsonl") as url:
            environment = {
                **os.environ,
                "ANSWER_TOKENS": str(tokens),
                "MODEL": MODEL,
                "PROBE_FILE": str(folder / "probe.json"),
                "CLAIMS_FILE": str(folder / "claims.json"),
            }
            command = [
                sys.executable,
                "-m",
                "locust",
                "-f",
                f"{HERE / LOCUSTFILES[client]},{HERE / 'probe.py'}",
            ]
            command += ["--headless", "-u", str(streams), "-r", str(streams)]
            command += ["-t", f"{seconds}s", "--host", url]
            command += ["--only-summary", "--loglevel", "ERROR", "--stop-timeout", "60"]
            port = free_port()
            command += OPTIONS[client]
            if client == "planned":
                command += ["--set", f"output_len={tokens}"]
            if client != "usual":
                command += ["--results-dir", str(folder / "results"), "--exporter-port", "off"]
            if client == "observed":
                command += ["--exporter-port", str(port)]
            with Fetcher(port) as fetcher:
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if not (folder / "probe.json").exists():
                raise SystemExit(done.stderr or done.stdout)
        sent = pd.read_json(folder / "sent.jsonl", lines=True, dtype={"request_id": str})
        claimed, ids = CLIENTS[client](folder)
        used = json.loads((folder / "probe.json").read_text())
        served = sent.set_index("request_id").loc[ids]
        return Cell(
            client=client,
            streams=streams,
            requests=len(served),
            tokens=int(served.output_tokens.sum()),
            seconds=(served.sent_ns.str[-1].max() - served.received_ns.min()) / 1e9,
            claimed=claimed,
            true=truth(served),
            cpu_s=used["cpu_s"],
            growth_mb=used["late_mb"] - used.get("early_mb", used["late_mb"]),
            observer_cpu=fetcher.observer_cpu,
            itl_bounds_ms=itl_bounds(folder),
        )


def truth(served: pd.DataFrame) -> dict[str, float]:
    first, last = served.sent_ns.str[0], served.sent_ns.str[-1]
    gaps = np.concatenate([np.diff(np.array(stamps, np.int64)) for stamps in served.sent_ns])
    return statistics((first - served.received_ns) / 1e9, (last - served.received_ns) / 1e9, gaps / 1e9)


def itl_bounds(folder: Path) -> Sequence[float]:
    summary = folder / "results" / "summary.json"
    if not summary.exists():
        return ()
    account = json.loads(summary.read_text())["client"]
    return account["itl_bound_mean_ms"], account["itl_bound_p99_ms"]


def claims_of_ours(folder: Path) -> tuple[dict[str, float], Sequence[str]]:
    summary = json.loads((folder / "results" / "summary.json").read_text())
    requests = pd.read_json(folder / "results" / "requests.jsonl", lines=True)
    if (requests.outcome != "ok").any():
        raise SystemExit(f"requests failed: {requests.outcome.value_counts().to_dict()}")
    claimed = {metric: summary[f"{metric}_ms"] or 0.0 for metric in METRICS}
    return claimed, [f"{summary['run']}-0-{index}" for index in requests["index"]]


def claims_of_usual(folder: Path) -> tuple[dict[str, float], Sequence[str]]:
    claims = [claim for claim in json.loads((folder / "claims.json").read_text()) if claim["arrivals_s"]]
    gaps = np.concatenate([np.diff(claim["arrivals_s"]) for claim in claims])
    claimed = statistics(
        np.array([claim["arrivals_s"][0] - claim["sent_s"] for claim in claims]),
        np.array([claim["arrivals_s"][-1] - claim["sent_s"] for claim in claims]),
        gaps,
    )
    return claimed, [claim["request_id"] for claim in claims]


def statistics(ttft_s: Any, e2el_s: Any, gaps_s: Any) -> dict[str, float]:
    """In ms, under the names of METRICS."""
    return {
        "mean_ttft": float(np.mean(ttft_s)) * 1000,
        "p99_ttft": float(np.percentile(ttft_s, 99)) * 1000,
        "mean_e2el": float(np.mean(e2el_s)) * 1000,
        "p99_e2el": float(np.percentile(e2el_s, 99)) * 1000,
        "p99_itl": float(np.percentile(gaps_s, 99)) * 1000 if len(gaps_s) else 0.0,
    }


CLIENTS = {
    "ours": claims_of_ours,
    "planned": claims_of_ours,
    "observed": claims_of_ours,
    "usual": claims_of_usual,
}
LOCUSTFILES = {"ours": "ours.py", "planned": "planned.py", "observed": "ours.py", "usual": "usual.py"}
OPTIONS = {
    "ours": ["--server-metrics-url", "off"],
    "planned": ["--server-metrics-url", "off", "--scenario", "worst_case", "--set", "input_len=512"],
    "observed": [],
    "usual": [],
}


@contextmanager
def simulator(send_log: Path) -> Iterator[str]:
    """A simulator whose every step takes 20 ms, in a process of its own."""
    command = [sys.executable, "-m", "vllm_locust", "simulate", "--preset", "metronome", "--port", "0"]
    with subprocess.Popen(
        [*command, "--send-log", str(send_log), "--exit-with-parent"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.rsplit(" ", 1)[-1].strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


class Fetcher:
    """Fetches the exporter's page once a second, as Prometheus does, and looks at what its process uses."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._over = Event()
        self._thread = Thread(target=self._fetch)
        self._seen: list[tuple[float, float]] = []

    @property
    def observer_cpu(self) -> float:
        """CPU seconds per second between the first fetch and the last one, without its start."""
        if len(self._seen) < 2:
            return 0.0
        (began_s, before_s), *_, (ended_s, after_s) = self._seen
        return (after_s - before_s) / (ended_s - began_s)

    def __enter__(self) -> "Fetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _fetch(self) -> None:
        while not self._over.wait(1.0):
            with suppress(OSError):
                urlopen(self._url, timeout=5).read()
                cpu_s = cpu_seconds_of(b"vllm_locust.observe")
                self._seen.append((time.perf_counter(), cpu_s))


def cpu_seconds_of(module: bytes) -> float:
    """CPU seconds of the process that runs a module."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if module in (folder / "cmdline").read_bytes().split(b"\0"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    raise ProcessLookupError(module)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


HEADER = (
    "| client | streams (tok/s) | "
    + " | ".join(f"{metric.replace('_', ' ')}: truth, claim, error" for metric in METRICS)
    + " | CPU us per token | CPU us per request | memory growth after 10 s | CPU beside"
    + " | bound of an ITL: mean, p99 |\n"
    + f"|{'---|' * (len(METRICS) + 7)}"
)


def row(cell: Cell) -> str:
    pairs = [(cell.true[metric], cell.claimed[metric]) for metric in METRICS]
    cells = [f"{true:.1f}, {claimed:.1f}, **{claimed - true:+.2f}**" for true, claimed in pairs]
    rate = cell.tokens / cell.seconds
    return (
        f"| {cell.client} | {cell.streams} ({rate:.0f}) | "
        + " | ".join(cells)
        + f" | {cell.cpu_s / cell.tokens * 1e6:.1f} | {cell.cpu_s / cell.requests * 1e6:.0f}"
        + f" | {cell.growth_mb:+.0f} MB | {cell.observer_cpu:.1%}"
        + f" | {', '.join(f'{bound:.3f}' for bound in cell.itl_bounds_ms) or 'none'} |"
    )


if __name__ == "__main__":
    main()
