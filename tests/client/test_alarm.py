"""An alarm rings once, at the moment it was last set to, and never before."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import gevent
import pytest

from vllm_locust.client import alarm
from vllm_locust.client.alarm import Alarm


@pytest.fixture(params=["timerfd", "portable"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "portable":
        monkeypatch.setattr(alarm, "_timerfd", lambda: None)
    return str(request.param)


@contextmanager
def an_alarm() -> Iterator[tuple[Alarm, list[float]]]:
    rings: list[float] = []
    it = Alarm(lambda: rings.append(perf_counter()))
    try:
        yield it, rings
    finally:
        it.close()


def test_it_rings_at_its_moment(kind: str) -> None:
    with an_alarm() as (it, rings):
        at_s = perf_counter() + 0.05
        it.set(at_s)
        gevent.sleep(0.15)
        (ring_s,) = rings
        assert 0 <= ring_s - at_s < 0.05


def test_only_the_last_setting_counts(kind: str) -> None:
    with an_alarm() as (it, rings):
        it.set(perf_counter() + 0.03)
        it.set(perf_counter() + 0.1)
        gevent.sleep(0.06)
        assert rings == []
        gevent.sleep(0.1)
        assert len(rings) == 1
        it.set(perf_counter() + 0.01)
        gevent.sleep(0.05)
        assert len(rings) == 2


def test_a_moment_that_is_gone_rings_at_once(kind: str) -> None:
    with an_alarm() as (it, rings):
        it.set(perf_counter() - 1)
        gevent.sleep(0.02)
        assert len(rings) == 1


def test_a_closed_one_is_silent(kind: str) -> None:
    with an_alarm() as (it, rings):
        it.set(perf_counter() + 0.02)
        it.close()
        gevent.sleep(0.05)
        assert rings == []
