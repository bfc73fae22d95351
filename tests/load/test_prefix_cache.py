"""Warm under data parallelism: each engine has a cache of its own, and is asked for everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vllm_locust.client.target import Target
from vllm_locust.load.phases import Phase
from vllm_locust.load.prefix_cache import PrefixCache
from vllm_locust.workloads.scenario import PlannedRequest

PROMPT_TOKENS = 100


class Engines(ThreadingHTTPServer):
    """As many engines behind one address, of which the header names one, else they take turns."""

    def __init__(self, count: int, knows_header: bool, tells: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = [0] * count
        self.knows_header = knows_header
        self.tells = tells


class Handler(BaseHTTPRequestHandler):
    server: Engines

    def do_GET(self) -> None:
        page = "".join(
            f'vllm:prompt_tokens_total{{engine="{engine}",model_name="m"}} {count * PROMPT_TOKENS}\n'
            for engine, count in enumerate(self.server.requests)
        )
        self._answer(200 if self.server.tells else 404, page)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        requests = self.server.requests
        rank = self.headers["X-data-parallel-rank"] if self.server.knows_header else None
        requests[sum(requests) % len(requests) if rank is None else int(rank)] += 1
        self._answer(200, "{}")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(count: int, *, knows_header: bool = True, tells: bool = True) -> Iterator[Engines]:
    server = Engines(count, knows_header, tells)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def warmed(server: Engines, primers: int) -> str | None:
    planned = [PlannedRequest(i, "prefix", "prefix", "words", 1) for i in range(primers)]
    prepared = SimpleNamespace(
        settings=SimpleNamespace(prefix_cache="warm", headers={}, endpoint_type="completions", seed=0),
        targets=[Target.parse(f"http://127.0.0.1:{server.server_port}")],
        scenario=SimpleNamespace(phases=[SimpleNamespace(primers=lambda seed: planned)]),
        request_options=SimpleNamespace(model="m", body={}, endpoints={}),
    )
    return PrefixCache(cast(Any, prepared), "run").prepare(Phase(0, 0, "prefix")).prefix_cache


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_each_engine_is_asked_for_everything(engines: int) -> None:
    with serving(engines) as server:
        assert warmed(server, 5) == "warmed"
        assert server.requests == [5] * engines


def test_engines_that_cannot_be_chosen_are_not_said_to_be_warm(caplog: pytest.LogCaptureFixture) -> None:
    """An older vLLM lets 3 engines take turns: 15 requests are 5 for each, but not the same 5."""
    with serving(3, knows_header=False) as server:
        assert warmed(server, 5) == "partly warmed"
    assert "has 3 engines, and requests for one of them (X-data-parallel-rank) went to another" in caplog.text


def test_of_a_server_that_does_not_tell_its_engines_everything_is_asked_once() -> None:
    with serving(1, tells=False) as server:
        assert warmed(server, 5) == "warmed"
        assert server.requests == [5]
