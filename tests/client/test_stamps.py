"""The pulse's promise: what is read now was not stamped before `earliest_s`, whatever befell the process.

Looks and clocks are played here, so nothing depends on the machine; the last tests use the real event loop.
"""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.event import Event

from vllm_locust.client import alarm, stamps
from vllm_locust.client.stamps import Pulse

REALTIME_NS = 1_700_000_000_000_000_000
DELIVERY_S = 50e-6


class Clocks:
    """What the process reads, in seconds of `perf_counter`; `stops_s` are stops behind the next readings."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.realtime_ns = REALTIME_NS
        self.stops_s: list[float] = []

    def go_to(self, at_s: float) -> None:
        self.now_ns = round(at_s * 1e9)

    def perf_counter_ns(self) -> int:
        return self._read(0)

    def time_ns(self) -> int:
        return self._read(self.realtime_ns)

    def _read(self, plus_ns: int) -> int:
        seen_ns = self.now_ns + plus_ns
        if self.stops_s:
            self.now_ns += round(self.stops_s.pop(0) * 1e9)
        return seen_ns


class Watcher:
    def start(self, callback: Callable[[], None]) -> None:
        self.ring = callback


class Loop:
    """An event loop whose looks begin, end and report what a test says."""

    def __init__(self, clocks: Clocks) -> None:
        self.clocks = clocks
        self.pendingcnt = 0
        self.watchers: list[Watcher] = []

    def prepare(self, **_: Any) -> Watcher:
        self.watchers.append(Watcher())
        return self.watchers[-1]

    check = prepare

    def look(self, pulse: Pulse, begins_s: float, ends_s: float, reads: int = 0, others: int = 0) -> float:
        """Look once, and read all `reads` sockets reported: since when they may have waited."""
        self.clocks.go_to(begins_s)
        self.watchers[0].ring()
        self.clocks.go_to(ends_s)
        self.pendingcnt = reads + others
        self.watchers[1].ring()
        pulse.reads += reads
        return pulse.earliest_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(stamps, "perf_counter_ns", clocks.perf_counter_ns)
    monkeypatch.setattr(stamps, "time_ns", clocks.time_ns)
    return clocks


@pytest.fixture
def loop(clocks: Clocks) -> Loop:
    return Loop(clocks)


def test_what_a_look_finds_came_after_the_look_before_had_begun(loop: Loop) -> None:
    pulse = Pulse(loop)
    assert loop.look(pulse, 1.1, 1.2) == pytest.approx(1.0 - DELIVERY_S)
    assert loop.look(pulse, 1.3, 1.4, reads=1) == pytest.approx(1.1 - DELIVERY_S)
    assert loop.look(pulse, 1.5, 1.6, reads=1) == pytest.approx(1.3 - DELIVERY_S)


def test_a_stop_in_the_middle_of_a_look_is_no_sleep(loop: Loop) -> None:
    """The kernel said at 2.0 that nothing was there; data came at 2.1, and the process went on at 2.3."""
    pulse = Pulse(loop)
    loop.look(pulse, 2.0, 2.3)
    assert loop.look(pulse, 2.3, 2.3, reads=1) == pytest.approx(2.0 - DELIVERY_S)


def test_what_ended_a_long_look_may_have_come_before_it(loop: Loop) -> None:
    """Found at once and told late looks like a sleep: what was there before the look counts, not its end."""
    pulse = Pulse(loop)
    loop.look(pulse, 2.0, 2.0)
    assert loop.look(pulse, 2.2, 2.9, reads=1) == pytest.approx(2.0 - DELIVERY_S)


def test_a_look_that_was_cut_short_does_not_count(loop: Loop) -> None:
    pulse = Pulse(loop)
    loop.look(pulse, 2.0, 2.0)
    loop.look(pulse, 2.1, 2.1, reads=64)
    assert loop.look(pulse, 2.2, 2.2, reads=100) == pytest.approx(2.0 - DELIVERY_S)
    assert loop.look(pulse, 2.3, 2.3, reads=99) == pytest.approx(2.0 - DELIVERY_S)
    # 100 at once were no problem before: a look that reports 99 has seen all.
    assert loop.look(pulse, 2.4, 2.4, reads=10) == pytest.approx(2.3 - DELIVERY_S)


def test_sockets_of_others_take_places_in_a_look(loop: Loop) -> None:
    pulse = Pulse(loop)
    loop.look(pulse, 2.0, 2.0)
    loop.look(pulse, 2.1, 2.1, reads=3, others=61)
    assert loop.look(pulse, 2.2, 2.2, reads=1) == pytest.approx(2.0 - DELIVERY_S)


def test_what_else_was_due_proves_no_room(loop: Loop) -> None:
    """100 timers and 3 sockets: that 64 sockets can be told of at once is all that is known."""
    pulse = Pulse(loop)
    loop.look(pulse, 2.0, 2.0, reads=3, others=100)
    loop.look(pulse, 2.1, 2.1)
    loop.look(pulse, 2.2, 2.2, reads=64)
    assert loop.look(pulse, 2.3, 2.3) == pytest.approx(2.1 - DELIVERY_S)


def test_clocks_that_are_read_apart_are_doubted_until_they_are_read_together(
    clocks: Clocks, loop: Loop
) -> None:
    clocks.stops_s = [0.002, 0.001]
    pulse = Pulse(loop)
    # `perf_counter` was 1.000 before and 1.003 after the other clock said 1.002 (plus REALTIME_NS).
    assert pulse.offset_ns == 1_000_000 - REALTIME_NS
    assert pulse.doubt_s == pytest.approx(0.003)
    clocks.stops_s = [0.0005, 0.0]
    loop.look(pulse, 1.1, 1.1)
    assert pulse.offset_ns == -REALTIME_NS
    assert pulse.doubt_s == pytest.approx(0.0005)
    clocks.stops_s = [0.0, 0.3]
    loop.look(pulse, 1.2, 1.2)
    assert (pulse.offset_ns, pulse.doubt_s) == (-REALTIME_NS, 0.0)


@pytest.mark.parametrize("step_ns", [-5_000_000, 5_000_000, -3_600_000_000_000])
def test_a_clock_that_is_set_is_read_anew(clocks: Clocks, loop: Loop, step_ns: int) -> None:
    pulse = Pulse(loop)
    clocks.realtime_ns += step_ns
    clocks.stops_s = [0.0001, 0.0002]
    loop.look(pulse, 1.2, 1.2)
    assert pulse.offset_ns == 200_000 - REALTIME_NS - step_ns
    assert pulse.doubt_s == pytest.approx(0.0003)
    assert pulse.clock_sets == 1


def test_a_clock_that_was_set_since_the_last_look_is_seen_when_it_is_asked_for(
    clocks: Clocks, loop: Loop
) -> None:
    pulse = Pulse(loop)
    assert pulse.clock_sets == 0
    clocks.realtime_ns += 20_000_000
    assert pulse.clock_sets == 1
    assert pulse.offset_ns == -REALTIME_NS - 20_000_000


# -- on the real event loop


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    pulse = Pulse(get_hub().loop)
    yield pulse
    pulse.close()


class Ears:
    """Readable sockets that note, when read, since when their data may have waited."""

    def __init__(self, pulse: Pulse, count: int) -> None:
        self.pulse = pulse
        self.heard: list[float] = []
        self.all_heard = Event()
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.watchers = [get_hub().loop.io(ours.fileno(), 1) for ours, _ in self.pairs]
        for watcher, (ours, _) in zip(self.watchers, self.pairs, strict=True):
            watcher.start(self._hear, ours)

    def _hear(self, ours: socket.socket) -> None:
        self.pulse.reads += 1
        ours.recv(10)
        self.heard.append(self.pulse.earliest_s)
        if len(self.heard) == len(self.pairs):
            self.all_heard.set()

    def speak(self) -> float:
        """Write to all sockets; when that began."""
        began_s = stamps.perf_counter_ns() / 1e9
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


@pytest.mark.parametrize("count", [1, 300])
def test_what_was_written_between_two_looks(pulse: Pulse, count: int) -> None:
    """300 are more than the first look can report: the rest has waited since before it."""
    ears = Ears(pulse, count)
    gevent.sleep(0.01)
    looked_s = pulse.earliest_s
    written_s = ears.speak()
    assert ears.all_heard.wait(30)
    ears.close()
    assert all(looked_s <= earliest_s <= written_s for earliest_s in ears.heard)


def test_a_widened_loop_reports_all_in_one_look(pulse: Pulse) -> None:
    pulse.widen(400)
    ears = Ears(pulse, 300)
    gevent.sleep(0.01)
    ears.speak()
    assert ears.all_heard.wait(30)
    ears.close()
    assert len(set(ears.heard)) == 1


@pytest.mark.parametrize("kind", ["timerfd", "portable"])
def test_while_answers_are_awaited_the_loop_looks_by_itself(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "portable":
        monkeypatch.setattr(alarm, "_timerfd", lambda: None)
    pulse = Pulse(get_hub().loop)
    looks: list[float] = []
    seen = Event()
    watcher = get_hub().loop.check(ref=False)

    def note() -> None:
        looks.append(pulse.earliest_s)
        if len(looks) == 20:
            seen.set()

    watcher.start(note)
    pulse.quicken()
    assert seen.wait(30), "nothing else wakes the loop before that"
    pulse.rest()
    gevent.sleep(0)
    looks.clear()
    gevent.sleep(0.05)
    watcher.stop()
    watcher.close()
    pulse.close()
    assert len(looks) < 5
