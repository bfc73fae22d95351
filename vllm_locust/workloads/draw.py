"""Chance as a pure function: everything drawn depends on a key of names and numbers, and on nothing else.

No generator with a state, no global seed and no `hash()` (it differs between processes), so that any worker
draws the same for the same key, in any order.
"""

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b, shake_128
from math import isqrt

_ROUNDS = 6


def draw(*key: str | int) -> int:
    """A uniform 64-bit number."""
    return int.from_bytes(blake2b(_encode(key), digest_size=8).digest())


def fraction(*key: str | int) -> float:
    """A uniform number in [0, 1)."""
    return (draw(*key) >> 11) / (1 << 53)


def pick(cumulative: Sequence[float], *key: str | int) -> int:
    """The place of one of several, drawn by weight: `cumulative` are the sums of the weights up to each."""
    drawn = fraction(*key) * cumulative[-1]
    # Rounding may lift `drawn` onto the total itself.
    return min(bisect_right(cumulative, drawn), len(cumulative) - 1)


def salt(*key: str | int) -> str:
    """16 hexadecimal digits; a million different keys share one with a probability of 3e-8."""
    return f"{draw(*key):016x}"


def short_salt(*key: str | int) -> str:
    """Ten decimal digits: as many tokens in every prompt, where hexadecimal ones come to more or fewer.

    For texts that differ anyway: only the same text once more must not meet its own salt.
    """
    return f"{draw(*key) % 10**10:010d}"


def draw_bytes(length: int, *key: str | int) -> bytes:
    """`length` uniform bytes; a longer draw of the same key begins with the shorter one."""
    return shake_128(_encode(key)).digest(length)


def permuted(position: int, size: int, *key: str | int) -> int:
    """Where the key's permutation of range(size) puts `position`, without building the permutation.

    A Feistel network over rows x columns >= size; what falls outside is sent through again (cycle walking),
    which happens to less than one position in sqrt(size).
    """
    rows = isqrt(size - 1) + 1
    columns = -(-size // rows)
    image = _feistel(position, rows, columns, key)
    while image >= size:
        image = _feistel(image, rows, columns, key)
    return image


def _feistel(position: int, rows: int, columns: int, key: tuple[str | int, ...]) -> int:
    row, column = divmod(position, columns)
    for turn in range(0, _ROUNDS, 2):
        row = (row + draw(*key, turn, column)) % rows
        column = (column + draw(*key, turn + 1, row)) % columns
    return row * columns + column


def _encode(key: tuple[str | int, ...]) -> bytes:
    return "\x1f".join(map(str, key)).encode()
