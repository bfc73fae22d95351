"""Makes the report of a run when all is measured: `vllm-locust report`, in a process of its own.

Rule: a run's results are complete without it, so whatever becomes of it only costs a sentence, and never
longer than two minutes.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from gevent import subprocess

logger = logging.getLogger(__name__)

REPORT = "report.html"

_LIMIT_S = 120.0
_TELL_AFTER_S = 1.5
_SKIPPED = "it was skipped"
_KINDNESS = 10
"""Of its process towards others: from the web UI the next run may be measuring already."""


class Reporting:
    """The process that reports on one results folder, from construction on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began_s = perf_counter()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `skip` closes it
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm_locust", "report", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=lambda: os.nice(_KINDNESS),
            )
        except OSError as error:
            self._errors.close()
            self._fail(error.strerror or str(error))

    def wait(self) -> str | None:
        """Where the report is, once it is made; None without one, and the log says why. Ctrl-C skips it."""
        if self._process is None:
            return None
        try:
            problem = self._outcome()
        except KeyboardInterrupt:
            problem = _SKIPPED
        finally:
            self.skip()
        if problem is not None:
            self._fail(problem)
            return None
        page = self._folder / REPORT
        return str(page) if page.exists() else None

    def skip(self) -> None:
        """End it, if it has not ended."""
        self._errors.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _outcome(self) -> str | None:
        """Waits for its end: what went wrong, if anything did."""
        assert self._process is not None
        if not self._ended(_TELL_AFTER_S):
            logger.info("Writing the report of %s ... (Ctrl-C skips it)", self._folder)
            if not self._ended(_LIMIT_S):
                return f"it was not ready after {_LIMIT_S:g} s"
        if self._process.returncode == 0:
            return None
        if self._errors.closed:
            return _SKIPPED
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def _ended(self, limit_s: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(max(self._began_s + limit_s - perf_counter(), 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _fail(self, why: str) -> None:
        logger.warning(
            "There is no report of %s: %s. `vllm-locust report` makes one.",
            self._folder,
            why.removesuffix("."),
        )
