"""Locust's CSV files (`--csv`), written once more when all is over.

Locust writes them every second and not at the end, so that what came in the last second is missing. The rows
written here are the last ones: each file tells of the whole run, as the tables do that Locust prints.
"""

import time
from typing import Any

import gevent
import locust.stats
from locust.env import Environment
from locust.stats import StatsCSVFileWriter


def use_complete_files() -> None:
    """Make Locust use `CompleteCsvFiles` in this process: to be called before it opens its files."""
    locust.stats.StatsCSVFileWriter = CompleteCsvFiles  # type: ignore[misc, assignment]


class CompleteCsvFiles(StatsCSVFileWriter):
    """Locust's own writer, with an end."""

    def __init__(self, environment: Environment, *arguments: Any) -> None:
        super().__init__(environment, *arguments)
        self._regular: Any = None
        """The greenlet that writes every second."""
        # Before the first listener of `init` is told anything: what they print comes when this is done.
        environment.events.quit.add_listener(self._write_the_end)

    def stats_writer(self) -> None:
        self._regular = gevent.getcurrent()
        super().stats_writer()

    def _write_the_end(self, **_: Any) -> None:
        if self._regular is not None:
            self._regular.kill()  # nothing changes any more, and the history must not go on
        history = self.stats_history_csv_filehandle
        if not history.tell():
            self.stats_history_csv_writer.writerow(self.stats_history_csv_columns)
        self._stats_history_data_rows(self.stats_history_csv_writer, time.time())
        history.flush()
        for file, write_all, writer in (
            (self.requests_csv_filehandle, self.requests_csv, self.requests_csv_writer),
            (self.failures_csv_filehandle, self.failures_csv, self.failures_csv_writer),
            (self.exceptions_csv_filehandle, self.exceptions_csv, self.exceptions_csv_writer),
        ):
            file.seek(0)
            write_all(writer)
            file.truncate()
            file.flush()
