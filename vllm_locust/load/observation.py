"""One run, as the observer is told of it, and what the observer learns of the server meanwhile.

Rule: whatever is told or written is small and soon done: the process that does it is the one that measures.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import gevent

from vllm_locust.core.rate import parse_rate
from vllm_locust.core.server import ServerSample
from vllm_locust.core.server_recording import ServerRecording
from vllm_locust.core.server_table import header, rows
from vllm_locust.load.crew import Crew
from vllm_locust.load.observer import ObserverLink, Watch
from vllm_locust.load.phases import TRACE, Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.results import ResultsFolder
from vllm_locust.observe.addresses import LOOPBACK, same_origin

_REQUESTS_LOOKED_AT = 32
_TURNS_LOOKED_AT = 32
# Locust's clock runs already: a server that is slower than that has to do with what it said before.
_BASELINE_LIMIT_S = 0.25
# Where that will not do, as it said nothing yet, or counts from now on what is no load.
_NEEDED_LIMIT_S = 2.0
# Nothing is measured any more: as long as the observer gives a server to answer, and a little.
_LAST_LIMIT_S = 6.0
_LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What is known of the server at the end of a run."""

    recording: ServerRecording
    sources: Sequence[Mapping[str, Any]]


def what_to_watch(prepared: Prepared) -> Watch:
    """The sources that a run's options name; by default `/metrics` of the target."""
    settings = prepared.settings
    urls = settings.server_metrics_urls
    if urls is None:  # a log is given where the server's metrics cannot be reached
        own = () if settings.server_log is not None else prepared.targets
        urls = [f"{target.origin}{target.resource('/metrics')}" for target in own]
    return Watch(
        [{"url": url, "headers": _headers_for(url, prepared), "insecure": settings.insecure} for url in urls],
        [] if settings.server_log is None else [str(settings.server_log)],
        gpu=settings.watches_server and all(target.host in _LOOPBACK_NAMES for target in prepared.targets),
        interval_s=settings.server_metrics_interval_s,
    )


def _headers_for(url: str, prepared: Prepared) -> dict[str, str]:
    """What a target gets with its requests: it may know that, such as a key, and nobody else."""
    for target in prepared.targets:
        if same_origin(url, target.origin):
            return {**target.headers, **prepared.settings.headers}
    return {}


class Observation:
    """Follows a run from its begin to its end."""

    def __init__(
        self,
        observer: ObserverLink,
        prepared: Prepared,
        identity: Mapping[str, Any],
        began_s: float,
        results: ResultsFolder | None,
    ) -> None:
        """`identity` leads the run's summary. Asks the server how it stands before, if it answers at once."""
        self._observer = observer
        self._began_s = began_s
        self._results = results
        self._server = ServerRecording()
        self._phase: Phase | None = None
        self._phase_began_s = 0.0
        self._loaded = False
        self._warm: gevent.Greenlet[..., Any] | None = None
        self._heard = False
        observer.watch(what_to_watch(prepared))
        observer.tell(
            "begin",
            run=identity["run"],
            scenario=identity["scenario"] or "",  # a label that is empty is none
            model=identity["model_id"],
            host=identity["host"],
            goodput_ms=dict(prepared.settings.goodput_ms) or None,
            loop=prepared.settings.loop,
            began_s=began_s,
            profiles=_profiles(prepared),
        )
        for sample in observer.latest.values():
            self._take_in(sample)
        observer.on_sample = self._take_in
        observer.scrape().wait(_BASELINE_LIMIT_S if observer.latest else _NEEDED_LIMIT_S)

    # -- told by the run ----------------------------------------------------------------------------------

    def before_others_ask(self) -> None:
        """What is asked until the next phase begins is no load."""
        self._observer.scrape().wait(_NEEDED_LIMIT_S)
        if self._phase is not None:
            self._server.leave_phase(self._phase.number, perf_counter())

    def phase_begins(self, phase: Phase) -> None:
        """Its counters are what the server says before its first request."""
        self._observer.scrape().wait(_BASELINE_LIMIT_S)

    def phase_began(self, phase: Phase, at_s: float, of: int | None) -> None:
        """A phase's load begins `at_s` seconds into the run; there are `of`, if that is known."""
        self._phase, self._phase_began_s, self._loaded = phase, at_s, True
        self._server.begin_phase(phase.number, self._began_s + at_s, phase.warmup_s)
        level, unit = _level(phase)
        self._observer.tell(
            "phase", number=phase.number, title=phase.title, level=level, unit=unit, at_s=at_s, of=of
        )
        if phase.warmup_s:
            warm_s = self._began_s + at_s + phase.warmup_s
            self._warm = gevent.spawn_later(max(warm_s - perf_counter(), 0.0), self._observer.scrape)

    def phase_ended(self, phase: Phase) -> None:
        """Its load is over."""
        self._loaded = False
        self._server.close_phase(phase.number, perf_counter())
        self._observer.scrape()

    def phase_drained(self, phase: Phase) -> None:
        """Nothing that the server has not told by itself."""

    def delta(self, recording: Mapping[str, Any]) -> None:
        """This was measured since the last time: `Recording.to_dict`."""
        self._observer.tell("delta", recording=recording)

    def tick(self, crew: Crew, load_state: str, *, lost: int, lost_workers: Sequence[str]) -> None:
        """How the run stands, once a second. `lost` requests are not accounted for; see `core.validity`."""
        self._observer.tell(
            "state",
            users=crew.users,
            in_flight=crew.in_flight,
            request_rate_target=self._rate_now(),
            cpu_shares=dict(crew.cpu_shares),
            stamps=crew.stamps,
            load_state=load_state,
            lost=lost,
            lost_workers=lost_workers,
        )

    def settle(self) -> ServerSide:
        """Nothing more is measured: what the server says of it all."""
        if self._warm is not None:
            self._warm.kill()
        if self._phase is not None and self._loaded:
            self.phase_ended(self._phase)
        self._observer.scrape().wait(_LAST_LIMIT_S)
        self._observer.on_sample = None
        return ServerSide(self._server, self._observer.sources)

    def end(self) -> None:
        """The run is over."""
        self._observer.tell("end")

    # ------------------------------------------------------------------------------------------------------

    def _take_in(self, sample: ServerSample) -> None:
        self._server.add(sample)
        if self._results is not None:
            if not self._heard:
                self._results.add_server_metrics(header())
                self._heard = True
            self._results.add_server_metrics(rows(sample, self._began_s))

    def _rate_now(self) -> float | None:
        """Requests per second that the plan has now, for all users; None in a closed loop and for a trace."""
        phase = self._phase
        if phase is None or not self._loaded or phase.rate is None or phase.rate == TRACE:
            return None
        return parse_rate(phase.rate).rate_at(perf_counter() - self._began_s - self._phase_began_s)


def _profiles(prepared: Prepared) -> list[str]:
    """The profiles among the first requests of each phase."""
    names: dict[str, None] = {}
    for phase in prepared.scenario.phases:
        with suppress(Exception):  # a request that cannot be made is dropped when its turn comes
            for index in range(_REQUESTS_LOOKED_AT):
                planned = phase.request(prepared.settings.seed, index)
                names[planned.profile] = None
                for _ in range(_TURNS_LOOKED_AT):
                    if planned.then is None or (following := planned.then("")) is None:
                        break
                    planned = following.request
                    names[planned.profile] = None
    return list(names)


def _level(phase: Phase) -> tuple[float | None, str]:
    """The load that a phase stands for, where it is one number, and what it counts."""
    if phase.users is not None:
        return phase.users, "users"
    try:
        return float(phase.rate or ""), "rate"
    except ValueError:
        return None, "users"
