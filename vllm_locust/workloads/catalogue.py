"""From what stands behind `--scenario` to a scenario: a name, a member, a file, or a mix of those.

    ss                    the module ss.py of the catalogue
    tiny.sl               one member of an ordered or mixed scenario
    my/chat.py            a file of the user's own
    ss:3,ll:1             a mix; a weight left out is 1

A scenario module opens with a docstring whose first line is the question it answers, and defines
`build(context: Context) -> Scenario`. Its keyword-only arguments are what `--set` can set (see `parameters`).
Names that begin with an underscore are no scenarios.
"""

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from vllm_locust.errors import UsageError
from vllm_locust.workloads.mix import Mix
from vllm_locust.workloads.parameters import convert, parameters_of
from vllm_locust.workloads.scenario import Context, Scenario

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where the catalogue lies: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "scenarios"
    return installed if installed.is_dir() else _PACKAGE.parent / "scenarios"


def names() -> dict[str, str]:
    """Every scenario of the catalogue and the question it answers; runs no module."""
    return {path.stem: _question(path) for path in sorted(folder().glob("[!_]*.py"))}


def parameters(name: str) -> dict[str, str]:
    """The parameters of a scenario of the catalogue, and what each is unless it is set."""
    known = parameters_of(_builder(folder() / f"{name}.py"))
    return {parameter: str(one.default) for parameter, one in known.items()}


def load(spec: str, context: Context) -> Scenario:
    """The scenario that `spec` asks for, or a UsageError that says what there is instead.

    In a mix, `--set NAME=VALUE` is for the only scenario, and `--set SCENARIO.NAME=VALUE` for one of them.
    """
    items = [item.strip() for item in spec.split(",")]
    weighted = [_split_weight(item, spec) for item in items]
    given = _shared_out(context.parameters, [name for _, name in weighted])
    scenarios = [_load_one(name, replace(context, parameters=given[name])) for _, name in weighted]
    if len(scenarios) == 1:
        return scenarios[0]
    name = "+".join(scenario.name for scenario in scenarios)
    return Mix(name, [(weight, scenario) for (weight, _), scenario in zip(weighted, scenarios, strict=True)])


def _shared_out(given: Mapping[str, str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """What is set for which scenario."""
    shares: dict[str, dict[str, str]] = {name: {} for name in names}
    modules = list(dict.fromkeys(map(_stem, names)))
    for parameter, value in given.items():
        scenario, dot, inner = parameter.rpartition(".")
        if not dot and len(names) == 1:
            shares[names[0]][parameter] = value
        elif scenario in modules:  # of which a mix may have several members
            for name in names:
                if _stem(name) == scenario:
                    shares[name][inner] = value
        else:
            raise UsageError(
                f"--set {parameter}={value}: say for which scenario, "
                + " or ".join(f"{module}.{inner}={value}" for module in modules)
            )
    return shares


def _stem(name: str) -> str:
    return Path(name).stem if name.endswith(".py") else name.partition(".")[0]


def _split_weight(item: str, spec: str) -> tuple[float, str]:
    name, colon, weight = item.rpartition(":")
    if not item:
        raise UsageError(f"scenario {spec!r}: a name is missing; write NAME, FILE.py or a mix like ss:3,ll:1")
    if not colon or item.endswith(".py"):
        return 1.0, item
    try:
        return float(weight), name
    except ValueError:
        raise UsageError(
            f"scenario {spec!r}: the weight of {name} is {weight!r}, it must be a number"
        ) from None


def _load_one(name: str, context: Context) -> Scenario:
    if name.endswith(".py"):
        return _build(Path(name), context)
    scenario = _build(_path_of(name), context)
    return _member(scenario, name) if "." in name else scenario


def _path_of(name: str) -> Path:
    known = [path.stem for path in sorted(folder().glob("[!_]*.py"))]
    module = name.partition(".")[0]
    if module in known:
        return folder() / f"{module}.py"
    close = get_close_matches(module, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(f"there is no scenario {name!r}{hint}: choose one of {', '.join(known)}, or a FILE.py")


def _member(scenario: Scenario, name: str) -> Scenario:
    members: dict[str, Scenario] = {member.name: member for member in getattr(scenario, "members", ())}
    if name in members:
        return members[name]
    if not members:
        raise UsageError(f"there is no scenario {name!r}: {scenario.name} has no members")
    raise UsageError(f"there is no scenario {name!r}: choose one of {', '.join(members)}")


def _build(path: Path, context: Context) -> Scenario:
    build = _builder(path)
    arguments = convert(path.stem, build, context.parameters)
    try:
        # Scenarios that a scenario is made of are not who the user has set something of.
        scenario = build(replace(context, parameters={}), **arguments)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path}: build(context) failed with {type(error).__name__}: {error}") from error
    if not all(hasattr(scenario, part) for part in ("name", "phases", "request")):
        raise UsageError(
            f"{path}: build(context) returned {type(scenario).__name__}, not a scenario "
            "(name, phases and request(seed, index))"
        )
    return cast(Scenario, scenario)


def _builder(path: Path) -> Callable[..., Any]:
    build = getattr(_module(path), "build", None)
    if not callable(build):
        raise UsageError(f"{path} is no scenario: it must define build(context) that returns one")
    return cast(Callable[..., Any], build)


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no scenario file {path}")
    module_name = f"vllm_locust_scenario_{path.stem}"
    spec = spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses and pickling look a class's module up here.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{path} cannot be loaded as a scenario, {type(error).__name__}: {error}") from error
    return module


def _question(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.partition("\n")[0] if docstring else ""
