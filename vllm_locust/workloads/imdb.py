"""Classification of film reviews, many to a prompt or one: the IMDB data set, CSV with `review,sentiment`.

    packed    n reviews, one per line, and one instruction; n tokens of output
    single    one review and the instruction; one token of output

Both take their reviews from the same order: packed request i asks about the reviews of single requests
n*i ... n*i + n - 1. Each pass over the data set has another order.

Every prompt begins with a salt, in the first pass too: another seed only shuffles the reviews, so that
without it a server which has answered a run before knows the prompts of `single`, and hardly any of `packed`.
Copies of a request have its salt, and all the rest.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from struct import unpack
from typing import Any, NamedTuple

from vllm_locust.errors import UsageError
from vllm_locust.workloads.datasets.formats import BrokenRow
from vllm_locust.workloads.datasets.reading import Wanted, encoded, read, text_of
from vllm_locust.workloads.datasets.spool import Records, Spool
from vllm_locust.workloads.draw import draw_bytes, salt
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context, PlannedRequest, Scenario

SMALL_DATASET = Path(__file__).parent / "data" / "imdb_small.csv"

_SENTIMENTS = ("positive", "negative")
_WANTED = Wanted(
    plural="reviews",
    column="review",
    others=("sentiment",),
    expected="expected is a CSV file with the columns review and sentiment (positive or negative)",
)
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
# Enough to tell two prompts apart that begin with the same review: others differ anyway.
_SALT_DIGITS = 8


class _Question(NamedTuple):
    """What stands around the reviews of a prompt."""

    heading: str
    instruction: str


_PACKED = _Question(
    "{count} reviews of films, one per line",
    "For each of the {count} reviews above, in order, answer only `positive` or `negative`: "
    "{count} words with a space between them, and nothing else.",
)
_SINGLE = _Question(
    "a review of a film",
    "For the review above, answer only `positive` or `negative`, and nothing else.",
)


@dataclass(frozen=True, slots=True)
class Reviews:
    """The reviews of a data set, each as one line."""

    lines: Records
    """In UTF-8."""
    source: Mapping[str, Any]
    """What run.json says of it."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Prompts that ask for the sentiment of `per_prompt` reviews each."""

    name: str
    reviews: Reviews
    per_prompt: int
    question: _Question
    copies: int
    total: int | None
    """Of reviews; the prompt with the last of them may have fewer than the others. None: there is no end."""
    max_tokens: Lengths | None
    """None: one token a review."""

    @property
    def phases(self) -> Sequence[Scenario]:
        return (self,)

    @property
    def source(self) -> Mapping[str, Any]:
        return self.reviews.source

    @property
    def requests(self) -> int | None:
        """Copies included."""
        return None if self.total is None else self._prompts(self.total) * self.copies

    def request(self, seed: int, index: int) -> PlannedRequest:
        number = index // self.copies
        first = number * self.per_prompt
        count = self.per_prompt
        if self.total is not None and number == self._prompts(self.total) - 1:
            count = self.total - first
        key = (self.name, seed, number)
        heading, instruction = (text.format(count=count) for text in self.question)
        reviews = b"\n".join(self._lines(seed, range(first, first + count))).decode()
        return PlannedRequest(
            index=index,
            scenario=self.name,
            profile=self.name,
            prompt=f"{salt(*key)[:_SALT_DIGITS]}: {heading}\n{reviews}\n\n{instruction}",
            max_tokens=count if self.max_tokens is None else self.max_tokens.at(*key, "max_tokens"),
        )

    def primers(self, seed: int) -> Iterator[PlannedRequest]:
        """All the prompts, where there is an end: what comes then is in the prefix cache as a whole."""
        for number in range(self._prompts(self.total or 0)):
            yield replace(self.request(seed, number * self.copies), max_tokens=1)

    def _prompts(self, reviews: int) -> int:
        return -(-reviews // self.per_prompt)

    def _lines(self, seed: int, places: range) -> Iterator[bytes]:
        known = self.reviews.lines
        for place in places:
            turn, position = divmod(place, len(known))
            yield known[_order(len(known), seed, turn)[position]]


def packed_and_single(
    name: str, context: Context, *, n: int, copies: int, reviews: int
) -> tuple[Classification, Classification]:
    """The two ways to ask about the reviews of `context.dataset_path`, or of the small data set.

    `n` reviews are one packed prompt, each request is sent `copies` times in a row, and there are so many
    `reviews` in all (0: no end).
    """
    if context.input_len is not None:
        raise UsageError(
            f"--input-len does not go with scenario {name}, whose prompts are as long as the reviews are: "
            "leave it out, or take a synthetic scenario"
        )
    known = read_reviews(context.dataset_path or SMALL_DATASET)
    total = reviews or None
    return (
        Classification("packed", known, n, _PACKED, copies, total, context.max_tokens),
        Classification("single", known, 1, _SINGLE, copies, total, context.max_tokens),
    )


@lru_cache(maxsize=2)
def read_reviews(path: Path) -> Reviews:
    """Read a file of reviews, once per process. UsageError for one that is none, or holds none."""
    spool = Spool()

    def keep(row: Mapping[str, Any]) -> bool:
        sentiment = text_of(row, "sentiment")
        if sentiment.strip().lower() not in _SENTIMENTS:
            raise BrokenRow(f"'sentiment' is {sentiment[:40]!r}, neither positive nor negative")
        spool.append(encoded(as_line(text_of(row, "review"))))
        return True

    source = {**read(path, _WANTED, keep), "salted": True}
    if not source["kept"]:
        raise UsageError(f"{path} holds no reviews; {_WANTED.expected}")
    return Reviews(spool.records(), source)


def as_line(review: str) -> str:
    """The text on one line. BrokenRow where there is none."""
    line = " ".join(_LINE_BREAK.sub(" ", review).split())
    if not line:
        raise BrokenRow("'review' is empty")
    return line


@lru_cache(maxsize=4)
def _order(size: int, seed: int, turn: int) -> Sequence[int]:
    """The reviews of a pass, in its order: made at once, as a packed prompt looks up hundreds of places."""
    keys = unpack(f"<{size}Q", draw_bytes(8 * size, "imdb", seed, turn))
    return sorted(range(size), key=keys.__getitem__)
