"""What a run leaves behind: `run.json`, `requests.jsonl` (written while running) and `summary.json`.

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

_LINES_AT_ONCE = 200

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def check_free(folder: Path) -> None:
    """Raise UsageError unless `folder` can take the results of a new run."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--results-dir {folder} is a file, not a folder.")
    for name in (RUN, REQUESTS, SUMMARY):
        if (folder / name).exists():
            raise UsageError(f"--results-dir {folder} holds another run ({name}): choose a new folder.")


class ResultsFolder:
    """Writes one run's files into a folder that `check_free` has approved."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Create the folder and write `run.json`; UsageError when that is impossible."""
        check_free(folder)
        self.folder = folder
        self._complained = False
        self._lines: list[bytes] = []
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

    def flush(self) -> None:
        """Put what was added so far, in whole lines, where a killed process cannot lose it."""
        lines = b"".join(self._lines)
        self._lines.clear()
        with self._going_on_without():
            if lines:
                self._requests.write(lines)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.flush()
        with self._going_on_without():
            self._requests.close()
        with self._going_on_without():
            (self.folder / SUMMARY).write_bytes(orjson.dumps(summary, option=_JSON))

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        """A full disk must not end the run: its numbers are in memory, and will at least be printed."""
        try:
            yield
        except OSError as error:
            if not self._complained:
                logger.error("Results in %s are incomplete: %s.", self.folder, error.strerror or error)
            self._complained = True
