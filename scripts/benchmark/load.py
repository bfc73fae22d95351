"""Whether the load is what was asked for, against the simulator.

lateness   an open loop at a constant rate in one process: sent - intended, and the rate that came of it
processes  the same streams for each process, with one and with two: how much more two carry for the same CPU
master     eight workers at 20 000 tokens per second in all: the master's CPU, and the size of the messages
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from compare import HERE, simulator

CHAT = HERE.parents[1] / "locustfiles" / "chat.py"


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=int, default=15, help="length of each run")
    parser.add_argument("--rate", type=int, default=1000, help="requests per second of the open loop")
    parser.add_argument("--streams", type=int, default=384, help="streams of each process in `processes`")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    for part in options.parts:
        PARTS[part](options)


def lateness(options: argparse.Namespace) -> None:
    for name, burstiness, tokens in (("constant", "inf", "1"), ("Poisson", "1", "1"), ("Poisson", "1", "4")):
        open_loop = ("--request-rate", str(options.rate), "--burstiness", burstiness)
        _, requests, probe = run(options.seconds, *open_loop, tokens=tokens)
        requests = requests[requests.sent_s.notna()]
        late_ms = (requests.sent_s - requests.intended_s) * 1000
        span_s = requests.intended_s.max() - requests.intended_s.min()
        sent_rate = (len(requests) - 1) / (requests.sent_s.max() - requests.sent_s.min())
        planned_rate = (len(requests) - 1) / span_s
        print(
            f"lateness   {name} {options.rate}/s, answers of {tokens}: {len(requests)} requests, late by "
            f"mean {late_ms.mean():.2f}, p50 {late_ms.quantile(0.5):.2f}, p99 {late_ms.quantile(0.99):.2f}, "
            f"max {late_ms.max():.1f} ms; rate sent / planned {sent_rate / planned_rate - 1:+.3%}, "
            f"planned / asked {planned_rate / options.rate - 1:+.2%}; "
            f"{probe['cpu_s'] / options.seconds:.0%} of a core",
            flush=True,
        )


def processes(options: argparse.Namespace) -> None:
    per_token = []
    for count in (1, 2):
        users = str(options.streams * count)
        many = ("--processes", str(count)) if count > 1 else ()
        summary, _, _ = run(options.seconds, *many, users=users, tokens="200")
        shares = summary["client"]["cpu_shares"].values()
        rate = summary["output_throughput"]
        per_token.append(sum(shares) / rate)
        print(
            f"processes  {count}: {rate:.0f} tok/s with {', '.join(f'{share:.0%}' for share in shares)} of a "
            f"core, {per_token[-1] * 1e6:.2f} us of CPU per token, {summary['client']['verdict']}",
            flush=True,
        )
    print(f"processes  for the same CPU each, two carry {2 * per_token[0] / per_token[1]:.2f} times one")


def master(options: argparse.Namespace) -> None:
    summary, _, probe = run(options.seconds, "--processes", "8", users="400", tokens="200")
    sizes = np.array(probe["messages"])
    print(
        f"master     8 workers, {summary['output_throughput']:.0f} tok/s: "
        f"{probe['cpu_s'] / options.seconds:.1%} of a core; {len(sizes)} reports, "
        f"mean {sizes.mean() / 1024:.1f}, largest {sizes.max() / 1024:.1f} KiB; "
        f"{summary['client']['verdict']}"
    )


PARTS = {"lateness": lateness, "processes": processes, "master": master}


def run(
    seconds: int, *options: str, users: str = "1", tokens: str
) -> tuple[Mapping[str, Any], pd.DataFrame, Mapping[str, Any]]:
    """One run against a simulator of its own: summary, requests, and what the leading process used."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with simulator(folder / "sent.jsonl") as url:
            command = [sys.executable, "-m", "locust", "-f", f"{CHAT},{HERE / 'probe.py'}", "--headless"]
            command += ["-u", users, "-r", users, "-t", f"{seconds}s", "--host", url, "--scenario", "ss"]
            command += ["--max-tokens", tokens, "--only-summary", "--loglevel", "ERROR", *options]
            command += ["--exporter-port", "off", "--server-metrics-url", "off"]
            command += ["--results-dir", str(folder / "results")]
            environment = {**os.environ, "PROBE_FILE": str(folder / "probe.json")}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not (folder / "results" / "summary.json").exists():
            raise SystemExit(done.stderr or done.stdout)
        return (
            json.loads((folder / "results" / "summary.json").read_text()),
            pd.read_json(folder / "results" / "requests.jsonl", lines=True),
            json.loads((folder / "probe.json").read_text()),
        )


if __name__ == "__main__":
    main()
