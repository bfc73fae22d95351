"""People who talk with the model: one conversation after the other, with pauses to think between the turns.

Run it like this:

    locust -f locustfiles/conversation.py --headless -u 8 -r 8 -t 60s --host http://localhost:8000

`--request-rate 2` begins two conversations a second instead, whoever else is talking. `--set think_s=5` makes
people slower, `--set history=recorded` has the same requests whatever the server answers.
"""

from locust import between, task

from vllm_locust import VllmUser


class Person(VllmUser):
    scenario = "conversation"
    wait_time = between(1, 5)

    @task
    def talk(self) -> None:
        self.ask_next()
