"""Configuration and the command line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest

from vllm_locust import cli
from vllm_locust.errors import UsageError
from vllm_locust.simulator.config import LimitOverrides, configure
from vllm_locust.simulator.cost import PRESETS

SIMULATE = [sys.executable, "-m", "vllm_locust", "simulate", "--port", "0"]


def test_the_preset_holds_where_nothing_is_said():
    config = configure("a100-13b")
    assert config.limits == PRESETS["a100-13b"].limits
    assert config.cost == PRESETS["a100-13b"].cost
    assert (config.host, config.port, config.model) == ("127.0.0.1", 8000, "simulated/13b-on-a100")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (LimitOverrides(max_num_batched_tokens=64), {"max_num_seqs": 64}),
        (LimitOverrides(max_num_seqs=4000), {"max_num_batched_tokens": 4000}),
        (LimitOverrides(num_gpu_blocks=36), {"max_model_len": 560, "context_len": 560}),
        (LimitOverrides(enable_chunked_prefill=False), {"max_num_batched_tokens": 16384}),
        (LimitOverrides(enable_chunked_prefill=False, max_num_batched_tokens=512), {"context_len": 512}),
    ],
)
def test_limits_that_were_not_given_follow_those_that_were(given, expected):
    limits = configure("laptop", given).limits
    assert {name: getattr(limits, name) for name in expected} == expected


def test_all_mistakes_are_told_at_once():
    given = LimitOverrides(max_num_seqs=8, max_num_batched_tokens=4, max_model_len=10**9)
    with pytest.raises(UsageError) as caught:
        configure("laptop", given, stream_interval=0)
    first, second, third = caught.value.problems
    assert first == "--stream-interval 0: must be at least 1."
    assert second == "--max-num-batched-tokens 4: must be at least --max-num-seqs (8)."
    assert third.startswith("--max-model-len 1000000000: needs more KV cache than there is")


def test_without_chunked_prefill_a_prompt_must_fit_into_one_step():
    """Nor does vLLM start: max_num_batched_tokens (512) is smaller than max_model_len (4096)."""
    given = LimitOverrides(max_model_len=4096, max_num_batched_tokens=512, enable_chunked_prefill=False)
    with pytest.raises(UsageError, match=r"^--max-num-batched-tokens 512: is smaller than --max-model-len"):
        configure("laptop", given)
    configure("laptop", replace(given, enable_chunked_prefill=True))
    configure("laptop", replace(given, max_num_batched_tokens=4096))


def test_an_unknown_preset_is_named():
    with pytest.raises(UsageError, match="--preset nope: unknown, it is one of laptop"):
        configure("nope")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"vllm-locust \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_shows_every_option_with_a_sentence(capsys):
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    shown = capsys.readouterr().out
    for option in (
        "--num-gpu-blocks-override",
        "--no-enable-chunked-prefill",
        "--send-log",
        "--exit-with-parent",
    ):
        assert option in shown
    for preset in PRESETS.values():
        assert preset.summary in shown


@pytest.mark.parametrize("limit", ["4", "{}", '{"image": -1}', '{"image": true}', '{"video": 1}', "{"])
def test_what_is_no_limit_of_images_is_named(limit, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["simulate", "--limit-mm-per-prompt", limit])
    assert caught.value.code == 2
    told = f"""{limit} is no limit of images, write '{{"image": 4}}'"""
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("value", "status"), [("1", 200), ("0", 404), (None, 404)])
def test_images_and_the_development_mode_are_switched_on_as_in_vllm(value, status):
    environment = {name: text for name, text in os.environ.items() if name != "VLLM_SERVER_DEV_MODE"}
    if value is not None:
        environment["VLLM_SERVER_DEV_MODE"] = value
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "user", "content": [image]}], "max_tokens": 1}
    command = [*SIMULATE, "--limit-mm-per-prompt", '{"image": 1}']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            host, _, port = process.stdout.readline().split("//")[-1].strip().partition(":")
            assert _post(host, int(port), "/v1/chat/completions", body) == 200
            assert _post(host, int(port), "/reset_prefix_cache", {}) == status
        finally:
            process.terminate()


def test_the_command_imports_neither_locust_nor_gevent():
    code = (
        "import sys, vllm_locust.cli, vllm_locust.simulator.server;"
        "print(sorted({'locust', 'gevent', 'asyncio', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_busy_port_is_the_users_mistake(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["simulate", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"--host 127.0.0.1 --port {port}: cannot listen there (Address already in use)")
    assert told.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_process_says_where_it_is_and_ends_cleanly(number):
    with subprocess.Popen(SIMULATE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.fullmatch(
            r"vllm-locust simulator \(preset laptop, model simulated/laptop\) "
            r"ready on http://127\.0\.0\.1:(\d+)\n",
            line,
        )
        assert ready
        socket.create_connection(("127.0.0.1", int(ready[1])), timeout=60).close()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_a_simulator_does_not_outlive_its_parent():
    script = (
        "import subprocess, sys;"
        f"child = subprocess.Popen({[*SIMULATE, '--exit-with-parent']!r}, stdout=subprocess.PIPE, text=True);"
        "child.stdout.readline(); print(child.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    while _alive(pid):
        assert time.monotonic() < deadline, "the simulator is still there"
        time.sleep(0.05)


def _post(host: str, port: int, path: str, body: object) -> int:
    connection = HTTPConnection(host, port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def _alive(pid: int) -> bool:
    """Whether the process runs; a zombie nobody waits for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
