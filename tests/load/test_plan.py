"""Each index is handed out once, in the phase it was granted for, and whoever waits is told of changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gevent

from vllm_locust.load.bodies import ReadyRequest, make_ready
from vllm_locust.load.phases import Phase
from vllm_locust.load.plan import Plan, PlanEnded, Taken
from vllm_locust.workloads.scenario import PlannedRequest


@dataclass
class Dealer:
    """A conductor for one plan, that may take its time to answer."""

    at_once: bool = True
    asked: list[tuple[int, int]] = field(default_factory=list)
    idles: list[int] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    next: int = 0
    left: int | None = None
    plan: Plan = field(init=False)

    def ask(self, phase: int, count: int) -> None:
        self.asked.append((phase, count))
        if self.at_once:
            self.answer(phase, count)

    def answer(self, phase: int, count: int) -> None:
        if self.left is not None:
            count = min(count, self.left)
            self.left -= count
        first, self.next = self.next, self.next + count
        self.plan.grant(phase, range(first, first + count), last=self.left == 0)

    def give_back(self, phase: int, indices: Sequence[int]) -> None:
        self.given_back.extend(indices)

    def idle(self, phase: int) -> None:
        self.idles.append(phase)


def make(phase: Phase, index: int) -> ReadyRequest | None:
    return make_ready(PlannedRequest(index, phase.name, phase.name, f"7-{index}", 1), index, "chat")


def planned(
    dealer: Dealer,
    ahead: Callable[[], int] | None = None,
    make: Callable[[Phase, int], ReadyRequest | None] = make,
) -> Plan:
    dealer.plan = Plan(dealer, make, ahead)
    return dealer.plan


def taken(plan: Plan) -> Taken:
    it = plan.try_take()
    assert it is not None
    return it


def test_requests_are_numbered_over_the_phases() -> None:
    dealer = Dealer(left=2)
    plan = planned(dealer)
    assert plan.try_take() is None, "no phase has begun"
    plan.begin(Phase(0, 0, "a"), 100.0)
    first, second = taken(plan), taken(plan)
    assert (first.request.planned.scenario, first.request.planned.prompt, first.phase_began_s) == (
        "a",
        "7-0",
        100.0,
    )
    assert second.request.planned.index == 1
    assert plan.try_take() is None
    plan.finished(0)
    assert dealer.idles == [], "one is in flight"
    plan.finished(0)
    assert dealer.idles == [0]
    dealer.left = None
    plan.begin(Phase(1, 1, "b"), 123.0)
    third = taken(plan)
    assert (
        third.request.planned.scenario,
        third.request.planned.index,
        third.phase,
        third.phase_began_s,
    ) == (
        "b",
        2,
        1,
        123.0,
    )


def test_without_a_stock_indices_are_asked_for_one_by_one() -> None:
    dealer = Dealer()
    plan = planned(dealer)
    plan.begin(Phase(0, 0, "a"), 0.0)
    assert [taken(plan).request.planned.index for _ in range(3)] == [0, 1, 2]
    assert dealer.asked == [(0, 1)] * 3


def test_a_stock_is_filled_up_before_it_is_empty() -> None:
    dealer = Dealer(at_once=False)
    plan = planned(dealer, ahead=lambda: 4)
    plan.begin(Phase(0, 0, "a"), 0.0)
    assert plan.try_take() is None
    assert plan.try_take() is None
    assert dealer.asked == [(0, 5)], "asked once, for those who wait and those to come"
    dealer.answer(0, 5)
    assert [taken(plan).request.planned.index for _ in range(4)] == [0, 1, 2, 3]
    assert dealer.asked == [(0, 5), (0, 3)], "with two left"


def test_who_waits_is_woken_by_a_grant_a_phase_and_the_end() -> None:
    dealer = Dealer(at_once=False)
    plan = planned(dealer)
    woken: list[str] = []

    def user() -> None:
        while True:
            try:
                it = plan.try_take()
            except PlanEnded:
                woken.append("end")
                return
            if it is None:
                plan.change.wait()
            else:
                woken.append(it.request.planned.prompt)
                plan.finished(it.phase)

    waiting = gevent.spawn(user)
    gevent.sleep(0)
    plan.begin(Phase(0, 0, "a"), 0.0)
    gevent.sleep(0)
    dealer.answer(0, 1)
    gevent.sleep(0)
    assert woken == ["7-0"]
    plan.stop()
    waiting.join(timeout=1)
    assert woken == ["7-0", "end"]


def test_the_end_of_a_phase_takes_back_what_is_in_stock() -> None:
    dealer = Dealer(at_once=False)
    plan = planned(dealer, ahead=lambda: 4)
    plan.begin(Phase(0, 0, "a"), 0.0)
    plan.try_take()
    dealer.answer(0, 5)
    assert taken(plan).request.planned.index == 0
    plan.end(0)
    assert plan.try_take() is None
    assert dealer.idles == []
    plan.finished(0)
    assert dealer.idles == [0]
    dealer.answer(0, 3)  # was under way
    assert plan.try_take() is None
    assert plan.handed_out == 1


def test_requests_of_an_earlier_phase_may_finish_in_a_later_one() -> None:
    dealer = Dealer()
    plan = planned(dealer)
    plan.begin(Phase(0, 0, "a"), 0.0)
    taken(plan)
    plan.end(0)
    plan.begin(Phase(1, 1, "b"), 1.0)
    taken(plan)
    assert dealer.idles == []
    plan.finished(0)
    assert dealer.idles == [0]


def test_a_plan_that_never_got_any_is_idle_when_there_are_no_more() -> None:
    dealer = Dealer()
    plan = planned(dealer)
    plan.begin(Phase(0, 0, "a", requests=5), 0.0)
    plan.grant(0, (), last=True)  # others took them all
    assert dealer.idles == [0]


def test_a_request_that_cannot_be_made_is_passed_over_and_counted() -> None:
    dealer = Dealer(left=3)
    plan = planned(dealer, make=lambda phase, index: None if index == 1 else make(phase, index))
    plan.begin(Phase(0, 0, "a"), 0.0)
    assert [taken(plan).request.planned.index for _ in range(2)] == [0, 2]
    plan.finished(0)
    plan.finished(0)
    assert dealer.idles == [0]
    assert plan.handed_out == 3


def test_who_has_nobody_left_gives_its_stock_back() -> None:
    dealer = Dealer(at_once=False)
    plan = planned(dealer, ahead=lambda: 4)
    plan.begin(Phase(0, 0, "a", requests=9), 0.0)
    plan.try_take()
    dealer.answer(0, 5)
    taken(plan)
    plan.abandon()
    assert dealer.given_back == [1, 2, 3, 4]
    plan.finished(0)
    assert dealer.idles == [], "there may be more to ask for"
    plan.stop()
    plan.grant(0, (7, 8), last=True)
    assert dealer.given_back == [1, 2, 3, 4, 7, 8]


def test_in_an_open_loop_nobody_is_handed_anything() -> None:
    dealer = Dealer()
    plan = planned(dealer)
    plan.begin(Phase(0, 0, "a", rate="10"), 0.0)
    assert plan.try_take() is None
    assert dealer.asked == []


def test_an_open_loop_goes_on_when_a_process_has_lost_its_last_user() -> None:
    """Locust moves users to processes that come late, and requests are sent when they are due."""
    dealer = Dealer()
    plan = planned(dealer)
    plan.begin(Phase(0, 0, "a", rate="10"), 0.0)
    plan.abandon()
    assert dealer.idles == []


def test_without_a_stock_the_next_indices_are_those_behind_the_last_one() -> None:
    dealer = Dealer()
    plan = planned(dealer)
    assert list(plan.upcoming()) == []
    plan.begin(Phase(0, 0, "a", requests=4), 0.0)
    assert list(plan.upcoming()) == [0, 1, 2, 3]
    taken(plan)
    assert list(plan.upcoming()) == [1, 2, 3]
    plan.begin(Phase(1, 0, "a", first_index=9), 0.0)
    upcoming = iter(plan.upcoming())
    assert [next(upcoming) for _ in range(3)] == [9, 10, 11]


def test_with_a_stock_the_next_indices_are_those_in_it() -> None:
    dealer = Dealer(at_once=False)
    plan = planned(dealer, ahead=lambda: 4)
    plan.begin(Phase(0, 0, "a"), 0.0)
    assert list(plan.upcoming()) == []
    plan.try_take()
    dealer.answer(0, 5)
    taken(plan)
    assert list(plan.upcoming()) == [1, 2, 3, 4]
