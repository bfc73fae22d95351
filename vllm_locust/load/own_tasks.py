"""Whether a locustfile's users ask for requests of a scenario, or have tasks of their own only.

Options that say what is asked, and when, can do nothing for the latter. It is told from the code: a task asks
for such requests where it, or what it calls, names `ask_next`.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from inspect import isclass, isfunction, ismodule
from types import CodeType, FunctionType
from typing import Any

_ASK = "ask_next"
_OURS = ("vllm_locust", "locust")


def asks_for_scenario(users: Iterable[type]) -> bool:
    """Whether some task of these users may call `ask_next`."""
    seen: set[int] = set()
    return any(_names_it(user, seen) for user in users)


def _names_it(thing: Any, seen: set[int]) -> bool:
    if not (isfunction(thing) or isclass(thing)) or id(thing) in seen:
        return False
    seen.add(id(thing))
    if thing.__module__.partition(".")[0] in _OURS:
        return False
    if isfunction(thing):
        codes = list(_codes(thing.__code__))
        if any(_ASK in code.co_names or _ASK in code.co_consts for code in codes):
            return True
        return any(_names_it(called, seen) for called in _called(thing, codes))
    return any(_names_it(part, seen) for base in thing.__mro__ for part in _parts(base))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _called(function: FunctionType, codes: Iterable[CodeType]) -> Iterator[Any]:
    """What the names in a function stand for: globals, members of modules, and what it wraps."""
    for code in codes:
        for name in code.co_names:
            value = function.__globals__.get(name)
            yield value
            if ismodule(value):
                yield from (getattr(value, member, None) for member in code.co_names)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            yield cell.cell_contents


def _parts(kind: type) -> Iterator[Any]:
    """Methods, task sets, and tasks that are not methods."""
    for name, value in vars(kind).items():
        yield getattr(value, "__func__", value)
        if name == "tasks":
            yield from value
