"""The benchmark's load with this suite's client: answers of one length, one question after another."""

import os

from locust import task

from vllm_locust import VllmUser

TOKENS = int(os.environ["ANSWER_TOKENS"])


class OurUser(VllmUser):
    @task
    def ask(self) -> None:
        self.client.chat("hello " * 40, max_tokens=TOKENS)
