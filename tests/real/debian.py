"""Programs of Debian's that tests in this folder need: installed when they are not there."""

import os
import shutil
import subprocess
from functools import cache

import pytest

INSTALL_LIMIT_S = 300.0


@cache
def program(name: str) -> str:
    """Where the program is that the package of this name brings; the test fails when it cannot be had."""
    if shutil.which(name) is None:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ("update", f"install -y --no-install-recommends {name}"):
            done = subprocess.run(
                ["apt-get", "-qq", *command.split()],
                env=environment,
                capture_output=True,
                text=True,
                timeout=INSTALL_LIMIT_S,
                check=False,
            )
            if done.returncode:
                pytest.fail(f"apt-get {command} failed:\n{done.stdout}\n{done.stderr}")
    found = shutil.which(name)
    assert found is not None, f"the package {name} brings no program of this name"
    return found
