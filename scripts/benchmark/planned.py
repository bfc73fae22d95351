"""The benchmark's load with this suite's client and prompts of a scenario: what making them costs."""

from locust import task

from vllm_locust import VllmUser


class PlannedUser(VllmUser):
    @task
    def ask(self):
        self.ask_next()
