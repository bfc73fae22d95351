"""What all sources of a server's metrics share: how they are started, asked, and told from one another.

Rule: a source looks in a thread of its own, and whatever it meets there, the others and the run go on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread, current_thread
from typing import Protocol

# A thread that a name server or a dead address keeps longer ends by itself, later.
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source stood after its latest look."""

    up: bool = False
    problem: str | None = None
    """Why it is not up, a clause; None too before the first look."""
    scrape_s: float | None = None
    """How long the latest look took, if it brought something."""
    asked_s: float | None = None
    """When the latest look began that is over, its sample delivered, on this machine's clock."""


class ServerSource(Protocol):
    """Delivers a `ServerSample` for each look that brings something; its samples bear its `name`."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> SourceStatus: ...

    def start(self) -> None:
        """Look now, and from then on regularly."""

    def scrape_soon(self) -> None:
        """Look now, besides; a look under way is followed by another."""

    def stop(self) -> None:
        """Look no more."""


class Rounds:
    """A daemon thread that looks again and again.

    `look` is called for each round and says how many seconds to wait until the next; `leave` is called last,
    in the same thread.
    """

    def __init__(
        self, name: str, look: Callable[[], float], leave: Callable[[], None] = lambda: None
    ) -> None:
        self._look = look
        self._leave = leave
        self._wake = Event()
        self._thread = Thread(target=self._go_round, name=f"look at {name}", daemon=True)
        self.stopping = False

    def start(self) -> None:
        self._thread.start()

    def soon(self) -> None:
        """The next round is now."""
        self._wake.set()

    def stop(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """End the thread, and wait for that a moment. `interrupt` ends a look that is under way."""
        self.stopping = True
        self._wake.set()
        interrupt()
        if self._thread.is_alive() and self._thread is not current_thread():
            self._thread.join(_JOIN_S)

    def _go_round(self) -> None:
        try:
            while not self.stopping:
                self._wake.clear()
                wait_s = self._look()
                if not self.stopping:
                    self._wake.wait(wait_s)
        finally:
            self._leave()
