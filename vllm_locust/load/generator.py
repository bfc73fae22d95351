"""What one process does in a run: it sends requests, measures them, and folds what it measured.

Rule: a `LoadGenerator` knows its own process only. What to send it is told by a conductor, which may be in
this process or on another machine; what it has measured is taken from it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import gevent
from gevent.event import Event
from locust.env import Environment

from vllm_locust.client.chat import ChatClient, Moment, Origin, Reply, Transport
from vllm_locust.core.arrival import Schedule
from vllm_locust.core.rate import parse_rate
from vllm_locust.core.record import DROPPED, OK, RequestRecord
from vllm_locust.core.recording import Recording
from vllm_locust.load.backlog import Backlog
from vllm_locust.load.bodies import ReadyRequest, broken_request, make_ready
from vllm_locust.load.hooks import stream_finished
from vllm_locust.load.lanes import Due, Lanes
from vllm_locust.load.larder import Larder
from vllm_locust.load.outside import Outside
from vllm_locust.load.own_tasks import asks_on_its_own
from vllm_locust.load.pacer import Pacer
from vllm_locust.load.phases import TRACE, Phase
from vllm_locust.load.plan import Dealer, Plan
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.process import CpuMeter
from vllm_locust.load.rows import Rows
from vllm_locust.workloads.scenario import FollowUp, PlannedRequest

logger = logging.getLogger(__name__)

_ROWS_EVERY_S = 1.0


class Leader(Dealer, Protocol):
    """Whom a generator asks for work, and tells when there is none left."""

    def ended(self, phase: int, next_i: int) -> None:
        """Nothing more of an open-loop phase will be sent here: `next_i` is behind its last request."""
        ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process must know of the run it takes part in."""

    run_id: str
    seed: int
    began_s: float
    """When the run began, on this process's clock."""
    worker: int = 0


class LoadGenerator:
    """The sending and measuring part of one process in one run."""

    def __init__(
        self,
        environment: Environment,
        prepared: Prepared,
        *,
        leader: Leader,
        assignment: Assignment,
        keep: Callable[[RequestRecord], None] | None = None,
        stock_ahead: bool = False,
    ) -> None:
        """`keep` gets every record, to write it down.

        `stock_ahead` keeps indices in stock, for a leader who answers after a round trip.
        """
        self.settings = prepared.settings
        self.began_s = assignment.began_s
        self.load_is_over = False
        self.phase = 0
        """The phase that requests outside the plan belong to."""
        self.clients: set[ChatClient] = set()
        """Of the users there are now: what a user leaves open is closed at the end."""
        self.transport = Transport(
            prepared.targets,
            prepared.request_options,
            assignment.run_id,
            assignment.worker,
            self.settings.routing,
        )
        self.transport.pulse.widen()
        self.outside = Outside()
        self._with_own = {user.__name__ for user in environment.user_classes if asks_on_its_own(user)}
        self.recording = Recording(self.began_s, self.settings.limits)
        self._environment = environment
        self._prepared = prepared
        self._seed = assignment.seed
        self._keep = keep
        self._leader = leader
        self.started = Event()
        """Set when the first phase has begun: what is sent before belongs nowhere."""
        self._larder = Larder(self._make)
        self.plan = Plan(leader, self._take, ahead=(lambda: len(self.clients)) if stock_ahead else None)
        self._lanes = Lanes(self._new_client, self._send_due, self._drop)
        self._pacers: dict[int, Pacer] = {}
        self._over: dict[int, Event] = {}
        """Of each phase: set when its load is over, for those who think about their next question."""
        self._rows = Rows(environment)
        self._backlog = Backlog(self._fold)
        self._rows_flusher = gevent.spawn(self._flush_rows)
        self._cpu = CpuMeter()
        self._cpu_share: float | None = None
        self._closed = False

    @staticmethod
    def of(environment: Environment) -> "LoadGenerator":
        """The generator of the run that `environment` is in the middle of."""
        generator: LoadGenerator | None = getattr(environment, "vllm_generator", None)
        if generator is None:
            raise RuntimeError("VllmUser works in runs started by Locust's command line or web UI.")
        return generator

    @property
    def handed_out(self) -> int:
        """Requests begun so far, those outside the plan included: each has a record, or will have one."""
        open_loop = sum(pacer.handed_out for pacer in self._pacers.values())
        return self.plan.handed_out + open_loop + self.transport.unplanned

    @property
    def unstamped(self) -> bool:
        """Whether the platform gave no kernel stamp for some read."""
        return bool(self.transport.pulse.unstamped_reads)

    @property
    def cpu_share(self) -> float:
        """The share of a core that this process used during the load."""
        return self._cpu.share() if self._cpu_share is None else self._cpu_share

    # -- told by the conductor ----------------------------------------------------------------------------

    def set_clock(self, began_s: float, bound_s: float) -> None:
        """The run began at `began_s` of this process's clock, give or take `bound_s`.

        To be known before the first phase begins.
        """
        self.began_s = began_s
        self.recording = Recording(self.began_s, self.settings.limits, bound_s)

    def begin(self, phase: Phase, at_s: float, open_loop: Mapping[str, Any]) -> None:
        """Begin a phase `at_s` seconds into the run.

        `open_loop` says which part of an open loop is this process's: `position` of `of` processes, the index
        `base` of the phase's first request, and the `scale` of its rate.
        """
        self.phase = phase.number
        self._over[phase.number] = Event()
        self.recording.begin_phase(phase.number, self.began_s + at_s, phase.warmup_s)
        self.plan.begin(phase, self.began_s + at_s)
        if not phase.open_loop:
            self._larder.begin(phase, self.plan.upcoming)
        else:
            self._begin_open_loop(phase, at_s, **open_loop)
        self.started.set()

    def grant(self, phase: int, indices: Sequence[int], last: bool) -> None:
        """See `Plan.grant`."""
        self.plan.grant(phase, indices, last)
        self._larder.look()
        if not self.clients:
            self.plan.abandon()

    def amend(self, phase: int, at_s: float, *, scale: float, position: int | None, of: int) -> None:
        """From `at_s` seconds into an open-loop phase: another rate, another part of it for this process."""
        pacer = self._pacers.get(phase)
        if pacer is not None:
            pacer.schedule.scale_from(at_s, scale)
            pacer.schedule.members_from(at_s, position, of)
            pacer.share(position, of)
            self._lanes.set_cap(self._cap(position, of))
            pacer.amend()

    def end(self, phase: int) -> None:
        """The load of a phase is over; what is in flight may finish."""
        self.recording.close_phase(phase, perf_counter())
        self._over.setdefault(phase, Event()).set()  # one who came late has not begun it
        if pacer := self._pacers.get(phase):
            pacer.end()
            self._leader.ended(phase, pacer.next_i)
        else:
            self.plan.end(phase)

    # -- told by the run ----------------------------------------------------------------------------------

    def stop_load(self) -> None:
        """Send nothing more; what is in flight may finish."""
        self.load_is_over = True
        self.plan.stop()
        for over in self._over.values():
            over.set()
        for pacer in self._pacers.values():
            pacer.end()
        self.recording.close_phase(self.phase, perf_counter())
        if self._cpu_share is None:
            self._cpu_share = self._cpu.share()

    def drain(self, limit_s: float) -> None:
        """Wait for the open loop's requests in flight and cancel what is left; users are Locust's affair."""
        self._lanes.drain(limit_s)

    def cancel(self) -> None:
        """End the open loop's requests in flight."""
        self._lanes.cancel()

    def settle(self) -> None:
        """Fold all that has been measured so far."""
        self._backlog.drain()

    def take_recording(self) -> Recording:
        """What was measured since it was last taken."""
        recording, self.recording = self.recording, self.recording.successor()
        return recording

    def close(self) -> None:
        """Fold what is left, and let go of sockets and greenlets."""
        if self._closed:
            return
        self._closed = True
        self._backlog.close()
        self._larder.close()
        self._rows_flusher.kill()
        self._rows.flush()
        self._lanes.close()
        for client in self.clients:
            client.close()
        self.transport.close()

    # -- used by users ------------------------------------------------------------------------------------

    def send(self, client: ChatClient, ready: ReadyRequest, phase: int, intended: Moment | None) -> Reply:
        """Send a request of the plan and wait for its answer, and so on to the end of a conversation.

        The last reply. No turn begins behind a failure, nor when the load of the phase is over.
        """
        reply = _ask(client, ready, phase, intended)
        while reply.record.outcome == OK and (following := _following(ready.planned, reply.text)) is not None:
            ended = Moment(reply.record.ended_s, reply.record.ended_bound_s)
            intended = ended.later(following.pause_s)
            if not client.wait_until(intended.at_s, unless=self._over[phase]):
                break
            ready = make_ready(following.request, ready.index, self.settings.endpoint_type)
            reply = _ask(client, ready, phase, intended)
        return reply

    def note_own(self, user: str) -> None:
        """A user of this class asks on its own, outside of the plan."""
        self.outside.note_asked(user, self.settings.of_scenario)

    def note_called(self) -> None:
        """A user asks for the next request of the plan."""
        self.outside.called = True

    def note_waiting(self, user: str) -> None:
        """A user of this class waits for a request of the plan."""
        if self.plan.open_loop and user in self._with_own:
            self.outside.note_waiting(user)

    def take_in(self, record: RequestRecord) -> None:
        """A request is finished: tell everybody who listens."""
        stream_finished.fire(record=record, environment=self._environment, generator=self)

    def add(self, record: RequestRecord) -> None:
        """Write, fold and show a finished request, as soon as nobody waits for us."""
        self._backlog.add(record)

    # ------------------------------------------------------------------------------------------------------

    def _begin_open_loop(
        self, phase: Phase, at_s: float, *, base: int, scale: float, position: int | None, of: int
    ) -> None:
        schedule = self._schedule(phase, scale)
        schedule.members_from(0.0, position, of)
        self._lanes.set_cap(self._cap(position, of))
        pacer = self._pacers[phase.number] = Pacer(
            phase.number,
            schedule,
            self.began_s + at_s,
            lambda i: self._take(phase, base + i),
            self._lanes,
            self._leader.idle,
            phase.requests,
        )
        pacer.share(position, of)
        self._larder.begin(phase, lambda: (base + i for i in pacer.upcoming()))

    def _schedule(self, phase: Phase, scale: float) -> Schedule:
        seconds = float("inf") if phase.seconds is None else phase.seconds
        if phase.rate == TRACE:
            arrivals = self._prepared.arrivals[phase.member]
            assert arrivals is not None
            return Schedule.of_trace(
                arrivals.times_s,
                period_s=arrivals.period_s,
                requests=phase.requests,
                seconds=seconds,
                scale=scale,
            )
        rate = parse_rate(phase.rate or "")
        return Schedule(
            rate,
            self.settings.burstiness,
            self._seed,
            phase.number,
            requests=phase.requests,
            seconds=seconds,
            scale=scale,
        )

    def _cap(self, position: int | None, of: int) -> int | None:
        """This process's part of --max-concurrency: all parts together are exactly that."""
        cap = self.settings.max_concurrency
        if cap is None or position is None:
            return cap
        return cap // of + (position < cap % of)

    def _new_client(self) -> ChatClient:
        return ChatClient(self.transport, self.take_in)

    def _send_due(self, client: ChatClient, due: Due) -> Reply:
        client.leave_host()
        return self.send(client, due.request, due.phase, Moment(due.intended_s))

    def _make(self, phase: Phase, index: int) -> ReadyRequest:
        planned = self._prepared.scenario.phases[phase.member].request(self._seed, phase.number_of(index))
        if phase.salt is not None:
            salt = {"cache_salt": phase.salt}
            planned = planned.mapped(lambda one: replace(one, extra={**one.extra, **salt}))
        return make_ready(planned, index, self.settings.endpoint_type)

    def _take(self, phase: Phase, index: int) -> ReadyRequest | None:
        """Request `index` of the plan; one that cannot be made is dropped, and the run goes on."""
        try:
            return self._larder.take(phase, index)
        except Exception as error:
            name = self._prepared.scenario.phases[phase.member].name
            logger.exception("Request %d of %s could not be made", index, name)
            broken = Due(broken_request(name, index), phase.number, perf_counter())
            self._drop(broken, f"it could not be made: {error}")
            return None

    def _drop(self, due: Due, why: str) -> None:
        planned = due.request.planned
        self.take_in(
            RequestRecord(
                index=due.request.index,
                scenario=planned.scenario,
                profile=planned.profile,
                outcome=DROPPED,
                intended_s=due.intended_s,
                ended_s=perf_counter(),
                error=why,
                worker=self.transport.worker,
                phase=due.phase,
                model=self.transport.options.model,
                number=planned.index,
                session=_session(due.request),
                turn=_turn(due.request),
                planned_prompt_tokens=planned.prompt_tokens,
                max_tokens=planned.max_tokens or None,
                prompt_hash=due.request.prompt.hash,
            )
        )

    def _fold(self, record: RequestRecord) -> None:
        self.recording.add(record)
        self._rows.add(record)
        if self._keep is not None:
            self._keep(record)

    def _flush_rows(self) -> None:
        while True:
            gevent.sleep(_ROWS_EVERY_S)
            self._rows.flush()


def _ask(client: ChatClient, ready: ReadyRequest, phase: int, intended: Moment | None) -> Reply:
    """Send one request of the plan. Of a conversation, only the first turn has a number of the plan's."""
    planned = ready.planned
    origin = Origin(
        index=ready.index if planned.turn == 1 else None,
        scenario=planned.scenario,
        profile=planned.profile,
        phase=phase,
        intended=intended,
        prompt_tokens=planned.prompt_tokens,
        number=planned.index,
        session=_session(ready),
        turn=_turn(ready),
    )
    return client.request(ready.path, ready.body, origin, ready.prompt)


def _following(planned: PlannedRequest, answer: str) -> FollowUp | None:
    return None if planned.then is None else planned.then(answer)


def _session(ready: ReadyRequest) -> int | None:
    """The conversation that a request is a part of, by the index of its first turn."""
    planned = ready.planned
    return ready.index if planned.then is not None or planned.turn > 1 else None


def _turn(ready: ReadyRequest) -> int | None:
    return None if _session(ready) is None else ready.planned.turn
