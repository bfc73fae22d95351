"""The truth clients are judged against: when requests arrived and when each chunk was sent.

Rule: entries are kept in memory and written when the server has nothing more urgent to do.
"""

from collections import deque
from pathlib import Path
from typing import Any

import orjson

from vllm_locust.errors import UsageError

BATCH = 64


class SendLog:
    """A JSONL file, one line for each request that finished or was aborted."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"--send-log {path}: cannot be written ({error.strerror}).") from error
        self._entries: deque[dict[str, Any]] = deque()

    @property
    def pending(self) -> bool:
        """Whether entries wait to be written."""
        return bool(self._entries)

    def add(self, entry: dict[str, Any]) -> None:
        """Keep an entry for a later `write_some`."""
        self._entries.append(entry)

    def write_some(self) -> None:
        """Write up to one batch, a fraction of a millisecond of work."""
        batch = [self._entries.popleft() for _ in range(min(BATCH, len(self._entries)))]
        self._file.write(b"".join(orjson.dumps(entry) + b"\n" for entry in batch))

    def close(self) -> None:
        """Write the rest."""
        while self._entries:
            self.write_some()
        self._file.close()
