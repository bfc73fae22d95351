"""What a run leaves behind: run.json, summary.json, and while it runs requests.jsonl and server_metrics.csv.

The folder's files are the recording of a run; anything shown later can be made from them again.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.errors import UsageError

logger = logging.getLogger(__name__)

RUN = "run.json"
REQUESTS = "requests.jsonl"
SUMMARY = "summary.json"
SERVER_METRICS = "server_metrics.csv"

_LINES_AT_ONCE = 200

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def check_free(folder: Path) -> None:
    """Raise UsageError unless `folder` can take the results of a new run."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--results-dir {folder} is a file, not a folder.")
    for name in (RUN, REQUESTS, SUMMARY, SERVER_METRICS):
        if (folder / name).exists():
            raise UsageError(f"--results-dir {folder} holds another run ({name}): choose a new folder.")


def check_junit(file: Path) -> None:
    """Raise UsageError unless `file` can be written. What an earlier run has left there is gone then."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    except OSError as error:
        raise UsageError(f"--junit-xml {file} cannot be written: {error.strerror}.") from None


class ResultsFolder:
    """Writes one run's files into a folder that `check_free` has approved."""

    def __init__(self, folder: Path, run: Mapping[str, Any], most_bytes: int | None = None) -> None:
        """Create the folder and write `run.json`; UsageError when that is impossible.

        `most_bytes` is how much of requests.jsonl is kept, None for all.
        """
        check_free(folder)
        self._left_bytes = most_bytes
        self.folder = folder
        self._complained = False
        self._lines: list[bytes] = []
        self._server_lines: list[bytes] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RUN).write_bytes(orjson.dumps(run, option=_JSON))
            self._requests = (folder / REQUESTS).open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"--results-dir {folder} cannot be written: {error.strerror}.") from None

    def add(self, lines: bytes) -> None:
        """Take whole lines of requests.jsonl."""
        self._lines.append(lines)
        if len(self._lines) >= _LINES_AT_ONCE:
            self.flush()

    def add_server_metrics(self, lines: bytes) -> None:
        """Take whole lines of server_metrics.csv, which there is only when the server tells something."""
        self._server_lines.append(lines)

    def flush(self) -> None:
        """Put what was added so far, in whole lines, where a killed process cannot lose it."""
        lines, server_lines = b"".join(self._lines), b"".join(self._server_lines)
        self._lines.clear()
        self._server_lines.clear()
        with self._going_on_without():
            if lines and self._has_room(len(lines)):
                self._requests.write(lines)
        with self._going_on_without():
            if server_lines:
                with (self.folder / SERVER_METRICS).open("ab") as table:
                    table.write(server_lines)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.flush()
        with self._going_on_without():
            self._requests.close()
        with self._going_on_without():
            (self.folder / SUMMARY).write_bytes(orjson.dumps(summary, option=_JSON))

    def _has_room(self, size: int) -> bool:
        if self._left_bytes is None:
            return True
        if size > self._left_bytes:
            if self._left_bytes:
                logger.warning("Of this run's requests only the first are kept: --results-dir keeps all.")
            self._left_bytes = 0
            return False
        self._left_bytes -= size
        return True

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """A full disk must not end the run: its numbers are in memory, and will at least be printed."""
        try:
            yield
        except OSError as error:
            if not self._complained:
                logger.error("Results in %s are incomplete: %s.", self.folder, error.strerror or error)
            self._complained = True
