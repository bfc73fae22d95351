"""The scraper against real sockets that answer well, badly, slowly, endlessly, or not at all."""

import base64
import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.locust_command import wait_until
from tests.scripted_server import HANG_UP, RESET, Step, scripted_server
from vllm_locust.observe.answer import LARGEST_BYTES, Source, distinct
from vllm_locust.observe.scraper import Scraper

CERTIFICATE = Path(__file__).parents[1] / "client" / "certificate"
PAGE = b'vllm:num_requests_running{engine="0",model_name="m"} 3\n'
OFTEN_S = 0.01
LIMIT_S = 60.0


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


FINE = [answer(PAGE)]


class Heard:
    """What a scraper delivers and tells; `wait` until it satisfies."""

    def __init__(self) -> None:
        self.samples: list = []
        self.sentences: list[str] = []
        self.scraper: Scraper
        self._news = threading.Condition()

    def deliver(self, sample) -> None:
        with self._news:
            self.samples.append(sample)
            self._news.notify_all()

    def tell(self, sentence: str) -> None:
        with self._news:
            self.sentences.append(sentence)
            self._news.notify_all()

    def wait(self, *, samples: int = 0, sentences: int = 0) -> None:
        with self._news:
            assert self._news.wait_for(
                lambda: len(self.samples) >= samples and len(self.sentences) >= sentences, timeout=LIMIT_S
            ), (self.samples, self.sentences, self.scraper.status)


@contextmanager
def scraping(url: str, interval_s: float = OFTEN_S, limit_s: float = LIMIT_S, **source) -> Iterator[Heard]:
    heard = Heard()
    heard.scraper = Scraper(
        Source(**{"url": url, "headers": {}, "insecure": False} | source),
        interval_s,
        heard.deliver,
        heard.tell,
        limit_s=limit_s,
    )
    heard.scraper.start()
    try:
        yield heard
    finally:
        heard.scraper.stop()
        assert not any(t.name == f"look at {heard.scraper.name}" for t in threading.enumerate())


def trouble(*scripts: Sequence[Step], limit_s: float = LIMIT_S, tls=None, **source) -> tuple[str, str]:
    """The sentence and the problem that the first answer makes."""
    with scripted_server(*scripts, tls=tls) as server:
        host = source.pop("host", "localhost")
        url = f"{'https' if tls else 'http'}://{host}:{server.port}/metrics"
        with scraping(url, interval_s=30, limit_s=limit_s, **source) as heard:
            heard.wait(sentences=1)
            status = heard.scraper.status
            assert not status.up
            assert status.asked_s is not None
            assert heard.samples == []
            return heard.sentences[0].replace(str(server.port), "PORT"), status.problem


# -- well -------------------------------------------------------------------------------------------------


def test_samples_over_a_connection_each():
    """A load balancer may give each of them to another server."""
    with scripted_server(FINE) as server, scraping(f"{server.url}/metrics") as heard:
        heard.wait(samples=3)
        status = heard.scraper.status
        first = heard.samples[0]
        assert first.source == heard.scraper.name == f"localhost:{server.port}"
        assert first.engines[0].gauges == {"running": 3}
        assert (status.up, status.problem) == (True, None)
        assert status.scrape_s > 0
        assert heard.sentences == []
    assert server.connections >= len(server.requests) >= 3
    assert server.requests[0].startswith(b"GET /metrics HTTP/1.1\r\n")
    assert b"Connection: close" in server.requests[0]


def test_a_sample_is_of_the_time_between_the_question_and_the_first_byte_of_the_answer():
    """Not of when the last byte came."""
    with scripted_server([answer(PAGE)[:20], 0.5, answer(PAGE)[20:]]) as server:
        before_s = time.perf_counter()
        with scraping(server.url, interval_s=30) as heard:
            heard.wait(samples=1)
            assert before_s < heard.samples[0].at_s < server.sent_s[1]


def test_the_path_the_query_and_the_headers_go_with_the_question():
    with (
        scripted_server(FINE) as server,
        scraping(f"{server.url}/a/metrics?name=x", headers={"X-Key": "abc"}) as heard,
    ):
        heard.wait(samples=1)
    request = server.requests[0]
    assert request.startswith(b"GET /a/metrics?name=x HTTP/1.1\r\n")
    assert b"X-Key: abc" in request
    assert b"Accept-Encoding: gzip" in request


def test_a_password_of_the_url_goes_as_basic_and_is_never_told():
    with scripted_server([answer(b"", status="500 No")]) as server:
        url = f"http://me:s%40cret@localhost:{server.port}/metrics"
        with scraping(url, headers={"authorization": "Bearer hidden"}) as heard:
            heard.wait(sentences=1)
            told = [*heard.sentences, heard.scraper.name, heard.scraper.status.problem]
    expected = base64.b64encode(b"me:s@cret")
    assert b"Authorization: Basic " + expected in server.requests[0]
    assert b"hidden" not in server.requests[0]
    assert not any(word in text for text in told for word in ("cret", "hidden", "me:"))


def test_gzip_and_chunks():
    packed = gzip.compress(PAGE * 3)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (PAGE, PAGE)) + b"0\r\n\r\n"
    with (
        scripted_server([answer(packed, "Content-Encoding: gzip")], [chunked]) as server,
        scraping(server.url) as heard,
    ):
        heard.wait(samples=2)
    assert [each.engines[0].gauges["running"] for each in heard.samples[:2]] == [9, 6]


def test_an_answer_that_ends_with_the_connection():
    close = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + PAGE
    with scripted_server([close, HANG_UP]) as server, scraping(server.url) as heard:
        heard.wait(samples=3)
        assert heard.sentences == []


def test_tls():
    with scripted_server(FINE, tls=_tls()) as server, scraping(server.url, insecure=True) as heard:
        heard.wait(samples=2)


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE / "cert.pem", CERTIFICATE / "key.pem")
    return context


def test_a_look_besides():
    with scripted_server(FINE) as server, scraping(server.url, interval_s=60) as heard:
        heard.wait(samples=1)
        asked_s = time.perf_counter()
        heard.scraper.scrape_soon()
        heard.wait(samples=2)
        assert heard.scraper.status.asked_s >= asked_s
        assert heard.samples[1].at_s >= asked_s


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a/metrics", "a:80"),
        ("https://u:p@b.c/x", "b.c:443"),
        ("http://[::1]:8000/metrics", "[::1]:8000"),
    ],
)
def test_names(url, name):
    assert Source(url, {}, False).name == name


# -- badly ------------------------------------------------------------------------------------------------

HTML = b"<!doctype html><html><body>Hello</body></html>\n"
BOMB = gzip.compress(bytes(LARGEST_BYTES + 1))


@pytest.mark.parametrize(
    ("script", "problem", "hint"),
    [
        ([answer(HTML)], "does not give vLLM's metrics: it is no page of metrics", "--server-metrics-url"),
        ([answer(b"up 1\n")], "neither vLLM's nor a DCGM exporter's", "--server-metrics-url"),
        ([answer(PAGE[:-1])], "it ends in the middle of a line", ""),
        ([answer(b"", status="404 Not Found")], "answers 404", "--server-log"),
        ([answer(b"", status="401 Unauthorized")], "answers 401", "--api-key or --header"),
        ([answer(b"oops", status="503 Busy")], "answers 503", ""),
        (
            [answer(b"", "Location: https://u:p@else.where:9/m?key=k", status="307 Elsewhere")],
            "sends elsewhere, to https://else.where:9/m",
            "give that address",
        ),
        ([answer(b"", "Location: http://[", status="302 Elsewhere")], "to an address that is none", ""),
        ([answer(b"", status="304 Not Modified")], "sends elsewhere, to nowhere", ""),
        ([answer(PAGE, length=1000), HANG_UP], "broke off in the middle", ""),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nvllm", HANG_UP], "broke off", ""),
        ([answer(gzip.compress(PAGE)[:-9], "Content-Encoding: gzip")], "broke off in the middle", ""),
        ([answer(b"no gzip", "Content-Encoding: gzip")], "a gzip that is broken", ""),
        ([answer(PAGE, "Content-Encoding: br")], "an encoding nobody asked for, br", ""),
        ([answer(BOMB, "Content-Encoding: gzip")], "answers more than 32 MiB", ""),
        ([HANG_UP], "closed the connection without an answer", ""),
        ([RESET], "broke the connection off", ""),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "does not answer in HTTP", ""),
        ([b"\x00\xff" * 100 + b"\r\n"], "does not answer in HTTP", ""),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70000 + b"\r\n\r\n"], "does not answer in HTTP", ""),
    ],
)
def test_an_answer_that_is_no_page(script, problem, hint):
    sentence, clause = trouble(script)
    assert problem in clause
    assert clause in sentence
    assert hint in sentence
    assert sentence.startswith("http://localhost:PORT/metrics ")
    assert "key=k" not in sentence
    assert sentence.endswith("missing meanwhile.")


def test_nobody_is_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with scraping(f"http://127.0.0.1:{port}/metrics") as heard:
        heard.wait(sentences=1)
        assert heard.scraper.status.problem == "refuses connections"
    assert len(heard.sentences) == 1  # though it was tried again and again


def test_no_answer_at_all():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        scraping(f"http://127.0.0.1:{listener.getsockname()[1]}/", limit_s=0.1) as heard,
    ):
        heard.wait(sentences=1)
        assert heard.scraper.status.problem == "did not give its page within 0.1 s"


def test_an_answer_a_byte_at_a_time_has_to_end_in_time_too():
    drip = [step for byte in answer(PAGE) for step in (bytes([byte]), 0.02)]
    _, problem = trouble(drip, limit_s=0.2)
    assert problem == "did not give its page within 0.2 s"


def test_an_endless_answer_takes_no_endless_memory():
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"# filler\n" * 10000
    script = [endless, *([b"vllm:num_requests_running 1\n" * 40000] * 40)]
    tracemalloc.start()
    _, problem = trouble(script)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert problem == "answers more than 32 MiB"
    assert peak < 4 * LARGEST_BYTES


def test_a_certificate_that_nobody_vouches_for():
    sentence, problem = trouble(FINE, tls=_tls())
    assert problem == "has a certificate that this machine does not trust"
    assert "--insecure" in sentence


def test_tls_where_there_is_none():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/metrics"
        with scraping(url, interval_s=30) as heard:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                heard.wait(sentences=1)
            assert heard.scraper.status.problem == "does not speak TLS as it should"


def test_a_name_that_does_not_exist(monkeypatch):
    def look_up(*_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with scraping("http://no-such-host.invalid/metrics", interval_s=30) as heard:
        heard.wait(sentences=1)
    assert "no-such-host.invalid:80/metrics cannot be found by that name" in heard.sentences[0]


def test_a_header_that_cannot_be_sent_is_not_told():
    sentence, problem = trouble(FINE, headers={"X-Key": "secret\nkey"})
    assert problem == "could not be asked (ValueError)"
    assert "secret" not in sentence


# -- again and again --------------------------------------------------------------------------------------


def test_it_is_told_when_the_source_is_back_and_each_trouble_once_until_then():
    bad, html = [answer(b"", status="500 No")], [answer(b"", status="502 No")]
    with (
        scripted_server(bad, bad, html, bad, FINE, bad, FINE) as server,
        scraping(server.url) as heard,
    ):
        heard.wait(samples=3, sentences=5)
        status = heard.scraper.status
    what = [sentence.partition("/ ")[2] or sentence.partition(" ")[2] for sentence in heard.sentences]
    assert [sentence.split(":")[0].split(",")[0] for sentence in what] == [
        "answers 500",
        "answers 502",
        "gives metrics again",
        "answers 500",
        "gives metrics again",
    ]
    assert status.up


def test_a_server_that_comes_and_goes_fills_no_log():
    bad = [answer(b"", status="500 No")]
    with scripted_server(*([bad, FINE] * 12), FINE) as server, scraping(server.url) as heard:
        heard.wait(samples=14)
    warnings = [sentence for sentence in heard.sentences if "answers 500" in sentence]
    assert len(warnings) == 5
    assert warnings[-1].endswith("Nothing more is said of it.")
    assert len(heard.sentences) == 10


def test_who_has_no_key_is_asked_less_often():
    with scripted_server([answer(b"", status="401 No")]) as server, scraping(server.url) as heard:
        heard.wait(sentences=1)
        for asked in (2, 3, 4):
            heard.scraper.scrape_soon()
            wait_until(lambda asked=asked: len(server.requests) == asked, "the question")
        time.sleep(0.1)
        assert len(server.requests) == 4


def test_a_server_that_did_nothing_yet_is_asked_as_often_as_any():
    announced = answer(b"# TYPE vllm:num_requests_running gauge\n")
    with scripted_server([announced], [announced], FINE) as server, scraping(server.url) as heard:
        heard.wait(samples=3)
        assert [len(sample.engines) for sample in heard.samples[:3]] == [0, 0, 1]
        assert heard.sentences == []


@pytest.mark.parametrize(
    ("still", "problem"),
    [
        (answer(b""), "it is empty"),
        (answer(HTML), "it is no page of metrics"),
        (answer(b"python_info 1\n"), "neither vLLM's nor"),
        (answer(b"", status="404 No"), "answers 404"),
    ],
)
def test_a_server_that_has_no_metrics_yet_is_asked_as_often_as_any(still, problem):
    """It may have some from its first request on."""
    with scripted_server([still], [still], FINE) as server, scraping(server.url) as heard:
        heard.wait(samples=1, sentences=2)
    assert problem in heard.sentences[0]
    assert "gives metrics again" in heard.sentences[1]


def test_stopping_breaks_a_question_off():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with scraping(url) as heard:
            connection, _ = listener.accept()
            assert connection.recv(10)
        connection.close()
        assert heard.sentences == []


def test_a_scraper_that_never_began_can_be_stopped():
    Scraper(Source("http://localhost:1/metrics", {}, False), 1.0, lambda _: None, lambda _: None).stop()


def test_sources_of_one_host_have_names_of_their_own():
    urls = ["http://a:1/x", "http://b:1/x", "http://a:1/y", "http://a:1/x", "http://a:1/z"]
    sources = distinct(Source(url, {}) for url in urls)
    assert [source.url for source in sources] == [urls[0], urls[1], urls[2], urls[4]]
    assert [source.name for source in sources] == ["a:1", "b:1", "a:1#2", "a:1#3"]
    assert sources[2].shown == "http://a:1/y"
