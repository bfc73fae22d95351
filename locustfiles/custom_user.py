"""A user of your own: any messages, any fields, and a look at every record.

Run it like this:

    locust -f locustfiles/custom_user.py --headless -u 4 -r 4 -t 20s --host http://localhost:8000
"""

from typing import Any

from locust import between, events, task

from vllm_locust import RequestRecord, VllmUser


class Poet(VllmUser):
    wait_time = between(0.5, 1.5)

    @task
    def haiku(self) -> None:
        text, record = self.client.chat("Write a haiku about queues.", max_tokens=32)
        if record.outcome == "ok":
            self.client.chat(f"Translate into French: {text}", max_tokens=48)


@events.stream_finished.add_listener
def warn_of_slow_starts(record: RequestRecord, **_: Any) -> None:
    if record.ttft_s is not None and record.ttft_s > 1:
        print(f"{record.id} waited {record.ttft_s:.2f} s for its first token")
