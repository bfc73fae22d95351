"""How a page says what is not a plain number."""

from collections.abc import Mapping
from typing import Any

from vllm_locust.report.page.html import NOT_KNOWN, Part, join, number, tag

_LEAST_MS = 0.01


def at_most(bound_ms: float | None) -> str:
    """`at most 0.42 ms`, and never a bare zero for what was only too small to see."""
    if bound_ms is None:
        return NOT_KNOWN
    return "below 0.01 ms" if bound_ms < _LEAST_MS else f"at most {number(float(bound_ms))} ms"


def phase_name(phase: Mapping[str, Any]) -> str:
    """`ss, 4 users`: short, and not the same for two phases; a rate that changes says so itself."""
    name = str(phase.get("name") or phase.get("profile") or f"phase {phase.get('phase')}").rpartition(".")[2]
    users, rate = phase.get("users"), phase.get("request_rate")
    if rate is not None:
        return f"{name}, {rate}" if isinstance(rate, str) else f"{name}, {rate:g}/s"
    if users is not None:
        return f"{name}, {users} user{'' if users == 1 else 's'}"
    return name


def with_interval(numbers: Mapping[str, Any], key: str) -> Part:
    """A number of a summary, below it the ends of its 95 % interval; `?` is an end that is not determined."""
    value, ends = numbers.get(key), (numbers.get("intervals") or {}).get(key)
    if value is None or ends is None:
        return number(value)
    low, high = (None if end is None else number(end) for end in ends)
    words = "too few requests" if low is None and high is None else f"{low or '?'} to {high or '?'}"
    return join([number(value), tag("span", words, class_="ci")])
