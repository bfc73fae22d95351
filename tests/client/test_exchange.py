"""How wrong an arrival may be: the last byte of a read has its stamp, and what else it brought has a bound.

Times are made up: one read a second from 10.0 on, whose last byte may have come 0.001 s before, and any other
byte 0.25 s, unless the read was one packet.
"""

from collections.abc import Sequence

import pytest

from tests.scripted_server import DONE, LAST_CHUNK, ROLE, STREAM_HEAD, chunk, token, usage
from vllm_locust.client.exchange import Exchange

END_S, ANY_S = 0.001, 0.25
A = token("a")
EVENT = A[4:-2]


def bounds_of(*reads: bytes, counted: Sequence[bool | None]) -> list[float]:
    """`counted` is what is told behind each read: whether those since the last word were one packet each."""
    exchange = Exchange()
    exchange.on_bytes(STREAM_HEAD, 9.0, 0.0, END_S, ANY_S)
    for number, (data, one_each) in enumerate(zip(reads, counted, strict=True)):
        exchange.on_bytes(data, 10.0 + number, 0.0, END_S, ANY_S)
        if one_each is not None:
            exchange.on_count(one_each)
    exchange.release()
    return exchange.bounds_s


@pytest.mark.parametrize("one_packet", [True, False, None])
@pytest.mark.parametrize(
    "read",
    [A, A[:-2], EVENT.replace(b"\n", b"\r\n"), A + A[:4], A + chunk(b": ping\n\n"), A + usage(1, 1) + DONE],
)
def test_the_stamp_of_one_packet_is_that_of_all_its_tokens(read: bytes, one_packet: bool | None) -> None:
    """Of several packets, or of nobody knows how many, it is that of the last byte alone."""
    bound_s = END_S if one_packet else ANY_S
    assert bounds_of(read, counted=[one_packet]) == [bound_s] * len(bounds_of(read, counted=[False]))


@pytest.mark.parametrize(
    ("reads", "counted", "expected"),
    [
        ([A + A], [True], [END_S, END_S]),
        ([A, A], [None, True], [END_S, END_S]),
        ([A, A + A, A], [None, False, True], [ANY_S, ANY_S, ANY_S, END_S]),
        ([A, A], [True, False], [END_S, ANY_S]),
        # An event that came in two packets came with the second.
        ([A + A[:20], A[20:]], [True, True], [END_S, END_S]),
        ([A[:-2], A[-2:] + A], [True, False], [END_S, ANY_S]),
    ],
)
def test_a_count_is_about_the_reads_since_the_one_before(
    reads: list[bytes], counted: list[bool | None], expected: list[float]
) -> None:
    assert bounds_of(*reads, counted=counted) == expected


def test_bounds_stay_with_their_tokens_when_usage_takes_events_away() -> None:
    """The first of two empty events was no token; what the other one's packet was is told at the very end."""
    empty = token("")
    reads = [empty, empty, A, usage(5, 2) + LAST_CHUNK]
    assert bounds_of(*reads, counted=[False, None, None, True]) == [END_S, END_S]
    assert bounds_of(*reads, counted=[True, False, None, True]) == [ANY_S, END_S]


def test_a_token_that_usage_tells_of_came_at_some_time_since_the_response_began() -> None:
    """Nothing but special tokens: they are counted as of the finish, which was read before."""
    finish = chunk(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n')
    (bound_s,) = bounds_of(finish, usage(5, 1), counted=[None, True])
    # Claimed at 10.0, the finish; the response had begun at 9.0 - ANY_S.
    assert bound_s == pytest.approx(1.0 + ANY_S)


def test_an_event_that_the_end_of_the_body_completes() -> None:
    """Its last byte came with the first read, 2 s before the end."""
    exchange = Exchange()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    exchange.on_bytes(head + EVENT[:-2], 10.0, 0.0, END_S, ANY_S)
    exchange.on_close(None, 12.0, 1.5)
    assert exchange.answer.arrivals_s == [10.0]
    assert exchange.bounds_s == [pytest.approx(ANY_S)]
    assert (exchange.arrival_s, exchange.arrival_bound_s) == (10.0, END_S)
    assert (exchange.ended_s, exchange.ended_bound_s) == (12.0, 1.5)


def test_an_answer_ends_with_its_last_byte() -> None:
    exchange = Exchange()
    exchange.on_bytes(STREAM_HEAD + A, 10.0, 0.0, END_S, ANY_S)
    exchange.on_bytes(token("b", "stop") + DONE + LAST_CHUNK, 11.0, 0.0, 2 * END_S, ANY_S)
    assert (exchange.ended_s, exchange.ended_bound_s) == (11.0, 2 * END_S)


@pytest.mark.parametrize(
    "more",
    [
        b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 ",
        STREAM_HEAD + A + DONE + LAST_CHUNK,
        b"\0",
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_what_comes_behind_an_answer_is_not_part_of_it(more: bytes, together: bool) -> None:
    """And the connection is not to be used again, for what follows would be taken for the next answer."""
    answer = STREAM_HEAD + A + token("b", "stop") + DONE + LAST_CHUNK
    exchange = Exchange()
    for data in [answer + more] if together else [answer, more]:
        exchange.on_bytes(data, 10.0, 0.0, END_S, ANY_S)
    exchange.release()
    assert (exchange.outcome(), exchange.status) == (None, 200)
    assert len(exchange.bounds_s) == len(exchange.answer.arrivals_s) == 2
    assert (exchange.complete, exchange.keep_alive) == (True, False)


@pytest.mark.parametrize("header", [b"content-encoding: gzip", b"content-type: text/html", b"location: /b"])
def test_what_is_announced_before_a_response_is_not_said_of_it(header: bytes) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n" + header + b"\r\n\r\n"
    exchange = Exchange()
    exchange.on_bytes(hints + STREAM_HEAD + A + token("b", "stop"), 10.0, 0.0, END_S, ANY_S)
    exchange.on_bytes(DONE + LAST_CHUNK, 11.0, 0.0, END_S, ANY_S)
    assert (exchange.outcome(), exchange.location) == (None, "")
    assert (len(exchange.bounds_s), exchange.keep_alive) == (2, True)


def test_without_trust_in_stamps_each_arrival_is_when_it_was_read() -> None:
    """Those of 10.0 and 12.0 were read 0.5 and 0.25 s later; the one of 11.0 had no stamp to distrust."""
    exchange = Exchange()
    for number, data in enumerate((STREAM_HEAD + A, A + A, token("b", "stop") + DONE + LAST_CHUNK)):
        exchange.on_bytes(data, 10.0 + number, 0.0, END_S, ANY_S)
        exchange.on_count(True)
    exchange.distrust({10.0: (10.5, 9.75), 12.0: (12.25, 11.5)})
    assert exchange.answer.arrivals_s == [10.5, 11.0, 11.0, 12.25]
    # They may have waited as long as the look before allows, whatever the stamps said.
    assert exchange.bounds_s == pytest.approx([0.75, END_S, END_S, 0.75])
    assert (exchange.arrival_s, exchange.ended_s, exchange.contradictions) == (12.25, 12.25, 2)
    assert exchange.arrival_bound_s == exchange.ended_bound_s == 0.75


HEAD_CAME = "the head of a stream came, and"
HALF = b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\n"


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        ([HALF.replace(b"99", b"6") + b"engine"], "the response 500 came, too late: engine"),
        ([], "not a byte of a response came"),
        ([STREAM_HEAD[:20]], "a part of a response's head came"),
        ([HALF], "the response 500 came, and not all of its body"),
        ([HALF + b"engine "], "the response 500 came, and not all of its body: engine"),
        ([STREAM_HEAD], f"{HEAD_CAME} no event with output"),
        ([STREAM_HEAD + ROLE], f'{HEAD_CAME} no event with output; its last event was \'{{"choices":[{{'),
        ([STREAM_HEAD, A], f"{HEAD_CAME} 1 event with output"),
        ([STREAM_HEAD + A, A], f"{HEAD_CAME} 2 events with output"),
        (
            [STREAM_HEAD + A + chunk(b'data: {"queue":3}\n\n')],
            f"{HEAD_CAME} 1 event with output; among its events was '{{\"queue\":3}}'",
        ),
        (
            [STREAM_HEAD + A + chunk(b"<html>busy\n")],
            f"{HEAD_CAME} 1 event with output; among its events was '<html>busy'",
        ),
        (
            [STREAM_HEAD + A + chunk(b'event: x\ndata: {"choi')],
            f"{HEAD_CAME} 1 event with output; then a part of an event came, 'data: {{\"choi'",
        ),
    ],
)
def test_how_far_a_response_has_come(reads: list[bytes], told: str) -> None:
    exchange = Exchange()
    for second, data in enumerate(reads):
        exchange.on_bytes(data, float(second), 0.0, END_S, ANY_S)
    assert exchange.so_far().startswith(told)
    assert "its last event" in told or exchange.so_far() == told
