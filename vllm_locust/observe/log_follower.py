"""Follows the log of a vLLM server as it grows, as `tail -F` does.

Rule: what stood in the file before is history and not read; a file that takes its place is read from its
beginning. Memory stays flat, whatever is in the file.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from vllm_locust.core.server import EngineState, ServerSample
from vllm_locust.core.server_log import parse_line
from vllm_locust.observe.sources import Rounds, SourceStatus

_INTERVAL_S = 0.25
_BLOCK_BYTES = 1 << 20
_LONGEST_LINE = 1 << 16
# vLLM writes every 10 s, for one engine after the other, and not at all when it has nothing to do.
_KNOWN_FOR_S = 15.0


class LogFollower:
    """One log. `deliver` gets the samples and `tell` the sentences, both in the follower's own thread.

    A sample holds the latest line of every engine.
    """

    def __init__(
        self,
        path: Path,
        deliver: Callable[[ServerSample], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = perf_counter,
        *,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self.name = path.name
        self.status = SourceStatus()
        self._path = path
        self._deliver = deliver
        self._tell = tell
        self._clock = clock
        self._interval_s = interval_s
        self._file: int | None = None
        self._first = True
        self._told: str | None = None
        self._rest = b""
        self._engines: dict[str, tuple[float, EngineState]] = {}
        self._rounds = Rounds(self.name, self._look, self._close)

    def start(self) -> None:
        """Begin at the end of the file as it is now."""
        self._rounds.start()

    def scrape_soon(self) -> None:
        """Read now what there is."""
        self._rounds.soon()

    def stop(self) -> None:
        """Follow no more."""
        self._rounds.stop()

    # ------------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        began_s = self._clock()
        try:
            heard = self._read_on()
        except OSError as error:
            self._close()
            self._meet(error.strerror or type(error).__name__, began_s)
        else:
            self.status = replace(self.status, up=True, problem=None)
            self._told = None
            if heard:
                self._deliver(self._sample(began_s))
            self.status = replace(self.status, asked_s=began_s)
        self._first = False
        return self._interval_s

    def _meet(self, problem: str, began_s: float) -> None:
        self.status = SourceStatus(False, problem, None, began_s)
        if problem != self._told:
            self._told = problem
            self._tell(f"--server-log {self._path}: {problem}. It is followed as soon as it can be read.")

    def _read_on(self) -> bool:
        """Take in what is new; whether an engine told something."""
        heard = False
        if self._file is not None:
            heard = self._take_in()
            if not self._is_same():
                heard |= self._take_in()  # what was written between reading and replacing
                self._close()
        if self._file is None:
            self._file = _open(self._path)
            if self._first:
                os.lseek(self._file, 0, os.SEEK_END)
            heard |= self._take_in()
        return heard

    def _is_same(self) -> bool:
        """Whether the path still names the open file. One that was cut short is read from its begin next."""
        assert self._file is not None
        here, there = os.fstat(self._file), self._path.stat()
        if here.st_size < os.lseek(self._file, 0, os.SEEK_CUR):
            os.lseek(self._file, 0, os.SEEK_SET)
            self._rest = b""
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def _take_in(self) -> bool:
        heard = False
        for line in self._lines():
            state = parse_line(line)
            if state is not None:
                heard = True
                _, known = self._engines.get(state.engine, (0.0, state))
                gauges = {**known.gauges, **state.gauges}
                self._engines[state.engine] = (self._clock(), EngineState(state.engine, "", gauges))
        return heard

    def _lines(self) -> Iterator[str]:
        assert self._file is not None
        while (block := os.read(self._file, _BLOCK_BYTES)) and not self._rounds.stopping:
            *lines, self._rest = (self._rest + block).split(b"\n")
            if len(self._rest) > _LONGEST_LINE:
                self._rest = b""
            yield from (line.decode("utf-8", "replace") for line in lines if len(line) <= _LONGEST_LINE)

    def _sample(self, at_s: float) -> ServerSample:
        self._engines = {
            name: (heard_s, state)
            for name, (heard_s, state) in self._engines.items()
            if at_s - heard_s <= _KNOWN_FOR_S
        }
        in_order = sorted(self._engines, key=int)
        return ServerSample(self.name, at_s, tuple(self._engines[name][1] for name in in_order))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._rest = b""


def _open(path: Path) -> int:
    """A descriptor to read from; OSError for what is no file."""
    # A pipe would wait for whoever writes into it.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(0, "it is no file")
    return file
