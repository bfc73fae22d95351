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
from typing import Any, NoReturn

from gevent.event import Event
from locust import User
from locust.env import Environment
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_WAITING

from vllm_locust.client.chat import CHAT_PATH, COMPLETIONS_PATH, ChatClient, Origin, Reply
from vllm_locust.core.record import RequestRecord
from vllm_locust.load import wiring as _wiring  # noqa: F401 - joins the suite to Locust
from vllm_locust.load.hooks import stream_finished
from vllm_locust.load.plan import PlanEnded
from vllm_locust.load.run import Run


class VllmUser(User):
    """A Locust user whose `client` streams completions and measures them.

    `client.chat(...)` and `client.complete(...)` return the answer's text and its record, and never raise for
    what the server does: look at `record.outcome`. `ask_next()` sends the next request of the run's scenario.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.run_state = Run.of(environment)
        self.client = _Client(self)
        self.run_state.clients.add(self.client)
        self._thinking_s = 0.0
        self._wait_time = self.wait_time
        self.wait_time = self._note_wait_time  # type: ignore[method-assign]

    def ask_next(self) -> Reply:
        """Send the next request of the scenario given by `--scenario`; without one, wait to be stopped.

        The request is intended for the moment the last answer arrived, plus the user's `wait_time`: whatever
        else passes until it is sent is counted as the client's being late.
        """
        plan = self.run_state.plan
        try:
            taken = plan.take()
        except PlanEnded:
            self._wait_to_be_stopped()
        try:
            planned = taken.request
            origin = Origin(
                index=planned.index,
                scenario=planned.scenario,
                profile=planned.profile,
                phase=taken.phase,
                intended_s=self._intended_s(taken.phase_began_s),
                prompt_tokens=planned.prompt_tokens,
            )
            body: dict[str, Any] = {"max_tokens": planned.max_tokens, **planned.extra}
            if self.run_state.settings.endpoint_type == "completions":
                return self.client.request(COMPLETIONS_PATH, {"prompt": planned.prompt, **body}, origin)
            messages = [{"role": "user", "content": planned.prompt}]
            return self.client.request(CHAT_PATH, {"messages": messages, **body}, origin)
        finally:
            plan.finished()

    def on_stop(self) -> None:
        self.client.close()
        self.run_state.clients.discard(self.client)

    def _stop_if_load_is_over(self) -> None:
        # Locust kills users whom it finds waiting, and one may have woken up and begun a task by then: its
        # request would be cut off. Those it found in a task are stopping, and may finish it.
        if self.run_state.load_is_over and self._state == LOCUST_STATE_RUNNING:
            self._wait_to_be_stopped()

    def _wait_to_be_stopped(self) -> NoReturn:
        """Locust counts on its users being there when it stops them; one that waits is stopped at once."""
        self._state = LOCUST_STATE_WAITING
        Event().wait()
        raise StopUser

    def _intended_s(self, phase_began_s: float) -> float | None:
        """None before the first answer: then it is now."""
        thinking_s, self._thinking_s = self._thinking_s, 0.0
        if self.client.free_s is None:
            return None
        return max(self.client.free_s + thinking_s, phase_began_s)

    def _note_wait_time(self) -> float:
        seconds = float(self._wait_time())
        self._thinking_s += seconds
        return seconds

    def _on_finished(self, record: RequestRecord) -> None:
        stream_finished.fire(record=record, environment=self.environment, run=self.run_state)


class _Client(ChatClient):
    """A client that begins nothing new behind the end of the load."""

    def __init__(self, user: VllmUser) -> None:
        super().__init__(user.run_state.transport, user._on_finished)
        self._user = user

    def request(self, path: str, body: Mapping[str, Any], origin: Origin) -> Reply:
        self._user._stop_if_load_is_over()
        return super().request(path, body, origin)
