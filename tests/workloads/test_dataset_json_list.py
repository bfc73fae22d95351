"""A JSON list, element by element: the same as a parser of the whole, wherever its text is cut."""

import json
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_locust.workloads.datasets.json_list import JsonError, elements

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SIZES = st.sampled_from([1, 2, 3, 5, 7, 16, 64, 1000])


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


@given(st.lists(VALUES, max_size=8), st.booleans(), st.sampled_from([None, 0, 1, "\t", "\r\n  "]), SIZES)
def test_the_same_as_a_parser_of_the_whole(
    values: list[Any], ascii_only: bool, indent: int | str | None, size: int
) -> None:
    text = f" \n{json.dumps(values, ensure_ascii=ascii_only, indent=indent)}\r\n\t"
    assert list(elements(pieces(text, size))) == orjson.loads(text)


JSON_LIKE = st.lists(
    st.sampled_from([*'[]{}:,"0-.eE \n\\', "true", "nul", '"a"', "12", "[1", "\\u00"]), max_size=14
)


@given(JSON_LIKE, SIZES)
def test_what_is_no_list_is_refused_wherever_it_is_cut(parts: list[str], size: int) -> None:
    text = "[" + "".join(parts)
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(JsonError):
            list(elements(pieces(text, size)))
    else:
        assert list(elements(pieces(text, size))) == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a list begins with [: line 1, column 1"),
        ('\n {"a": 1}', "a list begins with [: line 2, column 2"),
        ("[1,\n2,\n  3 4]", "after an element comes , or ]: line 3, column 5"),
        ("[1,\n]", "Expecting value: line 2, column 1"),
        ('[{"a": 1', "Expecting ',' delimiter: line 1, column 9"),
        ('[1,\n"abc', "Unterminated string starting at: line 2, column 1"),
        ("[1]\n]", "there is more behind the end of the list: line 2, column 1"),
        ("[NaN]", "NaN is no JSON: line 1, column 2"),
        ('["\t"]', "Invalid control character at: line 1, column 3"),
        ("[[1, 2], oops, [3]]", "Expecting value: line 1, column 10"),
    ],
)
def test_the_place_of_a_mistake(text: str, message: str, size: int) -> None:
    with pytest.raises(JsonError) as caught:
        list(elements(pieces(text, size)))
    assert str(caught.value) == message


def test_elements_come_before_the_mistake_behind_them() -> None:
    taken = elements(pieces("[1, 2, oops", 4))
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(JsonError, match="line 1, column 8"):
        next(taken)


def test_no_more_is_read_than_is_needed() -> None:
    read = []

    def watched() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield ("[" if number == 0 else ",") + f'"{number:06}"'
        yield "]"

    taken = elements(watched())
    for number in range(500):
        assert next(taken) == f"{number:06}"
        assert len(read) <= number + 3


def test_an_element_without_an_end_does_not_fill_the_memory() -> None:
    read = []

    def endless() -> Iterator[str]:
        yield '[1, "'
        while True:
            read.append(1)
            yield "x" * 1000

    with pytest.raises(JsonError, match="more than 10000 characters in one element: line 1, column 5"):
        list(elements(endless(), longest=10_000))
    assert len(read) <= 25


@pytest.mark.parametrize("text", ["[" * 100_000, f"[{'9' * 5000}]"])
def test_what_python_gives_up_on_is_a_mistake_too(text: str) -> None:
    with pytest.raises(JsonError, match="line 1"):
        list(elements([text]))
