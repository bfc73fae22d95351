"""A file from its bytes to its text: read once, piece by piece, hashed and counted on the way.

Text is UTF-8, or UTF-16 where a byte order mark says so. What is not UTF-8 in a CSV file is read as cp1252,
as spreadsheets write it on Windows; in JSON it is an error.
"""

import codecs
import io
import logging
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

from vllm_locust.errors import UsageError

logger = logging.getLogger(__name__)

LONGEST = 64 << 20
"""Characters of one row; what is longer is taken for a mistake, a quote that is not closed for instance."""

_HEAD_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_LARGE_BYTES = 200_000_000
_PROGRESS_S = 2.0
_UTF_16 = "utf-16"
_AS_CP1252 = "vllm_locust_cp1252"


class WrongContent(UsageError):
    """A file that can be read, and is not what is needed."""


class DataFile:
    """One file, and what is known of it when it has been read to its end."""

    def __init__(
        self, path: Path, name: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`name` is what the user calls it. UsageError where there is nothing to be read."""
        self.path = path
        self.name = name or str(path)
        self.bytes_read = 0
        self._hash = sha256()
        self._clock = clock
        try:
            with path.open("rb") as file:
                self.head = file.read(_HEAD_BYTES)
            self.size = path.stat().st_size
        except OSError as error:
            raise UsageError(f"{self.name}: the data set cannot be read ({error.strerror})") from None
        wide = self.head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        self.encoding = _UTF_16 if wide else "utf-8"

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def head_text(self) -> str:
        """The beginning of the text, with marks in place of what cannot be decoded."""
        return codecs.getincrementaldecoder(self.encoding)("replace").decode(self.head).removeprefix("\ufeff")

    def chunks(self) -> Iterator[bytes]:
        """All bytes, once; a line of progress every two seconds where it takes long."""
        told_s = self._clock()
        try:
            with self.path.open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    self._hash.update(chunk)
                    self.bytes_read += len(chunk)
                    if self.size > _LARGE_BYTES and self._clock() - told_s >= _PROGRESS_S:
                        told_s = self._clock()
                        percent = 100 * self.bytes_read // max(self.size, self.bytes_read)
                        logger.info("reading %s: %d %%", self.name, percent)
                    yield chunk
        except OSError as error:
            raise UsageError(f"{self.name}: the data set cannot be read ({error.strerror})") from None

    def text(self, *, tolerant: bool = False) -> Iterator[str]:
        """All of the text, in pieces. `tolerant`: bytes that are no UTF-8 are cp1252, else a UsageError."""
        pieces = filter(None, self._decoded(tolerant))
        for first in pieces:
            yield first.removeprefix("\ufeff")
            yield from pieces

    def _decoded(self, tolerant: bool) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)()
        for chunk in chain(self.chunks(), [b""]):
            try:
                yield decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                position = self.bytes_read - len(error.object) + error.start
                if not tolerant or self.encoding == _UTF_16:
                    raise self._undecodable(error, position) from None
                logger.warning(
                    "%s is not UTF-8 (at byte %d): bytes that are not are read as cp1252", self.name, position
                )
                state = decoder.getstate()
                decoder = codecs.getincrementaldecoder(self.encoding)(_AS_CP1252)
                decoder.setstate(state)
                yield decoder.decode(chunk, not chunk)

    def lines(self, *, tolerant: bool = False) -> Iterator[str]:
        r"""The text in lines that end with \n, whatever ended them before; the last one may end without."""
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        parts: list[str] = []
        number = 1
        for piece in self.text(tolerant=tolerant):
            *whole, rest = newlines.decode(piece).split("\n")
            for line in whole:
                yield "".join((*parts, line, "\n"))
                parts.clear()
            number += len(whole)
            parts.append(rest)
            if sum(map(len, parts)) > LONGEST:
                raise WrongContent(f"{self.name}: line {number} is longer than {LONGEST} characters")
        if last := "".join(parts) + newlines.decode("", final=True):
            yield last

    def _undecodable(self, error: UnicodeDecodeError, position: int) -> UsageError:
        return UsageError(
            f"{self.name} is not {self.encoding.upper()}: byte 0x{error.object[error.start]:02x} at position "
            f"{position} begins no character; convert the file, with iconv -f CP1252 -t UTF-8 for instance"
        )


def _cp1252(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: what could not be decoded, in the encoding of Windows."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_AS_CP1252, _cp1252)
