"""Prompts of a given number of tokens, made of segments: what two begin with alike, a server may share.

A segment is a key and a number of tokens. Its content is a function of the key alone, and a longer segment of
the same key begins with the shorter one. Three ways to fill them:

    token ids      on /v1/completions: exact to the token, from one token on
    words          words of one token each (`exact`): exact, chat template included, from some 20 tokens on
    about          the same words where nobody can count tokens: about as long, and no length is promised
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from vllm_locust.errors import NobodyCounts, UsageError
from vllm_locust.workloads.draw import draw, draw_bytes
from vllm_locust.workloads.exact import (
    CANDIDATES,
    UNIQUE_BITS,
    Vocabulary,
    byte_table,
    calibrate,
    check_sample,
)
from vllm_locust.workloads.lengths import Lengths
from vllm_locust.workloads.scenario import Context

logger = logging.getLogger(__name__)

# What a chat template and the lead come to, where nobody can tell.
_USUAL_OVERHEAD = 10
_LONG_IDS = 1 << 17
_FEWEST_IDS = 16

Key = tuple[str | int, ...]


class Segment(NamedTuple):
    """So many tokens of the content that belongs to a key."""

    tokens: int
    key: Key


class Filler(Protocol):
    """Turns segments into a prompt."""

    @property
    def exact(self) -> bool:
        """Whether prompts are exactly as long as their segments together."""
        ...

    @property
    def smallest_tokens(self) -> int:
        """The shortest prompt there can be."""
        ...

    def prompt(self, segments: Sequence[Segment]) -> str | Sequence[int]:
        """The prompt; what stands around the text counts as a part of the first segment."""
        ...


@dataclass(frozen=True, slots=True)
class WordFiller:
    """Fills with words of one token each."""

    vocabulary: Vocabulary
    exact: bool = True

    @property
    def smallest_tokens(self) -> int:
        return self.vocabulary.smallest_tokens

    def prompt(self, segments: Sequence[Segment]) -> str:
        owed = self.vocabulary.overhead_tokens
        pieces = [self.vocabulary.text(0)]
        for tokens, key in segments:
            words = max(tokens - owed, 0)
            owed -= tokens - words
            pieces.append(self.vocabulary.words_of(words, *key))
        return "".join(pieces)


@dataclass(frozen=True, slots=True)
class IdFiller:
    """Fills with token ids, each of them that of a common word."""

    ids: tuple[int, ...]
    """256 of them: the id of each byte."""
    unique_ids: int
    """How many of them, from the start, carry the 48 bits that make a prompt unique (see `exact`)."""
    exact: bool = True
    smallest_tokens: int = 1

    def prompt(self, segments: Sequence[Segment]) -> list[int]:
        prompt: list[int] = []
        for tokens, key in segments:
            head = min(tokens, self.unique_ids)
            prompt.extend(map(self.ids.__getitem__, draw_bytes(head, *key)))
            _extend(prompt, self.ids, tokens - head, key)
        return prompt


def filler(context: Context, lengths: Lengths, *, exact: bool = False) -> Filler:
    """The best way there is to make prompts of these lengths; UsageError where one is too short to be made.

    Lengths without a range are to be taken from the shortest on (`Lengths.above`). `exact` refuses, with a
    sentence, to do it about.
    """
    try:
        chosen = _counted(context, lengths)
    except NobodyCounts:
        if exact or context.input_len is not None:
            raise
        logger.warning(
            "Nobody counts tokens here (--tokenizer PATH would): prompts are about as long as asked"
        )
        words = CANDIDATES[:128]
        chosen = WordFiller(Vocabulary(words, _USUAL_OVERHEAD, byte_table(words)), exact=False)
    if lengths.above(chosen.smallest_tokens).smallest < chosen.smallest_tokens:
        raise UsageError(
            f"a prompt of {lengths.smallest} tokens is too short: the smallest possible is "
            f"{chosen.smallest_tokens}, for what stands around the text and for what makes it unique; "
            "--endpoint-type completions takes token ids, from one on"
        )
    return chosen


def _counted(context: Context, lengths: Lengths) -> Filler:
    if context.endpoint_type == "completions" and context.encode is not None:
        return _ids(context)
    if context.count_tokens is not None:
        return _words(context, lengths)
    raise NobodyCounts(
        "exact prompt lengths need a count of tokens: a server that answers /tokenize, or --tokenizer PATH"
    )


def _words(context: Context, lengths: Lengths) -> WordFiller:
    assert context.count_tokens is not None
    vocabulary = calibrate(context.count_tokens)
    if lengths.smallest >= vocabulary.smallest_tokens:
        # The lengths themselves are tried before they are promised.
        for tokens in {lengths.smallest, lengths.largest or lengths.smallest}:
            check_sample(vocabulary, tokens - vocabulary.overhead_tokens, context.count_tokens)
    return WordFiller(vocabulary)


def _ids(context: Context) -> IdFiller:
    """Ids that are no special tokens, and that stand for something in any text."""
    assert context.encode is not None
    ids = list(dict.fromkeys(context.encode(" ".join(CANDIDATES))))
    if len(ids) < _FEWEST_IDS:
        raise UsageError(f"{len(CANDIDATES)} common words are {len(ids)} different tokens: these are too few")
    bits = min(len(ids).bit_length() - 1, 8)
    chosen = ids[: 1 << bits]
    return IdFiller(tuple(chosen * (256 // len(chosen))), unique_ids=-(-UNIQUE_BITS // bits))


def _extend(prompt: list[int], ids: tuple[int, ...], tokens: int, key: Key) -> None:
    """Add so many ids of one long drawn row, from the place that belongs to the key, round and round."""
    row = _long_row(ids)
    at = draw(*key, "stretch") % len(row) if tokens else 0
    while tokens:
        piece = row[at : at + tokens]
        prompt.extend(piece)
        tokens, at = tokens - len(piece), 0


@lru_cache(maxsize=4)
def _long_row(ids: tuple[int, ...]) -> Sequence[int]:
    return [ids[byte] for byte in draw_bytes(_LONG_IDS, "long row")]
