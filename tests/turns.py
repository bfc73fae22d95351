"""Waiting in gevent's event loop for what is sure to come, on however slow a machine."""

from collections.abc import Callable
from time import perf_counter

import gevent

LIMIT_S = 60.0
"""What has not come by then never will."""


def until(is_so: Callable[[], object], what: str = "it") -> None:
    """Let others have their turns until something is so."""
    deadline_s = perf_counter() + LIMIT_S
    while not is_so():
        assert perf_counter() < deadline_s, f"{what}: not within {LIMIT_S:g} s"
        gevent.sleep(0.001)


def look_around() -> None:
    """Let the loop look at its sockets, and everybody act upon what is there, a few times over."""
    for _ in range(5):
        gevent.sleep(0.0001)  # sleep(0) would be a next turn in the same round
