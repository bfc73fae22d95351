"""Columns of numbers as bytes, exact and small enough to travel.

Rule: the same numbers are the same bytes on every machine. Bytes of equal weight stand together: in counts
the high ones are nearly all zeros. What is left is coded by how often each byte occurs, and not searched for
repetitions, which measurements do not have and which would cost several times as long.
"""

import zlib
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTH = 8
_MEMORY = 4  # new codes every 1024 bytes or so; larger blocks would be larger altogether


def pack(values: NDArray[Any]) -> bytes:
    """An array of 64 bit numbers as bytes."""
    little_endian = values.astype(values.dtype.newbyteorder("<"))
    planes = little_endian.view(np.uint8).reshape(-1, _WIDTH).T
    packer = zlib.compressobj(1, memLevel=_MEMORY, strategy=zlib.Z_RLE)
    return packer.compress(planes.tobytes()) + packer.flush()


def unpack_ints(data: bytes) -> NDArray[np.int64]:
    """The whole numbers that `pack` packed."""
    return _bytes_of_numbers(data).view("<i8").ravel().astype(np.int64)


def unpack_floats(data: bytes) -> NDArray[np.float64]:
    """The floating point numbers that `pack` packed."""
    return _bytes_of_numbers(data).view("<f8").ravel().astype(np.float64)


def pack_array(column: "array[Any]") -> bytes:
    """An array of typecode `d` or `q`."""
    return pack(np.frombuffer(column, column.typecode))


def unpack_array(typecode: str, data: bytes) -> "array[Any]":
    """The array that `pack_array` packed."""
    values = unpack_floats(data) if typecode == "d" else unpack_ints(data)
    return array(typecode, values.tobytes())


def _bytes_of_numbers(data: bytes) -> NDArray[np.uint8]:
    """A row of bytes per number."""
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(_WIDTH, -1)
    return np.ascontiguousarray(planes.T)
