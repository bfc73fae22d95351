"""Bytes that should be JSON or text, and may be anything: what they say, or else what they are."""

import json
from contextlib import suppress
from itertools import accumulate
from typing import Any

from vllm_locust.core.trouble import error_message
from vllm_locust.core.urls import shortened

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_SHOWN_CHARS = 80
_MAX_TEXT_CHARS = 200
_MAX_DEPTH = 100
"""What is deeper is none of an error, and too much for whoever walks through it."""
_NO_BRACKETS = bytes(set(range(256)).difference(b"[]{}"))


def parse_leniently(data: bytes) -> Any:
    """What JSON makes of bytes that a strict parser refuses; ValueError shows what was met instead.

    Read is what Python's own `json` writes: NaN among logprobs, and halves of characters, which detokenising
    token by token leaves.
    """
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except ValueError:
        raise ValueError(f"an event is no JSON: {beginning(data)}") from None


def decoded(content: bytes) -> Any:
    """The JSON of a body, else its text on one line; of what is neither, what it is."""
    if (kind := compression_of(content)) is not None:
        return f"(a message compressed with {kind})"
    content = content.removeprefix(BYTE_ORDER_MARK)
    with suppress(ValueError):
        if _depth(content) <= _MAX_DEPTH:
            return parse_leniently(content)
    try:
        return shortened(" ".join(content.decode().split()), _MAX_TEXT_CHARS)
    except UnicodeDecodeError:
        return f"(no text in UTF-8: {beginning(content)})"


def _depth(content: bytes) -> int:
    """How deep brackets stand in brackets."""
    brackets = content.translate(None, _NO_BRACKETS)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


def compression_of(content: bytes) -> str | None:
    """What a body is compressed with, by its first bytes, whatever was told."""
    return next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), None)


def told_error(data: bytes) -> str:
    """The human part of an error that is JSON or plain text."""
    return error_message(decoded(data))


def beginning(data: bytes) -> str:
    """The first characters of what was met, in quotes, on one line."""
    most_bytes = 4 * (_SHOWN_CHARS + 1)
    return repr(shortened(data[:most_bytes].decode("utf-8", "replace"), _SHOWN_CHARS))
