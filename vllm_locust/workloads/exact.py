"""Texts of exactly n tokens, built without asking the tokenizer for each of them.

The rule: a text is a fixed lead followed by words that each add one token wherever they stand. Which words
do that for this tokenizer, and what the lead and the chat template cost, is measured once by `calibrate`.

Unique: the words are the digits of a hash of (scenario, seed, index). The first `unique_words` of them carry
48 bits or more (7 words of 128 choices, 8 of 64, 10 of 32, 12 of 16): two given requests begin alike with a
probability of 4e-15, any two of a million with less than 0.2 %.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from vllm_locust.errors import UsageError
from vllm_locust.workloads.draw import draw, draw_bytes
from vllm_locust.workloads.scenario import CountTokens

# At most six letters each, the most frequent first: even a small vocabulary knows the beginning of the list.
_COMMON_WORDS = """
    the of and to in is it for that on with as be by at this from or an are not have was you all can if
    will one when use up no time out do so what more new has they which but set we he she his her my your
    our who how any only other first also make then some like into than them now over after two may most
    get know see good people year day way back work place where here down even such long just little world
    still own man life every many before great too same right old find part last under house water left
    might next hand high small end group side number point city light white never home state family need
    order large open case line table read five black form power change music school night money story
    young fact week
"""
CANDIDATES = tuple(_COMMON_WORDS.split())

LEAD = "Words:"
UNIQUE_BITS = 48
_FEWEST_WORDS = 16
_LONG_WORDS = 1 << 17
_SAMPLE_WORDS = (1, 32, 256)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The result of a calibration: words of one token each, and what stands around them."""

    words: tuple[str, ...]
    """A power of two of different words."""
    overhead_tokens: int
    """Tokens of a prompt before its first word, chat template included."""
    table: tuple[str, ...]
    """The words again and again, each behind a space, 256 in all: the word of each byte."""

    @property
    def unique_words(self) -> int:
        """How many words from the start carry the 48 bits that make a prompt unique."""
        bits_per_word = len(self.words).bit_length() - 1
        return -(-UNIQUE_BITS // bits_per_word)

    @property
    def smallest_tokens(self) -> int:
        """The length of the shortest prompt that is still unique."""
        return self.overhead_tokens + self.unique_words

    def text(self, words: int, *key: str | int) -> str:
        """The key's sequence of `words` words, behind the lead."""
        return LEAD + self.words_of(words, *key)

    def words_of(self, words: int, *key: str | int) -> str:
        """The key's sequence of words, a space before each; a longer one of the same key begins with it.

        So many words that make it unique are drawn one by one, the rest is a stretch of one long drawn text:
        that costs no more for 100 000 words than for 100.
        """
        head = min(words, self.unique_words)
        drawn = "".join(map(self.table.__getitem__, draw_bytes(head, *key)))
        return drawn + _long_text(self.table).stretch(words - head, *key) if words > head else drawn


@lru_cache(maxsize=4)
def calibrate(count_tokens: CountTokens) -> Vocabulary:
    """Find the words of one token and the overhead; once per counter, which is asked at most 154 times.

    A tokenizer that knows all the candidates is asked five times.
    """
    overhead = count_tokens(LEAD)
    added = _added_tokens(CANDIDATES, overhead, count_tokens)
    good = _single_token_words(CANDIDATES, added, overhead, count_tokens)
    if len(good) < _FEWEST_WORDS:
        raise UsageError(
            "prompts of an exact length are not possible with this tokenizer: "
            f"{len(good)} of {len(CANDIDATES)} common words are one token, {_FEWEST_WORDS} are needed"
        )
    words = good[: 1 << (len(good).bit_length() - 1)]
    vocabulary = Vocabulary(words, overhead, byte_table(words))
    for sample_words in _SAMPLE_WORDS:
        check_sample(vocabulary, sample_words, count_tokens)
    return vocabulary


def _single_token_words(
    words: tuple[str, ...], added: int, overhead: int, count_tokens: CountTokens
) -> tuple[str, ...]:
    """Those of `words`, which add `added` tokens together, that add one token each: by halving."""
    if added == len(words):
        return words
    if len(words) == 1:
        return ()
    left, right = words[: len(words) // 2], words[len(words) // 2 :]
    # The right half needs no question: where exact lengths are possible at all, tokens of words add up. Where
    # they do not, the samples at the end tell.
    added_left = _added_tokens(left, overhead, count_tokens)
    return (
        *_single_token_words(left, added_left, overhead, count_tokens),
        *_single_token_words(right, added - added_left, overhead, count_tokens),
    )


def _added_tokens(words: tuple[str, ...], overhead: int, count_tokens: CountTokens) -> int:
    return count_tokens(" ".join([LEAD, *words])) - overhead


def byte_table(words: tuple[str, ...]) -> tuple[str, ...]:
    """See `Vocabulary.table`."""
    return tuple(f" {word}" for word in words) * (256 // len(words))


def check_sample(vocabulary: Vocabulary, words: int, count_tokens: CountTokens) -> None:
    """UsageError unless the tokens of so many words add up."""
    expected = vocabulary.overhead_tokens + words
    counted = count_tokens(vocabulary.text(words, "calibration sample"))
    if counted != expected:
        raise UsageError(
            "prompts of an exact length are not possible with this tokenizer: "
            f"{words} words of one token each make a prompt of {counted} tokens, {expected} were expected"
        )


@dataclass(frozen=True, slots=True)
class _LongText:
    """Drawn words in a row, and where each of them begins."""

    text: str
    begins: Sequence[int]

    def stretch(self, words: int, *key: str | int) -> str:
        """So many words from the place that belongs to the key, and behind the end from the beginning."""
        total = len(self.begins) - 1
        at = draw(*key, "stretch") % total
        pieces = []
        while words:
            taken = min(words, total - at)
            pieces.append(self.text[self.begins[at] : self.begins[at + taken]])
            words, at = words - taken, 0
        return "".join(pieces)


@lru_cache(maxsize=4)
def _long_text(table: tuple[str, ...]) -> _LongText:
    words = [table[byte] for byte in draw_bytes(_LONG_WORDS, "long text")]
    return _LongText("".join(words), array("Q", accumulate(map(len, words), initial=0)))
