"""The same load as people usually write it: HttpUser, requests and sseclient-py, with the clock in the loop.

Appends each request's claims to memory and writes them to $CLAIMS_FILE at the end.
"""

import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import sseclient
from locust import HttpUser, events, task

TOKENS = int(os.environ["ANSWER_TOKENS"])
_claims: list[dict[str, Any]] = []


class UsualUser(HttpUser):
    @task
    def ask(self) -> None:
        body = {
            "model": os.environ["MODEL"],
            "messages": [{"role": "user", "content": "hello " * 40}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        request_id = uuid.uuid4().hex
        arrivals_s = []
        sent_s = time.perf_counter()
        response = self.client.post(
            "/v1/chat/completions", json=body, stream=True, headers={"X-Request-Id": request_id}
        )
        for event in sseclient.SSEClient(response.iter_content(chunk_size=None)).events():
            if event.data == "[DONE]":
                continue
            choices = json.loads(event.data)["choices"]
            if choices and choices[0]["delta"].get("content"):
                arrivals_s.append(time.perf_counter())
        _claims.append({"request_id": request_id, "sent_s": sent_s, "arrivals_s": arrivals_s})


@events.quit.add_listener  # behind the probe, which must not take this for the client's work
def _write(**_: Any) -> None:
    Path(os.environ["CLAIMS_FILE"]).write_text(json.dumps(_claims))
