"""Whether users may ask for requests of a scenario is told from what they lead to."""

import types
from functools import partial, wraps
from typing import Any, ClassVar

from locust import TaskSet, User, task

from vllm_locust.load.own_tasks import asks_for_scenario, asks_on_its_own
from vllm_locust.load.users import VllmUser

helpers = types.ModuleType("helpers")


def ask(user: Any) -> None:
    user.ask_next()


def ask_by_way(user: Any) -> None:
    helpers.ask(user)  # type: ignore[attr-defined]


helpers.ask = ask  # type: ignore[attr-defined]


def timed(function: Any) -> Any:
    @wraps(function)
    def inside(*arguments: Any) -> Any:
        return function(*arguments)

    return inside


class Asker(VllmUser):
    @task
    def one(self) -> None:
        self.ask_next()


class Child(Asker):
    pass


class Helped(VllmUser):
    @task
    def one(self) -> None:
        ask_by_way(self)


class Decorated(VllmUser):
    @task
    @timed
    def one(self) -> None:
        self.ask_next()


class Nested(VllmUser):
    @task
    class Set(TaskSet):
        @task
        def one(self) -> None:
            (lambda: self.user.ask_next())()


class Listed(VllmUser):
    tasks: ClassVar = [ask]


class Weighted(VllmUser):
    tasks: ClassVar = {ask: 3}


class Parcel:
    def __call__(self, user: Any) -> None:
        user.ask_next()


class Guide:
    def show(self, user: Any) -> None:
        user.ask_next()


guide = Guide()
STEPS = [(ask,)]


class Partly(VllmUser):
    tasks: ClassVar = [partial(timed(ask), n=1)]


class Called(VllmUser):
    tasks: ClassVar = [Parcel()]


class Guided(VllmUser):
    @task
    def one(self) -> None:
        guide.show(self)


class Stepwise(VllmUser):
    @task
    def one(self) -> None:
        for (step,) in STEPS:
            step(self)


class Undecided(VllmUser):
    """Nobody calls it, but who knows?"""

    def maybe(self) -> None:
        self.ask_next()

    @task
    def own(self) -> None:
        self.client.chat("Write a haiku.", max_tokens=32)


class Both(Asker):
    @task
    def own(self) -> None:
        self.client.chat("Write a haiku.", max_tokens=32)


class Poet(VllmUser):
    @task
    def haiku(self) -> None:
        self.client.chat("Write a haiku.", max_tokens=32)


class Chatty(VllmUser):
    @task
    def chat(self) -> None:
        self.ask_next()


class Other(User):
    """Whose method is their own."""

    @task
    def rest(self) -> None:
        self.ask_next()

    def ask_next(self) -> None:
        pass


def test_who_can_ask() -> None:
    askers = (Asker, Child, Helped, Decorated, Nested, Listed, Weighted)
    by_way = (Partly, Called, Guided, Stepwise, Undecided, Both)
    users = (*askers, *by_way, Poet, Other)
    assert [user.__name__ for user in users if not asks_for_scenario([user])] == ["Poet", "Other"]
    assert asks_for_scenario([Poet, Asker]), "one is enough"
    assert not asks_for_scenario([])


def test_who_asks_on_its_own() -> None:
    """A task that is called `chat`, as in our own locustfile, does not call the client's."""
    users = (Asker, Child, Helped, Chatty, Undecided, Both, Poet, Other)
    assert [user.__name__ for user in users if asks_on_its_own(user)] == ["Undecided", "Both", "Poet"]
