"""Whether a locustfile's users may ask for requests of a scenario, or surely have tasks of their own only.

Options that say what is asked, and when, can do nothing for the latter. Code that asks names `ask_next`:
where nothing that a class of users leads to names it, it cannot. That something names it does not say that it
is ever called, so what such users send outside of the plan is told while they do: see `outside`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

_ASK = ("ask_next",)
_ASK_ON_ONES_OWN = ("chat", "complete")
_NOT_THE_USERS = {"vllm_locust", "locust", *sys.stdlib_module_names}
_WITHOUT_CODE = (str, bytes, int, float, complex, type(None), ModuleType)


class Asker:
    """Marks the users whose `ask_next` is ours; others may have a method of that name."""


def asks_for_scenario(users: Iterable[type]) -> bool:
    """Whether something that our users among these lead to names `ask_next`."""
    return _lead_to((user for user in users if issubclass(user, Asker)), _ASK)


def asks_on_its_own(user: type) -> bool:
    """Whether something that this user leads to names a method of its client."""
    return _lead_to([user], _ASK_ON_ONES_OWN)


def _lead_to(users: Iterable[type], names: Sequence[str]) -> bool:
    seen: dict[int, Any] = {}
    """By identity; kept, so that none is given twice."""
    todo: list[Any] = list(users)
    while todo:
        thing = todo.pop()
        if isinstance(thing, _WITHOUT_CODE) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, FunctionType) and _names_one(thing, names):
            return True
        todo.extend(_led_to(thing))
    return False


def _names_one(function: FunctionType, names: Sequence[str]) -> bool:
    codes = _codes(function.__code__)
    return _is_the_users(function) and any(
        name in code.co_names or name in code.co_consts for code in codes for name in names
    )


def _is_the_users(thing: FunctionType | type) -> bool:
    return (thing.__module__ or "").partition(".")[0] not in _NOT_THE_USERS


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _led_to(thing: Any) -> Iterator[Any]:
    """What a thing may call, or hand to something that does."""
    if isinstance(thing, FunctionType):
        yield from _called(thing) if _is_the_users(thing) else ()
    elif isinstance(thing, type):
        for base in filter(_is_the_users, thing.__mro__):
            yield from vars(base).values()
    elif isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, staticmethod | classmethod):
        yield thing.__func__
    elif isinstance(thing, property):
        yield thing.fget
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, Mapping):
        yield from (*thing.keys(), *thing.values())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from thing
    else:
        yield type(thing)
        yield from getattr(thing, "__dict__", {}).values()


def _called(function: FunctionType) -> Iterator[Any]:
    """What the names in a function stand for: globals, members of modules, defaults, and what it wraps."""
    for code in _codes(function.__code__):
        for name in code.co_names:
            value = function.__globals__.get(name)
            yield value
            if isinstance(value, ModuleType):
                yield from (getattr(value, member, None) for member in code.co_names)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            yield cell.cell_contents
