"""The exporter's HTTP server on a real socket: what it answers, and clients that do not play by the rules."""

import gzip
import http.client
import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.observe import endpoint as module
from vllm_locust.observe.endpoint import Endpoint

PAGE = b"# TYPE a gauge\na 1.0\n" * 1000
SOON_S = 60.0


class Site:
    """An endpoint with a page, and who fetched it."""

    def __init__(self) -> None:
        self.page = PAGE
        self.fetched: list[float] = []
        self.told = threading.Event()
        self.endpoint = Endpoint("127.0.0.1", 0, lambda: self.page, self._served, clock=lambda: 42.0)

    def _served(self, at_s: float) -> None:
        self.fetched.append(at_s)
        self.told.set()

    def ask(self, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.endpoint.port, timeout=SOON_S)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.endpoint.port), timeout=SOON_S)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end closes without a word; what it had not read yet makes that a reset."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def site() -> Iterator[Site]:
    threads = threading.active_count()
    site = Site()
    yield site
    site.endpoint.stop()
    assert threading.active_count() == threads


def test_the_page(site):
    response, body = site.ask("GET", "/metrics")
    assert (response.status, body) == (200, PAGE)
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Content-Encoding"] is None
    assert site.told.wait(SOON_S)
    assert site.fetched == [42.0]


def test_its_address_is_told(site):
    assert site.endpoint.url == f"http://127.0.0.1:{site.endpoint.port}/metrics"
    with urllib.request.urlopen(site.endpoint.url, timeout=SOON_S) as answer:
        assert answer.read() == PAGE


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip; q=1.0", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzipped", False),
        ("", False),
    ],
)
def test_gzip_when_it_is_accepted(site, accepted, zipped):
    response, body = site.ask("GET", "/metrics", **{"Accept-Encoding": accepted})
    assert (response.headers["Content-Encoding"] == "gzip") is zipped
    assert (gzip.decompress(body) if zipped else body) == PAGE
    assert len(body) == int(response.headers["Content-Length"])


def test_openmetrics_is_not_spoken_even_when_asked_for(site):
    response, _ = site.ask("GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_head_has_no_body_and_is_no_fetch(site):
    response, body = site.ask("HEAD", "/metrics")
    assert (response.status, body, int(response.headers["Content-Length"])) == (200, b"", len(PAGE))
    site.ask("GET", "/metrics?name=a")
    assert site.told.wait(SOON_S)
    assert len(site.fetched) == 1


def test_the_root_says_where_the_page_is(site):
    response, body = site.ask("GET", "/")
    assert (response.status, response.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert body == b"Metrics for Prometheus are at /metrics\n"


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/favicon.ico", "*"])
def test_anything_else_is_not_found(site, path):
    assert site.ask("GET", path)[0].status == 404
    assert site.fetched == []


def test_it_is_silent(site, capfd, caplog):
    caplog.set_level(logging.INFO)
    site.ask("GET", "/metrics")
    site.ask("GET", "/nothing")
    site.ask("POST", "/metrics")
    with site.connect() as connection:
        connection.sendall(b"rubbish\r\n\r\n")
        connection.recv(100)
    site.ask("GET", "/")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_client_that_hangs_up_in_the_middle_is_not_served_and_hurts_nobody(site, capfd):
    site.page = b"x" * 50_000_000
    with site.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing resets
        connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert connection.recv(100)
    site.page = PAGE
    assert site.ask("GET", "/metrics")[1] == PAGE
    assert site.told.wait(SOON_S)
    assert len(site.fetched) == 1
    assert capfd.readouterr() == ("", "")


def test_clients_that_never_finish_their_request_keep_nobody_out(site):
    """Each new one takes the place of the oldest: there are never more threads than places."""
    idlers = [site.connect() for _ in range(40)]
    for idler in idlers:
        idler.sendall(b"GET /metrics HTT")
    assert site.ask("GET", "/metrics")[1] == PAGE
    assert hung_up(idlers[0])
    assert len(site.endpoint._server._connections) <= module._MOST_CONNECTIONS
    for idler in idlers:
        idler.close()


def test_an_idle_connection_is_closed(monkeypatch):
    monkeypatch.setattr(module._Handler, "timeout", 0.05)
    site = Site()
    with site.connect() as connection:
        connection.sendall(b"GET /metrics")
        assert hung_up(connection)
    site.endpoint.stop()


def test_stopping_cuts_off_whoever_is_connected_and_frees_the_port():
    site = Site()
    port = site.endpoint.port
    with site.connect() as connection:
        connection.sendall(b"GET /met")
        site.endpoint.stop()
        assert hung_up(connection)
    again = Endpoint("127.0.0.1", port, lambda: PAGE, lambda at_s: None)
    again.stop()
    again.stop()


def test_a_page_that_cannot_be_made_is_logged_and_the_next_one_is_served(site, caplog):
    endpoint = Endpoint("127.0.0.1", 0, lambda: 1 // 0, lambda at_s: None)
    with pytest.raises(http.client.RemoteDisconnected):
        urllib.request.urlopen(endpoint.url, timeout=SOON_S)
    endpoint.stop()
    assert [record.message for record in caplog.records] == ["Could not make the page /metrics"]


def test_a_port_in_use_is_the_users_mistake(site):
    port = site.endpoint.port
    with pytest.raises(UsageError) as caught:
        Endpoint("127.0.0.1", port, lambda: PAGE, lambda at_s: None)
    assert str(caught.value) == (
        f"Cannot listen on port {port} of 127.0.0.1 (Address already in use): choose another with "
        "--exporter-port, 0 for a free one, off for none."
    )


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("203.0.113.1", 0)])
def test_an_address_that_cannot_be_had(host, port):
    with pytest.raises(UsageError, match="--exporter-port"):
        Endpoint(host, port, lambda: PAGE, lambda at_s: None)


def test_ipv6():
    try:
        endpoint = Endpoint("::1", 0, lambda: PAGE, lambda at_s: None)
    except UsageError:
        pytest.skip("this machine has no IPv6")
    assert endpoint.url == f"http://[::1]:{endpoint.port}/metrics"
    with urllib.request.urlopen(endpoint.url, timeout=SOON_S) as answer:
        assert answer.read() == PAGE
    endpoint.stop()
