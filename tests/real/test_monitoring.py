"""Live monitoring end to end: two processes, their exporter, a real Prometheus, the queries of all boards."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.locust_command import (
    ROOT,
    Outcome,
    assert_ended_well,
    assert_nothing_is_lost,
    free_port,
    in_processes,
    run_locust,
    simulator,
    wait_until,
)
from tests.real.debian import program
from tests.real.grafana_checks import promtool_problems, unanswered_queries

pytestmark = pytest.mark.timeout(600)

RULES = ROOT / "grafana" / "rules"


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that scrapes one exporter every second."""

    url: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query."""
        fields = {"query": expression, **({} if at_s is None else {"time": str(at_s)})}
        with urlopen(f"{self.url}/api/v1/query?{urlencode(fields)}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def last(self, selector: str) -> float:
        """The sum of the last values of some series."""
        series = self.query(f"sum(last_over_time({selector}[10m]))")
        assert series, f"nothing for {selector}"
        return float(series[0]["value"][1])


Monitored = tuple[Prometheus, Outcome, tuple[float, float]]


@contextmanager
def prometheus(folder: Path, exporter_port: int) -> Iterator[Prometheus]:
    """Scrapes `exporter_port` every second, with the project's rules."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}/vllm-locust.yml"]
scrape_configs:
  - job_name: vllm-locust
    static_configs: [{{targets: ["127.0.0.1:{exporter_port}"]}}]
"""
    )
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    url = f"http://127.0.0.1:{port}"
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_until(lambda: is_ready(url), "Prometheus", limit_s=60)
            yield Prometheus(url)
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    with suppress(OSError), urlopen(f"{url}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """A ladder on two processes that Prometheus has watched, its outcome, and when it was."""
    folder = tmp_path_factory.mktemp("monitored")
    port = free_port()
    with (
        simulator(folder, "--max-num-seqs", "6", "--num-gpu-blocks-override", "60") as server,
        prometheus(folder, port) as watching,
    ):
        began_s = time.time()
        outcome = run_locust(
            "--headless", *in_processes(2), "--host", server.url, "--server-metrics-url", server.url,
            "--scenario", "ss:8,sl:1,ls:2,ll:1", "--ladder", "2,8", "--step-time", "15s",
            "--max-tokens", "60", "--goodput", "ttft:1000", "--exporter-port", str(port),
            folder=folder / "results", limit_s=120,
        )  # fmt: skip
        yield watching, outcome, (began_s, time.time())


def test_counters_are_those_of_the_summary(monitored: Monitored) -> None:
    watching, outcome, _ = monitored
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    summary = outcome.summary
    assert watching.last('vllm_locust_requests_total{outcome="ok"}') == summary["requests"]["ok"]
    for family in ("ttft", "e2e", "tpot"):
        assert watching.last(f"vllm_locust_{family}_seconds_count") == summary["completed"]
    assert watching.last("vllm_locust_output_tokens_total") == summary["total_output_tokens"]
    assert watching.last("vllm_locust_prompt_tokens_total") == summary["total_input_tokens"]
    assert len(watching.query("count by (run) (last_over_time(vllm_locust_users[10m]))")) == 1


def test_every_query_of_every_board_has_an_answer(monitored: Monitored) -> None:
    watching, _, (began_s, ended_s) = monitored
    assert unanswered_queries(watching.url, began_s, ended_s) == []


def test_rules_and_configuration_are_sound() -> None:
    program("prometheus")  # which brings promtool
    assert promtool_problems() == []
