"""Tokens without a tokenizer file: a regex cuts text into pieces, a checksum gives each piece its id.

Pieces are words with the space before them, runs of digits, single punctuation marks and white space; a long
word is several pieces. Appending " word" appends exactly that word's pieces, so lengths are additive.
Rule: deterministic everywhere; the same text has the same ids in every process.
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import unpack
from zlib import crc32

VOCAB_SIZE = 1 << 17
_PIECE = re.compile(rb" ?(?:[A-Za-z]{1,10}|[0-9]{1,3}|[\x80-\xff]{1,3}|[^\sA-Za-z0-9\x80-\xff])|\s+(?=\s)|\s")
_TURN_START, _TURN_END = 1, 2
IMAGE_TOKENS = 576
"""What a picture comes to, of any size: 24 x 24 patches, as in LLaVA-1.5."""

_ANSWER = (
    b" The first step of any measurement is to decide what would change your mind. A server that answers one"
    b" caller quickly may still keep a crowd waiting, and a mean can hide the one reply that took a minute."
    b" So we write down what was planned, send it on time, and note when every piece came back. When the"
    b" queue grows, the wait before the first word grows with it, while the words that follow keep a steady"
    b" beat. Long questions cost more to read than short ones; long answers hold their place in memory until"
    b" the last word is out. If memory runs short, somebody has to step aside and start over. None of this is"
    b" visible in a single number, which is why we draw the whole curve, mark where it bends, and say how"
    b" sure we are. A good load test is dull to watch: the same plan, the same clock, the same rules, and a"
    b" result that another person can repeat on a quiet afternoon."
)


def split(text: bytes) -> list[bytes]:
    """The pieces of a text, whose concatenation is the text."""
    return _PIECE.findall(text)


def encode(text: str) -> list[int]:
    """Token ids of a text."""
    mask = VOCAB_SIZE - 1
    return [crc32(piece) & mask for piece in split(text.encode("utf-8", "surrogatepass"))]


ANSWER_PIECES: tuple[bytes, ...] = tuple(split(_ANSWER))
ANSWER_IDS: tuple[int, ...] = tuple(encode(_ANSWER.decode()))
_SENTENCES = [0, *(index + 1 for index, piece in enumerate(ANSWER_PIECES[:-1]) if piece == b".")]
_WORDS = [piece for piece in ANSWER_PIECES if piece[:1] == b" "]
_PIECE_OF = dict(zip(ANSWER_IDS, ANSWER_PIECES, strict=True))


def decode(token_ids: Iterable[int]) -> str:
    """A text of as many tokens; ids outside the answers' vocabulary become some word of it."""
    return b"".join(_PIECE_OF.get(i) or _WORDS[i % len(_WORDS)] for i in token_ids).decode()


def encode_image(url: str) -> list[int]:
    """Token ids of a picture: the same for the same URL, which may hold the picture itself."""
    digest = blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return [*unpack("<4H", digest)] * (IMAGE_TOKENS // 4)


def encode_chat(messages: Iterable[tuple[str, list[int]]]) -> list[int]:
    """Ids of (role, ids of the content) turns in the chat template: 5 more for each, 3 for the answer."""
    newline = encode("\n")
    ids: list[int] = []
    for role, content in messages:
        ids += [_TURN_START, crc32(role.encode()) & (VOCAB_SIZE - 1), *newline]
        ids += content
        ids += [_TURN_END, *newline]
    return [*ids, _TURN_START, *encode("assistant"), *newline]


def answer_start(token_ids: Sequence[int], seed: int) -> int:
    """Where in the cyclic answer text the reply to this prompt begins."""
    return _SENTENCES[hash((*token_ids, seed)) % len(_SENTENCES)]


def answer_ids(start: int, count: int) -> list[int]:
    """Token ids of an answer of `count` tokens."""
    repeats = -(-(start + count) // len(ANSWER_IDS))
    return list((ANSWER_IDS * repeats)[start : start + count])


def natural_length(token_ids: Sequence[int], seed: int) -> int:
    """Tokens after which a model that may stop does stop: 16 to 1023, each doubling equally likely."""
    uniform = hash((*token_ids[-64:], seed)) % 4096 / 4096
    return int(16 * 64.0**uniform)
