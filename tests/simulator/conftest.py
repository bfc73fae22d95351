"""What the tests of the simulator share: a player of virtual time, a server in a thread, a raw client."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools
import pytest

from vllm_locust.simulator.config import LimitOverrides, ServerConfig, configure
from vllm_locust.simulator.cost import CostModel
from vllm_locust.simulator.engine import Engine, Request, Step
from vllm_locust.simulator.limits import EngineLimits
from vllm_locust.simulator.server import Server

# Round numbers, for sums by hand.
COST = CostModel(base_s=0.010, prefill_token_s=0.001, decode_seq_s=0.002, kv_token_s=0.0001)


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """No test leaves a thread running, nor a file or socket open where the system tells, on Linux."""
    threads, descriptors = set(threading.enumerate()), _open_descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    assert _open_descriptors() <= descriptors


def _open_descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@dataclass
class Player:
    """Plays an engine step by step and keeps what happened."""

    engine: Engine
    now: float = 0.0
    steps: list[Step] = field(default_factory=list)
    tokens_at: dict[Request, list[float]] = field(default_factory=dict)

    def submit(self, prompt: int | Sequence[int], output: int | Sequence[int], **fields: Any) -> Request:
        """Submit now; a number stands for so many tokens that no other request has."""
        unique = 1_000_000 * (len(self.tokens_at) + 1)
        prompt_ids = range(unique, unique + prompt) if isinstance(prompt, int) else prompt
        output_ids = range(unique + 500_000, unique + 500_000 + output) if isinstance(output, int) else output
        request = Request(f"request-{len(self.tokens_at)}", prompt_ids, output_ids, **fields)
        self.engine.submit(request, self.now)
        self.tokens_at[request] = []
        return request

    def step(self) -> Step | None:
        """Play one step to its end."""
        step = self.engine.schedule(self.now)
        if step is None:
            return None
        self.now += step.duration_s
        self.steps.append(step)
        for request in self.engine.finish(step, self.now):
            self.tokens_at[request].append(self.now)
        return step

    def play(self) -> None:
        """Play until nothing is left to do."""
        while self.step():
            assert len(self.steps) < 10_000, "the engine never comes to rest"


@pytest.fixture
def player() -> Callable[..., Player]:
    """A function: limits -> player of a new engine."""

    def make(cost: CostModel = COST, **limits: Any) -> Player:
        sizes = {
            "max_model_len": 4096,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 8192,
            "num_gpu_blocks": 1024,
        }
        return Player(Engine(cost, EngineLimits(**{**sizes, **limits})))

    return make


@dataclass
class Response:
    """A whole response; `chunks` are the pieces of a chunked body as they were framed."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def events(self) -> list[str]:
        """The data of the events of a stream."""
        return [event.removeprefix("data: ") for event in self.body.decode().split("\n\n") if event]


class Client:
    """One keep-alive connection, as raw as can be; a small `buffer_size` makes it a slow reader."""

    def __init__(self, port: int, buffer_size: int | None = None) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(60)
        if buffer_size is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        self.sock.connect(("127.0.0.1", port))

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Response:
        """POST a value as JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
        return self.receive()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Response:
        """GET a path."""
        self.send("GET", path, b"", headers or {})
        return self.receive()

    def send(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> None:
        """Send a request and read nothing."""
        lines = [f"{method} {path} HTTP/1.1", "Host: simulator", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + data)

    def receive(self) -> Response:
        """Read one response to its end."""
        reader = _Reader()
        parser = httptools.HttpResponseParser(reader)
        while not reader.complete:
            data = self.sock.recv(65536)
            assert data, "the server hung up"
            parser.feed_data(data)
        reader.response.status = parser.get_status_code()
        return reader.response


class _Reader:
    def __init__(self) -> None:
        self.response = Response()
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.response.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.response.chunks.append(body)

    def on_message_complete(self) -> None:
        self.response.body = b"".join(self.response.chunks)
        self.complete = True


@dataclass
class Running:
    """A server that runs in a thread, and the clients made for it."""

    server: Server
    clients: list[Client] = field(default_factory=list)

    def client(self, buffer_size: int | None = None) -> Client:
        """A new connection."""
        self.clients.append(Client(self.server.port, buffer_size))
        return self.clients[-1]


@contextmanager
def _running(config: ServerConfig) -> Iterator[Running]:
    running = Running(Server(config))
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    try:
        yield running
    finally:
        running.server.stop()
        thread.join()
        for client in running.clients:
            client.sock.close()


@pytest.fixture
def serve() -> Callable[..., Any]:
    """A function: limits and options -> context of a running server with model "tiny"."""

    def make(preset: str = "laptop", *, limits: LimitOverrides | None = None, **options: Any) -> Any:
        return _running(configure(preset, limits, served_model_name="tiny", **{"port": 0, **options}))

    return make
