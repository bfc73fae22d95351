"""The user to build a locustfile from.

A locustfile may be as short as this one:

    from locust import task
    from vllm_locust import VllmUser

    class Poet(VllmUser):
        @task
        def ask(self):
            text, record = self.client.chat("Write a haiku about queues.", max_tokens=64)
"""

from typing import Any

from locust import User
from locust.env import Environment
from locust.exception import StopUser

from vllm_locust.client.chat import CHAT_PATH, COMPLETIONS_PATH, ChatClient, Origin, Reply
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
        self.client = ChatClient(self.run_state.transport, self._on_finished)

    def ask_next(self) -> Reply:
        """Send the next request of the scenario given by `--scenario`; stops the user when there is none."""
        plan = self.run_state.plan
        try:
            planned, phase = plan.take()
        except PlanEnded:
            raise StopUser from None
        origin = Origin(
            index=planned.index,
            scenario=planned.scenario,
            profile=planned.profile,
            phase=phase,
            prompt_tokens=planned.prompt_tokens,
        )
        body: dict[str, Any] = {"max_tokens": planned.max_tokens, **planned.extra}
        try:
            if self.run_state.settings.endpoint_type == "completions":
                return self.client.request(COMPLETIONS_PATH, {"prompt": planned.prompt, **body}, origin)
            messages = [{"role": "user", "content": planned.prompt}]
            return self.client.request(CHAT_PATH, {"messages": messages, **body}, origin)
        finally:
            plan.finished()

    def on_stop(self) -> None:
        self.client.close()

    def _on_finished(self, record: Any) -> None:
        stream_finished.fire(record=record, environment=self.environment)
