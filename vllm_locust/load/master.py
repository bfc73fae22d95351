"""The workers, as the master sees them: gives them their orders, and gathers what they measured.

A worker takes part from its `hello` to its last report, or until Locust misses its heartbeat. One that is
lost stays in the results with what it had reported; one that comes late is let in.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from gevent.event import Event
from locust.runners import STATE_MISSING, MasterRunner

from vllm_locust.core.recording import Recording
from vllm_locust.core.validity import Stamps
from vllm_locust.load.conductor import Conductor, Part
from vllm_locust.load.crew import set_users
from vllm_locust.load.messages import TO_WORKER
from vllm_locust.load.outside import Outside
from vllm_locust.load.phases import Phase

logger = logging.getLogger(__name__)

# An order for a moment to come reaches every worker before it.
_LEAD_S = 0.2
# For the last reports, once the last requests are over.
_REPORT_LIMIT_S = 10.0
_LOOK_EVERY_S = 0.25
# For a worker that was started to be ready: it asks the server and reads the data set first.
_HELLO_LIMIT_S = 60.0


@dataclass(slots=True)
class _Worker:
    """What is known of a worker: its place among the others, and its last report."""

    index: int
    name: str
    heard_s: float
    """When it last reported."""
    recorded: int = 0
    handed_out: int = 0
    in_flight: int = 0
    cpu_share: float = 0.0
    unstamped: bool = False
    outside: Outside = field(default_factory=Outside)
    leaving: bool = False
    """It was told to end, and is finishing what it has begun."""
    done: bool = False
    """Its last report is here."""
    was_missing: bool = False
    """Locust missed its heartbeat for a while."""


class Workers:
    """A crew of other processes.

    `keep_lines` gets their lines of requests.jsonl, `on_delta` what they measured, as `Recording.to_dict`.
    """

    lead_s = _LEAD_S

    conductor: Conductor

    def __init__(
        self,
        runner: MasterRunner,
        run_id: str,
        began_s: float,
        keep_lines: Callable[[bytes], None],
        on_delta: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._on_delta = on_delta
        self.recording = Recording()
        self._runner = runner
        self._run = run_id
        self._began_s = began_s
        self._keep_lines = keep_lines
        self._workers: dict[str, _Worker] = {}
        self._news = Event()

    # -- for the conductor --------------------------------------------------------------------------------

    @property
    def present(self) -> Sequence[str]:
        """Those who have said hello, and from whom more is to come."""
        there: list[tuple[int, str]] = []
        for client, worker in self._workers.items():
            node = self._runner.clients.get(client)
            if node is not None and node.state == STATE_MISSING:
                worker.was_missing = True
            elif node is not None and not worker.done:
                there.append((worker.index, client))
        return [client for _, client in sorted(there)]

    @property
    def members(self) -> Sequence[str]:
        """Those of them who stay; at first nobody, until all whom Locust has started have said hello."""
        if not self.conductor.begun and not self._all_said_hello:
            return []
        return [client for client in self.present if not self._workers[client].leaving]

    @property
    def _all_said_hello(self) -> bool:
        started = (client for client, node in self._runner.clients.items() if node.state != STATE_MISSING)
        waited_s = perf_counter() - self._began_s
        return waited_s > _HELLO_LIMIT_S or all(client in self._workers for client in started)

    @property
    def users(self) -> int:
        return self._runner.user_count

    @property
    def target_users(self) -> int:
        return self._runner.target_user_count

    def set_users(self, users: int) -> None:
        set_users(self._runner, users)

    def begin(self, who: str, phase: Phase, at_s: float, part: Part) -> None:
        self._tell(who, "begin", phase=phase.to_dict(), at_s=at_s, part=asdict(part))

    def grant(self, who: str, phase: int, indices: Sequence[int], last: bool) -> None:
        self._tell(who, "grant", phase=phase, indices=list(indices), last=last)

    def amend(self, who: str, phase: int, at_s: float, part: Part) -> None:
        self._tell(who, "amend", phase=phase, at_s=at_s, part=asdict(part))

    def end(self, phase: int) -> None:
        self._tell_all("end", phase=phase)

    # -- from the workers ---------------------------------------------------------------------------------

    def hear(self, who: str, message: Mapping[str, Any]) -> None:
        """Take in what a worker says."""
        if message["run"] != self._run:
            return
        if message["do"] == "what_time":
            elapsed_s = perf_counter() - self._began_s
            self._tell(who, "time", elapsed_s=elapsed_s, asked_s=message["asked_s"])
        elif message["do"] == "hello":
            self._welcome(who, message)
        elif (worker := self._workers.get(who)) is None:
            return
        elif message["do"] == "report":
            self._take_in(worker, message)
        elif message["do"] == "leaving":
            worker.leaving = True
            self.conductor.changed()
        else:
            self._pass_on(who, message)

    def _welcome(self, who: str, message: Mapping[str, Any]) -> None:
        self._workers[who] = _Worker(self._runner.get_worker_index(who), message["name"], perf_counter())
        if self.conductor.over:
            self._tell(who, "finish")

    def _pass_on(self, who: str, message: Mapping[str, Any]) -> None:
        phase = message["phase"]
        match message["do"]:
            case "ask":
                self.conductor.ask(who, phase, message["count"])
            case "give_back":
                self.conductor.give_back(who, phase, message["indices"])
            case "ended":
                self.conductor.ended(who, phase, message["next_i"])
            case "idle":
                self.conductor.idle(who, phase)

    def _take_in(self, worker: _Worker, report: Mapping[str, Any]) -> None:
        delta = Recording.from_dict(report["recording"])
        self.recording.merge(delta)
        if self._on_delta is not None:
            self._on_delta(report["recording"])
        self._keep_lines(zlib.decompress(report["lines"]))
        worker.heard_s = perf_counter()
        worker.recorded += sum(group.planned for group in delta.groups.values())
        worker.handed_out = report["handed_out"]
        worker.in_flight = report["in_flight"]
        worker.cpu_share = report["cpu_share"]
        worker.unstamped = report["unstamped"]
        worker.outside = Outside.from_dict(report["outside"])
        worker.done = report["last"]
        self._news.set()

    # -- for the run --------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return sum(worker.in_flight for worker in self._workers.values() if not worker.done)

    @property
    def handed_out(self) -> int:
        return sum(worker.handed_out for worker in self._workers.values() if worker.done)

    @property
    def recorded(self) -> int:
        return sum(worker.recorded for worker in self._workers.values() if worker.done)

    @property
    def cpu_shares(self) -> Mapping[str, float]:
        return {f"worker {worker.index}": worker.cpu_share for worker in self._in_order()}

    @property
    def stamps(self) -> Stamps:
        return "read" if any(worker.unstamped for worker in self._workers.values()) else "kernel"

    @property
    def workers(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "worker": worker.index,
                "name": worker.name,
                "requests": worker.recorded,
                "cpu_share": worker.cpu_share,
                "lost_after_s": None if worker.done else worker.heard_s - self._began_s,
                "was_missing": worker.was_missing and worker.done,
                "unaccounted": 0 if worker.done else worker.handed_out - worker.recorded,
            }
            for worker in self._in_order()
        ]

    @property
    def outside(self) -> Outside:
        return Outside.of_all(worker.outside for worker in self._workers.values())

    def tell(self) -> None:
        """It is told as it comes."""

    def settle(self) -> None:
        """Workers report before they say that they are idle."""

    def stop_load(self) -> None:
        self._tell_all("finish")

    def drain(self, limit_s: float) -> None:
        """Wait for the last report of everybody who is still there."""
        deadline_s = perf_counter() + limit_s + _REPORT_LIMIT_S
        while self.present and (left_s := deadline_s - perf_counter()) > 0:
            self._news.clear()
            self._news.wait(min(left_s, _LOOK_EVERY_S))

    def cancel(self) -> None:
        self._tell_all("cancel")
        self.drain(0.0)

    def close(self) -> None:
        for worker in self._in_order():
            if not worker.done:
                logger.warning("Worker %d (%s) was lost.", worker.index, worker.name)

    # ------------------------------------------------------------------------------------------------------

    def _in_order(self) -> Sequence[_Worker]:
        return sorted(self._workers.values(), key=lambda worker: worker.index)

    def _tell(self, who: str, do: str, **fields: Any) -> None:
        self._runner.send_message(TO_WORKER, {"do": do, "run": self._run, **fields}, client_id=who)

    def _tell_all(self, do: str, **fields: Any) -> None:
        for who in self.present:
            self._tell(who, do, **fields)
