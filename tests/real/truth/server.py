"""Streams numbered tokens, and notes when: a process of its own that nothing disturbs.

    python server.py FILE [HOST TOKENS EVERY_S]   prints its port, and a line when the first request has come

Token n of request i (as its X-Request-Id ends) is `"i.n"`. Answers take turns: tokens one by one; in bursts
of two; the last one, finish, usage and [DONE] in four packets, or in one; now and then the line break that
closes a chunk in a packet of its own, or that and the last LF of lines that end in CRLF. FILE gets a line per
answer: the request, and the moments of `perf_counter` before and after each token was sent.
"""

import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from tests.scripted_server import (
    DONE,
    LAST_CHUNK,
    ROLE,
    STREAM_HEAD,
    chunk,
    event,
    plain,
    read_request,
    token,
    usage,
)

MODEL = "numbered"
_LATER_S = 0.002
_FINISH = event('{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}')


def main(file: Path, host: str = "127.0.0.1", tokens: int = 450, every_s: float = 0.005) -> None:
    with socket.create_server((host, 0)) as listener, file.open("a", encoding="utf-8") as log:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(
                target=_serve, args=(connection, log, int(tokens), float(every_s)), daemon=True
            ).start()


def _serve(connection: socket.socket, log: TextIO, tokens: int, every_s: float) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while (request := read_request(connection)) is not None:
            if request.startswith(b"POST /v1/chat"):
                print("asked", flush=True)
                index = int(_header(request, b"x-request-id").rpartition(b"-")[2])
                sent_s = _answer(connection, index, tokens, every_s)
                log.write(json.dumps({"index": index, "sent_s": sent_s}) + "\n")
                log.flush()
            elif request.startswith(b"GET /v1/models"):
                models = {"object": "list", "data": [{"id": MODEL, "max_model_len": 4096}]}
                connection.sendall(plain("200 OK", json.dumps(models).encode()))
            else:
                connection.sendall(plain("404 Not Found", b""))


def _header(request: bytes, name: bytes) -> bytes:
    lines = (line.partition(b":") for line in request.split(b"\r\n"))
    return next(value.strip() for key, _, value in lines if key.lower() == name)


def _answer(connection: socket.socket, index: int, tokens: int, every_s: float) -> list[tuple[float, float]]:
    """Stream an answer; before and after each token's send."""
    kind = index % 6
    connection.sendall(STREAM_HEAD)
    connection.sendall(ROLE)
    sent_s = []
    begun_s = time.perf_counter()
    ending = [_FINISH, usage(5, tokens), DONE + LAST_CHUNK]
    for number in range(tokens):
        turn = number // 2 * 2 if kind == 1 else number
        time.sleep(max(begun_s + turn * every_s - time.perf_counter(), 0))
        piece = token(f"{index}.{number}")
        if number == tokens - 1 and kind == 3:
            piece, ending = b"".join([piece, *ending]), []
        piece, later = _cut(piece, kind if number % 3 else 0)
        before_s = time.perf_counter()
        connection.sendall(piece)
        sent_s.append((before_s, time.perf_counter()))
        if later:
            time.sleep(_LATER_S)
            connection.sendall(later)
    if kind != 2:
        ending = [b"".join(ending)]
    for piece in ending:
        connection.sendall(piece)
    return sent_s


def _cut(piece: bytes, kind: int) -> tuple[bytes, bytes]:
    """What is sent at once of a token's chunk, and what later."""
    if kind == 4:
        return piece[:-2], piece[-2:]
    if kind == 5:
        data = piece.partition(b"\r\n")[2][:-2].replace(b"\n", b"\r\n")
        piece = chunk(data)
        return piece[:-3], piece[-3:]
    return piece, b""


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
