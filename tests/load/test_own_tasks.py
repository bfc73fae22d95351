"""Whether users ask for requests of a scenario is told from what their tasks name, and what those call."""

import types
from functools import wraps
from typing import Any, ClassVar

from locust import TaskSet, User, task

from vllm_locust.load.own_tasks import asks_for_scenario
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


class Poet(VllmUser):
    @task
    def haiku(self) -> None:
        self.client.chat("Write a haiku.", max_tokens=32)


class Other(User):
    @task
    def rest(self) -> None:
        pass


def test_who_asks() -> None:
    users = (Asker, Child, Helped, Decorated, Nested, Listed, Weighted, Poet, Other)
    assert [user.__name__ for user in users if not asks_for_scenario([user])] == ["Poet", "Other"]
    assert asks_for_scenario([Poet, Asker]), "one is enough"
    assert not asks_for_scenario([])
