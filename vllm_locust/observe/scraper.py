"""Asks a server's `/metrics` again and again, and says so in a sentence when it cannot.

Rule: the run goes on whatever answers. A trouble is told once, until the source has been fine again, and all
in all so seldom that a server which comes and goes fills no log.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from vllm_locust.core.server import ServerSample, parse_page
from vllm_locust.observe.answer import LIMIT_S, Questioner, Source, Trouble
from vllm_locust.observe.sources import Rounds, SourceStatus

_MOST_WARNINGS = 5
_LASTING_INTERVAL_S = 10.0


class Scraper:
    """One source, asked every `interval_s`.

    `deliver` gets the samples and `tell` the sentences, both in the scraper's own thread.
    """

    def __init__(
        self,
        source: Source,
        interval_s: float,
        deliver: Callable[[ServerSample], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = perf_counter,
        *,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.name = source.name
        self.status = SourceStatus()
        self._shown = source.shown
        self._interval_s = interval_s
        self._deliver = deliver
        self._tell = tell
        self._clock = clock
        self._questioner = Questioner(source, clock, limit_s)
        self._due_s = clock()
        self._told: set[str] = set()
        self._warnings = 0
        self._away_since_s: float | None = None
        self._rounds = Rounds(self.name, self._look)

    def start(self) -> None:
        """Ask now, and from then on regularly."""
        self._due_s = self._clock()
        self._rounds.start()

    def scrape_soon(self) -> None:
        """Ask now, besides."""
        self._rounds.soon()

    def stop(self) -> None:
        """Ask no more; a question under way is broken off."""
        self._rounds.stop(self._questioner.interrupt)

    # ------------------------------------------------------------------------------------------------------

    def _look(self) -> float:
        began_s = self._clock()
        interval_s = self._interval_s
        try:
            page = self._questioner.ask()
            taken_s = self._clock() - began_s
            sample = self._sample(page.text, page.at_s)
        except Trouble as trouble:
            if self._rounds.stopping:
                return 0.0
            self._meet(trouble, began_s)
            if trouble.lasting:
                interval_s = max(interval_s, _LASTING_INTERVAL_S)
        else:
            self._be_fine(began_s, taken_s)
            self._deliver(sample)
            self.status = replace(self.status, asked_s=began_s)
        return self._until_next(interval_s)

    def _sample(self, text: str, at_s: float) -> ServerSample:
        try:
            engines, gpus = parse_page(text)
        except ValueError as error:
            hint = "--server-metrics-url names another address"
            raise Trouble("page", f"does not give vLLM's metrics: {error}", hint) from None
        return ServerSample(self.name, at_s, engines, gpus)

    def _until_next(self, interval_s: float) -> float:
        """Seconds until the source is asked again: on the beat of the interval, whatever came between."""
        now_s = self._clock()
        if now_s >= self._due_s:
            self._due_s += interval_s
            if self._due_s <= now_s:  # behind: what was missed is not made up for
                self._due_s = now_s + interval_s
        return self._due_s - now_s

    def _be_fine(self, began_s: float, taken_s: float) -> None:
        self.status = replace(self.status, up=True, problem=None, scrape_s=taken_s)
        if self._away_since_s is not None and self._told:
            self._tell(f"{self._shown} gives metrics again, after {began_s - self._away_since_s:.0f} s.")
        self._away_since_s = None
        self._told.clear()

    def _meet(self, trouble: Trouble, began_s: float) -> None:
        self.status = SourceStatus(False, trouble.clause, None, began_s)
        if self._away_since_s is None:
            self._away_since_s = began_s
        if trouble.kind in self._told or self._warnings >= _MOST_WARNINGS:
            return
        self._told.add(trouble.kind)
        self._warnings += 1
        hint = f" ({trouble.hint})" if trouble.hint else ""
        last = " Nothing more is said of it." if self._warnings == _MOST_WARNINGS else ""
        self._tell(f"{self._shown} {trouble.clause}{hint}: the server's metrics are missing meanwhile.{last}")
