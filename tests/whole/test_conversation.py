"""Conversations under load: turns are sent as people would, counted as sent, and end when the load does."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from tests.locust_command import (
    Outcome,
    Simulator,
    assert_ended_well,
    assert_nothing_is_lost,
    in_processes,
    run_locust,
    simulator,
    started,
    wait_until,
)
from tests.turns import LIMIT_S, look_around, until
from vllm_locust import VllmUser
from vllm_locust.client.chat import ChatClient, Moment, Origin, RenderedPrompt, Reply
from vllm_locust.core.record import RequestRecord
from vllm_locust.load.bodies import make_ready
from vllm_locust.load.generator import LoadGenerator
from vllm_locust.load.lanes import Due, Lanes
from vllm_locust.workloads.scenario import FollowUp, PlannedRequest

BLOCK = 16
OPTIONS = ("--headless", "-r", "100", "--seed", "3")
QUICK = ("--set", "think_s=0.05", "--max-tokens", "8")


def planned(turn: int = 1, turns: int = 3, pause_s: float = 0.0) -> PlannedRequest:
    """Turn by turn one message more, the last one being the answer before."""

    def then(answer: str) -> FollowUp | None:
        following = planned(turn + 1, turns, pause_s)
        return FollowUp(pause_s, following) if turn < turns else None

    messages = [{"role": "user", "content": f"question {turn}"}]
    return PlannedRequest(7, "s", f"turn_{turn}", "", max_tokens=4, messages=messages, turn=turn, then=then)


class Client(ChatClient):
    """Answers by itself, with these outcomes; waits as a lane does."""

    def __init__(self, *outcomes: str) -> None:
        self.free = None
        self.asked: list[tuple[str, Mapping[str, Any], Origin]] = []
        self.outcomes = list(outcomes)

    def leave_host(self) -> None:
        pass

    def request(self, path: str, body: Mapping[str, Any], origin: Origin, prompt: RenderedPrompt) -> Reply:
        self.asked.append((path, body, origin))
        outcome = self.outcomes.pop(0) if self.outcomes else "ok"
        ended_s = time.perf_counter()
        record = RequestRecord(0, "s", "p", outcome, intended_s=0.0, ended_s=ended_s, ended_bound_s=0.25)
        return Reply(f"answer {len(self.asked)}", record)


@dataclass
class Stage:
    """What sending needs of a generator."""

    over: Event = field(default_factory=Event)
    settings: Any = field(default_factory=lambda: SimpleNamespace(endpoint_type="chat"))

    @property
    def _over(self) -> Mapping[int, Event]:
        return {2: self.over}

    def send(self, client: ChatClient, request: PlannedRequest) -> Reply:
        return LoadGenerator.send(
            cast(LoadGenerator, self), client, make_ready(request, request.index, "chat"), 2, Moment(5.0)
        )


def test_a_conversation_is_sent_turn_by_turn() -> None:
    client = Client()
    began_s = time.perf_counter()
    reply = Stage().send(client, planned(pause_s=0.05))
    assert reply.text == "answer 3"
    origins = [origin for _, _, origin in client.asked]
    assert [(origin.session, origin.turn, origin.phase) for origin in origins] == [
        (7, n, 2) for n in (1, 2, 3)
    ]
    assert [origin.index for origin in origins] == [7, None, None], "the plan knows of the first turn"
    assert [origin.profile for origin in origins] == ["turn_1", "turn_2", "turn_3"]
    assert [body["messages"][0]["content"] for _, body, _ in client.asked] == [
        f"question {n}" for n in (1, 2, 3)
    ]
    intended = [origin.intended for origin in origins if origin.intended]
    assert intended[0] == Moment(5.0)
    assert [bound_s for _, bound_s in intended[1:]] == [0.25, 0.25], "that of the answer before"
    intended_s = [moment.at_s for moment in intended]
    assert began_s + 0.05 <= intended_s[1] <= intended_s[2] - 0.05
    assert time.perf_counter() >= intended_s[2]


def test_a_request_that_is_no_conversation_says_so() -> None:
    client = Client()
    Stage().send(client, PlannedRequest(3, "s", "p", "hello", max_tokens=1))
    ((_, body, origin),) = client.asked
    assert (origin.index, origin.session, origin.turn) == (3, None, None)
    assert body["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("outcome", ["http_400", "timeout", "cancelled"])
def test_behind_a_failure_nothing_more_is_said(outcome: str) -> None:
    client = Client("ok", outcome)
    assert Stage().send(client, planned()).record.outcome == outcome
    assert len(client.asked) == 2


def test_no_turn_begins_behind_the_end_of_the_load() -> None:
    stage, client = Stage(), Client()
    stage.over.set()
    stage.send(client, planned())
    assert len(client.asked) == 1


def test_lanes_are_free_at_once_when_the_load_ends() -> None:
    stage = Stage()
    clients: list[Client] = []

    def new_client() -> Client:
        clients.append(Client())
        return clients[-1]

    lanes = Lanes(new_client, lambda client, due: stage.send(client, due.request), lambda due, why: None)
    for _ in range(3):
        lanes.submit(Due(planned(pause_s=60.0), 2, 0.0))
    until(lambda: [len(client.asked) for client in clients] == [1, 1, 1])
    look_around()
    assert lanes.unfinished(2) == 3, "who thinks is not done"
    stage.over.set()
    until(lambda: lanes.unfinished(2) == 0)
    assert [len(client.asked) for client in clients] == [1, 1, 1]
    stage.over.clear()
    lanes.submit(Due(planned(pause_s=60.0), 2, 0.0))
    look_around()
    lanes.cancel()
    assert lanes.unfinished(2) == 0


class Talker(VllmUser):
    abstract = True

    def __init__(self, stage: Stage) -> None:
        self._state = "running"
        self.generator = cast(LoadGenerator, stage)

    def waits(self, seconds: float) -> bool:
        client = cast(ChatClient, SimpleNamespace(_user=self, free=Moment(0.0)))
        waited: bool = VllmClient.wait_until(client, time.perf_counter() + seconds, self.generator._over[2])
        self.free = client.free
        return waited


# The class of a user's client, which nobody needs to know by name.
VllmClient: Any = next(
    kind for kind in ChatClient.__subclasses__() if kind.__module__ == "vllm_locust.load.users"
)


def test_users_who_think_can_be_stopped_as_users_who_wait() -> None:
    user = Talker(Stage())
    thinking = gevent.spawn(user.waits, 60.0)
    until(lambda: user._state == "waiting", "Locust ends those at once")
    thinking.kill()
    user._state = "running"
    assert user.waits(0.02)
    assert user._state == "running"
    user._state = "stopping"
    assert not user.waits(0.0), "the turn is over, and so is the task"


def test_a_user_whose_pause_was_broken_off_is_free_from_then_on() -> None:
    user = Talker(Stage())
    thinking = gevent.spawn(user.waits, 60.0)
    until(lambda: user._state == "waiting")
    ended_s = time.perf_counter()
    user.generator._over[2].set()
    assert not thinking.get(timeout=LIMIT_S)
    assert user._state == "running"
    assert user.free is not None
    assert ended_s <= user.free.at_s <= time.perf_counter()
    assert user.free.bound_s == 0


# -- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Simulator]]:
    """Two simulators that tell of cached tokens."""
    options = ("--served-model-name", "tiny", "--enable-prompt-tokens-details")
    with (
        simulator(tmp_path_factory.mktemp("a"), *options) as one,
        simulator(tmp_path_factory.mktemp("b"), *options) as other,
    ):
        yield one, other


def talk(*options: str, folder: Path) -> Outcome:
    return run_locust(*OPTIONS, *options, folder=folder / "results", locustfile="conversation.py")


def sessions(outcome: Outcome) -> list[list[dict[str, Any]]]:
    """The requests of each conversation, in the order of its turns."""
    found = defaultdict(list)
    for request in outcome.requests:
        found[request["session"]].append(request)
    return [sorted(found[session], key=lambda request: request["turn"]) for session in sorted(found)]


def assert_they_are_conversations(outcome: Outcome) -> None:
    for requests in sessions(outcome):
        assert [request["turn"] for request in requests] == list(range(1, len(requests) + 1))
        assert [request["profile"] for request in requests] == [f"turn_{r['turn']}" for r in requests]
        assert requests[0]["index"] == requests[0]["session"]
        for before, after in pairwise(requests):
            assert after["index"] >= 10_000_000
            assert after["intended_s"] > before["ended_s"]
            assert after["sent_s"] >= after["intended_s"]


def reused(requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Of each turn behind the first: cached tokens, and those of the full blocks that it shares."""
    for before, after in pairwise(requests):
        # The last token of an answer is never computed upon before the next question comes.
        shared = before["prompt_tokens"] + before["output_tokens"] - 1
        yield after["cached_tokens"], shared // BLOCK * BLOCK


def sent_to(hosts: Sequence[Simulator], outcome: Outcome) -> list[int]:
    """How many requests of a run each host has answered."""
    return [len(host.sent(outcome.summary["run"])) for host in hosts]


def test_sessions_arrive_and_each_turn_finds_the_one_before_in_the_cache(
    hosts: Sequence[Simulator], tmp_path: Path
) -> None:
    outcome = talk(
        "-u", "1", "--host", hosts[0].url, "--request-rate", "20", "--burstiness", "inf",
        "--num-prompts", "12", *QUICK, folder=tmp_path,
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_they_are_conversations(outcome)
    begins = [requests[0]["intended_s"] for requests in sessions(outcome)]
    assert len(begins) == 12, "the rate and the number are those of conversations"
    assert begins[-1] - begins[0] == pytest.approx(11 / 20, abs=1e-5)
    assert min(map(len, sessions(outcome))) >= 2
    assert len(outcome.requests) == outcome.summary["requests"]["planned"] == sent_to(hosts, outcome)[0]
    pairs = [pair for requests in sessions(outcome) for pair in reused(requests)]
    assert all(cached >= shared for cached, shared in pairs)
    assert sum(shared for _, shared in pairs) > 0


@pytest.mark.parametrize("rate", [(), ("--request-rate", "20")], ids=["users", "sessions"])
def test_who_thinks_when_the_load_ends_ends_with_it(
    hosts: Sequence[Simulator], tmp_path: Path, rate: Sequence[str]
) -> None:
    options = ("-u", "6", "--host", hosts[0].url, *rate, "--set", "think_s=1000")
    with started(*OPTIONS, *options, folder=tmp_path / "results", locustfile="conversation.py") as run:
        wait_until(lambda: len(run.requests) >= 6, "six first questions")
        outcome = run.stop()
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert {request["turn"] for request in outcome.requests} == {1}
    assert len(outcome.requests) == sent_to(hosts, outcome)[0] >= 6


def test_a_step_ends_for_those_who_think_as_well(hosts: Sequence[Simulator], tmp_path: Path) -> None:
    outcome = talk(
        "--host", hosts[0].url, "--ladder", "2,4", "--step-time", "1s", "--set", "think_s=1000",
        folder=tmp_path,
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    first, second = ([r["session"] for r in outcome.requests if r["phase"] == phase] for phase in (0, 1))
    assert 1 <= len(first) <= 2, "each of the two asks once, and then thinks"
    assert not set(first) & set(second), "a conversation belongs to one step"


def test_two_processes_share_conversations_and_lose_none(hosts: Sequence[Simulator], tmp_path: Path) -> None:
    outcome = talk(
        *in_processes(2), "-u", "20", "--host", hosts[0].url, "--num-prompts", "10", *QUICK, folder=tmp_path
    )
    assert_ended_well(outcome)
    assert_nothing_is_lost(outcome)
    assert_they_are_conversations(outcome)
    assert [requests[0]["session"] for requests in sessions(outcome)] == list(range(10))
    for requests in sessions(outcome):
        assert len({request["worker"] for request in requests}) == 1
    assert len(outcome.requests) == sent_to(hosts, outcome)[0]


@pytest.mark.parametrize("routing", ["sticky", "round-robin"])
def test_where_the_turns_of_a_conversation_go(
    hosts: Sequence[Simulator], tmp_path: Path, routing: str
) -> None:
    outcome = talk(
        "-u", "1", "--host", f"{hosts[0].url},{hosts[1].url}", "--routing", routing, "--request-rate", "20",
        "--num-prompts", "8", "--seed", "4" if routing == "sticky" else "5", *QUICK, folder=tmp_path,
    )  # fmt: skip
    assert_ended_well(outcome)
    assert_they_are_conversations(outcome)
    names = [host.url.removeprefix("http://") for host in hosts]
    targets = [request["target"] for request in outcome.requests]
    assert [targets.count(name) for name in names] == sent_to(hosts, outcome)
    asked = [[request["target"] for request in requests] for requests in sessions(outcome)]
    if routing == "sticky":
        assert [len(set(one)) for one in asked] == [1] * 8
        assert sorted(one[0] for one in asked) == sorted(names * 4)
        assert all(cached >= shared for requests in sessions(outcome) for cached, shared in reused(requests))
    else:
        assert abs(targets.count(names[0]) - targets.count(names[1])) <= 1
        moved = [one[:2] for one in sessions(outcome) if one[0]["target"] != one[1]["target"]]
        assert moved
        assert any(cached < shared for turns in moved for cached, shared in reused(turns))
