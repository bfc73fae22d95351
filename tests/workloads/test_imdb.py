"""Reviews, many to a prompt or one: the same ones in the same order, whatever the file is written like."""

import csv
import logging
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.locust_command import assert_ended_well, run_locust, simulator
from vllm_locust.errors import UsageError
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.imdb import SMALL_DATASET, Classification, packed_and_single, read_reviews
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, primers_of, requests_of


def both(*, n: int = 5, copies: int = 1, reviews: int = 0, **context: Any) -> tuple[Classification, ...]:
    return packed_and_single("imdb", Context(**context), n=n, copies=copies, reviews=reviews)


def asked_about(scenario: Classification, index: int, seed: int = 7) -> list[str]:
    """The reviews of a request: what stands between its heading and its instruction."""
    prompt = scenario.request(seed, index).prompt
    assert isinstance(prompt, str)
    heading, *lines, empty, instruction = prompt.split("\n")
    assert "review" in heading
    assert empty == ""
    assert "answer only `positive` or `negative`" in instruction
    return lines


def write(folder: Path, content: bytes | str, name: str = "reviews.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(rows: Iterable[tuple[str, str]], header: str = "review,sentiment") -> str:
    return "\n".join([header, *(f'"{text}",{sentiment}' for text, sentiment in rows), ""])


def lines_of(path: Path) -> list[str]:
    return [line.decode() for line in read_reviews(path).lines]


def test_the_small_data_set_is_clean_short_and_balanced() -> None:
    with SMALL_DATASET.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["sentiment"] for row in rows) == {"positive": 60, "negative": 60}
    texts = [row["review"] for row in rows]
    assert len(set(texts)) == 120
    assert all(30 <= len(text.split()) <= 120 for text in texts)
    for trait in ('"', ",", "\n", "<br />"):
        assert sum(trait in text for text in texts) >= 3
    assert SMALL_DATASET.stat().st_size < 100_000


def test_what_run_json_says_of_it() -> None:
    content = SMALL_DATASET.read_bytes()
    packed, single = both()
    assert packed.source == single.source
    assert packed.source == {
        "path": str(SMALL_DATASET),
        "bytes": len(content),
        "sha256": sha256(content).hexdigest(),
        "rows": 120,
        "kept": 120,
        "filtered": 0,
        "skipped": 0,
        "salted": True,
    }


@settings(max_examples=15)
@given(st.integers(1, 50), st.integers(0, 20), st.integers())
def test_packed_and_single_hold_the_same_reviews_in_the_same_order(n: int, index: int, seed: int) -> None:
    packed, single = both(n=n)
    alone = [asked_about(single, n * index + place, seed) for place in range(n)]
    assert [asked_about(packed, index, seed)] == [[review for (review,) in alone]]


def test_the_members_of_the_scenario_do_too() -> None:
    packed, single = catalogue.load("imdb", Context(parameters={"n": "4"})).phases
    assert (packed.name, single.name) == ("imdb.packed", "imdb.single")
    for index in range(40):
        lines = packed.request(3, index).prompt.split("\n")[1:5]
        assert lines == [single.request(3, 4 * index + place).prompt.split("\n")[1] for place in range(4)]
    assert catalogue.load("imdb.single", Context()).request(3, 9).prompt == single.request(3, 9).prompt


def test_what_requests_say() -> None:
    packed, single = both(n=3)
    one, other = packed.request(1, 4), single.request(1, 4)
    assert (one.index, one.profile, one.max_tokens) == (4, "packed", 3)
    assert (other.index, other.profile, other.max_tokens) == (4, "single", 1)
    assert "each of the 3 reviews" in one.prompt
    assert "3 words" in one.prompt


def test_each_pass_takes_every_review_once_in_an_order_of_its_own() -> None:
    known = set(lines_of(SMALL_DATASET))
    _, single = both()
    passes = [tuple(asked_about(single, turn * 120 + n)[0] for n in range(120)) for turn in range(4)]
    assert all(set(one) == known for one in passes)
    other_seed = tuple(asked_about(single, n, seed=8)[0] for n in range(120))
    assert len({*passes, other_seed}) == 5


def test_no_two_prompts_begin_alike_whatever_the_pass_the_seed_or_the_packing() -> None:
    heads = [
        scenario.request(seed, index).prompt[:8]
        for scenario in both(n=2)
        for seed in range(3)
        for index in range(500)
    ]
    assert len(set(heads)) == len(heads) == 3000


def test_copies_come_right_behind_each_other_and_share_everything() -> None:
    for plain, copied in zip(
        both(max_tokens=Lengths.parse("5-50")), both(copies=3, max_tokens=Lengths.parse("5-50")), strict=True
    ):
        for index in range(30):
            original, copy = plain.request(1, index // 3), copied.request(1, index)
            assert (copy.prompt, copy.max_tokens) == (original.prompt, original.max_tokens)
            assert copy.index == index


@pytest.mark.parametrize(
    ("n", "copies", "reviews", "packed_requests", "single_requests", "in_the_last"),
    [(5, 1, 22, 5, 22, 2), (5, 2, 20, 8, 40, 5), (40, 1, 12, 1, 12, 12), (1, 100, 3, 300, 300, 1)],
)
def test_so_many_reviews_in_all(
    n: int, copies: int, reviews: int, packed_requests: int, single_requests: int, in_the_last: int
) -> None:
    packed, single = both(n=n, copies=copies, reviews=reviews)
    assert (requests_of(packed), requests_of(single)) == (packed_requests, single_requests)
    assert packed.request(1, packed_requests - 1).max_tokens == in_the_last
    for scenario, count in ((packed, packed_requests), (single, single_requests)):
        taken = [line for index in range(count) for line in asked_about(scenario, index)]
        assert len(taken) == reviews * copies
        assert set(Counter(taken).values()) == {copies}


def test_without_a_number_of_reviews_there_is_no_end() -> None:
    assert [requests_of(scenario) for scenario in both()] == [None, None]
    assert len(asked_about(both(n=400)[0], 1)) == 400  # more than there are: passes follow each other
    assert [list(primers_of(scenario, 1)) for scenario in both()] == [[], []]


def test_primers_are_all_the_prompts() -> None:
    for scenario in both(n=5, copies=3, reviews=22):
        count = requests_of(scenario)
        assert count is not None
        primers = list(primers_of(scenario, 2))
        assert [primer.max_tokens for primer in primers] == [1] * (count // 3)
        assert [primer.prompt for primer in primers] == [
            scenario.request(2, index).prompt for index in range(0, count, 3)
        ]


def test_the_users_options() -> None:
    assert {one.request(1, 0).max_tokens for one in both(max_tokens=Lengths.parse(9))} == {9}
    with pytest.raises(UsageError, match="--input-len does not go with scenario imdb"):
        both(input_len=Lengths.parse(100))


def test_one_line_for_each_review(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "sentiment,id,review\r\n"
        'positive,1,"One,<br /><br />two.\r\nThree ""four""\n\n  five<BR>six"\r\n'
        "\r\n"
        "NEGATIVE,2,seven \u2028 eight\r\n",
    )
    assert lines_of(path) == ['One, two. Three "four" five six', "seven eight"]


BREAKS = (" ", "\n", "\r\n", "\r", "<br />", "<br/><br/>", "<BR>", " \t", "\u2028", "\x85")
WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="<\0").filter(lambda one: not one.isspace()),
    min_size=1,
)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.tuples(WORDS, st.sampled_from(BREAKS)), min_size=1), min_size=1))
def test_whatever_a_csv_writer_writes_is_read(reviews: list[list[tuple[str, str]]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "reviews.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("review", "sentiment"))
            writer.writerows(("".join(map("".join, review)), "positive") for review in reviews)
        lines = lines_of(path)
    assert lines == [" ".join(word for word, _ in review) for review in reviews]


ENCODED = table([("Très bien — “chef-d’œuvre”", "positive"), ("Schön langweilig", "negative")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lines = lines_of(write(tmp_path, ENCODED.encode(encoding)))
    assert lines == ["Très bien — “chef-d’œuvre”", "Schön langweilig"]
    assert ("cp1252" in caplog.text) is (encoding == "cp1252")


def test_rows_that_are_no_reviews_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [(f"film {n}", "positive") for n in range(27)]
    path = write(tmp_path, table([*good, ("  ", "negative"), ("<br />", "positive"), ("so so", "neutral")]))
    reviews = read_reviews(path)
    assert [reviews.source[key] for key in ("rows", "kept", "skipped")] == [30, 27, 3]
    assert len(reviews.lines) == 27
    assert "3 of 30 rows are no reviews (line 29: 'review' is empty)" in caplog.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            table([("good", "positive")] * 17 + [("so so", "7")] * 2),
            "2 of 19 rows are no reviews .*'7', neither",
        ),
        ("", "is empty"),
        ("\n \n", "has no column 'review'"),
        ("review,sentiment\n", "holds no reviews"),
        ("text,sentiment\ngood,positive\n", "has no column 'review', its columns are: text, sentiment"),
        ("review,label\ngood,1\n", "1 of 1 rows are no reviews .*no 'sentiment', but 'review', 'label'"),
        ("review;sentiment\ngood;positive\n", "its columns are: review;sentiment"),
        ('review,sentiment\n"good,positive\nbad,negative\n', "a quote in the row of line 2 is never closed"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_reviews(path)
    (problem,) = caught.value.problems
    assert str(path) in problem
    assert problem.endswith(
        "expected is a CSV file with the columns review and sentiment (positive or negative)."
    )


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv.*cannot be read \(No such file"):
        catalogue.load("imdb", Context(dataset_path=tmp_path / "none.csv"))


def test_both_packings_in_one_run(tmp_path: Path) -> None:
    """One user, so that a copy comes when its original is answered: no more is cached."""
    with simulator(tmp_path, "--enable-prompt-tokens-details", "--block-size", "16") as server:
        outcome = run_locust(
            "--headless", "-u", "1", "-r", "1", "--host", server.url, "--only-summary",
            "--scenario", "imdb", "--set", "n=5", "--set", "copies=2", "--set", "reviews=22",
            folder=tmp_path / "results",
        )  # fmt: skip
    assert_ended_well(outcome)
    assert Counter(request["profile"] for request in outcome.requests) == {"packed": 10, "single": 44}
    for request in outcome.requests:
        is_copy = request["index"] % 2
        assert request["cached_tokens"] == is_copy * ((request["prompt_tokens"] - 1) // 16 * 16)
    packed = sorted(
        (one["index"], one["output_tokens"]) for one in outcome.requests if one["profile"] == "packed"
    )
    assert [tokens for _, tokens in packed] == [5] * 8 + [2] * 2
