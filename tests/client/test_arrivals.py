"""When tokens came and how uncertain that is, against the server's log of send times."""

import math
import threading
import time
from collections.abc import Callable

import gevent
import pytest

from tests.client.asking import ANSWER, Asker, burn
from tests.scripted_server import (
    DONE,
    HANG_UP,
    LAST_CHUNK,
    ROLE,
    STREAM_HEAD,
    assert_true,
    token,
    usage,
)
from tests.turns import look_around, until
from vllm_locust.client import chat, connection, stamps


def test_times_are_those_of_the_servers_log(asker: Callable[..., Asker]) -> None:
    it = asker(
        [STREAM_HEAD, ROLE, 0.04, token("a"), 0.03, token("b"), 0.02, token("c", "stop"), DONE + LAST_CHUNK]
    )
    record = it.ask().record
    assert_true(record, it.server.sent_s[2:5], it.server.sent_by_s[2:5])
    assert record.first_token_s == record.arrivals_s[0]
    assert record.last_token_s == record.arrivals_s[2]
    assert record.ttft_s >= 0.04
    assert record.outcome == "ok"
    assert record.tokens_counted
    assert record.output_tokens == 3


def test_a_late_reader_still_tells_when_bytes_arrived(asker: Callable[..., Asker]) -> None:
    """The whole point: busy for 50 ms when the token comes, and still the arrival is the kernel's."""
    it = asker([STREAM_HEAD, 0.05, token("a"), 0.5, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    look_around()  # the head was a packet of its own, and is read
    while len(it.server.sent_by_s) < 2:
        burn(0.001)
    burn(0.05)
    record = waiting.get().record
    assert it.server.sent_s[1] <= record.arrivals_s[0] <= it.server.sent_by_s[1] + 0.0001
    assert max(record.lags_s) >= 0.05 - 0.0001
    assert record.bounds_s[0] < 1e-3


@pytest.mark.parametrize("step_ns", [20_000_000, -20_000_000])
def test_stamps_of_an_answer_in_which_the_clock_is_set_are_not_believed(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    """It is set behind the first token, which is read later: its stamp is that of a clock that is no more."""
    set_ns = [math.inf]

    def played(true_ns: int) -> int:
        return true_ns + (step_ns if true_ns >= set_ns[0] else 0)

    def unpack_played(ancillary: bytes) -> tuple[int, int]:
        seconds, nanoseconds = stamps.unpack_stamp(ancillary)
        return divmod(played(seconds * 1_000_000_000 + nanoseconds), 1_000_000_000)

    monkeypatch.setattr(stamps, "time_ns", lambda: played(time.time_ns()))
    monkeypatch.setattr(connection, "unpack_stamp", unpack_played)
    it = asker([STREAM_HEAD, 0.05, token("a"), 0.1, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    look_around()
    while len(it.server.sent_by_s) < 2:
        burn(0.001)
    set_ns[0] = time.time_ns()
    burn(0.03)
    record = waiting.get().record
    assert_true(record, it.server.sent_s[1:3], it.server.sent_by_s[1:3])
    assert record.contradictions > 0


@pytest.mark.parametrize("where", ["run_exchange", "open_connection"])
def test_what_we_lose_before_the_request_is_written_is_an_error_of_ours(
    asker: Callable[..., Asker], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Busy for 50 ms between the stamp and the write, or before connecting."""
    original = getattr(chat, where)

    def late(*given: object) -> object:
        burn(0.05)
        return original(*given)

    monkeypatch.setattr(chat, where, late)
    record = asker(ANSWER).ask().record
    assert record.send_bound_s >= 0.05
    assert record.connect_bound_s >= (0.05 if where == "open_connection" else 0.0)


def test_events_read_together_say_how_uncertain_they_are(asker: Callable[..., Asker]) -> None:
    go_on = threading.Event()
    it = asker([STREAM_HEAD, go_on, token("a"), 0.08, token("b", "stop"), DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    looked_s = time.perf_counter()
    look_around()
    go_on.set()
    while len(it.server.sent_by_s) < 4:
        burn(0.001)
    record = waiting.get().record
    assert record.arrivals_s[0] >= it.server.sent_s[2] - 1e-4  # both carry the stamp of the last
    assert looked_s <= record.arrivals_s[0] - record.bounds_s[0] <= it.server.sent_by_s[1] + 1e-4


@pytest.mark.parametrize("ending", [0.3, threading.Event()])
def test_a_complete_answer_ended_with_its_last_bytes(
    asker: Callable[..., Asker], ending: float | threading.Event
) -> None:
    """Told by the connection's end 0.3 s later, or by our patience; only the user has waited so long."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    last = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    it = asker([head, last, ending, HANG_UP], timeout_s=1.0 if ending == 0.3 else 0.3)
    record = it.ask().record
    if isinstance(ending, threading.Event):
        ending.set()
    assert (record.outcome, record.ended_s) == ("ok", record.last_token_s)
    assert it.client.free is not None
    assert it.client.free.at_s - record.ended_s >= 0.25


def test_a_token_with_something_behind_it_in_the_same_read_is_uncertain(asker: Callable[..., Asker]) -> None:
    """The stamp is that of the last bytes: here of [DONE], 80 ms after the token."""
    go_on = threading.Event()
    it = asker([STREAM_HEAD, go_on, token("a", "stop"), 0.08, DONE + LAST_CHUNK])
    waiting = gevent.spawn(it.ask)
    until(lambda: len(it.server.sent_by_s) == 1)
    go_on.set()
    while len(it.server.sent_by_s) < 3:
        burn(0.001)
    record = waiting.get().record
    assert record.arrivals_s[0] - record.bounds_s[0] <= it.server.sent_by_s[1] + 1e-4
    assert record.bounds_s[0] >= it.server.sent_s[2] - it.server.sent_by_s[1] - 1e-4


def test_a_stream_that_a_proxy_kept_until_its_end_arrives_in_one_piece(asker: Callable[..., Asker]) -> None:
    whole = b"".join(
        [STREAM_HEAD, ROLE, *[token("a")] * 49, token("a", "stop"), usage(5, 50), DONE, LAST_CHUNK]
    )
    it = asker([0.05, whole], ANSWER, body={"ignore_eos": True})
    record = it.client.chat("hello", max_tokens=64).record
    assert (record.outcome, record.in_one_piece, record.tpot_s) == ("ok", True, None)
    assert (record.output_tokens, record.visible_events) == (50, 50)
    assert (record.max_tokens, record.exact_length) == (64, True)
