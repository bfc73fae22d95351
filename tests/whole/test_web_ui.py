"""A run from the web UI: our options on its form, our rows in its tables, a folder for each run."""

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.locust_command import (
    LocustProcess,
    Outcome,
    Simulator,
    assert_nothing_is_lost,
    column,
    read_json,
    run_locust,
    simulator,
    started,
    wait_until,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> str:
    with urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def post(url: str, fields: Mapping[str, object]) -> Any:
    with urlopen(url, urlencode(fields).encode(), timeout=60) as answer:
        return json.load(answer)


class Table:
    """Locust's statistics, as its page fetches them."""

    def __init__(self, ui: str) -> None:
        page = json.loads(get(f"{ui}/stats/requests"))
        self.state = page["state"]
        self.user_count = page["user_count"]
        self.counts = {(row["method"], row["name"]): row["num_requests"] for row in page["stats"]}

    @property
    def methods(self) -> set[str]:
        return {method for method, _ in self.counts if method}


@contextmanager
def web_ui(tmp_path: Path, *options: str) -> Iterator[tuple[str, dict[str, object], LocustProcess]]:
    """A web UI that waits for a start: its address, the fields of a start, and its process."""
    ui = f"http://127.0.0.1:{free_port()}"
    port = ui.rpartition(":")[2]
    with (
        simulator(tmp_path) as server,
        started(
            "--web-host", "127.0.0.1", "--web-port", port, "--host", server.url, *options,
            folder=tmp_path / "results",
        ) as run,
    ):  # fmt: skip
        wait_until(lambda: bool(get(ui)), "the web UI")
        yield ui, {"user_count": 2, "spawn_rate": 20, "host": server.url, "scenario": "ss"}, run


def end(run: LocustProcess) -> list[Outcome]:
    """What the runs have left, in their order."""
    run.process.terminate()
    ended = run.wait()
    return [
        Outcome(ended.code, ended.stdout, ended.stderr, folder) for folder in sorted(run.folder.iterdir())
    ]


def test_a_run_is_started_watched_and_stopped_in_the_browser(tmp_path: Path) -> None:
    ui = f"http://127.0.0.1:{free_port()}"
    folder = tmp_path / "results"
    with (
        simulator(tmp_path, "--api-key", "SECRET-1") as server,
        started(
            "--web-host", "127.0.0.1", "--web-port", ui.rpartition(":")[2],
            "--host", server.url, "--api-key", "SECRET-1", folder=folder,
        ) as run,
    ):  # fmt: skip
        wait_until(lambda: bool(get(ui)), "the web UI")
        form = get(ui)
        for option in ("scenario", "num_prompts", "max_tokens", "input_len", "warmup", "slo", "results_dir"):
            assert f'"{option}"' in form, option
        assert "SECRET-1" not in form

        # A browser sends every field; an empty key means the one of the command line.
        filled_in = {"user_count": 2, "spawn_rate": 2, "host": server.url, "scenario": "ss", "api_key": ""}
        refused = post(f"{ui}/swarm", {**filled_in, "warmup": "soon", "num_prompts": "0"})
        assert (refused["success"], Table(ui).state) == (False, "ready")
        assert "--warmup 'soon'" in refused["message"]
        assert "--num-prompts '0'" in refused["message"]
        refused = post(f"{ui}/swarm", {**filled_in, "scenario": "nope", "host": "http://127.0.0.1:1"})
        assert "there is no scenario 'nope'" in refused["message"]
        assert "http://127.0.0.1:1 does not answer" in refused["message"]
        assert post(f"{ui}/swarm", filled_in)["success"]
        wait_until(lambda: Table(ui).methods >= {"POST", "TTFT", "TPOT", "ITL"}, "rows of our own")
        counts = Table(ui).counts
        assert counts["", "Aggregated"] == counts["POST", "short_short"] > 0

        post(f"{ui}/stop", {})
        wait_until(lambda: Table(ui).state == "stopped", "the end of the run")
        counts = Table(ui).counts
        ended = run.stop()
    (results,) = folder.iterdir()
    outcome = Outcome(ended.code, ended.stdout, ended.stderr, results)
    assert_nothing_is_lost(outcome)
    requests = len(outcome.requests)
    with_gaps = len(column(outcome.requests, "tpot_s"))  # an answer read in one piece has none
    assert counts == {
        ("", "Aggregated"): requests,
        ("POST", "short_short"): requests,
        ("TTFT", "short_short"): requests,
        ("TPOT", "short_short"): with_gaps,
        ("ITL", "short_short"): 7 * with_gaps,
    }
    assert "Serving Benchmark Result" in ended.stdout
    assert "SECRET-1" not in ended.text


def test_a_run_is_not_replaced_while_its_workers_stop(tmp_path: Path) -> None:
    port = str(free_port())
    two = ("--processes", "2", "--master-bind-port", port, "--master-port", port)
    with web_ui(tmp_path, *two) as (ui, start, run), ThreadPoolExecutor() as pool:

        def with_requests() -> int:  # the page's own numbers are up to two seconds old
            return sum(file.stat().st_size > 0 for file in run.folder.glob("*/requests.jsonl"))

        wait_until(lambda: json.loads(get(f"{ui}/worker-count"))["worker_count"] == 2, "the workers")
        assert post(f"{ui}/swarm", start)["success"]
        wait_until(lambda: with_requests() == 1, "requests")

        stopped = pool.submit(post, f"{ui}/stop", {})
        answers: list[Mapping[str, Any]] = []

        def next_has_started() -> bool:
            answers.append(post(f"{ui}/swarm", {**start, "max_tokens": 3}))
            page = get(ui)
            assert '"state": "' in page
            assert '"state": "stopping"' not in page, "then the page would ask no more"
            return bool(answers[-1]["success"])

        wait_until(next_has_started, "the next run")
        # The first may come before the stop.
        refusals = ("stop it to change anything else.", "start again in a moment.")
        assert all(answer["message"].endswith(refusals) for answer in answers[:-1])
        assert stopped.result(timeout=60)["success"]
        wait_until(lambda: with_requests() == 2, "requests of the next run")
        post(f"{ui}/stop", {})
        runs = end(run)
    for outcome, max_tokens in zip(runs, (None, 3), strict=True):
        assert_nothing_is_lost(outcome)
        assert outcome.summary["requests"]["ok"] > 0
        assert read_json(outcome.folder / "run.json")["options"]["max_tokens"] == max_tokens


def test_the_form_takes_a_run_time(tmp_path: Path) -> None:
    with web_ui(tmp_path) as (ui, start, run):
        refused = post(f"{ui}/swarm", {**start, "run_time": "soon"})
        assert "Valid run_time formats" in refused["message"]
        refused = post(f"{ui}/swarm", {**start, "run_time": "1s", "warmup": "2s"})
        assert refused["message"] == "--warmup leaves nothing of a --run-time of 1 s to measure."
        assert post(f"{ui}/swarm", {**start, "run_time": "1s", "warmup": "0"})["success"]
        wait_until(lambda: bool(list(run.folder.glob("*/summary.json"))), "the end of the run")
        (outcome,) = end(run)
    assert_nothing_is_lost(outcome)


def test_only_users_can_be_changed_in_mid_run(tmp_path: Path) -> None:
    with web_ui(tmp_path) as (ui, start, run):
        assert post(f"{ui}/swarm", {**start, "max_tokens": 3})["success"]
        wait_until(lambda: Table(ui).user_count == 2, "two users")
        assert '"default_value": "3"' in get(ui)  # the form to edit the run has what the run has
        for change in (
            {"scenario": "sl"},
            {"host": "http://127.0.0.1:1"},
            {"warmup": "soon"},
            {"ladder": "1,2"},
        ):
            refused = post(f"{ui}/swarm", {**start, **change})
            assert "Only the number of users" in refused["message"], change
        for users in (4, 3):
            assert post(f"{ui}/swarm", {**start, "user_count": users})["success"]
            wait_until(lambda users=users: Table(ui).user_count == users, f"{users} users")  # type: ignore[misc]
        post(f"{ui}/stop", {})
        (outcome,) = end(run)
    assert_nothing_is_lost(outcome)


def of_another_run(view: Any, run: str) -> bool:
    """Whether there are numbers, and not of this run."""
    return bool(view["table"]) and view["run"] is not None and view["run"]["id"] != run


def test_a_run_whose_observer_was_lost_says_so_and_the_next_has_another(tmp_path: Path) -> None:
    with web_ui(tmp_path) as (ui, filled_in, run):

        def view() -> Any:
            return json.loads(get(f"{ui}/vllm-locust/view"))

        assert post(f"{ui}/swarm", filled_in)["success"]
        wait_until(lambda: bool(view()["table"]), "the first numbers")
        first = view()["run"]["id"]
        os.kill(run.observer, signal.SIGKILL)
        wait_until(lambda: "observer" in (view()["problem"] or ""), "a sentence about it")
        post(f"{ui}/stop", {})
        wait_until(lambda: Table(ui).state == "stopped", "the end of the run")
        assert json.loads(get(f"{ui}/vllm-locust/summary.json"))["run"] == first
        assert post(f"{ui}/swarm", filled_in)["success"]
        wait_until(lambda: of_another_run(view(), first), "numbers of the next run")
        assert view()["problem"] is None
        outcomes = end(run)
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert_nothing_is_lost(outcome)


def test_a_ladder_that_starts_itself_tells_its_result_once(server: Simulator, tmp_path: Path) -> None:
    """Locust gives such a run 1 user, and stops once more what the end of a plan has stopped."""
    outcome = run_locust(
        "--autostart", "--autoquit", "1", "--web-host", "127.0.0.1", "--web-port", str(free_port()),
        "--host", server.url, "--scenario", "ss", "--ladder", "1,2", "--step-time", "1s",
        folder=tmp_path / "results", locustfile="ladder.py",
    )  # fmt: skip
    assert outcome.stdout.count("Serving Benchmark Result") == 1
    (results,) = outcome.folder.iterdir()
    assert len(read_json(results / "summary.json")["phases"]) == 2
