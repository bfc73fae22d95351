"""The elements of one JSON list, decoded one after another from pieces of its text: memory is bounded by the
longest element, not by the list.

The decoder is the standard library's; it is tried at the front of a window of the text. A window that ends
inside an element is made longer, doubled each time, so that a byte is looked at twice on average.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vllm_locust.workloads.datasets.file import LONGEST

# The longest that a cut may leave incomplete outside of strings: `-Infinity`, `\\ud83d\\ude0`.
_TAIL = 16
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonError(ValueError):
    """What is wrong and where, for a sentence in brackets."""


def elements(pieces: Iterable[str], longest: int = LONGEST) -> Iterator[Any]:
    """The elements of the list that `pieces` are the text of. JsonError, at the place, for anything else."""
    window = _Window(iter(pieces), longest)
    if window.next_character() != "[":
        raise window.error("a list begins with [")
    window.at += 1
    if window.next_character() != "]":
        yield window.element()
        while window.next_character() == ",":
            window.at += 1
            window.next_character()
            yield window.element()
        if window.next_character() != "]":
            raise window.error("after an element comes , or ]")
    window.at += 1
    if window.next_character():
        raise window.error("there is more behind the end of the list")


class _Window:
    """A part of the text, and how far it has been read."""

    def __init__(self, pieces: Iterator[str], longest: int) -> None:
        self.at = 0
        self._text = ""
        self._pieces = pieces
        self._longest = longest
        self._line = 1
        self._column = 1
        self._decode = json.JSONDecoder(parse_constant=_refuse).raw_decode

    def next_character(self) -> str:
        """The next one that is no space, left where it is; "" at the end."""
        while True:
            self.at = _SPACE.match(self._text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self._text):
                return self._text[self.at]
            if not self._more():
                return ""

    def element(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self._decode(self._text, self.at)
            except json.JSONDecodeError as error:
                unclosed = error.msg.startswith("Unterminated string")
                if (unclosed or error.pos >= len(self._text) - _TAIL) and self._more():
                    continue
                raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            # Behind 1 may come .5e3, and 2 more digits behind 12.
            if len(self._text) - end < _TAIL and isinstance(value, int | float) and self._more():
                continue
            self.at = end
            return value

    def error(self, what: str, at: int | None = None) -> JsonError:
        line, column = self._place(self.at if at is None else at)
        return JsonError(f"{what}: line {line}, column {column}")

    def _more(self) -> bool:
        """Take in as much again as is left; False when there is no more."""
        left = self._text[self.at :]
        if len(left) > self._longest:
            raise self.error(f"more than {self._longest} characters in one element")
        pieces = [left]
        missing = max(len(left), 1)
        while missing > 0 and (piece := next(self._pieces, None)) is not None:
            pieces.append(piece)
            missing -= len(piece)
        if len(pieces) == 1:
            return False
        self._line, self._column = self._place(self.at)
        self._text = "".join(pieces)
        self.at = 0
        return True

    def _place(self, at: int) -> tuple[int, int]:
        lines = self._text.count("\n", 0, at)
        column = at - self._text.rfind("\n", 0, at) if lines else self._column + at
        return self._line + lines, column


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
