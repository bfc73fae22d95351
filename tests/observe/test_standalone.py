"""`vllm-locust exporter` as users start it."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.locust_command import counters, simulator, wait_until


@contextmanager
def exporter(*options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "vllm_locust", "exporter", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_server_is_shown_without_a_test(tmp_path: Path) -> None:
    with (
        simulator(tmp_path) as server,
        exporter("--server-metrics-url", server.url, "--exporter-port", "0") as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1].removesuffix("/metrics")
        wait_until(lambda: counters(url).get("vllm_locust_server_up") == 1, "the first scrape")
        page = counters(url)
        assert page["vllm_locust_server_requests_running"] == 0
        assert not any("ttft" in name and "server" not in name for name in page)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


RUN_ALL = """
import json, sys
from vllm_locust.cli import main

for options in json.loads(sys.argv[1]):
    print(main(["exporter", *options]))
"""


def test_bad_input_is_one_sentence() -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused = (
            (("--exporter-port", port), port),
            (("--exporter-port", "here"), "--exporter-port 'here' is not"),
            (("--server-metrics-url", "localhost:8000"), "--server-metrics-url 'localhost:8000' is not"),
            (("--server-metrics-interval", "0"), "--server-metrics-interval '0' is shorter"),
            (("--server-metrics-interval", "nan"), "--server-metrics-interval 'nan' is not a time"),
            (("--server-log", "x", "--server-metrics-url", "http://a"), "exclude each other"),
        )
        command = [sys.executable, "-c", RUN_ALL, json.dumps([options for options, _ in refused])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["2"] * len(refused)
    for said, (_, words) in zip(done.stderr.splitlines(), refused, strict=True):
        assert words in said
