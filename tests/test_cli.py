"""The command `vllm-locust` answers at once: what does not run Locust does not load it."""

import subprocess
import sys

import pytest

from vllm_locust.cli import COMMANDS

ASK = """
import sys
from vllm_locust.cli import main

try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *sorted({"gevent", "locust"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments", ["--version", "--help", "options", *(f"{name} --help" for name in COMMANDS)]
)
def test_locust_is_not_loaded(arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments.split()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
