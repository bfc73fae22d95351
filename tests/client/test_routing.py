"""Which of several hosts is asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.client.asking import ANSWER
from tests.scripted_server import (
    ScriptedServer,
    scripted_server,
)
from vllm_locust.client.chat import ChatClient, RequestOptions, Transport
from vllm_locust.client.target import ROUND_ROBIN, STICKY, Target
from vllm_locust.core.record import RequestRecord


@dataclass
class Hosts:
    """Clients of two servers."""

    servers: Sequence[ScriptedServer]
    transport: Transport
    records: list[RequestRecord] = field(default_factory=list)

    def client(self) -> ChatClient:
        return ChatClient(self.transport, self.records.append)

    @property
    def asked(self) -> list[int]:
        """Which server each of the requests went to, by its record."""
        names = [f"localhost:{server.port}" for server in self.servers]
        return [names.index(str(record.target)) for record in self.records]

    @property
    def counts(self) -> list[int]:
        return [len(server.requests) for server in self.servers]


@contextmanager
def two_hosts(routing: str, worker: int = 0) -> Iterator[Hosts]:
    with scripted_server(ANSWER) as one, scripted_server(ANSWER) as other:
        targets = [Target.parse(one.url), Target.parse(other.url)]
        transport = Transport(targets, RequestOptions(model="m"), worker=worker, routing=routing)
        yield Hosts([one, other], transport)
        transport.close()


def test_a_sticky_user_stays_with_a_host_and_hosts_are_dealt_in_turn() -> None:
    with two_hosts(STICKY) as hosts:
        users = [hosts.client() for _ in range(3)]
        for user in (*users, *users, users[1]):
            user.chat("hello")
        assert hosts.asked == [0, 1, 0, 0, 1, 0, 1]
        assert hosts.counts == [4, 3]
        assert [server.connections for server in hosts.servers] == [2, 1]
        for user in users:
            user.close()


def test_round_robin_sends_each_request_to_the_next_host_over_one_connection_each() -> None:
    with two_hosts(ROUND_ROBIN) as hosts:
        user, other = hosts.client(), hosts.client()
        for one in (user, user, user, other, user):
            one.chat("hello")
        assert hosts.asked == [0, 1, 0, 1, 0]
        assert [server.connections for server in hosts.servers] == [1, 2]
        user.close()
        other.close()
        user.chat("hello")
        assert hosts.servers[1].connections == 3, "all connections were closed"
        user.close()


def test_who_comes_after_a_user_gets_a_host_of_their_own() -> None:
    with two_hosts(STICKY) as hosts:
        client = hosts.client()
        for _ in range(3):
            client.leave_host()
            client.chat("hello")
            client.chat("hello")
        client.close()
        assert hosts.asked == [0, 0, 1, 1, 0, 0]
        assert [server.connections for server in hosts.servers] == [1, 1]


def test_workers_begin_with_different_hosts() -> None:
    with two_hosts(STICKY, worker=1) as hosts:
        client = hosts.client()
        client.chat("hello")
        client.close()
        assert hosts.asked == [1]


def test_each_host_is_asked_by_its_own_name_and_path() -> None:
    with scripted_server(ANSWER) as one, scripted_server(ANSWER) as other:
        targets = [Target.parse(f"{one.url}/a"), Target.parse(f"{other.url}/b/v1")]
        transport = Transport(targets, RequestOptions(model="m"), routing=ROUND_ROBIN)
        records: list[RequestRecord] = []
        client = ChatClient(transport, records.append)
        client.chat("hello")
        client.chat("hello")
        client.close()
        transport.close()
        for server, path, record in zip((one, other), "ab", records, strict=True):
            assert server.requests[0].startswith(f"POST /{path}/v1/chat/completions HTTP/1.1\r\n".encode())
            assert f"\r\nHost: localhost:{server.port}\r\n".encode() in server.requests[0]
            assert record.target == f"localhost:{server.port}/{path}"
