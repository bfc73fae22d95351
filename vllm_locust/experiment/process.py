"""Processes that end when this one does, however it ends; see `supervisor`."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
# What a supervisor that was told to end takes at most beyond the time it was given.
_SLACK_S = 40.0


class Process:
    """A command that runs in a session of its own."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        patience_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; what it prints is appended to `log`. `patience_s`: what it gets to end when told to."""
        self._patience_s = patience_s
        with log.open("ab") as output:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(patience_s), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the experiment, which then ends everything in turn
            )

    def poll(self) -> int | None:
        """The exit code, 128 + N after signal N; None while it, or anything it has started, still runs."""
        code = self._supervisor.poll()
        if code is not None:
            self._let_go()
        return code

    def stop(self) -> int:
        """Tell it to end, wait until it and all it has started are gone, and return its exit code."""
        self._let_go()
        try:
            return self._supervisor.wait(self._patience_s + _SLACK_S)
        except BaseException:  # no patience is left, here or at the keyboard
            self._supervisor.terminate()
            self._supervisor.wait(_SLACK_S)
            raise

    def _let_go(self) -> None:
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
