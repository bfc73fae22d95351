"""The leading process's end of the line: what it does when the other end is silent or talks nonsense."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from tests.turns import LIMIT_S, look_around, until
from vllm_locust.load import observer
from vllm_locust.load.observer import ObserverLink
from vllm_locust.observe.wire import Wire


class OtherEnd:
    """A process that does nothing, and its end of the line, in our hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL)
        self.wire = Wire(theirs)
        monkeypatch.setattr(observer, "_start", lambda bind: (self.process, Wire(ours)))

    def say(self, what: str, **fields: Any) -> None:
        self.wire.send({"say": what, **fields})
        look_around()


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherEnd]:
    other = OtherEnd(monkeypatch)
    yield other
    other.wire.close()
    other.process.wait()


@pytest.fixture
def link(other: OtherEnd) -> Iterator[ObserverLink]:
    link = ObserverLink(None)
    other.say("ready", exporter="http://127.0.0.1:1/metrics", problem=None)
    yield link
    link.close()


def test_silence_is_noticed_and_said_once(
    link: ObserverLink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scraped = link.scrape()
    monkeypatch.setattr(observer, "_SILENCE_LIMIT_S", 0.0)
    for _ in range(3):
        gevent.sleep(0.001)
        link.tell("state")
    assert link.gone
    assert scraped.is_set(), "nobody waits for it any more"
    assert caplog.text.count("does not answer any more") == 1
    assert b"does not answer any more" in (link.view or b"")


@pytest.mark.parametrize(
    "nonsense", [{"say": "sample", "sample": 1}, {"no": "word"}, {"say": "status"}], ids=["a", "b", "c"]
)
def test_nonsense_ends_the_line(
    link: ObserverLink, other: OtherEnd, nonsense: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    other.wire.send(nonsense)
    until(lambda: link.gone)
    assert caplog.text.count("The observer has ended") == 1


def test_what_cannot_be_said_ends_the_line(link: ObserverLink, caplog: pytest.LogCaptureFixture) -> None:
    link.tell("state", users=object())
    until(lambda: link.gone)
    assert "cannot be told" in caplog.text


def a_wait(
    link: ObserverLink, other: OtherEnd, monkeypatch: pytest.MonkeyPatch
) -> "tuple[float, gevent.Greenlet[..., None]]":
    """Now, and who waits for Prometheus, which has come twice, for longer than a test lasts."""
    monkeypatch.setattr(observer, "_SHORTEST_WAIT_S", 10 * LIMIT_S)
    now_s = observer.perf_counter()
    for began_s in (now_s - 2.0, now_s - 1.0):
        other.say("served", began_s=began_s)
    return now_s, gevent.spawn(link.await_fetch)


def test_the_last_figures_are_waited_for_until_they_are_fetched(
    link: ObserverLink, other: OtherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, waiting = a_wait(link, other, monkeypatch)
    other.say("served", began_s=now_s)  # a page without the last figures
    other.say("ended", at_s=now_s + 0.5)
    assert not waiting.ready()
    other.say("served", began_s=now_s + 1.0)
    until(waiting.ready)


def test_who_is_in_a_hurry_ends_the_wait(
    link: ObserverLink, other: OtherEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, waiting = a_wait(link, other, monkeypatch)
    look_around()
    assert not waiting.ready()
    link.stop_waiting()
    until(waiting.ready)


def test_whom_nobody_has_asked_twice_waits_for_nobody(link: ObserverLink, other: OtherEnd) -> None:
    other.say("served", began_s=observer.perf_counter())
    link.await_fetch()  # or the test takes too long
