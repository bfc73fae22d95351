"""The experiment itself: session after session, run after run, whatever becomes of any of them.

Rule: nothing that a server or a run does ends the experiment; only its user does, and what cannot be undone:
a server that does not go away, a disk that is full.
"""

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from vllm_locust.experiment.definition import Timing
from vllm_locust.experiment.outcome import LOG, outcome_of
from vllm_locust.experiment.plan import HOST_VARIABLE, SEEDS, Run, Session, locust_command
from vllm_locust.experiment.process import Process
from vllm_locust.experiment.progress import Estimate, Progress, in_short, left_in_words, run_title, title
from vllm_locust.experiment.server import Server, ServerFailed, serving
from vllm_locust.experiment.store import Store
from vllm_locust.results.folder import SUMMARY

SERVER_FAILED = "server_failed"

_POLL_S = 0.1
_LOCUST_PATIENCE_S = 10.0
"""What Locust gets to write its summary when its server is dead, or its user tired of it."""


class Conduct:
    """Goes through the sessions of an experiment."""

    def __init__(self, sessions: Sequence[Session], timing: Timing, store: Store, progress: Progress) -> None:
        self._timing = timing
        self._store = store
        self._progress = progress
        self._estimate = Estimate()
        self._sessions = [one for session in sessions if (one := self._unfinished(session)).runs]
        self._to_do = [run for session in self._sessions for run in session.runs]
        self._total = sum(len(session.runs) for session in sessions)
        self._pause_s = 0.0

    @property
    def left(self) -> int:
        """Runs that are to be made yet."""
        return len(self._to_do)

    def run(self) -> None:
        """All that is not finished yet."""
        while self._sessions:
            session = self._sessions[0]
            self._serve(session)
            rest = self._unfinished(session)
            if rest.runs:
                self._sessions[0] = rest
            else:
                del self._sessions[0]

    def _unfinished(self, session: Session) -> Session:
        return replace(session, runs=[run for run in session.runs if run.key not in self._store.finished])

    def _serve(self, session: Session) -> None:
        """One start of its server, and the runs until it dies; at least one run is finished then."""
        log = self._store.server_log(session)
        began_s = time.monotonic()
        started = datetime.now(UTC)
        ours = session.configuration.url is None
        self._progress.begin(f"server {title(session)}: {'starting' if ours else 'asking'}")
        time.sleep(self._pause_s)
        self._pause_s = self._timing.pause_s if ours else 0.0
        ready_s: float | None = None
        try:
            with serving(session.configuration, self._timing, log, self._progress.tell) as server:
                ready_s = time.monotonic() - began_s
                if ours:
                    self._progress.end(f"ready after {ready_s:.1f} s")
                self._warm_up(session, server)
                self._estimate.started(time.monotonic() - began_s)
                for run in session.runs:
                    self._make(run, server)
                    if server.death() is not None:
                        break
                self._progress.begin(f"server {title(session)}")  # to be told of while it is stopped
        except ServerFailed as error:
            if ready_s is None:
                self._progress.end(f"FAILED after {time.monotonic() - began_s:.1f} s: {error}")
            else:
                self._progress.say(f"server {title(session)}: FAILED: {error}")
            self._give_up(session, str(error), started, time.monotonic() - began_s)

    def _give_up(self, session: Session, why: str, started: datetime, seconds: float) -> None:
        """What was to run on a server that there is not."""
        for run in session.runs:
            if run.key not in self._store.finished:
                self._record(run, SERVER_FAILED, why, None, started, seconds)
                seconds = 0.0

    def _warm_up(self, session: Session, server: Server) -> None:
        """Requests that nobody counts; a server that does not outlive them is of no use."""
        if session.warmup is None:
            return
        self._progress.begin(f"server {title(session)}: warming up")
        locustfile, options = session.warmup
        log = self._store.folder / "servers" / f"{session.name}.warm-up.log"
        self._locust(locust_command(locustfile, options, None), log, server)
        if (death := server.death()) is not None:
            raise ServerFailed(f"it died while it was warmed up: {death}")

    def _make(self, run: Run, server: Server) -> None:
        if (death := server.death()) is not None:
            raise ServerFailed(death)
        number = self._total - len(self._to_do) + 1
        self._progress.begin(run_title(run, number, self._total))
        if run.own_seed and self._store.was_begun(run):  # what it asked then the server may know by now
            run = run.with_seed(secrets.randbelow(SEEDS))
        folder = self._store.results_folder(run)
        started, began_s = datetime.now(UTC), time.monotonic()
        code = self._locust(locust_command(run.locustfile, run.options, folder), folder / LOG, server)
        seconds = time.monotonic() - began_s
        outcome, why = outcome_of(code, folder)
        if (death := server.death()) is not None:
            outcome, why = SERVER_FAILED, f"in the middle of the run {death}"
        self._estimate.ran(run, seconds)
        self._record(run, outcome, why, code, started, seconds)
        left_s = self._estimate.left_s(self._to_do, len(self._sessions) - 1)
        shown = in_short(outcome, why, seconds, _summary(folder))
        self._progress.end(shown + (left_in_words(left_s) if self._to_do else ""))

    def _record(
        self, run: Run, outcome: str, why: str | None, code: int | None, started: datetime, seconds: float
    ) -> None:
        self._store.record(run, outcome, why, exit_code=code, started=started, seconds=seconds)
        self._to_do = [one for one in self._to_do if one.key != run.key]

    def _locust(self, command: Sequence[str], log: Path, server: Server) -> int:
        """Its exit code."""
        environment = {**os.environ, HOST_VARIABLE: server.url}
        process = Process(command, log, patience_s=_LOCUST_PATIENCE_S, environment=environment)
        try:
            while (code := process.poll()) is None and server.death() is None:
                self._progress.tell()
                time.sleep(_POLL_S)
        except BaseException:
            process.stop()
            raise
        return process.stop() if code is None else code


def _summary(folder: Path) -> dict[str, object] | None:
    try:
        summary = orjson.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None
