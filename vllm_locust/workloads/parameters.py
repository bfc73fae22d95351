"""A scenario's own parameters: the keyword-only arguments of its `build`, set with `--set NAME=VALUE`.

    def build(context: Context, *, n: int = 40, copies: int = 1) -> Scenario:

Names, types and defaults stand there and nowhere else. Types are int, float, bool, str and Lengths; whole
numbers must be at least 1 unless the default is smaller.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vllm_locust.errors import UsageError
from vllm_locust.workloads.lengths import Lengths

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parameters_of(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a scenario by name."""
    known = inspect.signature(build, eval_str=True).parameters
    return {name: one for name, one in known.items() if one.kind is inspect.Parameter.KEYWORD_ONLY}


def convert(scenario: str, build: Callable[..., Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `build` for what the user has set. Raises UsageError with all that is wrong."""
    known = parameters_of(build)
    arguments: dict[str, Any] = {}
    problems = []
    for name, text in given.items():
        if name not in known:
            problems.append(f"--set {name}={text}: scenario {scenario} {_what_it_has(known)}")
            continue
        try:
            arguments[name] = _value(text, known[name])
        except UsageError as error:
            problems.extend(error.problems)
        except ValueError as error:
            problems.append(f"--set {name}={text}: {name} of scenario {scenario} {error}")
    if problems:
        raise UsageError(*problems)
    return arguments


def _what_it_has(known: Mapping[str, inspect.Parameter]) -> str:
    if not known:
        return "has no parameters"
    return "has " + ", ".join(f"{name} (default {one.default})" for name, one in known.items())


def _value(text: str, parameter: inspect.Parameter) -> Any:
    default, kind = parameter.default, parameter.annotation
    if kind is Lengths:
        return Lengths.parse(text)
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError("is true or false")
        return text.lower() in _TRUE
    if kind is int:
        return _whole(text, min(default, 1) if isinstance(default, int) else 1)
    if kind is float:
        return _number(text)
    return text


def _whole(text: str, at_least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = at_least - 1
    if number < at_least:
        raise ValueError(f"is a whole number of at least {at_least}")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError("is a number of at least 0")
    return number
