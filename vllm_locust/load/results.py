"""What a run leaves behind: `run.json`, `requests.jsonl` (written while running) and `summary.json`.

The folder's files are the recording of a run; anything shown later can be made from them again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.errors import UsageError

RUN = "run.json"
REQUESTS = "requests.jsonl"
SUMMARY = "summary.json"

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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RUN).write_bytes(orjson.dumps(run, option=_JSON))
            self._requests = (folder / REQUESTS).open("wb", buffering=1 << 16)
        except OSError as error:
            raise UsageError(f"--results-dir {folder} cannot be written: {error.strerror}.") from None

    def add(self, record: RequestRecord, run_start_s: float) -> None:
        self._requests.write(to_json_line(record, run_start_s))

    def flush(self) -> None:
        """Put what was added so far where a killed process cannot lose it."""
        self._requests.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._requests.close()
        (self.folder / SUMMARY).write_bytes(orjson.dumps(summary, option=_JSON))
