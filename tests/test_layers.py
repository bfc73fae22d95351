"""Imports point down only: this file knows the floors of the house and reads the imports, running none.

    cli
    experiment
    load        the only one that knows Locust
    observe     client     compare     report     offline     simulator
    workloads   results    kv_cache
    core
    errors      is open to all

A new folder or module directly under vllm_locust gets a line in HOUSE, or the test fails.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "vllm_locust"
MAX_LINES = 500

ENGINE = frozenset({"gevent", "locust"})
WORLD = frozenset({"time", "socket", "ssl", "threading"})
# Global random state, that is all of both modules but `Random(seed)`, `default_rng(seed)` and the classes.
GLOBAL_RANDOM = re.compile(r"random\.(?!Random\b)|numpy\.random\.(?!default_rng\b|[A-Z])")


@dataclass(frozen=True)
class Floor:
    """What one part may import: other parts of the package, and not these modules from outside."""

    parts: frozenset[str]
    never: frozenset[str] = frozenset()
    seeded_only: bool = False
    """No global random state."""
    lazily_anything: bool = False
    """The rule is for what importing the module imports, not for what a function imports later."""


def floor(*parts: str, never: frozenset[str] = frozenset(), **more: bool) -> Floor:
    return Floor(frozenset(parts), never, **more)


HOUSE = {
    "errors": floor(never=ENGINE | WORLD),
    "core": floor(never=ENGINE | WORLD, seeded_only=True),
    "workloads": floor("core", never=ENGINE, seeded_only=True),
    "simulator": floor("core", "workloads", never=ENGINE),
    "results": floor("core", never=ENGINE),
    "kv_cache": floor("core", never=ENGINE),
    "report": floor("core", "results", "kv_cache", never=ENGINE),
    "compare": floor("core", "results", "report", never=ENGINE),
    # Drives vLLM itself, in vLLM's environment, where there need be no Locust.
    "offline": floor("core", "workloads", "results", "report", never=ENGINE),
    # Starts Locust as a user would: by its command.
    "experiment": floor("core", "results", "report", "compare", never=ENGINE),
    "client": floor("core", never=frozenset({"locust"})),
    "observe": floor("core", never=ENGINE),
    "load": floor("core", "workloads", "simulator", "report", "client", "observe"),
    # What a user types must answer at once, and must work without Locust where Locust is not needed.
    "options": floor("workloads", never=ENGINE, lazily_anything=True),
    "cli": floor(never=ENGINE, lazily_anything=True),
    "__init__": floor("core", "workloads", "simulator", "report", never=ENGINE, lazily_anything=True),
    "__main__": floor("cli", never=ENGINE),
    # The catalogue stands beside the package in a checkout, and inside it in a wheel.
    "scenarios": floor("core", "workloads", never=ENGINE, seeded_only=True),
}


def deferred(node: ast.AST) -> bool:
    """Whether importing a module skips what is inside `node`: a function, or `if TYPE_CHECKING`."""
    if isinstance(node, ast.If):
        return dotted(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def nodes(tree: ast.AST, *, skip_deferred: bool) -> Iterator[ast.AST]:
    """Every node below `tree`, in the order of the source."""
    for child in ast.iter_child_nodes(tree):
        if not (skip_deferred and deferred(child)):
            yield child
            yield from nodes(child, skip_deferred=skip_deferred)


def imports(node: ast.Import | ast.ImportFrom, folder: str) -> dict[str, str]:
    """What an import statement of a module in `folder` brings in: local name -> full dotted name."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: alias.name for alias in node.names}
    above = folder.split(".")[: len(folder.split(".")) + 1 - node.level] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def violations(part: str, source: str, folder: str) -> list[str]:
    """What in `source`, a module of `part`, breaks the rules of HOUSE: one line per violation.

    `folder` is the dotted package of the module, to resolve relative imports with.
    """
    rule = HOUSE[part]
    found: list[tuple[int, str]] = []
    local: dict[str, str] = {}
    everything = list(nodes(ast.parse(source), skip_deferred=rule.lazily_anything))
    for node in everything:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for name, target in imports(node, folder).items():
            local[name] = target
            top, _, rest = target.partition(".")
            below = rest.partition(".")[0]
            if top in rule.never:
                found.append((node.lineno, f"imports {target}, but {part} may not import {top}"))
            if top == PACKAGE and below in HOUSE and below not in {part, "errors", *rule.parts}:
                found.append((node.lineno, f"imports {target}, but {part} may not import {below}"))
            if rule.seeded_only and GLOBAL_RANDOM.match(target):
                found.append((node.lineno, f"uses {target}, which is global random state"))
    for node in everything if rule.seeded_only else []:
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            base, _, attribute = name.partition(".")
            target = f"{local.get(base, base)}.{attribute}"
            if base in local and GLOBAL_RANDOM.match(target):
                found.append((node.lineno, f"uses {target}, which is global random state"))
    return [f"line {line}: {what}" for line, what in sorted(set(found))]


def modules() -> list[Path]:
    """Every module of the package and of the catalogue, relative to the project's root."""
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "scenarios").rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in files)


def part_of(module: Path) -> str:
    """The part of the house that a module belongs to: `core` for vllm_locust/core/record.py."""
    if module.parts[0] != PACKAGE:
        return module.parts[0]
    return module.parts[1].removesuffix(".py")


@pytest.mark.parametrize("module", modules(), ids=str)
def test_imports_point_down(module: Path) -> None:
    part = part_of(module)
    assert part in HOUSE, f"{module} stands on no floor: give {part} a line in HOUSE"
    folder = ".".join(module.parent.parts)
    assert not violations(part, (ROOT / module).read_text(encoding="utf-8"), folder)


@pytest.mark.parametrize("module", modules(), ids=str)
def test_a_module_can_be_read_in_one_go(module: Path) -> None:
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines: is it really one thing?"


def test_the_modules_are_found() -> None:
    assert Path("vllm_locust/core/record.py") in modules()


@pytest.mark.parametrize(
    ("part", "source", "expected"),
    [
        ("core", "import time", "core may not import time"),
        ("core", "from time import perf_counter", "core may not import time"),
        ("core", "import gevent.event as e", "core may not import gevent"),
        ("core", "def f():\n    import socket", "line 2: imports socket"),
        (
            "core",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ssl",
            "line 3: imports ssl",
        ),
        ("core", "from vllm_locust.client.chat import ChatClient", "core may not import client"),
        ("core", "from vllm_locust import load", "core may not import load"),
        ("core", "import vllm_locust.workloads.text", "core may not import workloads"),
        ("core", "from ..client import chat", "core may not import client"),
        ("core", "from .. import client", "core may not import client"),
        ("core", "import random\nrandom.shuffle([])", "line 2: uses random.shuffle"),
        ("core", "from random import choice", "uses random.choice"),
        ("core", "import numpy as np\nnp.random.rand(3)", "line 2: uses numpy.random.rand"),
        ("core", "from numpy import random as r\nr.seed(1)", "line 2: uses numpy.random.seed"),
        ("workloads", "import locust", "workloads may not import locust"),
        ("workloads", "from vllm_locust.simulator import server", "workloads may not import simulator"),
        ("simulator", "from gevent.server import StreamServer", "simulator may not import gevent"),
        ("simulator", "from vllm_locust.client import chat", "simulator may not import client"),
        ("client", "from locust import User", "client may not import locust"),
        ("client", "from vllm_locust.workloads.scenario import Scenario", "client may not import workloads"),
        ("report", "from vllm_locust.load.run import Run", "report may not import load"),
        ("load", "from vllm_locust.cli import main", "load may not import cli"),
        ("cli", "from vllm_locust.load.run import Run", "cli may not import load"),
        ("cli", "if True:\n    import gevent", "line 2: imports gevent"),
        ("cli", "class Command:\n    import locust", "line 2: imports locust"),
        ("scenarios", "from vllm_locust.load.run import Run", "scenarios may not import load"),
    ],
)
def test_a_violation_is_found(part: str, source: str, expected: str) -> None:
    (only,) = violations(part, source, f"{PACKAGE}.{part}")
    assert expected in only


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("core", "from vllm_locust.core.record import OK\nfrom vllm_locust.errors import UsageError"),
        ("core", "from . import record\nfrom .record import OK\nfrom ..errors import UsageError"),
        ("core", "from vllm_locust import __version__"),
        (
            "core",
            "from random import Random\nimport random\nRandom(1).random()\nrandom.Random(2).choice([1])",
        ),
        ("core", "import numpy as np\nrng = np.random.default_rng(1)\nrng.random()\nnp.random.Generator"),
        ("core", "def mean(time, random):\n    return random.choice(time.socket)"),
        ("client", "import gevent, socket, time"),
        ("load", "import locust\nfrom vllm_locust.client import chat"),
        ("cli", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vllm_locust.load import run"),
        ("cli", "def simulate():\n    from vllm_locust.load import run\n    import gevent"),
    ],
)
def test_what_is_allowed_passes(part: str, source: str) -> None:
    assert violations(part, source, f"{PACKAGE}.{part}") == []
