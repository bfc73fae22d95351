"""Large requests, and servers that answer, go or stop reading before the end of one."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.client.asking import ANSWER, Asker
from tests.scripted_server import (
    HANG_UP,
    RESET,
    Step,
    plain,
)
from vllm_locust.client.target import Target

LARGE = "x" * 12_000_000  # more than any socket's buffer takes


@contextmanager
def early_server(answer: bytes, ending: list[Step]) -> Iterator[int]:
    """Answers as soon as it has read a little of a request, and reads no more."""
    leave = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(answer)
        if ending == [HANG_UP]:
            connection.shutdown(socket.SHUT_WR)
        if ending == [RESET]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        leave.wait(60)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)  # a test that fails must not wait for it
        thread.start()
        yield listener.getsockname()[1]
        leave.set()
        thread.join()


def test_a_large_request_is_sent_whole(asker: Callable[..., Asker]) -> None:
    it = asker([0.1, *ANSWER])
    prompt = "x" * 8_000_000
    assert it.client.chat(prompt).record.outcome == "ok"
    assert prompt.encode() in it.server.requests[0]


@pytest.mark.parametrize("ending", [[HANG_UP], [RESET], []])
def test_an_answer_that_comes_while_we_still_write(asker: Callable[..., Asker], ending: list[Step]) -> None:
    """A gateway refuses a prompt by its length, and never reads the rest of it."""
    it = asker(ANSWER, timeout_s=60)
    it.server.close()
    with early_server(plain("413 Too Large", b'{"error":{"message":"too large"}}'), ending) as port:
        it.transport.targets[0] = Target.parse(f"http://127.0.0.1:{port}")
        record = it.client.chat(LARGE).record
    assert record.outcome in ("http_413", "truncated" if ending == [RESET] else "http_413")


def test_the_timeout_covers_writing(asker: Callable[..., Asker]) -> None:
    it = asker([], timeout_s=0.2)
    with early_server(b"", []) as port:
        it.transport.targets[0] = Target.parse(f"http://127.0.0.1:{port}")
        record = it.client.chat(LARGE).record
    assert (record.outcome, record.error) == (
        "timeout",
        "no complete answer within 0.2 s; not a byte of a response came",
    )
