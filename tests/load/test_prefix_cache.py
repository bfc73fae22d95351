"""Warm: each engine has a cache of its own, is asked for everything, and shows what it holds of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gevent import GreenletExit

from vllm_locust.client.target import Target
from vllm_locust.load import prefix_cache
from vllm_locust.load.phases import Phase
from vllm_locust.load.prefix_cache import PrefixCache
from vllm_locust.workloads.scenario import PlannedRequest

PROMPT_TOKENS = 100
BLOCK = 16
HELD = 96
"""6 whole blocks of a prompt."""


class Engines(ThreadingHTTPServer):
    """As many engines behind one address, of which the header names one, else they take turns."""

    def __init__(self, count: int, knows_header: bool, tells: bool, behind_a_balancer: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = [0] * count
        self.knows_header = knows_header
        self.tells = tells
        self.behind_a_balancer = behind_a_balancer
        """Then each is a server of its own, and the looks take turns as well."""
        self.looks = 0
        self.holds: int | None = HELD
        """Tokens that an engine finds of a prompt that it has had, or None where it does not tell."""
        self.resets: list[str] = []
        self.found = [0] * count
        self.seen: list[set[bytes]] = [set() for _ in range(count)]


class Handler(BaseHTTPRequestHandler):
    server: Engines

    def do_GET(self) -> None:
        counts = [*enumerate(self.server.requests)]
        if self.server.behind_a_balancer:
            counts = counts[self.server.looks % len(counts) :][:1]
            self.server.looks += 1
        page = "".join(
            f'vllm:prompt_tokens_total{{engine="{engine}",model_name="m"}} {count * PROMPT_TOKENS}\n'
            f'vllm:cache_config_info{{engine="{engine}",block_size="{BLOCK}",num_gpu_blocks="99"}} 1\n'
            + self._hits(engine)
            for engine, count in counts
        )
        self._answer(200 if self.server.tells else 404, page)

    def _hits(self, engine: int) -> str:
        if self.server.holds is None:
            return ""
        found = self.server.found[engine]
        return f'vllm:prefix_cache_hits_total{{engine="{engine}",model_name="m"}} {found}\n'

    def do_POST(self) -> None:
        if self.path.startswith("/reset_prefix_cache"):
            self.server.resets.append(self.path)
            self._answer(200, '{"success": true}')
            return
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        requests = self.server.requests
        rank = self.headers["X-data-parallel-rank"] if self.server.knows_header else None
        engine = sum(requests) % len(requests) if rank is None else int(rank)
        requests[engine] += 1
        if asked in self.server.seen[engine]:
            self.server.found[engine] += self.server.holds or 0
        self.server.seen[engine].add(asked)
        self._answer(200, f'{{"usage": {{"prompt_tokens": {PROMPT_TOKENS}}}}}')

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(
    count: int, *, knows_header: bool = True, tells: bool = True, behind_a_balancer: bool = False
) -> Iterator[Engines]:
    server = Engines(count, knows_header, tells, behind_a_balancer)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def warmed(server: Engines, primers: int) -> str | None:
    return prepared(server, primers, "warm").prefix_cache


def prepared(server: Engines, primers: int, wanted: str) -> Phase:
    return a_cache(server, primers, wanted).prepare(Phase(0, 0, "prefix"))


def a_cache(server: Engines, primers: int, wanted: str) -> PrefixCache:
    planned = [PlannedRequest(i, "prefix", "prefix", f"words {i}", 1) for i in range(primers)]
    run = SimpleNamespace(
        settings=SimpleNamespace(prefix_cache=wanted, headers={}, endpoint_type="completions", seed=0),
        targets=[Target.parse(f"http://127.0.0.1:{server.server_port}")],
        scenario=SimpleNamespace(phases=[SimpleNamespace(primers=lambda seed: planned)]),
        request_options=SimpleNamespace(
            model="m", body={}, resource=lambda target, path: target.resource(path)
        ),
    )
    return PrefixCache(cast(Any, run), "run")


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_each_engine_is_asked_for_everything(engines: int) -> None:
    with serving(engines) as server:
        assert warmed(server, 5) == "warmed"
        assert server.requests == [10] * engines, "once, and once more to see what it holds"


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        # Speculative decoding may drop the last block of each: 5 of 6.
        (80, "warmed", None),
        (79, "partly warmed", "found 316 of 400 prompt tokens when asked for them once more"),
        (0, "not warmed", "found nothing of 400 prompt tokens when asked for them once more: its prefix"),
        (None, "partly warmed", "does not tell what its prefix cache found"),
    ],
)
def test_a_cache_is_warm_where_it_shows_what_it_holds(
    found: int | None, state: str, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(2) as server:
        server.holds = found
        assert warmed(server, 4) == state
    assert words is None or words in caplog.text
    assert bool(caplog.records) is (words is not None)


def test_how_long_a_cache_is_warmed_adds_up_and_counts_where_the_run_ends_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that shows 1, 4, 10 and 12 s: 3 s, and 2 s of a second phase until it is stopped."""
    cache = a_cache(cast(Any, SimpleNamespace(server_port=1)), 1, "warm")
    monkeypatch.setattr(prefix_cache, "perf_counter", iter([1.0, 4.0, 10.0, 12.0]).__next__)
    monkeypatch.setattr(cache, "_warm_one", lambda *_: "warmed")
    assert cache.warming_s is None
    cache.prepare(Phase(0, 0, "prefix"))
    assert cache.warming_s == 3.0

    def stopped(*_: Any) -> str:
        raise GreenletExit

    monkeypatch.setattr(cache, "_warm_one", stopped)
    with pytest.raises(GreenletExit):
        cache.prepare(Phase(1, 0, "prefix"))
    assert cache.warming_s == 5.0


def test_engines_that_cannot_be_chosen_are_not_said_to_be_warm(caplog: pytest.LogCaptureFixture) -> None:
    """An older vLLM lets 3 engines take turns: 15 requests are 5 for each, but not the same 5."""
    with serving(3, knows_header=False) as server:
        assert warmed(server, 5) == "partly warmed"
    assert "did not count at its engine 0 just the 500 prompt tokens that were asked of it" in caplog.text
    assert "they went to another in spite of X-data-parallel-rank, several servers are" in caplog.text


def test_a_server_that_does_not_tell_its_engines_may_have_several(caplog: pytest.LogCaptureFixture) -> None:
    """Data parallelism with --disable-log-stats: half of what was asked is in each cache."""
    with serving(2, tells=False) as server:
        assert warmed(server, 4) == "partly warmed"
        assert server.requests == [2, 2]
    assert "/metrics does not tell how many engines there are: each has its own." in caplog.text


@pytest.mark.parametrize("primers", [1, 4, 5])
def test_servers_behind_a_balancer_are_not_said_to_be_warm(
    primers: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each connection goes to the next of two, and so does each look."""
    with serving(2, knows_header=False, behind_a_balancer=True) as server:
        assert warmed(server, primers) == "partly warmed"
    assert f"just the {primers * PROMPT_TOKENS} prompt tokens that were asked of it" in caplog.text
    assert "they went to another, several servers are behind that address, or others use it." in caplog.text


@pytest.mark.parametrize(
    ("engines", "tells", "state", "salt"),
    [(1, True, "reset", None), (2, True, "salted", "run-0"), (1, False, "salted", "run-0")],
)
def test_of_several_engines_it_is_not_known_that_all_have_forgotten(
    engines: int, tells: bool, state: str, salt: str | None
) -> None:
    """vLLM 0.32 asks all of them, and answers what the first one said."""
    with serving(engines, tells=tells) as server:
        phase = prepared(server, 0, "cold")
        assert server.resets == ["/reset_prefix_cache?reset_external=true"]
    assert (phase.prefix_cache, phase.salt) == (state, salt)
