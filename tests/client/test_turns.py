"""Users who want to go on at once, and the event loop's looks between them."""

from collections.abc import Iterator
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from gevent import get_hub

from vllm_locust.client import turns as module
from vllm_locust.client.turns import Turns


class Rounds:
    """Counts the looks of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._watcher = get_hub().loop.check(ref=False)
        self._watcher.start(self._note)

    def _note(self) -> None:
        self.count += 1

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    rounds = Rounds()
    yield rounds
    rounds.close()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """As if each turn took so long that there is none left for the next one of its round."""
    monkeypatch.setattr(module, "_SLICE_S", 0.0)
    long_ago: Any = SimpleNamespace(looked_s=0.0)
    turns = Turns(get_hub().loop, long_ago)
    yield turns
    turns.close()


def take_turns(turns: Turns, rounds: Rounds, users: int) -> list[tuple[int, int]]:
    """(user, round) of each turn, in the order of the turns."""
    taken: list[tuple[int, int]] = []

    def go_on(user: int) -> None:
        turns.take()
        taken.append((user, rounds.count))

    gevent.joinall([gevent.spawn(go_on, user) for user in range(users)], raise_error=True)
    return taken


def test_the_loop_looks_between_turns_that_take_long(turns: Turns, rounds: Rounds) -> None:
    taken = take_turns(turns, rounds, users=6)
    assert [user for user, _ in taken] == list(range(6))  # first come, first served
    assert len({number for _, number in taken}) == 6


def test_of_a_wave_a_part_goes_on_in_each_round_however_busy_the_machine_is(turns: Turns) -> None:
    """A twentieth of those who still wait, and one more."""
    turns.close()
    turns._next_round = Mock()  # here the rounds are made by hand
    users = [gevent.spawn(turns.take) for _ in range(100)]
    while len(turns._waiting) < len(users):
        gevent.sleep(0)
    left = []
    for _ in range(4):
        get_hub().loop.run_callback(turns._give)
        gevent.sleep(0)
        left.append(len(turns._waiting))
    assert left == [100 - 6, 94 - 5, 89 - 5, 84 - 5]
    gevent.killall(users)


def test_nobody_waits_who_comes_right_after_a_look(turns: Turns, rounds: Rounds) -> None:
    turns._pulse.looked_s, before = inf, rounds.count
    turns.take()
    assert rounds.count == before


def test_one_who_is_stopped_while_waiting_keeps_nobody_back(turns: Turns) -> None:
    done: list[str] = []

    def go_on(name: str) -> None:
        turns.take()
        done.append(name)

    users = [gevent.spawn(go_on, name) for name in "abc"]
    gevent.sleep(0)  # all have come, and the loop has not looked
    users[1].kill(block=False)
    gevent.joinall(users)
    assert done == ["a", "c"]
