"""Recorded traffic, sent when it came: does the server stand a day like that one?

Run it like this; without a data set it is a minute of a small trace that comes with the package:

    locust -f locustfiles/replay.py --headless --host http://localhost:8000 --endpoint-type completions \\
        --dataset-path conversation_trace.jsonl --set start=600 --set seconds=300 --set speed=2

That is five minutes of the trace in half the time. The run ends with them; with `--set loop=true` they are
sent again and again. Requests do not wait for users: one of them is enough.
"""

from locust import task

from vllm_locust import VllmUser


class Replayer(VllmUser):
    scenario = "replay"

    @task
    def send(self) -> None:
        self.ask_next()
