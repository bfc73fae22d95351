"""The user to build a locustfile from.

A locustfile may be as short as this one:

    from locust import task
    from vllm_locust import VllmUser

    class Poet(VllmUser):
        @task
        def ask(self):
            text, record = self.client.chat("Write a haiku about queues.", max_tokens=64)
"""

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any, NoReturn

from gevent.event import Event
from locust import User
from locust.env import Environment
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from vllm_locust.client.chat import ChatClient, Moment, Origin, RenderedPrompt, Reply
from vllm_locust.load import wiring as _wiring  # noqa: F401 - joins the suite to Locust
from vllm_locust.load.generator import LoadGenerator
from vllm_locust.load.own_tasks import Asker
from vllm_locust.load.plan import PlanEnded, Taken


class VllmUser(Asker, User):
    """A Locust user whose `client` streams completions and measures them.

    `client.chat(...)` and `client.complete(...)` return the answer's text and its record, and never raise for
    what the server does: look at `record.outcome`. `ask_next()` sends the next request of the run's scenario.
    """

    abstract = True
    scenario: str | None = None
    """What the run's scenario is when `--scenario` does not say: `scenario = "conversation"`."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.generator = LoadGenerator.of(environment)
        self.client = _Client(self)
        self.generator.clients.add(self.client)
        self._thinking_s = 0.0
        self._wait_time = self.wait_time
        self.wait_time = self._note_wait_time  # type: ignore[method-assign]

    def ask_next(self) -> Reply:
        """Send the next request of the scenario given by `--scenario`; without one, wait to be stopped.

        Of a scenario of conversations it is a whole one, with the time to think between its turns; the last
        reply is returned. The user's `wait_time` lies between two conversations.

        The request is intended for the moment the last answer arrived, plus the user's `wait_time`: whatever
        else passes until it is sent is counted as the client's being late. In an open loop this only waits:
        then requests are sent when they are due, and users say by their number how many.
        """
        taken = self._take()
        try:
            intended = self._intended(taken.phase_began_s)
            return self.generator.send(self.client, taken.request, taken.phase, intended)
        finally:
            self.generator.plan.finished(taken.phase)

    def on_stop(self) -> None:
        self.client.close()
        self.generator.clients.discard(self.client)
        if not self.generator.clients:
            self.generator.plan.abandon()

    def _take(self) -> Taken:
        plan = self.generator.plan
        self.generator.note_called()
        try:
            while (taken := plan.try_take()) is None:
                self.generator.note_waiting(type(self).__name__)
                self._wait(plan.change)
        except PlanEnded:
            self._wait_to_be_stopped()
        return taken

    def _wait(self, change: Event, limit_s: float | None = None) -> None:
        """As Locust's users wait between tasks: one that is to stop is stopped at once."""
        if self._state == LOCUST_STATE_STOPPING:
            raise StopUser
        self._state = LOCUST_STATE_WAITING
        change.wait(limit_s)
        self._state = LOCUST_STATE_RUNNING

    def _stop_if_load_is_over(self) -> None:
        # Locust kills users whom it finds waiting, and one may have woken up and begun a task by then: its
        # request would be cut off. Those it found in a task are stopping, and may finish it.
        if self.generator.load_is_over and self._state == LOCUST_STATE_RUNNING:
            self._wait_to_be_stopped()

    def _wait_to_be_stopped(self) -> NoReturn:
        """Locust counts on its users being there when it stops them."""
        self._wait(Event())
        raise StopUser

    def _intended(self, phase_began_s: float) -> Moment | None:
        """None before the first answer: then it is now."""
        thinking_s, self._thinking_s = self._thinking_s, 0.0
        if self.client.free is None:
            return None
        return self.client.free.later(thinking_s).not_before(phase_began_s)

    def _note_wait_time(self) -> float:
        seconds = float(self._wait_time())
        self._thinking_s += seconds
        return seconds


class _Client(ChatClient):
    """A client that begins nothing new behind the end of the load."""

    def __init__(self, user: VllmUser) -> None:
        super().__init__(user.generator.transport, user.generator.take_in)
        self._user = user

    def request(
        self, path: str, body: Mapping[str, Any], origin: Origin, prompt: RenderedPrompt | None = None
    ) -> Reply:
        while not self._user.generator.started.is_set():
            self._user._wait(self._user.generator.started)
        self._user._stop_if_load_is_over()
        if origin.index is None and origin.session is None:  # of a task of the user's own
            self._user.generator.note_own(type(self._user).__name__)
            origin = replace(origin, phase=self._user.generator.phase)  # it belongs to the phase there is
        return super().request(path, body, origin, prompt)

    def wait_until(self, at_s: float, unless: Event) -> bool:
        """As a user waits; one whom Locust has told to stop does not begin another turn."""
        user = self._user
        if user._state == LOCUST_STATE_STOPPING:
            return False
        while not unless.is_set() and (left_s := at_s - perf_counter()) > 0:
            user._wait(unless, left_s)
        if unless.is_set():
            # What they were to wait for is no lateness of what comes instead.
            self.free = Moment(perf_counter())
        return not unless.is_set()
