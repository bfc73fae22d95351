"""One request, as measured. Everything that is reported later is a fold over these records.

Times are seconds on one axis: in memory `time.perf_counter` of the process that sent the request, in
`requests.jsonl` seconds since the run began. They are never compared across machines.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from operator import sub

import orjson

OK = "ok"
CONNECT = "connect"
TIMEOUT = "timeout"
SERVER_ERROR_EVENT = "server_error_event"
TRUNCATED = "truncated"
PROTOCOL = "protocol"
CANCELLED = "cancelled"
DROPPED = "dropped"

FASTEST_TPOT_S = 50e-6
"""No model makes the tokens of one answer faster: those that came so were not sent as they were made."""

# So many events a piece, on average, are more than a server makes at once, and so much of the answer is most.
_CROWD, _MOST = 4, 0.75
# They came together that came within so much of the time in which nothing came.
_TOGETHER = 0.1


def http_outcome(status: int) -> str:
    """The failure kind of an HTTP status other than 200, for example `http_503`."""
    return f"http_{status}"


@dataclass(slots=True)
class RequestRecord:
    """What became of one planned request.

    `outcome` is exactly one of `ok`, `connect`, `timeout`, `http_STATUS`, `server_error_event`, `truncated`,
    `protocol`, `cancelled` and `dropped`. Only `ok` requests have latencies that may enter a distribution;
    an `ok` request always has a first and a last token.
    """

    index: int
    """Position in the plan of the run."""
    scenario: str
    profile: str
    outcome: str
    intended_s: float
    """When the plan wanted the request to start."""
    sent_s: float | None = None
    """Just before the first byte was written, a new connection's handshake included; None when dropped."""
    first_token_s: float | None = None
    last_token_s: float | None = None
    ended_s: float = 0.0
    """When the outcome was known: the last byte, the failure, the decision to drop."""
    connect_s: float | None = None
    """Seconds spent connecting for this request; None when the connection was already open."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    tokens_counted: bool = False
    """True when the server sent no usage and `output_tokens` is the number of token-carrying events."""
    finish_reason: str | None = None
    error: str | None = None
    concurrency: int = 0
    """Requests in flight of this process when this one was sent, itself included."""
    worker: int = 0
    phase: int = 0
    model: str = ""
    number: int | None = None
    """Position in its scenario: request `number` of (scenario, seed)."""
    target: str | None = None
    """The host that was asked, where there are several."""
    session: int | None = None
    """Of a conversation: the index in the plan, and as `turn` 1 for its first question."""
    turn: int | None = None
    planned_prompt_tokens: int | None = None
    """The exact length that the plan promised; what came of it is `prompt_tokens`."""
    max_tokens: int | None = None
    """Output tokens asked for."""
    exact_length: bool = False
    """The server was asked not to stop before `max_tokens`, by `ignore_eos`."""
    choices: int = 1
    """How many answers were asked for at once."""
    visible_events: int = 0
    """Events that brought something to show: each has cost at least one token."""
    hidden_tokens: int = 0
    """Tokens that usage counts as reasoning of which the stream shows nothing, as far as can be told."""
    prompt_hash: str | None = None
    """16 hexadecimal digits, the same for the same prompt."""
    few_pieces: int = 0
    """What `in_few_pieces` found."""
    arrivals_s: Sequence[float] = field(default=(), repr=False)
    """Arrival of each token-carrying event. Kept until the record was folded, never written."""
    event_tokens: Sequence[int] = field(default=(), repr=False)
    """Output tokens of each of those events, from running usage; empty when the server did not say."""
    bounds_s: Sequence[float] = field(default=(), repr=False)
    """For each of `arrivals_s`, how much earlier the event may really have arrived, at most.

    As good as 0 for an event that was the last thing in its read, with a kernel stamp of its own; more when
    something else came behind it (they share the last one's stamp) or when the platform gives no stamps.
    """
    lags_s: Sequence[float] = field(default=(), repr=False)
    """For each read of the socket, how long after the bytes' arrival it happened."""
    intended_bound_s: float = 0.0
    """How much earlier than `intended_s` that was, at most: where it is when an answer had ended."""
    send_bound_s: float = 0.0
    """How much later than `sent_s` the request may have been on its way, at most, by this client's fault.

    What it waited for the network, to connect say, is left out where that is known.
    """
    ended_bound_s: float = 0.0
    """How much earlier than `ended_s` the last byte, or the end of the connection, may have come, at most."""
    connect_bound_s: float = 0.0
    """How much of `connect_s` this client may have lost, at most."""
    contradictions: int = 0
    """Reads whose stamp was not to be trusted; their arrival is the moment of the read.

    It contradicted what was known, or packets of the answer came out of order.
    """

    @property
    def id(self) -> str:
        """`req_000001` for index 0: what `requests.jsonl` calls this request."""
        return f"req_{self.index + 1:06d}"

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: first token - sent."""
        if self.first_token_s is None or self.sent_s is None:
            return None
        return self.first_token_s - self.sent_s

    @property
    def e2el_s(self) -> float | None:
        """End-to-end latency: last token - sent."""
        if self.last_token_s is None or self.sent_s is None:
            return None
        return self.last_token_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first event: (E2EL - TTFT) / (output tokens - those of that event).

        None where it is undefined: without any `later_tokens`, and where these or their events came faster
        than a model makes them, which this client may have read late.
        """
        later = self.later_tokens
        if not later or self._came_at_once(max(later, self._later_events), 0.0):
            return None
        return self._spread_s / later

    @property
    def later_tokens(self) -> int | None:
        """Output tokens that came after the first event; None where nobody can tell when they came.

        The first event has one token of each choice, unless running usage tells its tokens. An answer of one
        event has no time between tokens, however many are in it. Of several choices usage counts the tokens
        of all, which come side by side. It may also count reasoning that is not shown, or more than was asked
        for. And these tokens or their events may have come at once, however late this client read the first.
        """
        first = self.event_tokens[0] if self.event_tokens else self.choices
        later = (self.output_tokens or 0) - first
        events = self._later_events
        if events >= 1 and self._came_at_once(max(later, events), self._first_bound_s):
            return None
        if later < 1 or events < 1:
            return 0
        untold = self.hidden_tokens or self.choices > 1 or self.few_pieces or self.usage_above_asked
        return None if untold else later

    @property
    def usage_above_asked(self) -> bool:
        """Whether usage counts more tokens than were asked for."""
        if self.max_tokens is None or self.output_tokens is None or self.tokens_counted:
            return False
        return self.output_tokens > self.max_tokens * self.choices

    @property
    def in_one_piece(self) -> bool:
        """Whether several events came at once, see `FASTEST_TPOT_S`: when they were made is not known."""
        return self._later_events >= 1 and self._came_at_once(self._later_events, 0.0)

    @property
    def perhaps_read_late(self) -> bool:
        """Whether an answer `in_one_piece` may be one that was not, and was read late by this client."""
        return self.in_one_piece and not self._came_at_once(self._later_events, self._first_bound_s)

    @property
    def has_gaps(self) -> bool:
        """Whether the time between two events is one that somebody waited for the second."""
        if len(self.arrivals_s) < 2 or self.choices > 1:
            return False
        return not self.in_one_piece and not self.few_pieces

    @property
    def _later_events(self) -> int:
        """Events after the first, of each choice: for every step of the server each choice has one.

        Where there are no stamps of events, as of vLLM without a server, each token counts as one.
        """
        return (len(self.arrivals_s) or self.output_tokens or 0) // self.choices - 1

    @property
    def _first_bound_s(self) -> float:
        return self.bounds_s[0] if self.bounds_s else 0.0

    @property
    def _spread_s(self) -> float:
        return (self.last_token_s or 0.0) - (self.first_token_s or 0.0)

    def _came_at_once(self, later: int, earlier_s: float) -> bool:
        """Whether so many came faster than a model makes them, had the first one come so much earlier."""
        return self._spread_s + earlier_s < FASTEST_TPOT_S * later

    @property
    def max_itl_s(self) -> float | None:
        """The longest gap between token-carrying events, the worst stall of the answer; None without one."""
        if not self.has_gaps:
            return None
        return float(max(map(sub, islice(self.arrivals_s, 1, None), self.arrivals_s)))

    @property
    def total_tokens(self) -> int:
        """Prompt and output tokens together, unknown ones as 0."""
        return (self.prompt_tokens or 0) + (self.output_tokens or 0)


def in_few_pieces(record: RequestRecord) -> int:
    """In how many pieces of many events the answer came; 0 where it did not, and where that is not known.

    A buffer that is handed on whenever it is full does this, or every so often. Most events must be in pieces
    that are known to have come together, also where this client may have read them late: within a fraction of
    the time before them in which nothing came, or faster than a model makes them.
    """
    arrivals_s, events, choices = record.arrivals_s, len(record.arrivals_s), record.choices
    if events <= len(record.lags_s) or not record.bounds_s or record.in_one_piece:
        return 0
    gaps_s = enumerate(map(sub, islice(arrivals_s, 1, None), arrivals_s), 1)
    begins = [0, *(n for n, gap_s in gaps_s if gap_s >= FASTEST_TPOT_S)]
    pieces = len(begins)
    if pieces == 1 or events < _CROWD * pieces * choices:
        return 0
    together = 0
    for first, behind in pairwise([*begins, events]):
        # Before the first piece the prompt was waited for: its pace is that of the second one.
        border = first or behind
        quiet_s = arrivals_s[border] - arrivals_s[border - 1]
        within_s = arrivals_s[behind - 1] - arrivals_s[first] + record.bounds_s[first]
        later = (behind - first) // choices - 1
        if later > 0 and (within_s <= _TOGETHER * quiet_s or within_s < FASTEST_TPOT_S * later):
            together += behind - max(first, 1)
    return pieces if together >= _MOST * (events - 1) else 0


def to_json_line(record: RequestRecord, run_start_s: float) -> bytes:
    """One line of `requests.jsonl`, newline included; times relative to `run_start_s`, rounded to 1 us.

    Latencies of failed requests are null: nobody who averages a column must meet them.
    """

    def since(value: float | None) -> float | None:
        return None if value is None else round(value - run_start_s, 6)

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 6)

    ok = record.outcome == OK
    return orjson.dumps(
        {
            "id": record.id,
            "profile": record.profile,
            "ttft_s": rounded(record.ttft_s) if ok else None,
            "total_s": rounded(record.e2el_s) if ok else None,
            "concurrency": record.concurrency,
            "scenario": record.scenario,
            "index": record.index,
            "intended_s": since(record.intended_s),
            "sent_s": since(record.sent_s),
            "connect_s": rounded(record.connect_s),
            "first_token_s": since(record.first_token_s),
            "last_token_s": since(record.last_token_s),
            "ended_s": since(record.ended_s),
            "tpot_s": rounded(record.tpot_s) if ok else None,
            "max_itl_s": rounded(record.max_itl_s) if ok else None,
            "prompt_tokens": record.prompt_tokens,
            "output_tokens": record.output_tokens,
            "tokens_counted": record.tokens_counted,
            "cached_tokens": record.cached_tokens,
            "finish_reason": record.finish_reason,
            "outcome": record.outcome,
            "error": record.error,
            "worker": record.worker,
            "phase": record.phase,
            "model": record.model,
            "number": record.number,
            "target": record.target,
            "session": record.session,
            "turn": record.turn,
            "planned_prompt_tokens": record.planned_prompt_tokens,
            "max_tokens": record.max_tokens,
            "prompt_hash": record.prompt_hash,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
