"""The same plan in every process, whatever its hash seed and in any order; and nothing heavy is imported."""

import os
import subprocess
import sys
from hashlib import sha256

import pytest

from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context

SCRIPT = """
import random, sys
from hashlib import sha256
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context

random.seed(99)
for name in reversed(catalogue.names()):
    for phase in reversed(catalogue.load(name, Context()).phases):
        planned = {index: repr(phase.request(42, index)) for index in reversed(range(60))}
        print(phase.name, sha256("".join(planned[index] for index in range(60)).encode()).hexdigest())
assert not {"gevent", "locust", "numpy"} & set(sys.modules), "the plan needs none of them"
"""


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    phases = [phase for name in catalogue.names() for phase in catalogue.load(name, Context()).phases]
    return {
        phase.name: sha256("".join(repr(phase.request(42, n)) for n in range(60)).encode()).hexdigest()
        for phase in phases
    }


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_plans_the_same_bytes(here: dict[str, str], hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert dict(line.split() for line in ran.stdout.splitlines()) == here
