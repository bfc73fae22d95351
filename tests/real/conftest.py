"""A real vLLM for the tests in this folder: the tiny one of `scripts/serve-tiny-vllm`, started once."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 900.0
"""The first start installs vLLM; the next ones take about 20 seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the server, within its own time limit."""
    for item in items:
        if "vllm_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(START_LIMIT_S + 60))


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running vLLM that serves the model `tiny`, without a slash at the end."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    command = [
        str(ROOT / "scripts" / "serve-tiny-vllm"),
        "--port",
        str(port),
        "--enable-prompt-tokens-details",
        # What "tool_choice": "auto" needs; an answer without tools is none the wiser.
        "--enable-auto-tool-choice",
        "--tool-call-parser",
        "hermes",
    ]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as server,
    ):
        try:
            wait_until_healthy(url, server, log)
            yield url
        finally:
            stop(server)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers; fail the test with its last words when it ended or took too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"vLLM ended with exit code {server.returncode} before it was ready:\n{tail(log)}")
        with suppress(URLError, OSError), urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(0.5)
    pytest.fail(f"vLLM was not ready within {START_LIMIT_S:.0f} s:\n{tail(log)}")


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started; its session is its process group."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
