"""What must hold whatever the platform and the transport: TLS, no kernel stamps, silent peers."""

import itertools
import socket
import ssl
import threading
import time
from pathlib import Path

import gevent
import pytest
from gevent import get_hub

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    assert_true,
    scripted_server,
    tls_of,
    token,
    usage,
)
from vllm_locust.client import connection
from vllm_locust.client.chat import ChatClient, RequestOptions, Transport
from vllm_locust.client.connection import ConnectError, Connection, Waits, _Records, open_connection
from vllm_locust.client.stamps import Pulse
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord

CERTIFICATE = Path(__file__).parent / "certificate"


SCRIPT = [STREAM_HEAD, 0.05, token("a"), 0.06, token("b", "stop"), usage(5, 2), DONE + LAST_CHUNK]


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE / "cert.pem")


def ask_twice(target: Target, busy_s: float = 0.0) -> tuple[list[RequestRecord], int]:
    """Two answers over one client, during each of which this process is busy for `busy_s`.

    Their records, and how many reads had no stamp.
    """
    records: list[RequestRecord] = []
    transport = Transport(target, RequestOptions(model="m"))
    client = ChatClient(transport, records.append)
    try:
        for _ in range(2):
            waiting = gevent.spawn(client.chat, "hello")
            gevent.sleep(0.02)
            until = time.perf_counter() + busy_s
            while time.perf_counter() < until:
                pass
            waiting.get()
        return records, transport.pulse.unstamped_reads
    finally:
        client.close()
        transport.close()


def test_stamps_survive_tls() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        records, unstamped = ask_twice(Target.parse(server.url, client_context()), busy_s=0.06)
    assert [record.outcome for record in records] == ["ok", "ok"]
    assert server.connections == 1
    assert unstamped == 0
    assert_true(records[1], server.sent_s[6:8], server.sent_by_s[6:8])


def test_an_untrusted_certificate_is_refused() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        record = ask_twice(Target.parse(server.url))[0][0]
    assert record.outcome == "connect"
    assert "CERTIFICATE_VERIFY_FAILED" in (record.error or "")


def test_plain_http_to_a_tls_port_fails_cleanly() -> None:
    with scripted_server(SCRIPT, tls=tls_of(CERTIFICATE)) as server:
        record = ask_twice(Target.parse(server.url.replace("https", "http")))[0][0]
    assert record.outcome in ("truncated", "protocol")


def test_tls_to_a_plain_port_fails_cleanly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Target.parse(f"https://localhost:{listener.getsockname()[1]}")

        def answer_in_plain() -> None:
            accepted, _ = listener.accept()
            accepted.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")
            accepted.close()

        answering = threading.Thread(target=answer_in_plain)
        answering.start()
        pulse = Pulse(get_hub().loop)
        with pytest.raises(ConnectError):
            open_connection(target, Waits(pulse), timeout_s=2)
        answering.join()
        pulse.close()


def test_without_kernel_stamps_the_read_is_the_stamp_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "enable_kernel_stamps", lambda _: False)
    script = [STREAM_HEAD, 0.05, token("a"), 0.25, token("b", "stop"), DONE + LAST_CHUNK]
    with scripted_server(script) as server:
        (_, record), unstamped = ask_twice(Target.parse(server.url), busy_s=0.15)
    assert record.outcome == "ok"
    assert unstamped > 0
    assert_true(record, server.sent_s[5:7], server.sent_by_s[5:7])


def test_a_peer_that_never_answers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pulse = Pulse(get_hub().loop)
        target = Target.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectError, match=r"no connection within 0\.\d+ s"):
            open_connection(target, Waits(pulse), timeout_s=0.1)
        pulse.close()


@pytest.mark.parametrize("in_order", [True, False])
def test_stamps_of_an_answer_whose_packets_came_out_of_order_are_not_believed(
    monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    packets = itertools.count()
    monkeypatch.setattr(Connection, "upsets", property(lambda _: 0 if in_order else next(packets)))
    with scripted_server(SCRIPT) as server:
        _, record = ask_twice(Target.parse(server.url), busy_s=0.06)[0]
    assert record.contradictions == (0 if in_order else len(record.lags_s))
    assert_true(record, server.sent_s[6:8], server.sent_by_s[6:8])


def record_of(length: int) -> bytes:
    return b"\x17\x03\x03" + length.to_bytes(2, "big") + b"x" * length


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([record_of(10)], [True]),
        ([record_of(10) + record_of(300)], [False]),  # which byte completes which token?
        ([record_of(300)[:100], record_of(300)[100:]], [False, True]),
        ([record_of(300)[:3], record_of(300)[3:5], record_of(300)[5:]], [False, False, True]),
        ([record_of(10) + record_of(300)[:2], record_of(300)[2:]], [False, True]),
        ([record_of(10) + record_of(300)[:9], record_of(300)[9:]], [False, True]),
    ],
)
def test_the_last_byte_is_a_tls_records_last(reads: list[bytes], expected: list[bool]) -> None:
    records = _Records()
    assert [records.end_once(data) for data in reads] == expected
