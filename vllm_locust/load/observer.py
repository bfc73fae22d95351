"""The observer's process, as the one that leads the load sees it: started once, asked and told over a wire.

Rule: whatever becomes of the observer, the run goes on. It is waited for a moment only, and when it is stuck
or gone that is said once.
"""

import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event

from vllm_locust.core.server import ServerSample
from vllm_locust.load.backlog import UNTIL_NEXT_ROUND_S
from vllm_locust.observe.view import with_problem
from vllm_locust.observe.wire import Wire

logger = logging.getLogger(__name__)

# Python and numpy have to be loaded, on a machine that may be busy.
_START_LIMIT_S = 30.0
_CLOSE_LIMIT_S = 2.0
# It says how things stand once a second, on a busy machine a little less often.
_SILENCE_LIMIT_S = 10.0
_MOST_WAITING = 10_000
# Prometheus comes again after about its interval, and not at all when it has been stopped.
_INTERVALS_TO_WAIT = 2.0
_SHORTEST_WAIT_S = 2.0
_LONGEST_WAIT_S = 65.0
_FETCHES_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Watch:
    """What the observer is to ask about the server."""

    sources: Sequence[Mapping[str, Any]] = ()
    """Of each its `url`, `headers` and whether it is `insecure`."""
    logs: Sequence[str] = ()
    gpu: bool = False
    interval_s: float = 1.0


class ObserverLink:
    """The observer's process and the line to it.

    `on_sample` may be set to whoever wants to know what the server says.
    """

    def __init__(self, bind: tuple[str, int] | None) -> None:
        """Start the process. `bind` is where the exporter listens, None for nowhere."""
        self.view: bytes | None = None
        """The live view, JSON."""
        self.exporter: str | None = None
        """The exporter's address."""
        self.sources: Sequence[Mapping[str, Any]] = ()
        """Each source's `source`, whether it is `up`, and its `problem`."""
        self.on_sample: Callable[[ServerSample], None] | None = None
        self.latest: dict[str, ServerSample] = {}
        """What each source said last."""
        self._problem: str | None = None
        self._answered = Event()
        self.gone = False
        """It was lost, or let go."""
        self._outbox: deque[Mapping[str, Any]] = deque()
        self._some = Event()
        self._tokens = count()
        self._scraped: dict[int, Event] = {}
        self._fetched = Event()
        self._ended_s: float | None = None
        """Since when the exporter's page has a run's last figures."""
        self._in_a_hurry = False
        self._heard_s: float | None = None
        self._fetches: deque[float] = deque(maxlen=_FETCHES_REMEMBERED)
        self._watch: Watch | None = None
        self._process, self._wire = _start(bind)
        self._greenlets = [gevent.spawn(self._listen), gevent.spawn(self._write)]

    def await_ready(self) -> str | None:
        """Wait until it can be asked. Without the exporter that was wanted: why, in a sentence."""
        self._answered.wait(_START_LIMIT_S)
        return self._problem

    # -- told to the observer -----------------------------------------------------------------------------

    def tell(self, do: str, **fields: Any) -> None:
        """Send a message of `observe.wire`, soon."""
        if self.gone:
            return
        silent_s = 0.0 if self._heard_s is None else perf_counter() - self._heard_s
        if silent_s > _SILENCE_LIMIT_S or len(self._outbox) >= _MOST_WAITING:
            self._lose("does not answer any more")
            return
        self._outbox.append({"do": do, **fields})
        self._some.set()

    def watch(self, watch: Watch) -> None:
        """Ask these about the server from now on."""
        if watch != self._watch:
            self._watch = watch
            self.latest.clear()
            self.tell(
                "watch",
                sources=[dict(source) for source in watch.sources],
                logs=list(watch.logs),
                gpu=watch.gpu,
                interval_s=watch.interval_s,
            )

    def scrape(self) -> Event:
        """Ask the server now; the event is set when that is done, whatever came of it."""
        token, done = next(self._tokens), Event()
        if self.gone:
            done.set()
        else:
            self._scraped[token] = done
            self.tell("scrape", token=token)
        return done

    # -- the end ------------------------------------------------------------------------------------------

    def await_fetch(self) -> None:
        """Give Prometheus time to fetch the last figures of a run, if it has been fetching any."""
        if self.gone or len(self._fetches) < 2:
            return
        interval_s = max(later - earlier for earlier, later in pairwise(self._fetches))
        limit_s = min(max(_INTERVALS_TO_WAIT * interval_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
        began_s = perf_counter()
        if began_s - self._fetches[-1] > limit_s:
            return  # it has stopped coming
        logger.info("Waiting up to %.0f s for Prometheus to fetch the last figures.", limit_s)
        while (left_s := began_s + limit_s - perf_counter()) > 0 and not (self._in_a_hurry or self.gone):
            if self._ended_s is not None and self._fetches[-1] > self._ended_s:
                return
            self._fetched.clear()
            self._fetched.wait(left_s)

    def stop_waiting(self) -> None:
        """Nobody wants to wait for Prometheus any more."""
        self._in_a_hurry = True
        self._fetched.set()

    def close(self) -> None:
        """End the process."""
        self.gone = True
        gevent.killall(self._greenlets)
        self._wire.close()
        try:
            self._process.wait(timeout=_CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            for message in self._wire.messages():
                self._heard_s = perf_counter()
                self._take_in(message)
                gevent.sleep(UNTIL_NEXT_ROUND_S)  # a sample of many engines is a millisecond's work
        except Exception:
            logger.exception("Could not take in what the observer said")
        self._lose("has ended")

    def _take_in(self, message: Mapping[str, Any]) -> None:
        match message["say"]:
            case "ready":
                self.exporter, self._problem = message["exporter"], message["problem"]
                self._answered.set()
            case "sample":
                self._pass_on(ServerSample.from_dict(message["sample"]))
            case "status":
                self.sources = message["sources"]
            case "view":
                self.view = message["body"]
            case "done":
                if (done := self._scraped.pop(message["token"], None)) is not None:
                    done.set()
            case "ended":
                self._ended_s = message["at_s"]
                self._fetched.set()
            case "served":
                self._fetches.append(message["began_s"])
                self._fetched.set()
            case "tell":
                logger.warning("%s", message["sentence"])

    def _pass_on(self, sample: ServerSample) -> None:
        self.latest[sample.source] = sample
        if self.on_sample is not None:
            self.on_sample(sample)

    def _write(self) -> None:
        """Send what waits: here, so that nobody who measures waits for the other end."""
        while True:
            self._some.wait()
            self._some.clear()
            while self._outbox:
                try:
                    self._wire.send(self._outbox.popleft())
                except OSError:
                    self._lose("has ended")
                    return
                except Exception:
                    logger.exception("Could not tell the observer")
                    self._lose("cannot be told")
                    return

    def _lose(self, how: str) -> None:
        if self.gone:
            return
        self.gone = True
        self._outbox.clear()
        for done in self._scraped.values():
            done.set()
        self._answered.set()
        self._fetched.set()
        self.view = with_problem(self.view, f"The observer {how}: what is below is old. The run goes on.")
        logger.error("The observer %s: the run goes on without the server's metrics and the exporter.", how)


def _start(bind: tuple[str, int] | None) -> tuple["subprocess.Popen[bytes]", Wire]:
    ours, theirs = socket.socketpair()
    with theirs:
        host, port = bind if bind is not None else ("", -1)
        command = [sys.executable, "-m", "vllm_locust.observe", str(theirs.fileno()), host, str(port)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is for us: it must see the end of the run
        )
    return process, Wire(ours)
