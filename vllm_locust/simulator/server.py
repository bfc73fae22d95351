"""The simulator on a real socket, in real time: one thread, one selector, one engine.

The engine's virtual steps are played against the clock: when a step's end comes its tokens leave together,
and the next step begins at that ideal end, so lateness of one step never adds up over the following ones.
Rule: per token there is one `send` and as little Python as possible; everything else waits for a pause.
"""

import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack

from vllm_locust.errors import UsageError
from vllm_locust.simulator.answer import Answer
from vllm_locust.simulator.api import Api
from vllm_locust.simulator.config import ServerConfig
from vllm_locust.simulator.engine import Engine, Request, Step
from vllm_locust.simulator.render import KEEP_ALIVE
from vllm_locust.simulator.sendlog import SendLog
from vllm_locust.simulator.text import ANSWER_PIECES
from vllm_locust.simulator.wire import Connection, stamp_arrivals

_TICK_S = 1.0
_LOG_PAUSE_S = 0.002
_MIN_EVENTS_PER_TURN = 16


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; UsageError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=4096)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else str(error)
        raise UsageError(
            f"--host {host} --port {port}: cannot listen there ({reason}); port 0 takes any free one."
        ) from error
    sock.setblocking(False)
    stamp_arrivals(sock)
    return sock


class Server:
    """Listens from construction on; `serve_forever` answers until `stop` is called."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.engine = Engine(config.cost, config.limits)
        with ExitStack() as opened:
            self._listener = opened.enter_context(listen(config.host, config.port))
            self._log = SendLog(config.send_log) if config.send_log else None
            opened.pop_all()
        self._api = Api(config, self.engine, self._begin)
        self._answers: dict[Request, Answer] = {}
        self._answer_on: dict[Connection, Answer] = {}
        self._connections: set[Connection] = set()
        self._step: Step | None = None
        self._step_end_s = 0.0
        self._parent = os.getppid()
        self._stopping = False
        self._closed = False
        # Held while sockets close, so that `stop` never wakes through one that is gone; reentrant, because a
        # signal handler runs in the very thread that it interrupts.
        self._closing = threading.RLock()
        keep_alive_s = config.sse_keep_alive_interval_s
        self._tick_s = min(_TICK_S, keep_alive_s / 4) if keep_alive_s else _TICK_S
        self._next_tick_s = time.perf_counter() + self._tick_s
        self._waker, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, lambda _: self._wake.recv(64))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    def serve_forever(self) -> None:
        """Serve until `stop`; then close every socket and the log."""
        try:
            while not self._stopping:
                self._poll()
                self._advance()
                self._housekeep()
        finally:
            self.close()

    def stop(self) -> None:
        """End `serve_forever`; may be called from another thread or a signal handler."""
        with self._closing:
            # From here on a busy `serve_forever` may end at any moment, even before it is woken.
            self._stopping = True
            if not self._closed:
                self._waker.send(b"x")

    def close(self) -> None:
        """Release what construction took; answers in flight are cut off and logged as aborted."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for connection in list(self._connections):
                connection.close()
            self._selector.close()
            for sock in (self._listener, self._waker, self._wake):
                sock.close()
            if self._log:
                self._log.close()

    def _poll(self) -> None:
        """Wait for a socket or for the step's end, then handle the sockets that are ready."""
        wait_s = self._wait_s(time.perf_counter())
        if wait_s > 0.0:
            # The selector counts in milliseconds; select() on its descriptor counts in microseconds.
            select.select([self._selector], (), (), wait_s)
        for turn, (key, mask) in enumerate(self._selector.select(0)):
            key.data(mask)
            if turn >= _MIN_EVENTS_PER_TURN and self._step and time.perf_counter() >= self._step_end_s:
                break

    def _wait_s(self, now: float) -> float:
        until = self._next_tick_s
        if self._step is not None:
            until = min(until, self._step_end_s)
        if self._log and self._log.pending and until - now > _LOG_PAUSE_S:
            return 0.0
        return until - now

    def _advance(self) -> None:
        """End the step whose time has come, and begin the next."""
        now = time.perf_counter()
        start_s = now
        if self._step is not None:
            if now < self._step_end_s:
                return
            start_s = self._step_end_s
            self._deliver(self.engine.finish(self._step, now))
            now = time.perf_counter()
        self._step = self.engine.schedule(now)
        if self._step is not None:
            end_s = start_s + self._step.duration_s
            # Later than a whole step: the engine cannot have been that fast, so it begins now.
            self._step_end_s = end_s if end_s > now else now + self._step.duration_s

    def _deliver(self, requests: Sequence[Request]) -> None:
        """Send each of these requests its newest token."""
        answers = self._answers
        pieces, num_pieces = ANSWER_PIECES, len(ANSWER_PIECES)
        now_ns = time.time_ns
        for request in requests:
            answer = answers.get(request)
            if answer is None:
                # Its client hung up while this very step was being sent.
                continue
            if answer.plain and request.outcome is None:
                cursor = answer.cursor
                piece = pieces[cursor]
                cursor += 1
                answer.cursor = cursor if cursor < num_pieces else 0
                chunk = answer.heads[len(piece)] + piece + answer.tail
                if answer.sent_ns is not None:
                    answer.sent_ns.append(now_ns())
                if not answer.connection.send(chunk):
                    answer.delayed_chunks += 1
            else:
                self._deliver_carefully(answer)

    def _deliver_carefully(self, answer: Answer) -> None:
        """The same for first and last tokens and for answers whose chunks are not all alike."""
        chunk = answer.next_chunk()
        if chunk is not None:
            if answer.sent_ns is not None:
                answer.sent_ns.append(time.time_ns())
            if not answer.connection.send(chunk):
                answer.delayed_chunks += 1
        if answer.request.outcome is not None and answer.request in self._answers:
            self._forget(answer)
            answer.connection.end_answer()

    def _begin(self, answer: Answer) -> None:
        """Take a new request into the engine."""
        if answer.connection.closed:
            return
        now = time.perf_counter()
        answer.quiet_since_s = now
        if self._log:
            answer.sent_ns = []
        self._answers[answer.request] = answer
        self._answer_on[answer.connection] = answer
        self.engine.submit(answer.request, now)

    def _forget(self, answer: Answer) -> None:
        del self._answers[answer.request]
        del self._answer_on[answer.connection]
        if self._log:
            self._log.add(answer.log_entry())

    def _accept(self, _: int) -> None:
        while True:
            try:
                sock, _address = self._listener.accept()
            except OSError:
                return
            self._connections.add(Connection(sock, self._selector, self._api.handle, self._on_close))

    def _on_close(self, connection: Connection) -> None:
        self._connections.discard(connection)
        answer = self._answer_on.get(connection)
        if answer is not None:
            self.engine.abort(answer.request)
            self._forget(answer)

    def _housekeep(self) -> None:
        """What may wait for a pause: the log, silent streams, a parent that is gone."""
        now = time.perf_counter()
        if self._log and self._log.pending and (self._step is None or self._step_end_s - now > _LOG_PAUSE_S):
            self._log.write_some()
        if now < self._next_tick_s:
            return
        self._next_tick_s = now + self._tick_s
        if self.config.sse_keep_alive_interval_s:
            self._keep_alive(now, self.config.sse_keep_alive_interval_s)
        if self.config.exit_with_parent and os.getppid() != self._parent:
            self._stopping = True

    def _keep_alive(self, now: float, interval_s: float) -> None:
        for answer in list(self._answers.values()):
            silent_s = now - max(answer.quiet_since_s, answer.request.last_token_s)
            if answer.streamed and silent_s >= interval_s:
                answer.quiet_since_s = now
                answer.connection.send(KEEP_ALIVE)
