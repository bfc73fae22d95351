"""Phases come in order, each when the one before is over; requests are dealt out once; crews change."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import gevent
import pytest

from tests.turns import until
from vllm_locust.load.conductor import Conductor, Part, Watcher
from vllm_locust.load.phases import FixedCourse, Phase


@dataclass
class Stagehands:
    """A crew that only notes what it is told."""

    members: list[str] = field(default_factory=lambda: ["one"])
    leaving: list[str] = field(default_factory=list)
    users: int = 1
    target_users: int = 1
    lead_s: float = 0.0
    orders: deque[tuple[object, ...]] = field(default_factory=deque)
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def present(self) -> list[str]:
        return [*self.members, *self.leaving]

    def set_users(self, users: int) -> None:
        self.orders.append(("users", users))

    def begin(self, who: str, phase: Phase, at_s: float, part: Part) -> None:
        self.orders.append(("begin", who, phase.number))
        self.parts[who] = part

    def grant(self, who: str, phase: int, indices: Sequence[int], last: bool) -> None:
        self.orders.append(("grant", who, phase, tuple(indices), last))

    def amend(self, who: str, phase: int, at_s: float, part: Part) -> None:
        self.orders.append(("amend", who, phase))
        self.parts[who] = part

    def end(self, phase: int) -> None:
        self.orders.append(("end", phase))

    def await_order(self, *order: object) -> None:
        until(lambda: order in self.orders, f"{order} in {self.orders}")


@contextmanager
def conducted(
    crew: Stagehands,
    *phases: Phase,
    shared_s: float | None = None,
    overlap: bool = False,
    most: int | None = None,
    watchers: Sequence[Watcher] = (),
) -> Iterator[tuple[Conductor, list[str]]]:
    ends: list[str] = []
    conductor = Conductor(
        FixedCourse(phases, shared_s),
        crew,
        perf_counter(),
        lambda: ends.append("end"),
        watchers=watchers,
        overlap=overlap,
        most_members=most,
    )
    try:
        yield conductor, ends
    finally:
        conductor.stop()
        gevent.sleep(0)


def dealt(crew: Stagehands) -> list[int]:
    return [index for order in crew.orders if order[0] == "grant" for index in order[3]]  # type: ignore[attr-defined]


def test_a_phase_waits_for_the_last_request_of_the_one_before() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", seconds=0.01), Phase(1, 1, "b", seconds=0.01)) as (conductor, ends):
        crew.await_order("end", 0)
        conductor.idle("one", 0)
        gevent.sleep(0.3)
        assert ("begin", "one", 1) not in crew.orders, "two is not done"
        conductor.idle("two", 0)
        crew.await_order("end", 1)
        assert ends == []
        conductor.idle("one", 1)
        conductor.idle("two", 1)
        until(lambda: conductor.over)
        assert ends == ["end"]


def test_with_overlap_the_next_phase_begins_at_once_and_the_end_waits_for_all() -> None:
    crew = Stagehands()
    phases = Phase(0, 0, "a", seconds=0.01), Phase(1, 0, "a", seconds=0.01)
    with conducted(crew, *phases, overlap=True) as (conductor, ends):
        crew.await_order("end", 1)
        conductor.idle("one", 1)
        gevent.sleep(0.3)
        assert ends == [], "the first phase still has requests in flight"
        conductor.idle("one", 0)
        until(lambda: ends)
        assert ends == ["end"]


@dataclass
class Spectator:
    """Notes in the crew's own list of orders when it is told what."""

    name: str
    orders: deque[tuple[object, ...]]

    def phase_begins(self, phase: Phase) -> None:
        self.orders.append((self.name, "begins", phase.number))

    def phase_began(self, phase: Phase, at_s: float, of: int | None) -> None:
        self.orders.append((self.name, "began", phase.number, of))

    def phase_ended(self, phase: Phase) -> None:
        self.orders.append((self.name, "ended", phase.number))

    def phase_drained(self, phase: Phase) -> None:
        self.orders.append((self.name, "drained", phase.number))


def test_the_first_watcher_is_told_first_of_a_begin_and_last_of_an_end() -> None:
    crew = Stagehands()
    watchers = [Spectator("outer", crew.orders), Spectator("inner", crew.orders)]
    with conducted(crew, Phase(0, 0, "a", seconds=0.01), watchers=watchers) as (conductor, _):
        crew.await_order("inner", "ended", 0)
        assert ("inner", "drained", 0) not in crew.orders, "a request is in flight"
        conductor.idle("one", 0)
        crew.await_order("outer", "drained", 0)
    assert list(crew.orders) == [
        ("outer", "begins", 0),
        ("inner", "begins", 0),
        ("outer", "began", 0, 1),
        ("inner", "began", 0, 1),
        ("begin", "one", 0),
        ("end", 0),
        ("inner", "ended", 0),
        ("outer", "ended", 0),
        ("inner", "drained", 0),
        ("outer", "drained", 0),
    ]


def test_with_overlap_nobody_is_told_of_draining() -> None:
    crew = Stagehands()
    phases = Phase(0, 0, "a", seconds=0.01), Phase(1, 0, "a", seconds=0.01)
    with conducted(crew, *phases, overlap=True, watchers=[Spectator("one", crew.orders)]):
        crew.await_order("end", 1)
    assert not any("drained" in order for order in crew.orders)


def test_requests_are_dealt_exactly_once_and_the_last_is_told_to_all() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", requests=10)) as (conductor, _):
        crew.await_order("begin", "two", 0)
        for _ in range(10):
            conductor.ask("one", 0, 4)
            conductor.ask("two", 0, 4)
        assert sorted(dealt(crew)) == list(range(10))
        for who in ("one", "two"):
            assert ("grant", who, 0, (), True) in crew.orders


def test_indices_go_on_from_phase_to_phase() -> None:
    crew = Stagehands()
    phases = Phase(0, 0, "a", requests=3), Phase(1, 1, "b", rate="5", requests=4), Phase(2, 0, "a")
    with conducted(crew, *phases) as (conductor, _):
        crew.await_order("begin", "one", 0)
        conductor.ask("one", 0, 3)
        conductor.idle("one", 0)
        crew.await_order("begin", "one", 1)
        assert crew.parts["one"].base == 3
        conductor.idle("one", 1)
        conductor.ended("one", 1, 4)
        crew.await_order("begin", "one", 2)
        conductor.ask("one", 2, 1)
        assert ("grant", "one", 2, (7,), False) in crew.orders


def test_phases_share_the_time_that_is_left() -> None:
    course = FixedCourse([Phase(n, n, "abc"[n]) for n in range(3)], shared_s=10.0)
    first = course.next_phase(0.0)
    assert first is not None
    assert first.seconds == pytest.approx(10 / 3)
    second = course.next_phase(6.0)  # the first drained for long: 4 s are left for two
    assert second is not None
    assert second.seconds == pytest.approx(2.0)
    assert [phase.name for phase in course.to_come] == ["c"]
    third = course.next_phase(11.0)
    assert third is not None
    assert third.seconds == 0.0
    assert course.next_phase(11.0) is None


def test_a_level_of_users_is_awaited() -> None:
    crew = Stagehands(users=1)
    with conducted(crew, Phase(0, 0, "a", users=3)) as (conductor, _):
        crew.await_order("users", 3)
        assert conductor.users_wanted == 3
        gevent.sleep(0.05)
        assert list(crew.orders) == [("users", 3)]
        crew.users = 3
        crew.await_order("begin", "one", 0)


def test_an_open_loop_is_shared_anew_when_somebody_comes_or_goes() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", rate="10")):
        crew.await_order("begin", "two", 0)
        assert [(part.position, part.of) for part in crew.parts.values()] == [(0, 2), (1, 2)]
        crew.members.append("three")
        crew.await_order("begin", "three", 0)
        crew.await_order("amend", "one", 0)
        assert [(part.position, part.of) for part in crew.parts.values()] == [(0, 3), (1, 3), (2, 3)]
        crew.members.remove("one")
        crew.orders.clear()
        crew.await_order("amend", "three", 0)
        assert [(crew.parts[who].position, crew.parts[who].of) for who in ("two", "three")] == [
            (0, 2),
            (1, 2),
        ]


def test_no_more_processes_share_an_open_loop_than_may_have_a_request_in_flight() -> None:
    crew = Stagehands(members=["one", "two", "three"])
    with conducted(crew, Phase(0, 0, "a", rate="10"), most=2):
        crew.await_order("begin", "three", 0)
        assert [(part.position, part.of) for part in crew.parts.values()] == [(0, 2), (1, 2), (None, 2)]


def test_ramping_users_ramps_the_rate() -> None:
    crew = Stagehands(users=1, target_users=4)
    with conducted(crew, Phase(0, 0, "a", rate="10", follows_users=True)):
        crew.await_order("begin", "one", 0)
        assert crew.parts["one"].scale == 0.25
        crew.users = crew.target_users = 8
        crew.await_order("amend", "one", 0)
        assert crew.parts["one"].scale == 2.0


@pytest.mark.parametrize(
    "leave", [lambda crew: crew.members.clear(), lambda crew: crew.members.remove("two")]
)
def test_those_who_are_gone_are_not_waited_for(leave: Callable[[Stagehands], None]) -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", seconds=0.01)) as (conductor, ends):
        crew.await_order("end", 0)
        conductor.idle("one", 0)
        leave(crew)
        until(lambda: ends)
        assert ends == ["end"]


def test_the_rate_of_a_step_is_no_affair_of_the_users() -> None:
    crew = Stagehands(users=1, target_users=1)
    with conducted(crew, Phase(0, 0, "a", rate="10")):
        crew.await_order("begin", "one", 0)
        crew.users = crew.target_users = 3
        gevent.sleep(0.3)
        assert crew.parts["one"].scale == 1.0


def test_who_comes_after_a_phase_is_not_waited_for_in_it() -> None:
    crew = Stagehands()
    phases = Phase(0, 0, "a", seconds=0.01), Phase(1, 0, "a", seconds=0.01)
    with conducted(crew, *phases) as (conductor, ends):
        crew.await_order("end", 0)
        crew.members.append("late")
        conductor.idle("one", 0)
        crew.await_order("begin", "late", 1)
        crew.await_order("end", 1)
        conductor.idle("one", 1)
        conductor.idle("late", 1)
        until(lambda: ends)
        assert ends == ["end"]


def test_who_is_leaving_keeps_its_part_until_others_have_it() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", rate="10")) as (conductor, _):
        crew.await_order("begin", "two", 0)
        crew.members.remove("one")
        crew.leaving.append("one")
        conductor.changed()
        crew.await_order("amend", "one", 0)
        crew.await_order("amend", "two", 0)
        assert (crew.parts["one"].position, crew.parts["one"].of) == (None, 1)
        assert (crew.parts["two"].position, crew.parts["two"].of) == (0, 1)


def test_what_one_gives_back_another_sends() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", requests=8)) as (conductor, ends):
        crew.await_order("begin", "two", 0)
        for _ in range(8):
            conductor.ask("one", 0, 4)
        assert sorted(dealt(crew)) == list(range(8))
        conductor.idle("two", 0)
        conductor.give_back("one", 0, [6, 7])
        assert crew.orders[-1] == ("grant", "two", 0, (6, 7), True)
        conductor.idle("one", 0)
        gevent.sleep(0.3)
        assert ends == [], "two has something to do again"
        conductor.idle("two", 0)
        until(lambda: ends)
        assert ends == ["end"]


def test_what_is_given_back_early_is_dealt_first() -> None:
    crew = Stagehands(members=["one", "two"])
    with conducted(crew, Phase(0, 0, "a", requests=20)) as (conductor, _):
        crew.await_order("begin", "two", 0)
        conductor.ask("one", 0, 3)
        conductor.give_back("one", 0, [1, 2])
        conductor.ask("two", 0, 3)
        assert crew.orders[-1] == ("grant", "two", 0, (1, 2, 3), False)


def test_a_course_that_fails_ends_the_run_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    crew = Stagehands()

    class Broken(FixedCourse):
        def decided(self, phase: Phase, elapsed_s: float) -> bool:
            raise ZeroDivisionError

    ends: list[str] = []
    conductor = Conductor(Broken([Phase(0, 0, "a")]), crew, perf_counter(), lambda: ends.append("end"))
    crew.await_order("begin", "one", 0)
    until(lambda: ends)
    assert ends == ["end"]
    assert conductor.failed
    assert "The run cannot go on" in caplog.text


def test_a_phase_for_which_nobody_is_left_is_over() -> None:
    crew = Stagehands()

    class Fright(Spectator):
        def phase_begins(self, phase: Phase) -> None:
            crew.members.clear()

    with conducted(crew, Phase(0, 0, "a"), watchers=[Fright("one", crew.orders)]) as (conductor, ends):
        until(lambda: conductor.over)
        assert (conductor.failed, ends) == (False, ["end"])
