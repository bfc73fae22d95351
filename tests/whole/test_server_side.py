"""The server beside the client as users have it: in results, for Prometheus, and when things go wrong."""

import csv
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.balancer import balancer
from tests.locust_command import (
    HEADLESS,
    Outcome,
    Simulator,
    assert_ended_well,
    assert_ended_with,
    assert_nothing_is_lost,
    counters,
    first_calm,
    free_port,
    growth,
    in_processes,
    run_locust,
    simulator,
    started,
    wait_until,
)
from vllm_locust.observe.addresses import DEFAULT_PORT

BOTH_SIDES = ("--server-metrics-interval", "0.2")
MANY = 8
"""Of so many runs one is calm, however busy the machine is."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """A simulator that nobody else asks meanwhile: its counters are this module's."""
    with simulator(tmp_path_factory.mktemp("server"), "--served-model-name", "tiny") as running:
        yield running


def on(server: Simulator) -> tuple[str, ...]:
    return (*HEADLESS, "--host", server.url, "--server-metrics-url", server.url, *BOTH_SIDES)


class Prometheus:
    """Fetches a page every so often, as Prometheus does; `last` is what it got last."""

    def __init__(self, port: int, interval_s: float = 0.5) -> None:
        self.pages = 0
        self.last = ""
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._interval_s = interval_s
        self._over = Event()
        self._thread = Thread(target=self._fetch)

    def __enter__(self) -> "Prometheus":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _fetch(self) -> None:
        while not self._over.wait(self._interval_s):
            with suppress(OSError), urlopen(self._url, timeout=5) as answer:
                self.last = answer.read().decode()
                self.pages += 1

    def samples(self) -> Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.last)
            for sample in family.samples
        }

    def sees(self, name: str) -> bool:
        """Whether there was something of this in the last page, which was not the first."""
        return self.pages > 1 and any(known == name and value for (known, _), value in self.samples().items())

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name that have these labels."""
        values = [
            value
            for (known, pairs), value in self.samples().items()
            if known == name and labels.items() <= dict(pairs).items()
        ]
        assert values, f"no sample of {name} with {labels}"
        return sum(values)


@pytest.mark.parametrize("processes", [1, 2])
def test_summary_exporter_and_server_agree(own_server: Simulator, tmp_path: Path, processes: int) -> None:
    before = {}

    def runs() -> Iterator[Outcome]:
        for number in range(MANY):
            before.update(counters(own_server.url))
            port = free_port()
            with Prometheus(port) as prometheus:
                outcome = run_locust(
                    *on(own_server), *in_processes(processes), "--scenario", "ss:1,ll:1",
                    "--num-prompts", "40", "--max-tokens", "30", "--goodput", "ttft:1000",
                    "--exporter-port", str(port), folder=tmp_path / str(number),
                )  # fmt: skip
            assert_ended_well(outcome)
            assert_the_exporter_counts_alike(prometheus, outcome)
            assert "The Server's Side" in outcome.stdout
            yield outcome

    outcome = first_calm(runs(), lambda outcome: stood_so(before, table(outcome)[0]))
    rows = table(outcome)
    assert_the_server_agrees(outcome, growth(before, counters(own_server.url)))
    assert float(rows[-1]["generation_tokens_total"]) - float(rows[0]["generation_tokens_total"]) == 1200
    assert max(float(row["running"]) for row in rows) == outcome.summary["server"]["requests_running_peak"]


def stood_so(before: Mapping[str, float], look: Mapping[str, Any]) -> bool:
    """Whether the server was looked at before it had anything of the load."""
    idle = float(look["running"]) == float(look["waiting"]) == 0
    return idle and float(look["prompt_tokens_total"]) == before.get("vllm:prompt_tokens_total", 0.0)


def assert_the_exporter_counts_alike(prometheus: Prometheus, outcome: Outcome) -> None:
    summary = outcome.summary
    assert prometheus.total("vllm_locust_requests_total", outcome="ok") == summary["requests"]["ok"] == 40
    for family, key in (("ttft", "ttft"), ("e2e", "e2el"), ("tpot", "tpot")):
        count = prometheus.total(f"vllm_locust_{family}_seconds_count")
        # A client that is put aside reads an answer in one piece now and then: that one has no TPOT.
        measured = [request for request in outcome.requests if family != "tpot" or request["tpot_s"]]
        assert count == len(measured)
        mean_ms = prometheus.total(f"vllm_locust_{family}_seconds_sum") / count * 1000
        assert mean_ms == pytest.approx(summary[f"mean_{key}_ms"])
    assert prometheus.total("vllm_locust_output_tokens_total") == summary["total_output_tokens"]
    assert prometheus.total("vllm_locust_prompt_tokens_total") == summary["total_input_tokens"]
    good = prometheus.total("vllm_locust_goodput_requests_total")
    assert good / summary["duration"] == pytest.approx(summary["request_goodput"])
    assert prometheus.total("vllm_locust_run_running") == 0
    assert prometheus.total("vllm_locust_server_up") == 1
    runs = {dict(labels).get("run") for _, labels in prometheus.samples()} - {None}
    assert runs == {summary["run"]}


def assert_the_server_agrees(outcome: Outcome, grown: Mapping[str, float]) -> None:
    """With its own page, by which its counters have `grown`."""
    server = outcome.summary["server"]
    assert server["requests_finished"] == grown["vllm:request_success_total"] == 40
    assert server["prompt_tokens"] == grown["vllm:prompt_tokens_total"]
    assert server["generation_tokens"] == outcome.summary["total_output_tokens"] == 40 * 30
    assert server["preemptions"] == 0
    assert 1 <= server["requests_running_peak"] <= 4  # as seen five times a second
    assert 0 < server["kv_cache_usage_mean"] <= server["kv_cache_usage_peak"] < 1
    both = server["reconciliation"]
    assert both["tokens"]["prompt"] == {"client": grown["vllm:prompt_tokens_total"]} | {
        "server": grown["vllm:prompt_tokens_total"]
    }
    for family, name in (("ttft", "time_to_first_token"), ("e2el", "e2e_request_latency")):
        mean_ms = grown[f"vllm:{name}_seconds_sum"] / grown[f"vllm:{name}_seconds_count"] * 1000
        assert both[family]["server_mean_ms"] == pytest.approx(mean_ms)
        assert both[family]["client_mean_ms"] == outcome.summary[f"mean_{family}_ms"]
        assert both[family]["server_count"] == both[family]["client_count"] == 40


def test_each_step_has_its_own_server_side(own_server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(
        "--headless", "--host", own_server.url, "--server-metrics-url", own_server.url, *BOTH_SIDES,
        "--scenario", "ss", "--ladder", "1,4", "--step-time", "1.5s",
        "--step-warmup", "0.5s", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    one, four = outcome.summary["phases"]
    assert one["server"]["requests_running_peak"] == 1
    assert 1 <= four["server"]["requests_running_peak"] <= 4
    for step in (one, four):
        least, most = finished_in(step, table(outcome))
        assert least <= step["server"]["requests_finished"] <= most
        assert least - step["users"] <= step["completed"] <= most + step["users"]
    total = outcome.summary["server"]["requests_finished"]
    assert total == one["server"]["requests_finished"] + four["server"]["requests_finished"]


def finished_in(step: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """How many requests the server finished in the window of a step, at least and at most, by its looks."""
    looks = [(float(row["time_s"]), float(row["requests_finished_total"])) for row in rows]
    start_s, end_s = step["start_s"], step["end_s"]
    inside = [count for at_s, count in looks if start_s <= at_s <= end_s]
    before = [count for at_s, count in looks if at_s < start_s]
    behind = [count for at_s, count in looks if at_s > end_s]
    return max(inside, default=0) - min(inside, default=0), min(behind) - max(before)


def test_a_server_without_metrics_is_said_once(own_server: Simulator, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}/metrics"
    url = f"http://me:secret@{address}"
    outcome = run_locust(
        *HEADLESS, "--host", own_server.url, "--server-metrics-url", url, *BOTH_SIDES, "-t", "2s",
        "--scenario", "ss", folder=tmp_path / "results",
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    (source,) = outcome.summary["server"]["sources"]
    assert not source["up"]
    assert outcome.stderr.count(address) == 1, outcome.stderr
    assert "secret" not in outcome.text + (outcome.folder / "run.json").read_text()
    assert not (outcome.folder / "server_metrics.csv").exists()


def test_nothing_is_asked_when_nothing_is_to_be(own_server: Simulator, tmp_path: Path) -> None:
    outcome = run_locust(
        *HEADLESS, "--host", own_server.url, "--num-prompts", "4", "--scenario", "ss", folder=tmp_path / "r"
    )
    assert_ended_well(outcome)
    assert outcome.summary["server"] is None


def test_a_log_is_a_source(own_server: Simulator, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text("INFO 07-14 14:38:06 [api.py:1] started\n")
    line = (
        "(APIServer pid=1) INFO 11-20 21:22:01 [loggers.py:335] Engine 000: Avg prompt throughput: 10.0 "
        "tokens/s, Avg generation throughput: 20.5 tokens/s, Running: 8 reqs, Waiting: 3 reqs, "
        "GPU KV cache usage: 25.0%, Prefix cache hit rate: 34.0%\n"
    )
    with started(
        *HEADLESS, "--host", own_server.url, "--server-log", str(log),
        "--scenario", "ss", folder=tmp_path / "results",
    ) as run:  # fmt: skip
        table = tmp_path / "results" / "server_metrics.csv"

        def is_read() -> bool:
            with log.open("a") as more:
                more.write(line)
            return len(rows_of(table)) > 1

        wait_until((tmp_path / "results" / "run.json").exists, "the run's begin")
        wait_until(is_read, "what the log says")
        outcome = run.stop()
    assert_ended_well(outcome)
    server = outcome.summary["server"]
    assert (server["requests_running_peak"], server["requests_waiting_peak"]) == (8, 3)
    assert server["kv_cache_usage_peak"] == 0.25


def test_a_busy_port_is_named(own_server: Simulator, tmp_path: Path) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcome = run_locust(
            *HEADLESS,
            "--host",
            own_server.url,
            "-t",
            "2s",
            "--exporter-port",
            str(port),
            folder=tmp_path / "r",
        )
    assert outcome.code == 2
    (problem,) = outcome.problems
    assert str(port) in problem
    assert not (tmp_path / "r").exists()


def test_the_usual_port_may_be_busy(own_server: Simulator, tmp_path: Path) -> None:
    with closing(socket.socket()) as other:
        with suppress(OSError):  # somebody else has it: as good
            other.bind(("127.0.0.1", DEFAULT_PORT))
            other.listen()
        outcome = run_locust(
            *HEADLESS, "--host", own_server.url, "--num-prompts", "8", "--scenario", "ss",
            "--exporter-port", str(DEFAULT_PORT), folder=tmp_path / "results",
        )  # fmt: skip
    assert_ended_well(outcome)
    assert re.search(rf"port {DEFAULT_PORT}.*no metrics for Prometheus", outcome.stderr)


def test_sigterm_tells_the_result_once(own_server: Simulator, tmp_path: Path) -> None:
    port = free_port()
    with (
        Prometheus(port) as prometheus,
        started(
            *on(own_server), "--scenario", "ss", "--exporter-port", str(port), folder=tmp_path / "results"
        ) as run,
    ):
        wait_until(lambda: prometheus.sees("vllm_locust_requests_total"), "a run to be seen twice")
        outcome = run.stop()
    assert_ended_well(outcome)
    assert outcome.stdout.count("Serving Benchmark Result") == 1
    assert prometheus.total("vllm_locust_requests_total") == outcome.summary["requests"]["planned"]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_a_run_goes_on_without_its_observer(
    own_server: Simulator, tmp_path: Path, signal_number: signal.Signals
) -> None:
    with started(*on(own_server), "--scenario", "ss", folder=tmp_path / "results") as run:
        wait_until(lambda: bool(run.requests), "the first requests")
        observer, before = run.observer, len(run.requests)
        os.kill(observer, signal_number)
        wait_until(lambda: len(run.requests) > before + 100, "more requests")
        outcome = run.stop()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert outcome.summary["server"] is not None
    assert not Path(f"/proc/{observer}").exists()


def test_an_observer_ends_with_a_run_that_is_killed(own_server: Simulator, tmp_path: Path) -> None:
    with started(*on(own_server), "--scenario", "ss", folder=tmp_path / "results") as run:
        wait_until((tmp_path / "results" / "requests.jsonl").exists, "the run's begin")
        observer = run.observer
        run.process.kill()
        wait_until(lambda: not Path(f"/proc/{observer}").exists(), "the observer's end")


def test_a_restarted_server_is_told(tmp_path: Path) -> None:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    options = (*HEADLESS, "--host", url, "--server-metrics-url", url, *BOTH_SIDES, "--scenario", "ss")
    with (
        simulator(tmp_path, "--port", port) as first,
        started(*options, "--slo", "error_rate<0.99", folder=tmp_path / "results") as run,
    ):
        seen = tmp_path / "results" / "server_metrics.csv"
        wait_until(lambda: finished(seen) > 5, "the first answers, as the server tells them")
        first.process.kill()
        first.process.wait()
        before = finished(seen)
        with simulator(tmp_path, "--port", port) as second:
            wait_until(lambda: finished(seen) > before + 20, "answers of the second, as it tells them")
            outcome = run.stop()
            after = counters(second.url)["vllm:request_success_total"]
    assert_ended_with(0, outcome)
    server = outcome.summary["server"]
    assert server["restarts"] == 1
    # All of the second's, and of the first's what was seen before its end.
    assert after < server["requests_finished"] <= outcome.summary["completed"]


def behind_a_balancer(own_server: Simulator, tmp_path: Path, metrics: str | None = None) -> Outcome:
    """A run with another server, of which each has half of four users' connections.

    Metrics are asked of the balancer, too, unless an address is given for them.
    """
    tmp_path.mkdir(exist_ok=True)
    with (
        simulator(tmp_path, "--served-model-name", "tiny") as other,
        balancer(own_server.url, other.url) as url,
    ):
        outcome = run_locust(
            *HEADLESS, "--host", url, "--server-metrics-url", metrics or url, *BOTH_SIDES, "-t", "4s",
            "--scenario", "ss", folder=tmp_path / "results",
        )  # fmt: skip
    assert_ended_well(outcome)
    return outcome


def assert_nothing_is_shown(server: Mapping[str, Any]) -> None:
    assert (server["generation_tokens"], server["kv_cache_usage_peak"], server["engines"]) == (None, None, [])


def test_of_servers_behind_a_balancer_of_connections_nothing_is_shown(
    own_server: Simulator, tmp_path: Path
) -> None:
    outcome = behind_a_balancer(own_server, tmp_path)
    assert outcome.summary["server"]["several_servers"]
    assert_nothing_is_shown(outcome.summary["server"])
    assert "name each of them with --server-metrics-url" in outcome.stdout
    assert "several servers take turns behind this address" in outcome.stderr


def test_of_one_of_two_servers_nothing_is_shown(own_server: Simulator, tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in range(MANY))
    runs = (behind_a_balancer(own_server, folder, metrics=own_server.url) for folder in folders)
    outcome = first_calm(runs, was_asked_throughout)
    server = outcome.summary["server"]
    assert server["partial"]
    assert_nothing_is_shown(server)
    assert "So its numbers are of a part of the load, and are left out." in outcome.stdout


def was_asked_throughout(outcome: Outcome) -> bool:
    """Else it may lack what it was not asked of."""
    server = outcome.summary["server"]
    return not server["first_look_late_s"] and server["covered_s"] >= 0.8 * outcome.summary["duration"]


def table(outcome: Outcome) -> list[Mapping[str, Any]]:
    return rows_of(outcome.folder / "server_metrics.csv")


def rows_of(server_metrics: Path) -> list[Mapping[str, Any]]:
    with server_metrics.open(newline="") as lines:
        return list(csv.DictReader(lines))


def finished(server_metrics: Path) -> float:
    """How many requests the server has finished, by what is written so far."""
    return float(rows_of(server_metrics)[-1]["requests_finished_total"])
