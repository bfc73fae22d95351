"""The same plan in every process, whatever its hash seed and in any order; and nothing heavy is imported."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.workloads.contexts import context
from vllm_locust.workloads import catalogue

ROOT = Path(__file__).parents[2]

SCRIPT = """
import random, sys
from hashlib import sha256
from pathlib import Path
from tests.workloads.contexts import context
from vllm_locust.workloads import catalogue

random.seed(99)
for name in reversed(catalogue.names()):
    dataset = Path(sys.argv[1]) if name == "prompts" else None
    for phase in reversed(catalogue.load(name, context(dataset_path=dataset)).phases):
        planned = {index: repr(phase.request(42, index)) for index in reversed(range(60))}
        print(phase.name, sha256("".join(planned[index] for index in range(60)).encode()).hexdigest())
assert not {"gevent", "locust"} & set(sys.modules), "the plan needs none of them"
"""


LAZY = """
import sys
from vllm_locust.workloads import catalogue
from tests.workloads.contexts import context
catalogue.load("tiny", context())
heavy = {"gevent", "locust", "numpy", "pandas", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""


def run_python(script: str, *arguments: str, hash_seed: str = "0") -> str:
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "What is {i} + {i}?"}}\n' for i in range(40)))
    return path


@pytest.fixture(scope="module")
def here(dataset: Path) -> dict[str, str]:
    """A digest of the first requests of each phase of each scenario."""
    phases = [
        phase
        for name in catalogue.names()
        for phase in catalogue.load(name, context(dataset_path=dataset if name == "prompts" else None)).phases
    ]
    return {
        phase.name: sha256("".join(repr(phase.request(42, n)) for n in range(60)).encode()).hexdigest()
        for phase in phases
    }


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_another_process_plans_the_same_bytes(here: dict[str, str], dataset: Path, hash_seed: str) -> None:
    printed = run_python(SCRIPT, str(dataset), hash_seed=hash_seed)
    assert dict(line.split() for line in printed.splitlines()) == here


def test_nothing_heavy_is_loaded_for_synthetic_prompts() -> None:
    run_python(LAZY)
