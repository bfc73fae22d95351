"""What a running vLLM says of its cache: a page of a real one, and servers that tell nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.scripted_server import plain, scripted_server
from vllm_locust.errors import UsageError
from vllm_locust.kv_cache.server import EngineCache, ask_server, read_page

REAL_PAGE = (Path(__file__).parents[1] / "core" / "samples" / "metrics_load.txt").read_text(encoding="utf-8")


@contextmanager
def served(page: str, status: int = 200) -> Iterator[str]:
    """The address of a server that answers every question with this page."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    assert set(asked) <= {"/metrics", "/gateway/metrics"}


def test_a_real_page() -> None:
    (cache,) = read_page(REAL_PAGE)
    assert cache == EngineCache("0", 8192, 128, "auto", 1048576, 256.0)
    assert cache.max_model_len == 4096
    assert cache.concurrency(4096) == 8191 / 32
    assert cache.concurrency(129) == 8191 / 2


def test_an_older_page_and_several_engines() -> None:
    lines = [
        f'vllm:cache_config_info{{block_size="16",engine="{engine}",num_gpu_blocks="{blocks}"}} 1.0'
        for engine, blocks in ((10, 300), (2, 200), (0, 100))
    ]
    caches = read_page("\n".join(lines))
    assert [(cache.engine, cache.num_gpu_blocks) for cache in caches] == [("0", 100), ("2", 200), ("10", 300)]
    assert caches[0].capacity_tokens == 1600
    assert caches[0].max_model_len is None


def test_under_data_parallelism_each_engine_has_its_own_blocks() -> None:
    """vLLM writes the sum, 72, into the series of both; 36 blocks of 128 tokens are 4608."""
    lines = [
        f'vllm:cache_config_info{{block_size="128",engine="{engine}",kv_cache_max_concurrency="4.5",'
        'kv_cache_size_tokens="4608",num_gpu_blocks="72"} 1.0'
        for engine in (0, 1)
    ]
    first, second = read_page("\n".join(lines))
    assert first == EngineCache("0", 36, 128, None, 4608, 4.5)
    assert (second.num_gpu_blocks, second.concurrency(1000)) == (36, 35 / 8)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/metrics", "/v1/"])
def test_the_address_of_the_server_will_do(path: str) -> None:
    with served(REAL_PAGE) as url:
        assert ask_server(url + path)[0].num_gpu_blocks == 8192


def test_a_path_in_front_is_kept() -> None:
    with served(REAL_PAGE) as url:
        assert ask_server(f"{url}/gateway")[0].block_size == 128


@pytest.mark.parametrize(
    "page",
    [
        "",
        "vllm:num_requests_running 3\n",
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0\n',
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="1"',
    ],
)
def test_a_page_that_does_not_tell(page: str) -> None:
    with served(page) as url, pytest.raises(UsageError, match="does not say how many KV blocks it has"):
        ask_server(url)


def test_blocks_that_may_be_the_sum_of_all_engines() -> None:
    """As an older vLLM writes them, which does not tell how many tokens that is."""
    page = "".join(
        f'vllm:cache_config_info{{block_size="16",engine="{one}",num_gpu_blocks="72"}} 1.0\n'
        for one in (0, 1)
    )
    with (
        served(page) as url,
        pytest.raises(UsageError, match=r"/metrics says 72 KV blocks at each of several"),
    ):
        ask_server(url)


@pytest.mark.parametrize(("engines", "told", "own"), [(1, 100, 100), (2, 200, 100)])
def test_replicas_of_ray_are_servers_of_their_own(engines: int, told: int, own: int) -> None:
    """Each has an engine 0, and the sum that vLLM writes is over its own engines only: 100 x 16 are 1600."""
    caches = read_page(
        "".join(
            f'ray_vllm_cache_config_info{{ReplicaId="{replica}",block_size="16",engine="{engine}",'
            f'kv_cache_size_tokens="1600",num_gpu_blocks="{told}"}} 1.0\n'
            for replica in ("r1", "r2")
            for engine in range(engines)
        )
    )
    names = [f"{replica}/{engine}" for replica in ("r1", "r2") for engine in range(engines)]
    assert [(cache.engine, cache.num_gpu_blocks) for cache in caches] == [(name, own) for name in names]


def test_blocks_of_replicas_that_are_alike_are_each_ones_own() -> None:
    caches = read_page(
        "".join(
            f'ray_vllm_cache_config_info{{ReplicaId="{one}",engine="0",block_size="16",'
            'num_gpu_blocks="72"} 1.0\n'
            for one in ("r1", "r2")
        )
    )
    assert [cache.num_gpu_blocks for cache in caches] == [72, 72]


def test_a_server_that_is_none() -> None:
    with served("no", 404) as url, pytest.raises(UsageError, match=r"/metrics answered 404: it is no vLLM"):
        ask_server(url)
    with pytest.raises(UsageError, match=r"127.0.0.1:1/metrics does not answer: .*refused"):
        ask_server("http://127.0.0.1:1")
    for url in ("localhost:8000", "ftp://x", "http://", "http://a b", "http://a:x"):
        with pytest.raises(UsageError, match="is no address of a server"):
            ask_server(url)


def test_credentials_and_a_query_go_along_and_are_told_nowhere() -> None:
    with scripted_server([plain("403 Forbidden", b"")]) as server:
        with pytest.raises(UsageError) as raised:
            ask_server(f"http://me:p%40w@127.0.0.1:{server.port}/v1?key=7")
        asked = server.requests[0].decode()
    assert asked.startswith("GET /metrics?key=7 HTTP/1.1\r\n")
    assert "\r\nAuthorization: Basic bWU6cEB3\r\n" in asked  # me:p@w
    assert f"http://127.0.0.1:{server.port}/metrics?*** answered 403" in str(raised.value)
    with pytest.raises(UsageError) as raised:
        ask_server("http://me:p@w:x?key=7")
    assert "--url 'http://***@w:x?***' is no address" in str(raised.value)
