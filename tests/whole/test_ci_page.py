"""The pipelines of docs/ci.md, run as they stand there, but on a simulator and with short runs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.locust_command import free_port
from tests.zygote import environment

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("curl") is None, reason="they wait for a server with curl"),
]

PAGE = (Path(__file__).parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
(LOCUSTFILE,) = (text for language, text in BLOCKS if language == "python")
GITHUB, GITLAB = (yaml.safe_load(text) for language, text in BLOCKS if language == "yaml")
STEPS = GITHUB["jobs"]["load-test"]["steps"]

# Short runs, with gates that the slowest machine holds: they end when enough is measured to tell.
VARIABLES = {"TIME": "10m", "WARMUP": "0s", "TTFT_MS": "60000", "TPOT_MS": "60000"}
CONFIG = """
num-prompts = 80
max-tokens = 60
exporter-port = off
"""

# In place of `vllm serve MODEL`, whose options the simulator has too; and of GitHub's own command.
VLLM = """#!/bin/sh
[ "$1" = serve ] || exit 2
shift 2
echo $$ > server.pid
exec vllm-locust simulate "$@"
"""
GH = """#!/bin/sh
echo "$@" > gh.txt
"""


@dataclass
class Checkout:
    """A repository with the locustfile of the page, in which a runner works."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A script, by a shell as the runner starts it."""
        bin_ = f"{self.folder / 'bin'}:{Path(sys.executable).parent}"
        return subprocess.run(
            ["bash", *flags, "-c", script],
            cwd=self.folder,
            env={**environment(), **self.variables, **variables, "PATH": f"{bin_}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def make_runs_alike(self) -> None:
        """As the first one, and valid: what a comparison says of them is then no matter of this machine."""
        files = sorted(self.folder.glob("results/*/summary.json"))
        summary = json.loads(files[0].read_text(encoding="utf-8"))
        client = summary["client"]
        for judged in (client, client["load"], *client["metrics"].values()):
            judged.update(verdict="valid", reasons=[])
        for file in files:
            run = json.loads(file.read_text(encoding="utf-8"))["run"]  # a copy would be no run more
            file.write_text(json.dumps({**summary, "run": run}), encoding="utf-8")

    def junit(self) -> Mapping[str, Sequence[str]]:
        """Of each file that was written the elements that are not a passed case."""
        return {
            file.name: [
                case.tag for case in ElementTree.parse(file).iter() if case.tag in ("failure", "error")
            ]
            for file in self.folder.glob("junit/*.xml")
        }


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    files = {"bin/vllm": VLLM, "bin/gh": GH, "bench/locustfile.py": LOCUSTFILE, "locust.conf": CONFIG}
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
    yield Checkout(tmp_path, {"PORT": str(free_port()), **VARIABLES})
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "server.pid").read_text()), signal.SIGTERM)


def on_github(checkout: Checkout, names: Sequence[str]) -> Mapping[str, int]:
    """Run these steps as GitHub does: after a failure only those that are always run. Their exit codes."""
    codes: dict[str, int] = {}
    for step in STEPS:
        name = step.get("name")
        if name not in names or (any(codes.values()) and "always()" not in step.get("if", "")):
            continue
        variables = {
            key: "7" if "event.number" in value else "-" for key, value in step.get("env", {}).items()
        }
        done = checkout.run(step["run"], "-e", **variables)
        print(name, done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        codes[name] = done.returncode
    return codes


def test_a_pull_request_is_measured_compared_and_told_of_the_result(checkout: Checkout) -> None:
    job = GITHUB["jobs"]["load-test"]
    checkout.variables = {
        **{name: str(value) for name, value in job["env"].items()},
        "GITHUB_STEP_SUMMARY": str(checkout.folder / "step.md"),
        **checkout.variables,
    }
    assert on_github(checkout, ["Start the server", "Measure"]) == {"Start the server": 0, "Measure": 0}
    checkout.make_runs_alike()

    # The first comparison is with the same runs, as the page says how a baseline is made of them.
    (command,) = re.findall(r"^ {4}(vllm-locust compare --write-baseline .*)$", PAGE, re.MULTILINE)
    assert checkout.run(command, "-e").returncode == 0
    rest = ["Compare with the baseline", "Report", "Comment on the pull request"]
    assert on_github(checkout, rest) == dict.fromkeys(rest, 0)
    told = checkout.text("summary.md")
    assert "| metric " in told
    assert "### Objectives" in told
    assert checkout.text("step.md") == told
    assert checkout.text("gh.txt").split()[:3] == ["pr", "comment", "7"]
    assert "<html" in checkout.text("page/report.html")[:500]
    expected = {"run-1.xml", "run-2.xml", "run-3.xml", "run-4.xml", "compare.xml"}
    assert checkout.junit() == {name: [] for name in expected}

    # The second one is with a server that was twice as fast.
    baseline = checkout.folder / "bench" / "baseline.json"
    baseline.write_text(halved(json.loads(baseline.read_text(encoding="utf-8"))), encoding="utf-8")
    codes = on_github(checkout, rest)
    assert codes == {**dict.fromkeys(rest, 0), "Compare with the baseline": 3}
    assert "**regression**" in checkout.text("summary.md")
    assert "failure" in checkout.junit()["compare.xml"]
    uploaded = STEPS[-1]["with"]["path"].split()
    assert all((checkout.folder / path).exists() for path in uploaded)


def halved(baseline: dict[str, Any]) -> str:
    """With all latencies half as long."""
    for runs in baseline["cells"].values():
        for run in runs:
            numbers = run["numbers"]
            run["numbers"] = {k: v / 2 if v and k.endswith("_ms") else v for k, v in numbers.items()}
    return json.dumps(baseline)


def test_a_merge_request_has_test_cases_also_of_what_cannot_be_told(checkout: Checkout) -> None:
    """One run only, which is too few to compare."""
    job = GITLAB["load-test"]
    checkout.variables = {**job["variables"], **checkout.variables, "RUNS": "1"}
    *measure, compare = job["script"]
    measured = checkout.run("\n".join(measure), "-eo", "pipefail")
    assert measured.returncode == 0, measured.stdout + measured.stderr
    checkout.make_runs_alike()
    checkout.run("vllm-locust compare --write-baseline bench/baseline.json results")
    assert checkout.run(compare, "-eo", "pipefail").returncode == 4
    assert checkout.run("\n".join(job["after_script"]), "-eo", "pipefail").returncode == 0
    files = checkout.junit()
    assert files["run-1.xml"] == []
    assert "error" in files["compare.xml"]
    assert all((checkout.folder / path).exists() for path in job["artifacts"]["paths"])
    assert job["artifacts"]["reports"]["junit"] == "junit/*.xml"
