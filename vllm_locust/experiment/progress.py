"""What an experiment says while it goes on: a line for each step, and on a terminal one that is alive.

Rule: a log that is not a terminal gets whole lines only.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from vllm_locust.experiment.plan import Run, Session

Clock = Callable[[], float]

_ALIVE_EVERY_S = 1.0


class Progress:
    """Prints to `out`."""

    def __init__(self, out: TextIO, clock: Clock = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._terminal = out.isatty()
        self._step = ""
        self._began_s = self._told_s = 0.0
        self._alive_width = 0

    def begin(self, step: str) -> None:
        """A step begins; `end` says what came of it."""
        self._step = step
        self._began_s = self._told_s = self._clock()

    def tell(self, what: str = "") -> None:
        """How the step goes on; may be called as often as one likes."""
        now_s = self._clock()
        if self._terminal and now_s - self._told_s >= _ALIVE_EVERY_S:
            self._told_s = now_s
            line = f"{self._step} ... {f'{what}, ' if what else ''}{now_s - self._began_s:.0f} s"
            self._print(f"\r{line:<{self._alive_width}}", end="")
            self._alive_width = len(line)

    def end(self, what: str) -> None:
        """What came of the step."""
        self.say(f"{self._step} ... {what}")

    def say(self, line: str) -> None:
        """A line of its own."""
        self._print(f"\r{line:<{self._alive_width}}" if self._alive_width else line)
        self._alive_width = 0

    def _print(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out, flush=True)


class Estimate:
    """The time that is left, from what took how long so far."""

    def __init__(self) -> None:
        self._starts_s: list[float] = []
        self._runs_s: dict[tuple[str, str], list[float]] = {}

    def started(self, seconds: float) -> None:
        """A session's server was ready, and warm, after so long."""
        self._starts_s.append(seconds)

    def ran(self, run: Run, seconds: float) -> None:
        """A run took so long."""
        self._runs_s.setdefault((run.workload, run.load), []).append(seconds)

    def left_s(self, runs: Sequence[Run], sessions: int) -> float | None:
        """Of these runs and of so many sessions to be started; None while there is nothing to go by."""
        known = [seconds for several in self._runs_s.values() for seconds in several]
        if not known:
            return None
        usual_s = sum(known) / len(known)
        pairs = {pair: sum(several) / len(several) for pair, several in self._runs_s.items()}
        start_s = sum(self._starts_s) / len(self._starts_s) if self._starts_s else 0.0
        return sum(pairs.get((run.workload, run.load), usual_s) for run in runs) + sessions * start_s


def left_in_words(seconds: float | None) -> str:
    """`; about 12 min left`, or nothing while it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"; about {round(seconds / 5) * 5:.0f} s left"
    if seconds < 5400:
        return f"; about {seconds / 60:.0f} min left"
    return f"; about {seconds / 3600:.1f} h left"


def title(session: Session) -> str:
    """Of a session."""
    return f"{session.configuration.name} #{session.repeat}"


def run_title(run: Run, number: int, total: int) -> str:
    """Of a run: `[7/24] on-512 sharegpt all-at-once #1`."""
    return f"[{number}/{total}] {run.configuration.name} {run.workload} {run.load} #{run.repeat}"


def in_short(outcome: str, why: str | None, seconds: float, summary: Mapping[str, Any] | None) -> str:
    """What came of a run, in one line."""
    parts = [f"{seconds:.1f} s"]
    if summary is not None and summary.get("completed"):
        parts.append(f"{summary['request_throughput']:.2f} req/s")
        ttft, which = summary.get("p99_ttft_ms"), "p99"
        if ttft is None:
            ttft, which = summary.get("mean_ttft_ms"), "mean"
        if ttft is not None:
            parts.append(f"{which} TTFT {ttft:.0f} ms")
    if outcome != "ok":
        parts.append(f"{outcome.replace('_', ' ').upper()}{f': {_one_line(why)}' if why else ''}")
    return ", ".join(parts)


def _one_line(why: str, most: int = 240) -> str:
    line = " ".join(why.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
