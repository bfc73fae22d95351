"""What the tests here share, each started once: tiny vLLMs of `scripts/serve-tiny-vllm`, and a browser."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.locust_command import ROOT, free_port
from tests.real.adapters import ADAPTERS, RANK, write_adapter
from tests.real.browser import Browser, browsing

START_LIMIT_S = 900.0
"""The first start installs vLLM; the next ones take about 20 seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the server, beside its own time limit."""
    for item in items:
        if {"vllm_url", "small_vllm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(START_LIMIT_S + 300))


@pytest.fixture(scope="session")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running vLLM that serves the model `tiny`, without a slash at the end."""
    # What "tool_choice": "auto" needs; an answer without tools is none the wiser.
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with serving(tmp_path_factory.mktemp("vllm"), "--enable-prompt-tokens-details", *tools) as url:
        yield url


@dataclass(frozen=True)
class SmallVllm:
    """A vLLM with 36 blocks of 128 tokens, a slot for one LoRA adapter and a profiler.

    It is in its development mode, which lets anybody pause it and abort its requests.
    """

    url: str
    traces: Path
    """The folder that the profiler writes to."""


@pytest.fixture(scope="session")
def small_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallVllm]:
    folder = tmp_path_factory.mktemp("small-vllm")
    traces = folder / "traces"
    profiler = {"profiler": "torch", "torch_profiler_dir": str(traces), "torch_profiler_with_stack": False}
    modules = [f"{name}={write_adapter(folder / name)}" for name in ADAPTERS]
    lora = ("--enable-lora", "--max-loras", "1", "--max-lora-rank", str(RANK), "--lora-modules", *modules)
    options = ("--num-gpu-blocks-override", "36", "--profiler-config", json.dumps(profiler), *lora)
    with serving(folder, *options, VLLM_SERVER_DEV_MODE="1") as url:
        yield SmallVllm(url, traces)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as running:
        yield running


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """A vLLM with these options and variables, whose log is in `folder`; its address."""
    port, log = free_port(), folder / "server.log"
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [ROOT / "scripts" / "serve-tiny-vllm", "--port", str(port), *options],
            env={**os.environ, **environment},
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
