"""A client of a scripted server, and what tests of it share."""

import time

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    ROLE,
    STREAM_HEAD,
    ScriptedServer,
    token,
    usage,
)
from vllm_locust.client.chat import ChatClient, Reply, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord

ANSWER = [STREAM_HEAD, ROLE, token("a"), token("b"), token("c", "stop"), usage(5, 3), DONE, LAST_CHUNK]


def burn(seconds: float) -> None:
    """Keep this process busy: nothing is read meanwhile."""
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        pass


class Asker:
    """A client of a scripted server, with everything it reported."""

    def __init__(self, server: ScriptedServer, **options: object) -> None:
        self.server = server
        self.records: list[RequestRecord] = []
        self.transport = Transport(Target.parse(server.url), RequestOptions(model="m", **options))  # type: ignore[arg-type]
        self.client = ChatClient(self.transport, self.records.append)

    def ask(self) -> Reply:
        return self.client.chat("hello", max_tokens=3)

    def close(self) -> None:
        self.client.close()
        self.transport.close()
