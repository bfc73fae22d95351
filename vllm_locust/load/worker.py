"""A worker's end of a run: it takes orders from the master, and reports what it measured.

What was measured travels as deltas, in messages of a bounded size: a report is cut once a second, and
whenever so many requests are finished. The master has all of it but the last second when this process dies.
"""

import logging
import os
import socket
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import RLock
from locust.env import Environment
from locust.runners import WorkerRunner

from vllm_locust.core.record import RequestRecord, to_json_line
from vllm_locust.core.recording import Recording
from vllm_locust.errors import UsageError
from vllm_locust.load.backlog import UNTIL_NEXT_ROUND_S
from vllm_locust.load.clock import RunClock
from vllm_locust.load.generator import Assignment, LoadGenerator
from vllm_locust.load.messages import TO_MASTER
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared

logger = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0
# So that a report stays below 64 KiB, see tests/load/test_worker.py.
REQUESTS_PER_REPORT = 100
# Lines of requests.jsonl are much alike: the fastest setting makes an eighth of them.
_COMPRESSION = 1
# A look of the conductor's, the lead of its orders, and some time on the way.
_HANDOVER_S = 1.0


def refuse(runner: WorkerRunner, run: str, error: UsageError) -> None:
    """Tell the master why this worker cannot take part."""
    runner.send_message(TO_MASTER, {"do": "refused", "run": run, "problems": list(error.problems)})


class WorkerLink:
    """Connects this worker's generator with the master, for one run."""

    def __init__(
        self,
        environment: Environment,
        runner: WorkerRunner,
        prepared: Prepared,
        run: Mapping[str, Any],
    ) -> None:
        """`run` is what the master says of the run: its `id` and its `seed`."""
        self._environment = environment
        self._runner = runner
        self._run = str(run["id"])
        self.finished = False
        self._reported = Event()
        self._lines: list[bytes] = []
        self._outbox: deque[Recording] = deque()
        self.generator = LoadGenerator(
            environment,
            prepared,
            leader=self,
            assignment=Assignment(self._run, run["seed"], perf_counter(), runner.worker_index),
            keep=self._keep,
            stock_ahead=True,
        )
        environment.vllm_generator = self.generator  # type: ignore[attr-defined]
        # What comes behind a report must not overtake a part of it.
        self._reporting = RLock()
        self._reporter = gevent.spawn(self._report_regularly)
        self._clock = RunClock()
        self._ask_for_time()

    def obey(self, order: Mapping[str, Any]) -> None:
        """Carry out an order of the master's; tell it when that is impossible."""
        if order["run"] != self._run:
            return
        try:
            self._carry_out(order)
        except Exception as error:
            logger.exception("Could not carry out %r", order["do"])
            self._tell("refused", problems=[f"{order['do']} failed: {error!r}"])

    def _carry_out(self, order: Mapping[str, Any]) -> None:
        generator = self.generator
        match order["do"]:
            case "time":
                self._set_clock(order)
            case "begin":
                generator.begin(Phase.from_dict(order["phase"]), order["at_s"], order["part"])
            case "grant":
                generator.grant(order["phase"], order["indices"], order["last"])
            case "amend":
                part = order["part"]
                generator.amend(
                    order["phase"],
                    order["at_s"],
                    scale=part["scale"],
                    position=part["position"],
                    of=part["of"],
                )
            case "end":
                generator.end(order["phase"])
            case "finish":
                gevent.spawn(self._runner.stop)
            case "cancel":
                self._runner.user_greenlets.kill(block=False)
                generator.cancel()

    def _ask_for_time(self) -> None:
        self._tell("what_time", asked_s=perf_counter())

    def _set_clock(self, answer: Mapping[str, Any]) -> None:
        """Ready for orders is who knows when the run began."""
        clock = self._clock
        clock.take_in(answer["asked_s"], answer["elapsed_s"], perf_counter())
        if not clock.settled:
            self._ask_for_time()
            return
        self.generator.set_clock(clock.began_s, clock.bound_s)
        self._tell("hello", name=f"{socket.gethostname()}:{os.getpid()}")

    def leave(self) -> None:
        """Tell the master that this worker ends, and do its part until others can take it over."""
        self._tell("leaving")
        if not self.generator.load_is_over:
            gevent.sleep(_HANDOVER_S)

    def finish(self) -> None:
        """All requests are done: the last report. Who calls second waits until it is sent."""
        if self.finished:
            self._reported.wait()
            return
        self.finished = True
        self._reporter.kill()
        self.generator.close()
        self._report_rows()
        self.report(last=True)
        self._reported.set()

    def report(self, last: bool = False) -> None:
        """Send what was measured since the report before, one message for each phase and profile.

        recording     `Recording.to_dict` of it
        lines         its lines of requests.jsonl, by zlib; in the first message
        handed_out    requests begun since the run began
        last          nothing will follow
        """
        with self._reporting:
            if self.finished and not last:
                return
            lines, self._lines = self._lines, []
            # One who is ended while it sends leaves the rest here, for the next report.
            self._outbox.extend(self.generator.take_recording().split())
            while self._outbox:
                self._tell(
                    "report",
                    recording=self._outbox.popleft().to_dict(),
                    lines=zlib.compress(b"".join(lines), _COMPRESSION),
                    handed_out=self.generator.handed_out,
                    in_flight=self.generator.transport.in_flight,
                    cpu_share=self.generator.cpu_share,
                    unstamped=self.generator.unstamped,
                    outside=self.generator.outside.to_dict(),
                    last=last and not self._outbox,
                )
                lines = []
                if self._outbox:
                    gevent.sleep(UNTIL_NEXT_ROUND_S)  # describing a part is a millisecond's work

    def _report_rows(self) -> None:
        """Locust's own statistics up to here: behind the last report the run is over for the master."""
        rows: dict[str, Any] = {}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=rows)
        self._runner.send_message("stats", rows)

    # -- answers of the generator -------------------------------------------------------------------------

    def ask(self, phase: int, count: int) -> None:
        self._tell("ask", phase=phase, count=count)

    def give_back(self, phase: int, indices: Sequence[int]) -> None:
        self._tell("give_back", phase=phase, indices=list(indices))

    def ended(self, phase: int, next_i: int) -> None:
        self._tell("ended", phase=phase, next_i=next_i)

    def idle(self, phase: int) -> None:
        if self.finished:
            return
        # The master may conclude from the phase at once: first all that was measured in it.
        self.generator.settle()
        self.report()
        self._tell("idle", phase=phase)

    # ------------------------------------------------------------------------------------------------------

    def _keep(self, record: RequestRecord) -> None:
        self._lines.append(to_json_line(record, self.generator.began_s))
        if len(self._lines) >= REQUESTS_PER_REPORT:
            self.report()

    def _report_regularly(self) -> None:
        while True:
            gevent.sleep(_REPORT_EVERY_S)
            self.report()

    def _tell(self, do: str, **fields: Any) -> None:
        self._runner.send_message(TO_MASTER, {"do": do, "run": self._run, **fields})
