"""The parts that sentences about numbers are made of."""

from collections.abc import Sequence


def digits(value: float) -> str:
    """Three or four digits that matter: `5.39`, `31.6`, `220089`."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:.{decimals}f}"


def ms(value: float) -> str:
    """`31.6 ms`; from a second on `6.01 s`."""
    return f"{digits(value / 1000)} s" if value >= 1000 else f"{digits(value)} ms"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, singular: str) -> str:
    """`1 pair`, `3 pairs`."""
    return f"{count} {singular}{'' if count == 1 else 's'}"
