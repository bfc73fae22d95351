"""Live monitoring end to end: runs and their exporter, another exporter beside it, a real Prometheus, and the
queries of all boards.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from tests.locust_command import (
    HEADLESS,
    PATIENT,
    ROOT,
    Outcome,
    assert_ended_well,
    assert_nothing_is_lost,
    column,
    counters,
    free_port,
    in_processes,
    run_locust,
    simulator,
    wait_until,
)
from tests.real.debian import program
from tests.real.grafana_checks import panel_values, promtool_problems, unanswered_queries

pytestmark = pytest.mark.timeout(600)

RULES = ROOT / "grafana" / "rules"


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that scrapes exporters every second."""

    url: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query."""
        fields = {"query": expression, **({} if at_s is None else {"time": str(at_s)})}
        with urlopen(f"{self.url}/api/v1/query?{urlencode(fields)}", timeout=60) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def last(self, selector: str) -> float:
        """The sum of the last values of some series."""
        series = self.query(f"sum(last_over_time({selector}[10m]))")
        assert series, f"nothing for {selector}"
        return float(series[0]["value"][1])


@dataclass(frozen=True)
class Monitored:
    """What Prometheus has seen, and what there was to see."""

    prometheus: Prometheus
    began_s: float
    ended_s: float
    ladder: Outcome
    short: Outcome
    """A run without --goodput, after the ladder."""
    server: dict[str, float]
    """Its own counters, which began at zero."""

    def values(self, *place: str, every_s: int | None = None) -> list[float]:
        """What a board's query says of the time of both runs: board, panel, refId."""
        board, panel, ref = place
        return panel_values(self.prometheus.url, self.began_s, self.ended_s, (board, panel, ref), every_s)

    def of_requests(self, key: str) -> list[float]:
        """The known values in both runs' requests."""
        return column([*self.ladder.requests, *self.short.requests], key)


@contextmanager
def prometheus(folder: Path, *exporter_ports: int) -> Iterator[Prometheus]:
    """Scrapes these ports every second, with the project's rules."""
    port = free_port()
    targets = ", ".join(f'"127.0.0.1:{each}"' for each in exporter_ports)
    config = folder / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}/vllm-locust.yml"]
scrape_configs:
  - job_name: vllm-locust
    static_configs: [{{targets: [{targets}]}}]
"""
    )
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    url = f"http://127.0.0.1:{port}"
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            wait_until(lambda: is_ready(url), "Prometheus", limit_s=120)
            yield Prometheus(url)
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    with suppress(OSError), urlopen(f"{url}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@contextmanager
def exporter(url: str, port: int) -> Iterator[None]:
    """`vllm-locust exporter`, which watches a server without a run."""
    command = [sys.executable, "-m", "vllm_locust", "exporter", "--server-metrics-url", url]
    with subprocess.Popen([*command, "--exporter-port", str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """A ladder on two processes and a short run, seen by their exporter and by one that is there all day."""
    folder = tmp_path_factory.mktemp("monitored")
    port, daily_port = free_port(), free_port()
    with (
        simulator(folder, "--max-num-seqs", "6", "--num-gpu-blocks-override", "60") as server,
        exporter(server.url, daily_port),
        prometheus(folder, port, daily_port) as watching,
    ):
        wait_until(lambda: bool(watching.query("vllm_locust_server_up == 1")), "the exporter")
        began_s = time.time()
        common = ("--host", server.url, "--server-metrics-url", server.url, "--exporter-port", str(port))
        ladder = run_locust(
            "--headless", *in_processes(2), *common,
            "--scenario", "ss:8,sl:1,ls:2,ll:1", "--ladder", "2,8", "--step-time", "15s",
            "--max-tokens", "60", "--goodput", "ttft:100",
            folder=folder / "ladder", locustfile=PATIENT,
        )  # fmt: skip
        short = run_locust(*HEADLESS, *common, "--max-tokens", "60", "-t", "8s", folder=folder / "short")
        idle = "sum(rate(vllm_locust_server_generation_tokens_total[16s])) == 0"  # as far as boards look back
        wait_until(lambda: bool(watching.query(idle)), "no tokens any more", limit_s=120)
        yield Monitored(watching, began_s, time.time(), ladder, short, counters(server.url))


def test_counters_are_those_of_the_summary(monitored: Monitored) -> None:
    watching = monitored.prometheus
    for outcome in (monitored.ladder, monitored.short):
        assert_ended_well(outcome)
        assert_nothing_is_lost(outcome)
        summary = outcome.summary
        run = f'run="{summary["run"]}"'
        assert (
            watching.last(f'vllm_locust_requests_total{{{run}, outcome="ok"}}') == summary["requests"]["ok"]
        )
        for family in ("ttft", "e2e", "tpot"):
            assert watching.last(f"vllm_locust_{family}_seconds_count{{{run}}}") == summary["completed"]
        assert watching.last(f"vllm_locust_output_tokens_total{{{run}}}") == summary["total_output_tokens"]
        assert watching.last(f"vllm_locust_prompt_tokens_total{{{run}}}") == summary["total_input_tokens"]
    assert len(watching.query("count by (run) (last_over_time(vllm_locust_users[10m]))")) == 2


def test_every_query_of_every_board_has_an_answer(monitored: Monitored) -> None:
    assert unanswered_queries(monitored.prometheus.url, monitored.began_s, monitored.ended_s) == []


def test_good_requests_are_a_share_of_runs_that_have_limits(monitored: Monitored) -> None:
    (share,) = monitored.values("load-test", "Good requests", "A")
    ladder = monitored.ladder.summary
    assert share == pytest.approx(ladder["request_goodput"] / ladder["request_throughput"])
    assert 0 < share < 1, "else it could be any share"
    assert monitored.short.summary["completed"] > 0


@pytest.mark.parametrize("board", ["load-test", "client-vs-server"])
def test_a_servers_tokens_count_once_whoever_looks(monitored: Monitored, board: str) -> None:
    """The integral of the rate is what the server made, and what the clients got of all requests.

    A window of 16 s holds 15 steps between scrapes of a second each, and stretches them to 16: only a value
    every second counts each step as often as all others. Scrapes that a busy machine delays are stretched
    further, but by nothing like the double that two who look would make.
    """
    per_s = monitored.values(board, "Tokens per second", "B", every_s=1)
    assert len(monitored.prometheus.query("vllm_locust_server_up")) == 1, "the one that is there all day"
    drawn = sum(per_s)
    assert drawn == pytest.approx(monitored.server["vllm:generation_tokens_total"], rel=0.2)
    assert drawn == pytest.approx(sum(monitored.of_requests("output_tokens")), rel=0.2)


def test_the_gap_between_both_sides_is_that_of_their_means(monitored: Monitored) -> None:
    """Simulator and client are neighbours: nearly none, but on a busy machine."""
    gaps = monitored.values("client-vs-server", "Gap of the means, client − server", "A")
    of_client = mean(monitored.of_requests("total_s"))
    of_server = (
        monitored.server["vllm:e2e_request_latency_seconds_sum"]
        / monitored.server["vllm:e2e_request_latency_seconds_count"]
    )
    assert mean(gaps) == pytest.approx(of_client - of_server, abs=0.1)


def test_rules_and_configuration_are_sound() -> None:
    program("prometheus")  # which brings promtool
    assert promtool_problems() == []
