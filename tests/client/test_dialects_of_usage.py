"""Usage as servers and gateways send it: counts in every spelling, and what is none."""

from typing import Any

import pytest

from tests.client.dialects import DONE, STOP, A, Case, chunk, event, three_ways, usage, used


@pytest.mark.parametrize(
    ("counts", "tokens"),
    [
        ({"prompt_tokens": "7", "completion_tokens": "1"}, (7, 1)),
        ({"prompt_tokens": "7.0", "completion_tokens": " 1 "}, (7, 1)),
        ({"prompt_tokens": -1, "completion_tokens": -1}, (None, None)),
        ({**used(7, 1), "prompt_tokens_details": [{"modality": "TEXT", "tokenCount": 7}]}, (7, 1)),
        ({**used(7, 1), "prompt_tokens_details": {"cached_tokens": "0"}}, (7, 1)),
        ({**used(7, 1), "prompt_tokens_details": {"cached_tokens": -1}}, (7, 1)),
    ],
)
def test_counts_are_read_in_every_spelling(counts: dict[str, Any], tokens: tuple[int | None, ...]) -> None:
    three_ways(Case([A, STOP, event({"choices": [], "usage": counts}), DONE], arrivals=[0], tokens=tokens))


NOTHING_YET: dict[str, dict[str, Any]] = {
    "0": used(7, 0),
    "left out, where the total is the prompt's": {"prompt_tokens": 7, "total_tokens": 7},
    "left out, where the total is 0": {"total_tokens": 0},
}


@pytest.mark.parametrize("zero", NOTHING_YET)
def test_a_count_of_zero_says_that_no_token_came(zero: str) -> None:
    empty = [chunk({"content": ""}, index=index, usage=NOTHING_YET[zero]) for index in (0, 1)]
    tokens = [chunk({"content": "abc"}, index=index, usage=used(7, 3)) for index in (0, 1)]
    stops = [chunk({}, "stop", 0), chunk({}, "stop", 1)]
    two = Case([*empty, *tokens, *stops, usage(7, 6), DONE], arrivals=[2, 3], tokens=(7, 6), choices=2)
    three_ways(two)
    three_ways(Case([empty[0], tokens[0], STOP, DONE], arrivals=[1], event_tokens=[3]))
    # Counted anew in each chunk, as shows where 3 follow on 3.
    anew = [tokens[0], tokens[0], empty[0], tokens[0]]
    three_ways(Case([*anew, STOP, usage(7, 9), DONE], arrivals=[0, 1, 3], tokens=(7, 9)))


@pytest.mark.parametrize("zero", NOTHING_YET)
@pytest.mark.parametrize("choices", [1, 2])
def test_a_zero_that_stands_beside_output_says_nothing(zero: str, choices: int) -> None:
    shown, half = (chunk({"content": text}, usage=NOTHING_YET[zero]) for text in ("a", ""))
    other = [chunk({"content": "b"}, "stop", 1)] if choices == 2 else []
    three_ways(Case([shown, half, *other, STOP, DONE], arrivals=[0, 1, 2][: choices + 1], choices=choices))


@pytest.mark.parametrize(
    "count", [7.5, -2, 1e300, [7], {}, True, "n/a", "", "7.5", "-2", "nan", "1e300", "٧.٥"]
)
def test_what_is_no_count_leaves_an_answer_whole_and_its_tokens_unknown(count: Any) -> None:
    three_ways(Case([A, STOP, usage(7, count), DONE], arrivals=[0], tokens=(7, None)))
    three_ways(Case([A, STOP, usage(count, 1), DONE], arrivals=[0], tokens=(None, 1)))
    running = [chunk({"content": text}, usage=used(7, count)) for text in "ab"]
    three_ways(Case([*running, STOP, usage(7, 3), DONE], arrivals=[0, 1], tokens=(7, 3)))


@pytest.mark.parametrize("what", [[1], [used(7, 1)], "7 tokens", 8, True])
def test_what_is_no_usage_is_passed_over(what: Any) -> None:
    every = [chunk({"content": text}, usage=what) for text in "ab"]
    three_ways(Case([*every, event({"choices": [], "usage": what}), STOP, DONE], arrivals=[0, 1]))
    three_ways(Case([*every, STOP, usage(7, 2), DONE], arrivals=[0, 1], tokens=(7, 2)))
