"""Runs the server's own profiler exactly around what is measured (vLLM has one with --profiler-config).

Rule: it runs while a phase's window is open, see `core.recording`: from the end of the warm-up to the end of
the load, and without a warm-up from before the first request until the last one is answered. Whatever comes
of it the run goes on, and whatever becomes of the run the profiler is told to stop.

Traces are written when a profiler stops, in which time vLLM may answer nothing else: until that is done
nothing new is begun, and the time that draining may take does not count yet.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from vllm_locust.client.ask import switch_profiler
from vllm_locust.client.target import Target
from vllm_locust.errors import UsageError
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared

logger = logging.getLogger(__name__)

START, STOP = "/start_profile", "/stop_profile"

_START_LIMIT_S = 60.0
# Minutes are usual for a trace of minutes; vLLM's own benchmark waits for hours.
_STOP_LIMIT_S = 900.0
_LAST_STOP_LIMIT_S = 5.0
_TELL_AFTER_S = 2.0


@dataclass(slots=True)
class Session:
    """One phase, as profiled by one host; times are seconds since the run began."""

    phase: int
    host: str
    started_s: float | None = None
    """When the start was confirmed; None when it was not."""
    stopped_s: float | None = None
    """When the stop was asked for."""
    problem: str | None = None


class Profiler:
    """The profilers of all hosts; a watcher of the conductor's."""

    def __init__(self, prepared: Prepared, began_s: float) -> None:
        self._began_s = began_s
        headers = dict(prepared.settings.headers)
        self._hosts = [_Host(target, headers, began_s) for target in prepared.targets]
        self._start_later: gevent.Greenlet[..., Any] | None = None

    @property
    def sessions(self) -> Sequence[dict[str, Any]]:
        """The summary's `profiler`: in the order in which they began."""
        return [asdict(session) for host in self._hosts for session in host.sessions]

    def phase_begins(self, phase: Phase) -> None:
        if not phase.warmup_s:
            self._start(phase)

    def phase_began(self, phase: Phase, at_s: float, of: int | None) -> None:
        if phase.warmup_s:
            warm_s = self._began_s + at_s + phase.warmup_s
            self._start_later = gevent.spawn_later(max(warm_s - perf_counter(), 0.0), self._start, phase)

    def phase_ended(self, phase: Phase) -> None:
        if self._start_later is not None:
            self._start_later.kill()
        if phase.warmup_s:
            self._stop()

    def phase_drained(self, phase: Phase) -> None:
        self._stop()

    def finish(self) -> None:
        """Nothing is measured any more: stop what still runs. Ctrl-C ends the waiting for it."""
        if self._start_later is not None:
            self._start_later.kill()
        try:
            self._stop()
        except KeyboardInterrupt:
            for host in self._hosts:
                host.give_up()

    def _start(self, phase: Phase) -> None:
        gevent.joinall([gevent.spawn(host.start, phase.number) for host in self._hosts])

    def _stop(self) -> None:
        """Done by greenlets of their own: who waits may be killed."""
        stopping = [gevent.spawn(host.stop) for host in self._hosts]
        if len(gevent.joinall(stopping, timeout=_TELL_AFTER_S)) < len(stopping):
            logger.info("Waiting for the server to write its profile, which may take minutes ...")
            gevent.joinall(stopping)


class _Host:
    """The profiler of one server: it is told one thing after the other."""

    def __init__(self, target: Target, headers: dict[str, str], began_s: float) -> None:
        self.sessions: list[Session] = []
        self._target = target
        self._headers = headers
        self._began_s = began_s
        self._turn = BoundedSemaphore()
        self._has_none = False
        self._running: Session | None = None
        """May be running, as far as one knows."""
        self._told_to_stop = False

    def start(self, phase: int) -> None:
        with self._turn:
            if self._has_none:
                return
            session = self._running = Session(phase, self._target.url)
            self.sessions.append(session)
            self._told_to_stop = False
            try:
                status, said = self._ask(START, _START_LIMIT_S)
            except UsageError as error:
                self._note(session, f"it may run or not: {START} was not answered: {error}")
                return
            if status == 200:
                session.started_s = self._now_s()
                logger.info("%s is being profiled.", self._target.url)
                return
            self._running = None
            if status in (404, 405):
                self._has_none = True
                self._note(session, f"there is none ({START} answers {status}; vLLM needs --profiler-config)")
            else:
                self._note(session, f"it did not start: {START} answered {status}: {said}")

    def stop(self) -> None:
        with self._turn:
            if (session := self._running) is None:
                return
            self._told_to_stop = True
            session.stopped_s = self._now_s()
            try:
                status, said = self._ask(STOP, _STOP_LIMIT_S)
                problem = None if status == 200 else f"{STOP} answered {status}: {said}"
            except UsageError as error:
                problem = f"{STOP} was not answered: {error}"
            self._running = None
            if problem is not None:
                self._note(session, f"it may still run: {problem}")
            else:
                took_s = self._now_s() - session.stopped_s
                logger.info("%s wrote its profile, in %.1f s.", self._target.url, took_s)

    def give_up(self) -> None:
        """Do not wait for it any longer; if nobody has told it to stop, do that."""
        if self._running is None:
            return
        self._note(self._running, "it was told to stop, and nobody waited until it had")
        if not self._told_to_stop:
            try:
                self._ask(STOP, _LAST_STOP_LIMIT_S)
            except UsageError as error:
                logger.warning("%s", error)

    def _ask(self, path: str, limit_s: float) -> tuple[int, str]:
        return switch_profiler(self._target, self._headers, path, limit_s)

    def _note(self, session: Session, problem: str) -> None:
        session.problem = f"{session.problem}; {problem}" if session.problem else problem
        logger.warning("The profiler of %s: %s.", self._target.url, problem.removesuffix("."))

    def _now_s(self) -> float:
        return perf_counter() - self._began_s
