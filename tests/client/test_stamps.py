"""The pulse's promise: what is read now did not arrive before `earliest_s`, however busy the loop was."""

import socket
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent import get_hub

from vllm_locust.client.stamps import Pulse


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    pulse = Pulse(get_hub().loop)
    yield pulse
    pulse.close()


def burn(seconds: float) -> None:
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        pass


class Ears:
    """Sockets that note, when read, the pulse's bound and the time; each read takes `work_s`."""

    def __init__(self, pulse: Pulse, count: int, work_s: float = 0.0) -> None:
        self.pulse, self.work_s = pulse, work_s
        self.heard: list[tuple[float, float]] = []
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.watchers = [get_hub().loop.io(ours.fileno(), 1) for ours, _ in self.pairs]
        for watcher, (ours, _) in zip(self.watchers, self.pairs, strict=True):
            watcher.start(self._hear, ours)

    def _hear(self, ours: socket.socket) -> None:
        self.pulse.reads += 1
        ours.recv(10)
        self.heard.append((self.pulse.earliest_s, time.perf_counter()))
        burn(self.work_s)

    def speak(self) -> float:
        """Write to all sockets; when that began."""
        began_s = time.perf_counter()
        for _, theirs in self.pairs:
            theirs.send(b"x")
        return began_s

    def close(self) -> None:
        for watcher in self.watchers:
            watcher.stop()
            watcher.close()
        for pair in self.pairs:
            for end in pair:
                end.close()


def test_what_waited_while_the_loop_was_busy_is_bounded_by_the_look_before(pulse: Pulse) -> None:
    ears = Ears(pulse, 1)
    gevent.sleep(0.01)
    written_s = ears.speak()
    burn(0.05)
    gevent.sleep(0.01)
    ears.close()
    ((earliest_s, read_s),) = ears.heard
    assert earliest_s <= written_s
    assert 0.05 <= read_s - earliest_s < 0.1


def test_what_woke_a_sleeping_loop_came_just_now(pulse: Pulse) -> None:
    ears = Ears(pulse, 1)
    gevent.spawn_later(0.02, ears.speak)
    gevent.sleep(0.04)
    ears.close()
    ((earliest_s, read_s),) = ears.heard
    assert read_s - earliest_s < 0.005


def test_a_look_that_was_cut_short_does_not_count(pulse: Pulse) -> None:
    """300 sockets are readable, a first look reports 64: the rest has waited since before that look."""
    ears = Ears(pulse, 300, work_s=0.0002)
    gevent.sleep(0.01)
    written_s = ears.speak()
    gevent.sleep(0.3)
    ears.close()
    assert len(ears.heard) == 300
    assert all(earliest_s <= written_s + 0.001 for earliest_s, _ in ears.heard)


def test_a_widened_loop_reports_all_in_one_look(pulse: Pulse) -> None:
    pulse.widen(400)
    ears = Ears(pulse, 300)
    gevent.sleep(0.01)
    ears.speak()
    gevent.sleep(0.1)
    ears.close()
    assert len({earliest_s for earliest_s, _ in ears.heard}) == 1
