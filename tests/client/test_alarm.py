"""An alarm rings once, not before the moment it was last set to, and then without further ado.

How late a ring may be depends on the machine: `scripts/load-benchmark` measures it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import gevent
import pytest
from gevent.event import Event

from vllm_locust.client import alarm
from vllm_locust.client.alarm import Alarm

LIMIT_S = 30.0
"""Whoever has not rung by then never will."""


@pytest.fixture(params=["timerfd", "portable"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "portable":
        monkeypatch.setattr(alarm, "_timerfd", lambda: None)
    return str(request.param)


class Heard:
    """An alarm, and when it rang."""

    def __init__(self) -> None:
        self.rings: list[float] = []
        self._rang = Event()
        self.alarm = Alarm(self._ring)

    def wait(self) -> None:
        """Return after the next ring, or at once after one that nobody has waited for."""
        assert self._rang.wait(LIMIT_S), "it does not ring"
        self._rang.clear()

    def _ring(self) -> None:
        self.rings.append(perf_counter())
        self._rang.set()


@contextmanager
def an_alarm() -> Iterator[Heard]:
    heard = Heard()
    try:
        yield heard
    finally:
        heard.alarm.close()


def let_ring_what_is_due() -> None:
    """Return when all that was to ring by now has rung: what is set later to a later moment has."""
    with an_alarm() as witness:
        witness.alarm.set(perf_counter() + 0.01)
        witness.wait()
    gevent.sleep(0)


def test_it_rings_once_and_not_before_its_moment(kind: str) -> None:
    with an_alarm() as heard:
        at_s = perf_counter() + 0.02
        heard.alarm.set(at_s)
        heard.wait()
        let_ring_what_is_due()
        (ring_s,) = heard.rings
        assert ring_s >= at_s


def test_only_the_last_setting_counts(kind: str) -> None:
    with an_alarm() as heard:
        heard.alarm.set(perf_counter() + 0.001)
        at_s = perf_counter() + 0.03
        heard.alarm.set(at_s)
        heard.wait()
        let_ring_what_is_due()
        (ring_s,) = heard.rings
        assert ring_s >= at_s
        heard.alarm.set(perf_counter() + 0.001)
        heard.wait()


def test_it_can_be_set_to_an_earlier_moment(kind: str) -> None:
    with an_alarm() as heard:
        heard.alarm.set(perf_counter() + 10 * LIMIT_S)
        heard.alarm.set(perf_counter() + 0.001)
        heard.wait()


def test_a_moment_that_is_gone_rings_at_once(kind: str) -> None:
    with an_alarm() as heard:
        heard.alarm.set(perf_counter() - 1)
        heard.wait()


def test_a_closed_one_is_silent(kind: str) -> None:
    with an_alarm() as heard:
        heard.alarm.set(perf_counter() + 0.001)
        heard.alarm.close()
        let_ring_what_is_due()
        assert heard.rings == []
