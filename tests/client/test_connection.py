"""What must hold whatever the platform and the transport: TLS, no kernel stamps, refused and silent peers."""

import socket
import ssl
import threading
import time
from pathlib import Path

import gevent
import pytest
from gevent import get_hub

from tests.scripted_server import DONE, LAST_CHUNK, STREAM_HEAD, scripted_server, token, usage
from vllm_locust.client import connection
from vllm_locust.client.chat import ChatClient, Reply, RequestOptions, Transport
from vllm_locust.client.connection import ConnectError, open_connection
from vllm_locust.client.stamps import Pulse
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord
from vllm_locust.errors import UsageError

CERTIFICATE = Path(__file__).parent / "certificate"
SCRIPT = [STREAM_HEAD, 0.05, token("a"), 0.06, token("b", "stop"), usage(5, 2), DONE + LAST_CHUNK]


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE / "cert.pem", CERTIFICATE / "key.pem")
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE / "cert.pem")


def ask_twice(target: Target, busy_s: float = 0.0) -> list[Reply]:
    """Two answers over one client, during each of which this process is busy for `busy_s`."""
    records: list[RequestRecord] = []
    transport = Transport(target, RequestOptions(model="m"))
    client = ChatClient(transport, records.append)
    try:
        replies = []
        for _ in range(2):
            waiting = gevent.spawn(client.chat, "hello")
            gevent.sleep(0.02)
            until = time.perf_counter() + busy_s
            while time.perf_counter() < until:
                pass
            replies.append(waiting.get())
        return replies
    finally:
        client.close()
        transport.close()


def test_stamps_survive_tls() -> None:
    with scripted_server(SCRIPT, tls=server_context()) as server:
        replies = ask_twice(Target.parse(server.url, client_context()), busy_s=0.06)
    assert [reply.record.outcome for reply in replies] == ["ok", "ok"]
    assert server.connections == 1
    arrivals = replies[1].record.arrivals_s
    assert arrivals == pytest.approx(server.sent_s[6:8], abs=0.03)
    assert max(replies[1].record.lags_s) > 0.01


def test_an_untrusted_certificate_is_refused() -> None:
    with scripted_server(SCRIPT, tls=server_context()) as server:
        record = ask_twice(Target.parse(server.url))[0].record
    assert record.outcome == "connect"
    assert "CERTIFICATE_VERIFY_FAILED" in (record.error or "")


def test_plain_http_to_a_tls_port_fails_cleanly() -> None:
    with scripted_server(SCRIPT, tls=server_context()) as server:
        record = ask_twice(Target.parse(server.url.replace("https", "http")))[0].record
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
            open_connection(target, pulse, timeout_s=2)
        answering.join()
        pulse.close()


def test_without_kernel_stamps_the_read_is_the_stamp_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "enable_kernel_stamps", lambda _: False)
    script = [STREAM_HEAD, 0.05, token("a"), 0.25, token("b", "stop"), DONE + LAST_CHUNK]
    with scripted_server(script) as server:
        record = ask_twice(Target.parse(server.url), busy_s=0.15)[1].record
    assert record.outcome == "ok"
    for arrival_s, bound_s, truth_s in zip(
        record.arrivals_s, record.bounds_s, server.sent_s[5:7], strict=True
    ):
        assert arrival_s - bound_s - 0.03 <= truth_s <= arrival_s
    assert record.bounds_s[0] > 0.05  # read late, and it knows
    assert record.bounds_s[1] < 0.05  # read while idle: waking up is all


def test_a_peer_that_never_answers_the_handshake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pulse = Pulse(get_hub().loop)
        target = Target.parse(f"https://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(ConnectError, match=r"no connection within 0\.1 s"):
            open_connection(target, pulse, timeout_s=0.1)
        pulse.close()


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://localhost:8000", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/", "localhost", 8000, "", "localhost:8000"),
        ("http://localhost:8000/v1", "localhost", 8000, "", "localhost:8000"),
        ("http://h/a/v1/", "h", 80, "/a", "h"),
        ("http://[::1]:8000", "::1", 8000, "", "[::1]:8000"),
        ("https://gateway", "gateway", 443, "", "gateway"),
    ],
)
def test_targets(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://x:0", ""])
def test_what_is_no_target(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address like"):
        Target.parse(url)
