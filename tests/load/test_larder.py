"""What is made ahead is what would have been made in time, in bounded memory, and never in the way."""

from collections.abc import Iterator, Sequence

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
        self.larder = Larder(self.make)

    def make(self, phase: Phase, index: int) -> ReadyRequest:
        self.made.append(index)
        if index in self.broken:
            raise ZeroDivisionError(index)
        return make_ready(PlannedRequest(index, phase.name, "p", f"{phase.name}-{index}", 1), "chat")

    def take(self, *indices: int, phase: Phase = PHASE) -> Sequence[str | Sequence[int]]:
        return [self.larder.take(phase, index).planned.prompt for index in indices]


@pytest.fixture
def kitchen() -> Iterator[Kitchen]:
    kitchen = Kitchen()
    yield kitchen
    kitchen.larder.close()


def idle() -> None:
    """The event loop has nothing else to do."""
    gevent.sleep(0.05)


def test_after_the_first_one_the_next_are_made_ahead(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larder, "MOST_REQUESTS", 4)
    kitchen.larder.begin(PHASE, step=3)
    idle()
    assert kitchen.made == [], "nobody knows yet where it begins"
    assert kitchen.take(7) == ["a-7"]
    idle()
    assert kitchen.made == [7, 10, 13, 16, 19]
    assert kitchen.take(10, 13) == ["a-10", "a-13"]
    assert kitchen.made == [7, 10, 13, 16, 19]
    idle()
    assert kitchen.made == [7, 10, 13, 16, 19, 22, 25]


def test_where_it_is_told_it_makes_those_and_no_others(kitchen: Kitchen) -> None:
    kitchen.larder.begin(PHASE, step=None)
    kitchen.larder.expect([3, 4])
    kitchen.larder.expect([8])
    idle()
    assert kitchen.made == [3, 4, 8]
    assert kitchen.take(3, 5, 4, 8) == ["a-3", "a-5", "a-4", "a-8"]
    assert kitchen.made == [3, 4, 8, 5]


def test_a_wrong_guess_is_corrected(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(larder, "MOST_REQUESTS", 2)
    kitchen.larder.begin(PHASE, step=1)
    kitchen.take(0)
    idle()
    assert kitchen.take(100) == ["a-100"]
    idle()
    assert kitchen.made == [0, 1, 2, 100, 101, 102]


def test_another_phase_gets_requests_of_its_own(kitchen: Kitchen) -> None:
    kitchen.larder.begin(PHASE, step=1)
    kitchen.take(0)
    idle()
    kitchen.larder.begin(NEXT_PHASE, step=1)
    assert kitchen.take(1, phase=NEXT_PHASE) == ["b-1"]
    assert kitchen.take(2, phase=PHASE) == ["a-2"], "a straggler of the phase before"


def test_memory_is_bounded(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> None:
    size = kitchen.make(PHASE, 1).size
    monkeypatch.setattr(larder, "MOST_BYTES", 10 * size)
    kitchen.larder.begin(PHASE, step=None)
    kitchen.larder.expect(range(10, 99))
    idle()
    assert kitchen.made == [1, *range(10, 20)]


def test_one_that_cannot_be_made_is_told_to_whoever_takes_it(kitchen: Kitchen) -> None:
    kitchen.broken = {2}
    kitchen.larder.begin(PHASE, step=None)
    kitchen.larder.expect([1, 2, 3])
    idle()
    assert kitchen.take(1, 3) == ["a-1", "a-3"]
    with pytest.raises(ZeroDivisionError):
        kitchen.take(2)
