"""The lines of `requests.jsonl` as columns: a million requests are some 20 arrays, not a million objects.

Rule: what is unknown stays unknown (`UNKNOWN` in a count, NaN in a time, None in a word), and so does what an
older file has no key for. A line that is no request is counted and leaves nothing behind.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

UNKNOWN = -1
"""In a column of counts."""

WORDS = ("profile", "scenario", "outcome", "finish_reason", "model", "target")
TIMES = (
    "intended_s",
    "sent_s",
    "first_token_s",
    "last_token_s",
    "ended_s",
    "ttft_s",
    "total_s",
    "tpot_s",
    "max_itl_s",
    "connect_s",
)
COUNTS = (
    "index",
    "phase",
    "worker",
    "concurrency",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "planned_prompt_tokens",
    "max_tokens",
    "session",
    "turn",
    "tokens_counted",
)
HASH = "prompt_hash"
"""A whole number of 64 bits; 0 where it is unknown, which no prompt has in practice."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in the order of the file: an array for each of `WORDS`, `TIMES`, `COUNTS` and `HASH`.

    A word is a number, its place among `words`.
    """

    columns: Mapping[str, NDArray[Any]]
    words: Mapping[str, Sequence[str | None]]
    """For each of `WORDS` the different ones, in the order in which they came."""

    def __len__(self) -> int:
        return len(self.columns[HASH])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def take(self, rows: NDArray[Any]) -> "Requests":
        """Those that a mask of truths or an array of places selects."""
        return Requests({name: column[rows] for name, column in self.columns.items()}, self.words)

    def is_word(self, name: str, word: str) -> NDArray[np.bool_]:
        """Which requests have this word."""
        words = self.words[name]
        has: NDArray[np.bool_] = self[name] == (words.index(word) if word in words else UNKNOWN)
        return has

    def by_word(self, name: str) -> list[tuple[str | None, "Requests"]]:
        """The requests of each different word, in the order in which they came."""
        codes = self[name]
        rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
        return [(self.words[name][codes[some[0]]], self.take(some)) for some in rows if len(some)]

    def count_words(self, name: str) -> dict[str | None, int]:
        """How many requests have each word, the most frequent first."""
        counts = np.bincount(self[name], minlength=len(self.words[name])).tolist()
        pairs = [(word, count) for word, count in zip(self.words[name], counts, strict=True) if count]
        return dict(sorted(pairs, key=lambda pair: -pair[1]))


@dataclass(frozen=True, slots=True)
class Lines:
    """What became of the lines of a file."""

    requests: Requests
    broken: int = 0
    """Lines that are no requests, a last one that was cut off not among them."""
    first_broken: int | None = None
    """The number of the first of them, from 1."""
    cut_off: bool = False
    """The last line has no end: its process was killed while writing it."""


def read_lines(lines: Iterable[bytes]) -> Lines:
    """The requests in lines of `requests.jsonl`, each with its newline."""
    words: dict[str, dict[str | None, int]] = {name: {} for name in WORDS}
    codes = {name: array("i") for name in WORDS}
    times = {name: array("d") for name in TIMES}
    counts = {name: array("q") for name in COUNTS}
    hashes = array("Q")
    columns: dict[str, array[Any]] = {**codes, **times, **counts, HASH: hashes}
    nan = float("nan")
    count = broken = 0
    first_broken: int | None = None
    cut_off = False
    for number, line in enumerate(lines, 1):
        try:
            row = orjson.loads(line)
            get = row.get
            for name, known in words.items():
                codes[name].append(_code(known, get(name)))
            if not isinstance(get("outcome"), str):
                raise TypeError("a request has an outcome")
            for name, instants in times.items():
                instants.append(nan if (value := get(name)) is None else value)
            for name, numbers in counts.items():
                numbers.append(UNKNOWN if (value := get(name)) is None else value)
            hashes.append(int(get(HASH) or "0", 16))
            count += 1
        except (ValueError, TypeError, AttributeError, OverflowError):
            for part in columns.values():
                del part[count:]
            if line.endswith(b"\n"):
                broken += 1
                first_broken = first_broken or number
            else:
                cut_off = True
    arrays = {name: np.frombuffer(column, column.typecode) for name, column in columns.items()}
    requests = Requests(arrays, {name: tuple(known) for name, known in words.items()})
    return Lines(requests, broken, first_broken, cut_off)


def _code(known: dict[str | None, int], word: str | None) -> int:
    code = known.get(word)
    if code is None:
        if not isinstance(word, str | None):
            raise TypeError("is no word")
        code = known[word] = len(known)
    return code
