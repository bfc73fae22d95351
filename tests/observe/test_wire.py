"""The line between two processes: all messages, whole and in order, however they are cut on the way."""

import socket
from collections.abc import Iterator
from threading import Thread

import pytest

from vllm_locust.observe.wire import Wire

Ends = tuple[Wire, Wire]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = map(Wire, socket.socketpair())
    yield one, other
    one.close()
    other.close()


def test_messages_come_whole_and_in_order(ends: Ends) -> None:
    one, other = ends
    sent = [{"do": "delta", "number": i, "body": bytes(i * 997)} for i in range(200)]

    def send() -> None:
        for message in sent:
            one.send(message)
        one.close()

    sender = Thread(target=send)
    sender.start()
    assert list(other.messages()) == sent
    sender.join()


def test_several_may_send_at_once(ends: Ends) -> None:
    one, other = ends
    senders = [
        Thread(target=lambda who=who: [one.send({"who": who, "i": i, "pad": "x" * 5000}) for i in range(50)])
        for who in range(4)
    ]
    for sender in senders:
        sender.start()
    received = []
    for message in other.messages():
        received.append((message["who"], message["i"]))
        if len(received) == 200:
            break
    for sender in senders:
        sender.join()
    assert sorted(received) == [(who, i) for who in range(4) for i in range(50)]


def test_the_end_of_the_other_end_is_the_end(ends: Ends) -> None:
    one, other = ends
    other.close()
    with pytest.raises(OSError):
        one.send({"do": "end"})
    assert list(one.messages()) == []
