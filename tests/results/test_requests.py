"""Lines become columns: what is unknown stays so, and a line that is no request leaves nothing behind."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.made_records import records
from tests.results.made_lines import NEW_KEYS, a_line, without
from vllm_locust.core.record import to_json_line
from vllm_locust.results.requests import COUNTS, HASH, TIMES, UNKNOWN, WORDS, read_lines


@given(st.lists(records(), max_size=8))
def test_columns_say_what_the_lines_said(made) -> None:
    lines = [to_json_line(record, 0.0) for record in made]
    requests = read_lines(lines).requests
    assert len(requests) == len(made)
    for place, row in enumerate(map(orjson.loads, lines)):
        for name in WORDS:
            assert requests.words[name][requests[name][place]] == row[name]
        for name in TIMES:
            value = requests[name][place]
            assert (None if np.isnan(value) else value) == row[name]
        for name in COUNTS:
            value = requests[name][place]
            assert (None if value == UNKNOWN else value) == row[name]


def test_a_hash_is_a_whole_number() -> None:
    lines = [a_line(prompt_hash=digits) for digits in ("ffffffffffffffff", "00000000000000a0", None)]
    assert read_lines(lines).requests[HASH].tolist() == [2**64 - 1, 160, 0]


def test_an_older_file_lacks_keys() -> None:
    requests = read_lines([without(NEW_KEYS, a_line(prompt_tokens=7, max_tokens=9))]).requests
    assert requests["prompt_tokens"].tolist() == [7]
    assert [requests[name].tolist() for name in ("session", "turn", "max_tokens")] == [[UNKNOWN]] * 3
    assert requests[HASH].tolist() == [0]
    assert requests.words["target"] == (None,)


BROKEN = {
    "no JSON": b"{oops}\n",
    "no object": b"[1, 2]\n",
    "no request": b'{"level": "info"}\n',
    "empty": b"\n",
    "text for a number": a_line().replace(b'"prompt_tokens":null', b'"prompt_tokens":"many"'),
    "half a token": a_line().replace(b'"output_tokens":null', b'"output_tokens":0.5'),
    "a huge number": a_line().replace(b'"output_tokens":null', b'"output_tokens":9223372036854775808'),
    "a list for a word": a_line().replace(b'"profile":"a"', b'"profile":["a"]'),
    "a number for a word": a_line().replace(b'"profile":"a"', b'"profile":5'),
    "text for a time": a_line().replace(b'"sent_s":0.0', b'"sent_s":"noon"'),
    "no hash": a_line(prompt_hash="lemon"),
    "a hash that is too long": a_line(prompt_hash="1" * 17),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_in_the_middle_is_counted(broken: bytes) -> None:
    found = read_lines([a_line(prompt_tokens=1), broken, broken, a_line(prompt_tokens=2)])
    assert (found.broken, found.first_broken, found.cut_off) == (2, 2, False)
    assert found.requests["prompt_tokens"].tolist() == [1, 2]
    assert {len(column) for column in found.requests.columns.values()} == {2}


def test_half_a_last_line_was_cut_off() -> None:
    whole = a_line()
    found = read_lines([whole, whole[:-20]])
    assert (len(found.requests), found.broken, found.cut_off) == (1, 0, True)


def test_a_last_line_without_its_newline_is_whole() -> None:
    found = read_lines([a_line(), a_line()[:-1]])
    assert (len(found.requests), found.broken, found.cut_off) == (2, 0, False)


@given(st.lists(st.binary(max_size=40)))
def test_no_bytes_are_too_odd(lines: list[bytes]) -> None:
    found = read_lines([line + b"\n" for line in lines])
    assert len(found.requests) + found.broken == len(lines)


def test_requests_by_word_are_in_the_order_of_the_file() -> None:
    made = [("b", 1), ("a", 2), ("b", 3), (None, 4)]
    requests = read_lines([a_line(profile=word, prompt_tokens=n) for word, n in made]).requests
    parts = [(word, part["prompt_tokens"].tolist()) for word, part in requests.by_word("profile")]
    assert parts == [("b", [1, 3]), ("a", [2]), (None, [4])]
    assert requests.count_words("profile") == {"b": 2, "a": 1, None: 1}
    assert read_lines([]).requests.by_word("profile") == []
