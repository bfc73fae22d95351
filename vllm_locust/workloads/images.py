"""PNG images made from a key: coloured bars on a coloured ground, another picture for every key.

16 colours from a palette, two pixels in a byte: of full size for the model that looks at it, some 500 bytes
on the wire, and made in a fraction of a millisecond, since a load generator makes them between two sends.
"""

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator

from vllm_locust.workloads.draw import draw_bytes

_BARS = 6
_COLOURS = 16
_BITS = 4
_PALETTE = 3
"""Of the kinds of PNG: each pixel is the number of a colour."""


def data_uri(width: int, height: int, *key: str | int) -> str:
    """The picture as an `image_url` of a chat takes it."""
    return f"data:image/png;base64,{b64encode(png(width, height, *key)).decode()}"


def png(width: int, height: int, *key: str | int) -> bytes:
    """A PNG file of `width` x `height` pixels, both at least 1."""
    rows = b"".join(_rows((width + 1) // 2, height, draw_bytes(4 * _BARS, *key, "bars")))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, _BITS, _PALETTE, 0, 0, 0)),
            _chunk(b"PLTE", draw_bytes(3 * _COLOURS, *key, "palette")),
            _chunk(b"IDAT", zlib.compress(rows, 1)),
            _chunk(b"IEND", b""),
        )
    )


def _rows(row_bytes: int, height: int, drawn: bytes) -> Iterator[bytes]:
    """Equal bands, each with a bar of drawn colour, place and height; then nothing but ground.

    Before each row stands a 0: it is not filtered.
    """
    ground = bytes(1 + row_bytes)
    band = height // (_BARS + 1)
    for at in range(0, 4 * _BARS, 4):
        colour, one, other, share = drawn[at : at + 4]
        left, right = sorted((one * row_bytes // 256, other * row_bytes // 256))
        pixel = 1 + colour % (_COLOURS - 1)
        bar = bytearray(ground)
        bar[1 + left : 1 + right] = bytes([pixel << _BITS | pixel]) * (right - left)
        lines = share * band // 256
        yield ground * (band - lines) + bytes(bar) * lines
    yield ground * (height - _BARS * band)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))))
