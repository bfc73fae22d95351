"""A vLLM of `scripts/serve-tiny-vllm` with other options than the one that most tests share."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.locust_command import ROOT, free_port
from tests.real.conftest import stop, wait_until_healthy


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """Its address, without a slash at the end; its log is in `folder`."""
    port, log = free_port(), folder / "server.log"
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
            wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            stop(server)
