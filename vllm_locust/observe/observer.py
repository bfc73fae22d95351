"""Looks at the server, follows the run, and shows both: what the observer's process does, and the exporter.

Rule: threads deliver and ask, one lock guards what they share, and nothing slow happens while it is held: a
sample is parsed before, a page is rendered after.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, RLock, Thread
from time import perf_counter, sleep
from typing import Any

from vllm_locust.core.server import ServerSample
from vllm_locust.core.server_recording import ServerRecording
from vllm_locust.observe.answer import LIMIT_S, Source, distinct
from vllm_locust.observe.endpoint import Endpoint
from vllm_locust.observe.gpu import GpuReader
from vllm_locust.observe.live import Identity, LiveRun, LoadState
from vllm_locust.observe.log_follower import LogFollower
from vllm_locust.observe.metrics import Page
from vllm_locust.observe.scraper import Scraper
from vllm_locust.observe.sources import ServerSource
from vllm_locust.observe.status import ServerStatus
from vllm_locust.observe.view import live_view

Say = Callable[[Mapping[str, Any]], None]

_TICK_S = 1.0
# How often a look that was asked for is checked for.
_LOOK_EVERY_S = 0.01
_TURNS = "several servers take turns behind this address: name each of them with --server-metrics-url"


class Observer:
    """`say` gets what `observe.wire` calls the messages from the observer, from any thread."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lock = RLock()
        self._run: LiveRun | None = None
        self._sources: Sequence[ServerSource] = ()
        self._latest: dict[str, ServerSample] = {}
        self._baselines: dict[str, ServerSample] = {}
        """What each source said first, before a run's load: what was counted since, nobody else knows."""
        self._loaded = False
        self._seen = ServerRecording()
        """Since the run began: whether several servers take turns is what it is asked for."""
        self._endpoint: Endpoint | None = None
        self._closed = Event()
        self._ticker = Thread(target=self._tick_regularly, daemon=True)
        self._ticker.start()

    # -- what it is to do ---------------------------------------------------------------------------------

    def listen(self, bind: tuple[str, int]) -> str:
        """Serve Prometheus there; the page's address. UsageError when that is impossible."""
        self._endpoint = Endpoint(*bind, self._render, self._served)
        return self._endpoint.url

    def watch(
        self, sources: Sequence[Mapping[str, Any]], logs: Sequence[str], gpu: bool, interval_s: float
    ) -> None:
        """Ask these about the server from now on."""
        for source in self._sources:
            source.stop()
        asked = distinct(Source(**source) for source in sources)
        gpus = [GpuReader(interval_s, self._deliver)] if gpu else []
        with self._lock:
            self._latest, self._baselines, self._seen = {}, {}, ServerRecording()
            self._sources = [
                *(Scraper(source, interval_s, self._deliver, self._tell) for source in asked),
                *(LogFollower(Path(path), self._deliver, self._tell) for path in logs),
                *(reader for reader in gpus if reader.present),
            ]
        for source in self._sources:
            source.start()

    def begin(self, identity: Identity) -> None:
        """A run begins; it takes the place of the one before."""
        with self._lock:
            self._run = LiveRun(identity)
            self._baselines, self._seen, self._loaded = {}, ServerRecording(), False

    def phase(self, **phase: Any) -> None:
        """A phase of the run begins, see `LiveRun.begin_phase`."""
        with self._lock:
            if self._run is not None:
                self._run.begin_phase(**phase)
                self._loaded = True

    def delta(self, recording: Mapping[str, Any]) -> None:
        """This was measured since the last time."""
        with self._lock:
            if self._run is not None:
                self._run.add(recording)

    def state(self, **load: Any) -> None:
        """How the run stands, see `LoadState`."""
        with self._lock:
            if self._run is not None:
                self._run.state(self._run.identity.since_begin_s(perf_counter()), LoadState(**load))

    def end(self) -> None:
        """The run is over."""
        with self._lock:
            if self._run is not None:
                self._run.end(self._run.identity.since_begin_s(perf_counter()))
        self._say({"say": "ended", "at_s": perf_counter()})
        self._show()

    def scrape(self, token: int) -> None:
        """Ask the server now, and say when that is done."""
        Thread(target=self._scrape_and_say, args=(token, perf_counter()), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        for source in self._sources:
            source.stop()
        if self._endpoint is not None:
            self._endpoint.stop()
        self._ticker.join()

    # -- what its threads do ------------------------------------------------------------------------------

    def _deliver(self, sample: ServerSample) -> None:
        with self._lock:
            self._latest[sample.source] = sample
            if not self._loaded:
                self._baselines.setdefault(sample.source, sample)
            known = self._seen.takes_turns(sample.source)
            self._seen.add(sample)
            found = self._seen.takes_turns(sample.source) and not known
            if self._run is not None and self._run.ended_s is None:
                at_s = self._run.identity.since_begin_s(sample.at_s)
                self._run.series.add_servers(max(at_s, 0.0), self._statuses())
        if found:
            self._tell(f"{sample.source}: {_TURNS}. What it tells is not shown.")
        self._say({"say": "sample", "sample": sample.to_dict()})

    def _tell(self, sentence: str) -> None:
        self._say({"say": "tell", "sentence": sentence})

    def _tick_regularly(self) -> None:
        while not self._closed.wait(_TICK_S):
            self._show()

    def _show(self) -> None:
        with self._lock:
            statuses = self._statuses()
            exporter = None if self._endpoint is None else self._endpoint.url
            view = live_view(self._run, statuses, exporter, perf_counter())
        self._say_how_sources_are()
        self._say({"say": "view", "body": view})

    def _say_how_sources_are(self) -> None:
        """Whether they can be asked; what is wrong with what they tell is for whoever sums it up."""
        sources = [
            {"source": source.name, "up": source.status.up, "problem": source.status.problem}
            for source in self._sources
        ]
        self._say({"say": "status", "sources": sources})

    def _statuses(self) -> list[ServerStatus]:
        return [self._status(source) for source in self._sources]

    def _status(self, source: ServerSource) -> ServerStatus:
        several = self._seen.takes_turns(source.name)
        return ServerStatus(
            source.name,
            source.status.up,
            source.status.problem or (_TURNS if several else None),
            None if several else self._latest.get(source.name),
            self._baselines.get(source.name),
            source.status.scrape_s,
        )

    def _scrape_and_say(self, token: int, asked_s: float) -> None:
        sources = self._sources
        for source in sources:
            source.scrape_soon()
        while perf_counter() - asked_s < LIMIT_S and not self._closed.is_set():
            if all(_has_looked(source, asked_s) for source in sources):
                break
            sleep(_LOOK_EVERY_S)
        self._say_how_sources_are()
        self._say({"say": "done", "token": token})

    def _render(self) -> bytes:
        with self._lock:
            page = Page(self._run, self._statuses())
        return page.render()

    def _served(self, began_s: float) -> None:
        self._say({"say": "served", "began_s": began_s})


def _has_looked(source: ServerSource, since_s: float) -> bool:
    """Whether a look that began since then is over; of one that has a problem no other is waited for."""
    status = source.status
    return status.problem is not None or (status.asked_s is not None and status.asked_s >= since_s)
