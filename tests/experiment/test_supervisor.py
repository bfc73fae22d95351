"""Nothing is left behind, whatever the command does and however the one who started it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.locust_command import wait_until
from vllm_locust.experiment.process import Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells who is whose child")


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def a_process(script: str, folder: Path, patience_s: float = 1.0) -> Process:
    return Process(
        ["bash", "-c", script],
        folder / "log",
        patience_s=patience_s,
        environment={**os.environ, "D": str(folder)},
    )


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("exec no-such-command 2>&1", 127)]
)
def test_the_exit_code_is_the_commands(tmp_path: Path, script: str, code: int) -> None:
    process = a_process(script, tmp_path)
    wait_until(lambda: process.poll() is not None, "end")
    assert process.poll() == code
    assert process.stop() == code


def test_a_command_that_there_is_not(tmp_path: Path) -> None:
    process = Process(["no-such-command"], tmp_path / "log", patience_s=1.0)
    wait_until(lambda: process.poll() is not None, "end")
    assert process.poll() == 127
    assert (tmp_path / "log").read_text() == "no-such-command: No such file or directory\n"


def test_a_polite_command_is_asked_to_end(tmp_path: Path) -> None:
    process = a_process(
        "trap 'echo bye; exit 5' INT; echo $$ > $D/pids; while true; do sleep 0.05; done", tmp_path, 20.0
    )
    wait_until(lambda: bool(pids(tmp_path / "pids")), "start")
    assert process.poll() is None
    assert process.stop() == 5
    assert (tmp_path / "log").read_text() == "bye\n"


def test_what_listens_to_nothing_and_hides_is_killed(tmp_path: Path) -> None:
    """The command ignores signals, and has started a daemon that left its process group."""
    daemon = "(setsid sleep 600 & echo $! >> $D/pids)"
    script = f"trap '' INT TERM; {daemon}; echo $$ >> $D/pids; while true; do sleep 0.1; done"
    process = a_process(script, tmp_path, 0.5)
    wait_until(lambda: len(pids(tmp_path / "pids")) == 2, "start")
    began_s = time.monotonic()
    assert process.stop() == 128 + signal.SIGKILL
    assert time.monotonic() - began_s > 0.4
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))


def test_what_a_command_leaves_running_is_ended_with_it(tmp_path: Path) -> None:
    process = a_process("setsid sleep 600 & echo $! > $D/pids; exit 4", tmp_path)
    wait_until(lambda: process.poll() is not None, "end")
    assert process.poll() == 4
    assert not any(alive(pid) for pid in pids(tmp_path / "pids"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_one_who_started_it(tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap '' INT TERM; sleep 600 & echo $$ $! > {tmp_path}/pids; wait; sleep 600"
    starter = (
        "import time; from pathlib import Path; from vllm_locust.experiment.process import Process\n"
        f"p = Process(['bash', '-c', {script!r}], Path('{tmp_path}/log'), patience_s=0.3); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter]) as process:
        wait_until(lambda: len(pids(tmp_path / "pids")) == 2, "start")
        assert all(alive(pid) for pid in pids(tmp_path / "pids"))
        process.send_signal(number)
    wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path / "pids")), "end")
