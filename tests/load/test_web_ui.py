"""A run from the web UI: our options on its form, our rows in its tables, a folder for each run."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.locust_command import Outcome, assert_nothing_is_lost, simulator, started, wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str) -> str:
    with urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def post(url: str, fields: Mapping[str, object]) -> Any:
    with urlopen(url, urlencode(fields).encode(), timeout=10) as answer:
        return json.load(answer)


class Table:
    """Locust's statistics, as its page fetches them."""

    def __init__(self, ui: str) -> None:
        page = json.loads(get(f"{ui}/stats/requests"))
        self.state = page["state"]
        self.counts = {(row["method"], row["name"]): row["num_requests"] for row in page["stats"]}

    @property
    def methods(self) -> set[str]:
        return {method for method, _ in self.counts if method}


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
        requests = counts["POST", "short_short"]
        assert counts == {
            ("", "Aggregated"): requests,
            ("POST", "short_short"): requests,
            ("TTFT", "short_short"): requests,
            ("TPOT", "short_short"): requests,
            ("ITL", "short_short"): 7 * requests,
        }
        run.process.terminate()
        ended = run.wait()
    (results,) = folder.iterdir()
    assert_nothing_is_lost(Outcome(ended.code, ended.stdout, ended.stderr, results))
    assert "Serving Benchmark Result" in ended.stdout
    assert "SECRET-1" not in ended.text
