"""The simulator as a target of its own, for runs without `--host`: a process that ends with ours."""

import atexit
import re
import subprocess
import sys

from vllm_locust.errors import UsageError

_READY = re.compile(r"http://\S+")


def start_simulator() -> str:
    """Start `vllm-locust simulate` on a free port of this machine and return its URL.

    The process is terminated when this one exits, however it does. Raises UsageError when it does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_locust", "simulate", "--port", "0", "--exit-with-parent"],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: the simulator must answer until the last request is done
    )
    atexit.register(_stop, process)
    assert process.stdout is not None
    ready = _READY.search(process.stdout.readline())
    if ready is None:
        raise UsageError("The embedded simulator did not start; give a server with --host.")
    return ready.group()


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
