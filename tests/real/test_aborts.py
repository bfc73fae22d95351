"""Requests that a real vLLM gives up while it answers them are failures, and no gate says otherwise."""

from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.locust_command import assert_ended_with, assert_nothing_is_lost, started, wait_until
from tests.real.conftest import SmallVllm

RUNNING = "vllm:num_requests_running"


def running(url: str) -> float:
    """How many requests the server works on."""
    with urlopen(f"{url}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(RUNNING))


def post(url: str) -> None:
    with urlopen(Request(url, data=b"{}", headers={"Content-Type": "application/json"}), timeout=60):
        pass


@pytest.mark.parametrize("path", ["/abort_requests", "/pause?mode=abort"])
def test_what_the_server_aborts_has_failed(small_vllm: SmallVllm, path: str, tmp_path: Path) -> None:
    options = ("--headless", "-u", "4", "-r", "4", "--num-prompts", "4", "--max-tokens", "3000")
    run = ("--host", small_vllm.url, "--scenario", "ss", "--slo", "failed==0", *options)
    try:
        with started(*run, folder=tmp_path) as locust:
            wait_until(lambda: running(small_vllm.url) == 4, "four requests are being answered")
            post(small_vllm.url + path)
            outcome = locust.wait()
    finally:
        with suppress(HTTPError):
            post(f"{small_vllm.url}/resume")
    assert_ended_with(3, outcome)
    assert_nothing_is_lost(outcome)
    assert {request["outcome"] for request in outcome.requests} == {"server_error_event"}
    assert {request["error"] for request in outcome.requests} == {
        'the server ended the answer with the finish reason "abort"'
    }
