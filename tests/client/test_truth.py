"""The product's promise, under fire: no token arrived later than claimed, nor earlier than the bound allows.

The server pauses, splits and joins its events at random, and this process is busy at random. The truth is the
server's log: each piece left it between two moments, which lie as far apart as the machine is slow.
"""

import random
import ssl
import time
from pathlib import Path

import gevent
import pytest

from tests.scripted_server import DONE, LAST_CHUNK, STREAM_HEAD, Step, chunk, remote_server, token, usage
from vllm_locust.client import connection
from vllm_locust.client.chat import ChatClient, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord

TOKENS = 40
# What the kernel may take to hand a piece over behind the send.
SLACK_S = 0.0001
CERTIFICATE = Path(__file__).parent / "certificate"
COMMENT = chunk(b": keep-alive\n\n")


def script_of(rng: random.Random) -> tuple[list[Step], list[int]]:
    """Steps of a stream of TOKENS tokens, and for each token which of the sends completes it."""
    steps: list[Step] = [STREAM_HEAD]
    completed_by: list[int] = []
    sends = 1
    for number in range(TOKENS):
        event = token("x", "length" if number == TOKENS - 1 else None)
        if rng.random() < 0.2:
            event = COMMENT + event
        closing = len(event) - 2  # of the chunk: the token is there without it
        cut = rng.choice([rng.randrange(1, closing), closing]) if rng.random() < 0.4 else 0
        for piece in filter(None, (event[:cut], event[cut:])):
            if rng.random() < 0.7:
                steps.append(rng.uniform(0.0, 0.02))
            steps.append(piece)
            sends += 1
        completed_by.append(sends - 2 if cut == closing else sends - 1)
    return [*steps, rng.uniform(0, 0.05), usage(5, TOKENS) + DONE, LAST_CHUNK], completed_by


def busy(rng: random.Random, until_s: float) -> None:
    """Works in fits that read nothing, and rests in between."""
    while time.perf_counter() < until_s:
        ends_s = time.perf_counter() + rng.choice([0.0, 0.002, 0.02, 0.1])
        while time.perf_counter() < ends_s:
            pass
        gevent.sleep(rng.choice([0.0, 0.001, 0.02]))


@pytest.mark.parametrize("stamps", ["kernel", "kernel, through TLS", "read"])
@pytest.mark.parametrize("seed", [1, 2])
def test_claims_lie_between_truth_and_truth_plus_bound(
    seed: int, stamps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = CERTIFICATE if "TLS" in stamps else None
    if stamps == "read":
        monkeypatch.setattr(connection, "enable_kernel_stamps", lambda _: False)
    rng = random.Random(seed)
    steps, completed_by = script_of(rng)
    records: list[RequestRecord] = []
    with remote_server(steps, certificate=certificate) as server:
        port = server.recv()
        if certificate is None:
            target = Target.parse(f"http://127.0.0.1:{port}")
        else:
            context = ssl.create_default_context(cafile=certificate / "cert.pem")
            target = Target.parse(f"https://localhost:{port}", context)
        transport = Transport(target, RequestOptions(model="m", timeout_s=30))
        client = ChatClient(transport, records.append)
        asking = gevent.spawn(client.chat, "hello")
        working = gevent.spawn(busy, rng, time.perf_counter() + 1.5)
        record = asking.get(timeout=30).record
        working.kill()
        client.close()
        transport.close()
        server.send("times")
        sent_s, sent_by_s = server.recv()
    assert (record.outcome, len(record.arrivals_s)) == ("ok", TOKENS)
    for claim_s, bound_s, send in zip(record.arrivals_s, record.bounds_s, completed_by, strict=True):
        assert sent_s[send] <= claim_s
        assert claim_s - bound_s <= sent_by_s[send] + SLACK_S
