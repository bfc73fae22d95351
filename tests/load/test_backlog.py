"""Everything is done once, in order, and nobody has to wait for all of it."""

from itertools import pairwise
from time import perf_counter

import pytest
from gevent import get_hub

from tests.turns import until
from vllm_locust.load.backlog import Backlog


def test_all_is_done_in_order_without_being_asked() -> None:
    done: list[int] = []
    backlog = Backlog(done.append)
    for number in range(100):
        backlog.add(number)
    assert done == []
    until(lambda: len(done) == 100)
    backlog.add(100)
    until(lambda: len(done) == 101)
    assert done == list(range(101))
    backlog.close()


def test_sockets_are_looked_at_in_between() -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        ends_s = perf_counter() + 0.0005
        while perf_counter() < ends_s:
            pass
        done.append(number)

    rounds: list[int] = []
    watcher = get_hub().loop.check(ref=False)
    watcher.start(lambda: rounds.append(len(done)))
    backlog = Backlog(slow)
    for number in range(60):
        backlog.add(number)
    until(lambda: len(done) == 60)
    backlog.close()
    watcher.stop()
    watcher.close()
    assert max(after - before for before, after in pairwise(rounds)) <= 5


def test_closing_does_the_rest_at_once() -> None:
    done: list[int] = []
    backlog = Backlog(done.append)
    for number in range(1000):
        backlog.add(number)
    backlog.close()
    assert done == list(range(1000))


def test_one_that_cannot_be_done_does_not_stop_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    done: list[float] = []
    backlog = Backlog(lambda number: done.append(1 / number))
    for number in (1, 0, 2):
        backlog.add(number)
    until(lambda: len(done) == 2)
    backlog.add(4)
    backlog.close()
    assert done == [1.0, 0.5, 0.25]
    assert [record.message for record in caplog.records] == ["Could not take in 0"]
