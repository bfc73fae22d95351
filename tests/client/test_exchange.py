"""How wrong an arrival may be: the last byte of a read has its stamp, and what else it brought has a bound.

Times are made up: one read a second from 10.0 on, whose last byte may have come 0.001 s before, and any other
byte 0.25 s.
"""

import pytest

from tests.scripted_server import DONE, LAST_CHUNK, ROLE, STREAM_HEAD, chunk, token, usage
from vllm_locust.client.exchange import Chunks, Exchange

END_S, ANY_S = 0.001, 0.25
A = token("a")
EVENT = A[4:-2]


def bounds_of(*reads: bytes, head: bytes = STREAM_HEAD, chunks: Chunks | None = None) -> list[float]:
    exchange = Exchange(1, chunks or Chunks(are_whole=True))
    for number, data in enumerate((head, *reads)):
        exchange.on_bytes(data, 10.0 + number, 0.0, END_S, ANY_S)
    return exchange.bounds_s


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([A], [END_S]),
        ([ROLE + A], [END_S]),
        ([A + A], [ANY_S, END_S]),
        ([A[:20], A[20:]], [END_S]),
        ([A + A[:20], A[20:]], [ANY_S, END_S]),
        # A part of the next chunk's length came behind it: packets and chunks are not the same here.
        ([A + A[:4], A[4:]], [ANY_S, ANY_S]),
        ([A + chunk(b": ping\n\n")], [ANY_S]),
        ([chunk(EVENT + b": ping\n\n")], [ANY_S]),
        ([chunk(EVENT + b"id: 7\n")], [ANY_S]),
        ([A + usage(1, 1) + DONE], [ANY_S]),
        ([A + LAST_CHUNK], [ANY_S]),
        ([A + LAST_CHUNK[:3]], [ANY_S]),
        # The line break that closes the chunk comes apart, and so it may have behind the second.
        ([A[:-2], A[-2:] + A], [END_S, ANY_S]),
    ],
)
def test_only_what_ends_a_read_has_its_stamp(reads: list[bytes], expected: list[float]) -> None:
    assert bounds_of(*reads) == expected


def test_a_line_break_is_not_believed_to_come_with_its_chunk_until_that_was_seen() -> None:
    chunks = Chunks()
    assert bounds_of(A, chunks=chunks) == [ANY_S]
    chunks.on_packet(A[5:])  # a chunk's end in one packet is no chunk in one packet
    assert bounds_of(A, chunks=chunks) == [ANY_S]
    chunks.on_packet(A)
    assert bounds_of(A, chunks=chunks) == [END_S]


def test_a_server_that_was_seen_to_cut_chunks_is_not_believed_in_later_answers() -> None:
    chunks = Chunks(are_whole=True)
    assert bounds_of(A, A[:-2], A[-2:] + A, chunks=chunks) == [END_S, END_S, ANY_S]
    chunks.on_packet(A)
    assert bounds_of(A, A, chunks=chunks) == [ANY_S, ANY_S]


def test_where_a_full_read_ends_says_nothing_about_chunks() -> None:
    chunks = Chunks(are_whole=True)
    exchange = Exchange(1, chunks)
    exchange.on_bytes(STREAM_HEAD + A + A[:-9], 10.0, 0.0, ANY_S, ANY_S)
    assert chunks.end_with_event


def test_events_that_end_in_crlf() -> None:
    data = EVENT.replace(b"\n\n", b"\r\n\r\n")
    assert bounds_of(chunk(data), chunk(data) + LAST_CHUNK[:3]) == [END_S, ANY_S]


def test_a_body_without_chunks() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    assert bounds_of(EVENT, EVENT + b": ping\n\n", head=head) == [END_S, ANY_S]


def test_a_token_that_usage_tells_of_came_at_some_time_since_the_response_began() -> None:
    """Nothing but special tokens: they are counted as of the finish, which was read before."""
    finish = chunk(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n')
    (bound_s,) = bounds_of(finish, usage(5, 1))
    # Claimed at 11.0, the finish; the response had begun at 10.0 - ANY_S.
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


def test_without_trust_in_stamps_each_arrival_is_when_it_was_read() -> None:
    """Those of 10.0 and 12.0 were read 0.5 and 0.25 s later; the one of 11.0 had no stamp to distrust."""
    exchange = Exchange(1, Chunks(are_whole=True))
    for number, data in enumerate((STREAM_HEAD + A, A + A, token("b", "stop") + DONE + LAST_CHUNK)):
        exchange.on_bytes(data, 10.0 + number, 0.0, END_S, ANY_S)
    earliest_s = [at_s - bound_s for at_s, bound_s in claims(exchange)]
    exchange.distrust({10.0: 10.5, 12.0: 12.25})
    assert exchange.answer.arrivals_s == [10.5, 11.0, 11.0, 12.25]
    assert [at_s - bound_s for at_s, bound_s in claims(exchange)] == pytest.approx(earliest_s)
    assert (exchange.arrival_s, exchange.ended_s, exchange.contradictions) == (12.25, 12.25, 2)
    assert exchange.arrival_bound_s == exchange.ended_bound_s == 0.25 + END_S


def claims(exchange: Exchange) -> list[tuple[float, float]]:
    return list(zip(exchange.answer.arrivals_s, exchange.bounds_s, strict=True))
