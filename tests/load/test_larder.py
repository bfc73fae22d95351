"""What is made ahead is what would have been made in time, in bounded memory, and never in the way."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import gevent
import pytest

from vllm_locust.load import larder
from vllm_locust.load.bodies import ReadyRequest, make_ready
from vllm_locust.load.larder import Larder
from vllm_locust.load.phases import Phase
from vllm_locust.workloads.scenario import PlannedRequest

PHASE, NEXT_PHASE = Phase(0, 0, "a"), Phase(1, 0, "b")


class Kitchen:
    """Makes requests, and remembers which."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.broken: set[int] = set()
        self.upcoming: Iterable[int] = ()
        self.larder = Larder(self.make)

    def begin(self, phase: Phase = PHASE) -> None:
        self.larder.begin(phase, lambda: self.upcoming)

    def make(self, phase: Phase, index: int) -> ReadyRequest:
        self.made.append(index)
        if index in self.broken:
            raise ZeroDivisionError(index)
        return make_ready(PlannedRequest(index, phase.name, "p", f"{phase.name}-{index}", 1), index, "chat")

    def take(self, *indices: int, phase: Phase = PHASE) -> Sequence[str | Sequence[int]]:
        return [self.larder.take(phase, index).planned.prompt for index in indices]

    def expect(self, upcoming: Iterable[int]) -> None:
        self.upcoming = upcoming
        self.larder.look()
        idle()


@pytest.fixture
def kitchen() -> Iterator[Kitchen]:
    kitchen = Kitchen()
    yield kitchen
    kitchen.larder.close()


def idle() -> None:
    """The event loop has nothing else to do."""
    gevent.sleep(0.05)


def test_what_comes_next_is_made_ahead_and_only_once(kitchen: Kitchen) -> None:
    kitchen.begin()
    kitchen.expect([7, 10, 13])
    assert kitchen.made == [7, 10, 13]
    assert kitchen.take(7, 13, 10) == ["a-7", "a-13", "a-10"]
    assert kitchen.made == [7, 10, 13]


def test_what_was_not_made_is_made_when_it_is_taken(kitchen: Kitchen) -> None:
    kitchen.begin()
    kitchen.upcoming = [3, 4]
    kitchen.larder.look()
    assert kitchen.take(3, 9) == ["a-3", "a-9"], "before anything was made ahead"
    kitchen.expect([4])
    assert kitchen.made == [3, 9, 4]


def test_memory_is_bounded_in_requests_and_filled_up_again(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larder, "MOST_REQUESTS", 3)
    kitchen.begin()
    kitchen.upcoming = range(100)
    idle()
    assert kitchen.made == [0, 1, 2]
    kitchen.upcoming = count(2)
    kitchen.take(0, 1)
    idle()
    assert kitchen.made == [0, 1, 2, 3, 4]


def test_memory_is_bounded_in_bytes(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    size = kitchen.make(PHASE, 10).size
    monkeypatch.setattr(larder, "MOST_BYTES", 10 * size)
    kitchen.begin()
    kitchen.expect(range(20, 99))
    assert kitchen.made == [10, *range(20, 30)]


def test_wrong_guesses_make_room(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand of them, as when workers come and go, leave nothing behind."""
    monkeypatch.setattr(larder, "MOST_REQUESTS", 4)
    kitchen.begin()
    for first in range(0, 1000, 50):
        kitchen.upcoming = range(first, first + 99)
        kitchen.larder.look()
        gevent.sleep(0.005)
        kitchen.take(first + 40)
    assert sorted(kitchen.larder._ready) == [950, 951, 952, 953]


def test_another_phase_gets_requests_of_its_own(kitchen: Kitchen) -> None:
    kitchen.begin()
    kitchen.expect([1, 2])
    kitchen.upcoming = ()
    kitchen.begin(NEXT_PHASE)
    assert kitchen.take(1, phase=NEXT_PHASE) == ["b-1"]
    assert kitchen.take(2, phase=PHASE) == ["a-2"], "a straggler of the phase before"


def test_one_that_cannot_be_made_is_tried_once_and_told_to_whoever_takes_it(kitchen: Kitchen) -> None:
    kitchen.broken = {2}
    kitchen.begin()
    kitchen.expect([1, 2, 3])
    assert kitchen.take(1, 3) == ["a-1", "a-3"]
    with pytest.raises(ZeroDivisionError):
        kitchen.take(2)
    assert kitchen.made == [1, 2, 3]
