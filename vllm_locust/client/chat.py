"""Sends one request after another as a user does, and says of each what became of it.

A `Transport` holds what all users of a process share, a `ChatClient` is one user's: it keeps a connection
alive, never raises for what the server or the network does, and turns every request into a `RequestRecord`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from time import perf_counter
from typing import Any, NamedTuple

import gevent
import orjson
from gevent import get_hub
from gevent.event import Event

from vllm_locust.client.connection import ConnectError, Connection, Waits, open_connection
from vllm_locust.client.exchange import Exchange, run_exchange
from vllm_locust.client.stamps import Pulse
from vllm_locust.client.target import STICKY, Target
from vllm_locust.client.turns import Turns
from vllm_locust.core.record import (
    CANCELLED,
    CONNECT,
    OK,
    PROTOCOL,
    TIMEOUT,
    RequestRecord,
    in_few_pieces,
)
from vllm_locust.core.urls import hider, secrets_of_headers, secrets_of_query

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

UNPLANNED = 10_000_000
"""Index of the first request outside the plan: a server may refuse an id that it has running."""

# What may end an answer early, though the end that the model makes is ignored.
_ENDS = ("stop", "stop_token_ids", "repetition_detection")

# A server's close and our request that crossed each other meet within about a round trip.
_CROSSING_S = 0.1
# Where nobody listens, users would otherwise fail tens of thousands of times a second.
_PAUSE_AFTER_REFUSAL_S = 0.2

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What every request of a run has in common."""

    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request's body, such as `temperature` or `ignore_eos`."""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Paths that a server has instead of those of the API: `{CHAT_PATH: "/api/v3/chat/completions"}`."""
    running_usage: bool = False
    """Ask for usage on every chunk (`continuous_usage_stats`): tells how many tokens each one carries."""
    connect_timeout_s: float = 30.0
    timeout_s: float = 600.0
    """For a whole request, connecting included."""

    def resource(self, target: Target, path: str) -> str:
        """What a request line names for a path of the API on this server."""
        own = self.endpoints.get(path)
        return target.resource(path) if own is None else target.endpoint(own)


class Reply(NamedTuple):
    """The text of an answer, and how it came about."""

    text: str
    record: RequestRecord


class Moment(NamedTuple):
    """When something was, as far as can be told: in truth it may have been earlier, by `bound_s` at most."""

    at_s: float
    bound_s: float = 0.0

    def later(self, by_s: float) -> "Moment":
        """So much later."""
        return Moment(self.at_s + by_s, self.bound_s)

    def not_before(self, at_s: float) -> "Moment":
        """The same, or `at_s` where that is later, of which there is no doubt."""
        latest_s = max(self.at_s, at_s)
        return Moment(latest_s, min(self.bound_s, latest_s - at_s))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in the plan a request comes from; the defaults suit requests outside any plan."""

    index: int | None = None
    scenario: str = ""
    profile: str = "chat"
    phase: int = 0
    intended: Moment | None = None
    prompt_tokens: int | None = None
    number: int | None = None
    session: int | None = None
    turn: int | None = None


class RenderedPrompt(NamedTuple):
    """The prompt of a body as it is sent: what is long is turned into bytes once."""

    fields: Mapping[str, orjson.Fragment]
    hash: str | None
    """16 hexadecimal digits, the same for the same prompt; None for a body without one."""
    size: int
    """In bytes."""


def render_prompt(body: Mapping[str, Any]) -> RenderedPrompt:
    """Turn `messages` or `prompt` of a body into bytes."""
    contents = {name: orjson.dumps(body[name]) for name in ("messages", "prompt") if name in body}
    whole = b"".join(contents.values())
    digest = blake2b(whole, digest_size=8).hexdigest() if contents else None
    fields = {name: orjson.Fragment(content) for name, content in contents.items()}
    return RenderedPrompt(fields, digest, len(whole))


class Transport:
    """What the users of one process share: the hosts, the event loop's pulse, the requests in flight."""

    def __init__(
        self,
        targets: Target | Sequence[Target],
        options: RequestOptions,
        run_id: str = "",
        worker: int = 0,
        routing: str = STICKY,
    ) -> None:
        self.targets = [targets] if isinstance(targets, Target) else list(targets)
        self.options = options
        self.worker = worker
        self.sticky = routing == STICKY
        self.in_flight = 0
        self.pulse = Pulse(get_hub().loop)
        self.turns = Turns(get_hub().loop, self.pulse)
        for target in self.targets:
            with suppress(OSError):
                target.addresses  # noqa: B018 - looks the name up now, not in the first users' time
        self._unplanned = 0
        # Workers with few users each would otherwise all begin with the first host.
        self._dealt = worker
        self._request_id = f"{run_id}-{worker}-" if run_id else f"{worker}-"
        self._heads = [_head(target, options) for target in self.targets]
        self.hide = hider(_secrets(self.targets, options))
        """Takes out of a text what the server has from us and may tell back."""
        stream_options: dict[str, Any] = {"include_usage": True}
        if options.running_usage:
            stream_options["continuous_usage_stats"] = True
        self._body = {
            "model": options.model,
            "stream": True,
            "stream_options": stream_options,
            **options.body,
        }

    def close(self) -> None:
        self.turns.close()
        self.pulse.close()

    @property
    def unplanned(self) -> int:
        """How many requests outside the plan there were."""
        return self._unplanned

    def take_index(self) -> int:
        """The next index for a request that is not part of a plan; no two workers have the same."""
        self._unplanned += 1
        return UNPLANNED * (self.worker + 1) + self._unplanned - 1

    def begin(self) -> int:
        """A request is in flight from now on; how many are, with this one."""
        self.in_flight += 1
        if self.in_flight == 1:
            self.pulse.quicken()
        return self.in_flight

    def end(self) -> None:
        """A request is not in flight any more."""
        self.in_flight -= 1
        if not self.in_flight:
            self.pulse.rest()

    def deal_host(self) -> int:
        """The next host in turn, as its place in `targets`."""
        self._dealt += 1
        return (self._dealt - 1) % len(self.targets)

    def asked(self, field: str, body: Mapping[str, Any]) -> Any:
        """What a request with this body says in a field; None when nothing."""
        return body.get(field, self._body.get(field))

    def most_tokens(self, path: str, body: Mapping[str, Any]) -> int | None:
        """How many tokens a request to `path` asks for; None when it does not say."""
        newer = self.asked("max_completion_tokens", body) if path == CHAT_PATH else None
        most: int | None = self.asked("max_tokens", body) if newer is None else newer
        return most

    def asks_for_exact_length(self, body: Mapping[str, Any]) -> bool:
        """Whether a request asks the server not to stop before, and names nothing that ends an answer."""
        return bool(self.asked("ignore_eos", body)) and not any(self.asked(end, body) for end in _ENDS)

    def render(self, host: int, path: str, index: int, body: Mapping[str, Any]) -> bytes:
        """The request's bytes, head and body in one piece."""
        content = orjson.dumps({**self._body, **body})
        head = (
            f"POST {self.options.resource(self.targets[host], path)} HTTP/1.1\r\n{self._heads[host]}"
            f"X-Request-Id: {self._request_id}{index}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode("latin-1") + content


class ChatClient:
    """One user's client. Not to be shared between greenlets: a user waits for an answer before going on.

    It keeps a connection to each host that it has asked. With sticky routing that is one, until `leave_host`.
    """

    def __init__(self, transport: Transport, on_finished: Callable[[RequestRecord], None]) -> None:
        self._transport = transport
        self._on_finished = on_finished
        self._host: int | None = None
        self._connections: dict[int, Connection] = {}
        self.free: Moment | None = None
        """When the last answer ended, and the pause behind a refusal; None before the first."""
        self._told_s = 0.0

    def chat(self, messages: Sequence[Message] | str, *, origin: Origin | None = None, **body: Any) -> Reply:
        """Stream a chat completion. `body` takes any further field: `max_tokens=64`, `temperature=0`, ..."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.request(CHAT_PATH, {"messages": messages, **body}, origin or Origin())

    def complete(self, prompt: str | Sequence[int], *, origin: Origin | None = None, **body: Any) -> Reply:
        """Stream a text completion of a text or of token ids."""
        return self.request(COMPLETIONS_PATH, {"prompt": prompt, **body}, origin or Origin())

    def leave_host(self) -> None:
        """Whoever is next to use this client is somebody new: they get a host of their own."""
        self._host = None

    def wait_until(self, at_s: float, unless: Event) -> bool:
        """Wait until this moment; False, and at once, when `unless` is or becomes set."""
        while not unless.is_set() and (left_s := at_s - perf_counter()) > 0:
            unless.wait(left_s)
        return not unless.is_set()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def request(
        self, path: str, body: Mapping[str, Any], origin: Origin, prompt: RenderedPrompt | None = None
    ) -> Reply:
        """Send `body` and wait for the answer's end. Fires `on_finished` once, even when interrupted.

        `prompt` is what `render_prompt` makes of the body, where that is done already.
        """
        transport = self._transport
        if self._host is None or not transport.sticky:
            self._host = transport.deal_host()
        host = self._host
        index = transport.take_index() if origin.index is None else origin.index
        intended = origin.intended or self._when_called()
        record = RequestRecord(
            index=index,
            scenario=origin.scenario,
            profile=origin.profile,
            outcome=CANCELLED,
            intended_s=intended.at_s,
            intended_bound_s=intended.bound_s,
            worker=transport.worker,
            phase=origin.phase,
            prompt_tokens=origin.prompt_tokens,
            model=body.get("model", transport.options.model),
            target=transport.targets[host].name if len(transport.targets) > 1 else None,
            number=origin.number,
            session=origin.session,
            turn=origin.turn,
            planned_prompt_tokens=origin.prompt_tokens,
            max_tokens=transport.most_tokens(path, body),
        )
        record.choices = transport.asked("n", body) or 1
        record.exact_length = transport.asks_for_exact_length(body)
        exchange = Exchange(record.choices)
        try:
            transport.turns.take()
            record.concurrency = transport.begin()
            prompt = prompt or render_prompt(body)
            record.prompt_hash = prompt.hash
            request = transport.render(host, path, index, {**body, **prompt.fields})
            record.sent_s = perf_counter()
            reused = self._attempt(record, exchange, host, request)
            if reused and _crossed(exchange, record.sent_s):
                exchange = Exchange(record.choices)
                record.outcome = CANCELLED
                self._attempt(record, exchange, host, request)
        except Exception as error:
            record.outcome, record.error = PROTOCOL, f"the request could not be made: {error}"
            raise
        finally:
            if record.concurrency:
                transport.end()
            ended = self._end_of(record, exchange)
            _settle(record, exchange, ended)
            if record.error is not None:
                record.error = transport.hide(record.error)
            self._on_finished(record)
            self.free, self._told_s = ended, perf_counter()
        if record.outcome == CONNECT:
            gevent.sleep(_PAUSE_AFTER_REFUSAL_S)
            self.free, self._told_s = ended.later(_PAUSE_AFTER_REFUSAL_S), perf_counter()
        return Reply(exchange.answer.text, record)

    def _when_called(self) -> Moment:
        """When a request is intended that is asked for now, as only the user knows what was a pause.

        A client with no delays of its own would have been here as much earlier as they were told late that
        the answer before had ended.
        """
        now_s = perf_counter()
        if self.free is None:
            return Moment(now_s)
        return Moment(now_s - max(self._told_s - self.free.at_s, 0.0), self.free.bound_s)

    def _end_of(self, record: RequestRecord, exchange: Exchange) -> Moment:
        """When nothing more was awaited."""
        now_s = perf_counter()
        if record.outcome == TIMEOUT:
            return Moment(now_s, max(now_s - exchange.limit_s, 0.0))
        if exchange.over.is_set():
            return Moment(exchange.ended_s, exchange.ended_bound_s)
        return Moment(now_s)  # we ended it

    def _attempt(self, record: RequestRecord, exchange: Exchange, host: int, request: bytes) -> bool:
        """Send once and wait for the end; True when that went over a connection that was open before."""
        connection = self._connections.get(host)
        reused = connection is not None and not connection.closed
        waited_s = connection.waits.least_s if connection is not None and reused else 0.0
        if connection is None or connection.closed:
            connection = self._connect(record, exchange, host)
        if connection is None or record.sent_s is None:
            return reused
        limit_s = self._transport.options.timeout_s
        exchange.limit_s = record.sent_s + limit_s
        run_exchange(exchange, connection, request)
        waited_s = connection.waits.least_s - waited_s
        record.send_bound_s = max(connection.sent_by_s - record.sent_s - waited_s, 0.0)
        if exchange.over.is_set() and not exchange.late:
            record.outcome = OK
        else:
            record.outcome = TIMEOUT
            record.error = f"no complete answer within {limit_s:g} s; {exchange.so_far()}"
        self._transport.turns.take()
        return reused

    def _connect(self, record: RequestRecord, exchange: Exchange, host: int) -> Connection | None:
        """A new connection, or None when there is none to be had: then the record says why."""
        transport = self._transport
        started_s = perf_counter()
        waits = Waits(transport.pulse)
        limit_s = min(transport.options.connect_timeout_s, transport.options.timeout_s)
        connection: Connection | None = None
        try:
            connection = self._connections[host] = open_connection(transport.targets[host], waits, limit_s)
        except ConnectError as error:
            record.outcome, record.error = CONNECT, str(error)
        finally:
            now_s = perf_counter()
            record.connect_s = now_s - started_s
            record.connect_bound_s = max(record.connect_s - waits.least_s, 0.0)
        if connection is None:
            exchange.on_close(record.error, now_s, record.connect_bound_s)
        return connection


def _head(target: Target, options: RequestOptions) -> str:
    """The header lines that all requests to a host have in common."""
    headers = {
        "Host": target.authority,
        "User-Agent": "vllm-locust",
        "Accept": "text/event-stream, application/json",
        "Content-Type": "application/json",
        **target.headers,
        **options.headers,
    }
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _secrets(targets: Sequence[Target], options: RequestOptions) -> Iterator[str]:
    for target in targets:
        yield from target.secrets
    yield from secrets_of_headers(options.headers)
    for path in options.endpoints.values():
        yield from secrets_of_query(path.partition("?")[2])


def _crossed(exchange: Exchange, sent_s: float) -> bool:
    """Whether the server closed the idle connection while the request was on its way.

    Then not a byte of an answer came, and the end came before anybody can have worked on one, however late
    it was noticed.
    """
    ended_s = exchange.ended_s - exchange.ended_bound_s
    return exchange.over.is_set() and exchange.untouched and ended_s - sent_s < _CROSSING_S


def _settle(record: RequestRecord, exchange: Exchange, ended: Moment) -> None:
    """Write down what the exchange came to when it ended. `record.outcome` is OK when it ran to its end."""
    answer = exchange.answer
    arrivals = answer.arrivals_s
    # A complete answer stays one, even when the connection was not closed properly or the user was stopped.
    ended_by_us = record.outcome in (TIMEOUT, CANCELLED) and not exchange.late
    if ended_by_us and exchange.streaming and answer.finished:
        record.outcome, record.error = OK, None
    if record.outcome == OK and (failure := exchange.outcome()) is not None:
        record.outcome, record.error = failure
    if record.outcome == CANCELLED:
        record.error = "the run ended before the answer was complete"
    # What is complete ended with its last bytes, whenever we were told that nothing follows.
    record.ended_s, record.ended_bound_s = (
        (exchange.arrival_s, exchange.arrival_bound_s) if exchange.complete or record.outcome == OK else ended
    )
    if arrivals:
        record.first_token_s, record.last_token_s = arrivals[0], arrivals[-1]
    record.arrivals_s, record.lags_s = arrivals, exchange.lags_s
    record.bounds_s = exchange.bounds_s
    record.few_pieces = in_few_pieces(record)
    record.contradictions = exchange.contradictions
    if len(answer.event_tokens) == len(arrivals):
        record.event_tokens = answer.event_tokens
    if answer.prompt_tokens is not None:
        record.prompt_tokens = answer.prompt_tokens
    record.cached_tokens = answer.cached_tokens
    record.finish_reason = answer.finish_reason
    record.visible_events, record.hidden_tokens = answer.visible_events, answer.hidden_tokens
    if answer.output_tokens is not None:
        record.output_tokens = answer.output_tokens
    elif arrivals:
        record.output_tokens, record.tokens_counted = len(arrivals), True
