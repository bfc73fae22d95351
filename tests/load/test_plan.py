"""Each request is handed out once, phases never overlap, and the end is told once."""

from dataclasses import dataclass

import gevent
import pytest

from vllm_locust.load.plan import Plan, PlanEnded, Share
from vllm_locust.workloads.scenario import PlannedRequest


@dataclass(frozen=True)
class Counting:
    name: str

    @property
    def phases(self) -> tuple["Counting", ...]:
        return (self,)

    def request(self, seed: int, index: int) -> PlannedRequest:
        return PlannedRequest(index, self.name, self.name, f"{seed}-{index}", 1)


@dataclass(frozen=True)
class InOrder:
    phases: tuple[Counting, ...]
    name: str = "order"

    def request(self, seed: int, index: int) -> PlannedRequest:
        raise NotImplementedError


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def start(share: Share, *names: str) -> tuple[Plan, Clock, list[str]]:
    clock, ends = Clock(), []
    plan = Plan(InOrder(tuple(map(Counting, names))), 7, share, clock, lambda: ends.append("end"))
    return plan, clock, ends


def test_requests_are_numbered_over_the_whole_run() -> None:
    plan, _, ends = start(Share(requests=2), "a", "b")
    taken = []
    for _ in range(4):
        it = plan.take()
        taken.append((it.request.scenario, it.request.index, it.request.prompt, it.phase))
        plan.finished()
    assert taken == [("a", 0, "7-0", 0), ("a", 1, "7-1", 0), ("b", 2, "7-2", 1), ("b", 3, "7-3", 1)]
    assert ends == ["end"]
    with pytest.raises(PlanEnded):
        plan.take()


def test_a_phase_waits_for_the_last_request_of_the_one_before() -> None:
    plan, _, _ = start(Share(requests=2), "a", "b")
    plan.take()
    plan.take()
    waiting = [gevent.spawn(plan.take) for _ in range(2)]
    gevent.sleep(0)
    plan.finished()
    gevent.sleep(0)
    assert not any(user.ready() for user in waiting)
    plan.finished()
    assert [user.get(timeout=1).phase for user in waiting] == [1, 1]


def test_phases_share_the_time_that_is_left() -> None:
    plan, clock, ends = start(Share(seconds=10), "a", "b", "c")
    clock.now_s = 103.0  # time begins with the first request, not with the making of the plan
    assert plan.take().phase == 0
    clock.now_s = 112.9
    assert plan.take().phase == 0
    clock.now_s = 123.0  # the request runs far over the border at 113: 10 s are left for two phases
    plan.finished()
    plan.finished()
    taken = plan.take()
    assert (taken.phase, taken.phase_began_s) == (1, 123.0)
    clock.now_s = 128.0
    assert plan.never_begun == ["c"]
    plan.finished()
    assert plan.take().phase == 2
    assert plan.never_begun == []
    clock.now_s = 133.0
    plan.finished()
    assert ends == ["end"]


def test_a_request_that_cannot_be_made_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _, ends = start(Share(requests=3), "a")
    make = Counting.request

    def broken(self: Counting, seed: int, index: int) -> PlannedRequest:
        if index == 1:
            raise ValueError("row 1 is broken")
        return make(self, seed, index)

    monkeypatch.setattr(Counting, "request", broken)
    assert plan.take().request.index == 0
    with pytest.raises(ValueError, match="row 1"):
        plan.take()
    assert plan.take().request.index == 2
    plan.finished()
    plan.finished()
    assert ends == ["end"]
    assert plan.handed_out == 3


def test_without_bounds_the_plan_goes_on() -> None:
    plan, clock, ends = start(Share(), "a")
    for index in range(100):
        clock.now_s += 1000
        assert plan.take().request.index == index
        plan.finished()
    assert ends == []


def test_stop_wakes_who_waits_and_ends_the_rest() -> None:
    plan, _, ends = start(Share(requests=1), "a", "b")
    plan.take()
    waiting = gevent.spawn(plan.take)
    gevent.sleep(0)
    plan.stop()
    with pytest.raises(PlanEnded):
        waiting.get(timeout=1)
    plan.finished()
    assert ends == []  # stopped from outside: nobody needs to be told


def test_many_users_send_exactly_the_number_asked_for() -> None:
    plan, _, ends = start(Share(requests=50), "a", "b", "c")
    taken: list[tuple[str, int]] = []

    def user() -> None:
        while True:
            try:
                request = plan.take().request
            except PlanEnded:
                return
            gevent.sleep(0.0001)
            taken.append((request.scenario, request.index))
            plan.finished()

    gevent.joinall([gevent.spawn(user) for _ in range(7)], raise_error=True)
    assert sorted(index for _, index in taken) == list(range(150))
    assert [scenario for scenario, _ in taken] == ["a"] * 50 + ["b"] * 50 + ["c"] * 50
    assert ends == ["end"]
