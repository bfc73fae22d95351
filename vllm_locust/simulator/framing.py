"""HTTP/1.1 as bytes: heads, whole responses and the chunks of a streamed body."""

from email.utils import formatdate
from http import HTTPStatus

JSON = "application/json"


def _head(status: int) -> str:
    phrase = HTTPStatus(status).phrase
    return f"HTTP/1.1 {status} {phrase}\r\ndate: {formatdate(usegmt=True)}\r\nserver: vllm-locust\r\n"


def response(status: int, body: bytes = b"", kind: str = JSON, extra: str = "") -> bytes:
    """A complete response; `extra` holds further header lines."""
    # vLLM's empty answers (/health, /ping) have no content type.
    content = f"content-type: {kind}\r\n" if body else ""
    return f"{_head(status)}content-length: {len(body)}\r\n{content}{extra}\r\n".encode("latin-1") + body


def stream_head() -> bytes:
    """What precedes the first event of a stream."""
    kind = "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    return f"{_head(200)}{kind}".encode("latin-1")


def frame(event: bytes) -> bytes:
    """One chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(event), event)


LAST_FRAME = b"0\r\n\r\n"
