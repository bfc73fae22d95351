"""Where the kept rows of a data set lie: bytes in memory, or beyond 64 MB in a file without a name.

The file is read through a memory map: the operating system keeps in memory what is asked for often, all
processes of this machine that forked after it was written share it, and it vanishes with the last of them.
"""

import mmap
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO, overload

from vllm_locust.errors import UsageError

MEMORY_BYTES = 64 << 20
_WRITE_BYTES = 1 << 20


class Records(Sequence[bytes]):
    """Pieces of bytes by number; to get one costs a slice."""

    __slots__ = ("_data", "_ends")

    def __init__(self, data: bytes | mmap.mmap, ends: "array[int]") -> None:
        self._data = data
        self._ends = ends
        """Where each piece ends, behind a 0."""

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> bytes: ...
    @overload
    def __getitem__(self, number: slice) -> list[bytes]: ...
    def __getitem__(self, number: int | slice) -> bytes | list[bytes]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        return self._data[self._ends[number] : self._ends[number + 1]]


class Spool:
    """Takes pieces of bytes one after another, and hands them back as `Records` when there are no more."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._pending = bytearray()
        self._ends = array("Q", [0])
        self._file: IO[bytes] | None = None

    def append(self, piece: bytes) -> None:
        """UsageError where there is no room for it."""
        self._pending += piece
        self._ends.append(self._ends[-1] + len(piece))
        if len(self._pending) > (self._memory_bytes if self._file is None else _WRITE_BYTES):
            self._write()

    def records(self) -> Records:
        """All that was appended, in its order; nothing can be appended any more."""
        if self._file is None:
            return Records(bytes(self._pending), self._ends)
        self._write()
        with self._file as file:
            return Records(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), self._ends)

    def _write(self) -> None:
        folder = cache_folder()
        try:
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            view = memoryview(self._pending)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise UsageError(
                f"{folder} has no room for the data set ({error.strerror}): set XDG_CACHE_HOME to a folder "
                "that has"
            ) from None
        self._pending = bytearray()


def cache_folder() -> Path:
    """Where large things of this package go: on a disk, as /tmp may be memory."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "vllm-locust"
