"""What is kept of the requests of one phase and profile: columns of numbers and histograms.

Rule: folding a record costs the same however many were folded before, what stays of it is some 100 bytes
however many tokens it had, and only `ok` requests that ended in the window enter a latency.
"""

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.columns import pack_array, unpack_array
from vllm_locust.core.histogram import Histogram
from vllm_locust.core.long_gaps import Limit, LongGaps
from vllm_locust.core.oddities import Oddities
from vllm_locust.core.record import CANCELLED, DROPPED, OK, RequestRecord

UNKNOWN = -1
"""In a column of token counts: the server did not say, or not when they came."""

_EXAMPLE_LENGTH = 300

_COUNTERS = (
    "planned",
    "ok",
    "dropped",
    "outside_window",
    "failed_in_window",
    "without_usage",
    "contradictions",
    "streams",
    "promised_lengths",
    "kept_lengths",
)
_SECONDS = (
    "ttft_s",
    "e2el_s",
    "late_s",
    "tpot_s",
    "intended_bound_s",
    "first_bound_s",
    "last_bound_s",
    "send_bound_s",
    "ok_ended_s",
    "unsent_wait_s",
    "unsent_ended_s",
    "failed_began_s",
    "failed_ended_s",
    "connect_s",
    "connect_bound_s",
    "sent_s",
    "ended_s",
    "sent_by_s",
    "ended_since_s",
)
_BY_SECOND = ("tokens_by_second", "tokens_perhaps_elsewhere", "tokens_perhaps_there")
_AT_BORDERS = ("perhaps_inside", "perhaps_outside")
_TOKENS = ("output_tokens", "later_tokens", "prompt_tokens", "cached_tokens")
_HISTOGRAMS = (
    "itl",
    "itl_low",
    "itl_high",
    "itl_bound",
    "itl_per_token",
    "itl_unknown",
    "itl_per_token_unknown",
    "lag",
    "lateness",
    "lateness_high",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """How often one kind of failure happened, and the message of the first."""

    count: int
    at_s: float
    """When the first one ended."""
    example: str

    def plus(self, other: "Failure") -> "Failure":
        """Both together, whichever is given first."""
        at_s, example = min((self.at_s, self.example), (other.at_s, other.example))
        return Failure(self.count + other.count, at_s, example)


class Group:
    """The fold of some records. Stamps are seconds since the origin of the recording.

    Gaps that are as long as one of `limits` are counted for each stream, too.
    """

    __slots__ = (
        *_COUNTERS,
        *_SECONDS,
        *_TOKENS,
        *_HISTOGRAMS,
        "failures",
        "first_sent_by_s",
        "first_sent_s",
        "last_ended_in_window_s",
        "last_ended_since_s",
        "long_gaps",
        "oddities",
        "perhaps_inside",
        "perhaps_outside",
        "tokens_by_second",
        "tokens_perhaps_elsewhere",
        "tokens_perhaps_there",
    )

    def __init__(self, limits: Iterable[Limit] = ()) -> None:
        self.planned = 0
        self.ok = 0
        """Successful requests, in the window or not."""
        self.dropped = 0
        self.outside_window = 0
        """Requests that were sent but ended outside the window."""
        self.failed_in_window = 0
        self.failures: dict[str, Failure] = {}
        """By kind, in the window or not; `dropped` is none of them."""
        self.without_usage = 0
        """Successful requests in the window whose tokens were counted, since the server sent no usage."""
        self.contradictions = 0
        """Reads of requests in the window, successful or not, whose stamps were not to be trusted."""
        self.promised_lengths = 0
        """Successful requests in the window whose plan promised an exact number of prompt tokens, ..."""
        self.kept_lengths = 0
        """... and those of them in which the server counted just that."""
        self.oddities = Oddities()
        self.streams = 0
        """Successful requests in the window that have at least one gap between tokens."""
        # One entry per successful request in the window; TPOT is NaN where undefined, late = sent - intended.
        self.ttft_s, self.tpot_s, self.e2el_s, self.late_s = (array("d") for _ in range(4))
        # How much earlier than stamped its first and its last token may have arrived, at most.
        self.first_bound_s, self.last_bound_s = array("d"), array("d")
        # How much later than it says the request may have been on its way, and how much earlier it may have
        # been intended, at most.
        self.send_bound_s, self.intended_bound_s = array("d"), array("d")
        self.ok_ended_s = array("d")
        self.output_tokens, self.later_tokens = array("q"), array("q")
        self.prompt_tokens, self.cached_tokens = array("q"), array("q")
        # One entry per dropped request in the window: how long it waited, and when it was given up.
        self.unsent_wait_s, self.unsent_ended_s = array("d"), array("d")
        # One entry per failed request in the window: when it was sent, or was to be, and when it ended.
        self.failed_began_s, self.failed_ended_s = array("d"), array("d")
        # One entry per successful request in the window that had to connect, and what of it may be our fault.
        self.connect_s, self.connect_bound_s = array("d"), array("d")
        # One entry per request that was sent, in the window or not; when it was sent and ended by its stamps,
        # and by when and since when it truly was.
        self.sent_s, self.ended_s = array("d"), array("d")
        self.sent_by_s, self.ended_since_s = array("d"), array("d")
        # By when the first one was sent and since when the last one in the window has ended, likewise.
        self.first_sent_s = self.first_sent_by_s = math.inf
        self.last_ended_in_window_s = self.last_ended_since_s = -math.inf
        # Requests that perhaps ended on the other side of a border of the window, all folded as if inside: of
        # those that were measured outside, and of those inside; None without any.
        self.perhaps_inside: Group | None = None
        self.perhaps_outside: Group | None = None
        # Gaps, the least and the most that each may truly be, and how far it may be off.
        self.itl = Histogram()
        self.itl_low, self.itl_high = Histogram(), Histogram()
        self.itl_bound, self.itl_per_token = Histogram(), Histogram()
        self.long_gaps = {limit: LongGaps() for limit in limits}
        # The most that the gaps may be of answers in one piece that were perhaps read late; the least is 0.
        self.itl_unknown, self.itl_per_token_unknown = Histogram(), Histogram()
        # Of all requests in the window, successful or not: reading late, sending late, and the most of that.
        self.lag, self.lateness, self.lateness_high = Histogram(), Histogram(), Histogram()
        self.tokens_by_second: dict[int, int] = {}
        """Output tokens of all requests by the second in which they arrived, failed and outside ones too."""
        # Those of them that by their bounds may have come in another second, and in which ones.
        self.tokens_perhaps_elsewhere: dict[int, int] = {}
        self.tokens_perhaps_there: dict[int, int] = {}

    @property
    def completed(self) -> int:
        """Successful requests in the window."""
        return len(self.ttft_s)

    @property
    def failed(self) -> int:
        """Failed requests, in the window or not."""
        return sum(failure.count for failure in self.failures.values())

    def unknown_tpot_s(self) -> NDArray[np.float64]:
        """The most that TPOT may be where only that this client read late may make it undefined; else NaN."""
        spread_s = np.subtract(self.e2el_s, self.ttft_s) + self.first_bound_s
        later = np.asarray(self.later_tokens)
        return np.where(np.isnan(self.tpot_s) & (later > 0), spread_s / np.maximum(later, 1), np.nan)

    def ttft_bound_s(self) -> NDArray[np.float64]:
        """How much less each of `ttft_s` may truly be: its token came earlier, its request was sent later."""
        return np.minimum(np.add(self.first_bound_s, self.send_bound_s), self.ttft_s)

    def e2el_bound_s(self) -> NDArray[np.float64]:
        """How much less each of `e2el_s` may truly be, likewise."""
        return np.minimum(np.add(self.last_bound_s, self.send_bound_s), self.e2el_s)

    def ttft_from_plan_s(self) -> NDArray[np.float64]:
        """TTFT from the intended start: of each request of `ttft_s`, then of each dropped one its wait.

        That one would have taken longer, had it been sent, so it stands there for at least so much.
        """
        return np.concatenate([np.add(self.ttft_s, self.late_s), self.unsent_wait_s])

    def e2el_from_plan_s(self) -> NDArray[np.float64]:
        """E2EL from the intended start, likewise."""
        return np.concatenate([np.add(self.e2el_s, self.late_s), self.unsent_wait_s])

    def add(
        self,
        record: RequestRecord,
        origin_s: float,
        inside: bool,
        at_border: bool = False,
        clock_bound_s: float = 0.0,
    ) -> None:
        """Fold one record; `inside` says that it ended in the window, `at_border` that it perhaps did not.

        Or the reverse. `clock_bound_s` is how far `origin_s` may be off.
        """
        if at_border:
            self._border(not inside).add(record, origin_s, True)
        self.planned += 1
        if record.outcome == DROPPED:
            self.dropped += 1
            if inside:
                self.unsent_wait_s.append(record.ended_s - record.intended_s)
                self.unsent_ended_s.append(record.ended_s - origin_s)
            return
        self._add_stamps(record, origin_s, inside)
        arrivals = np.array(record.arrivals_s, np.float64)
        earliest = arrivals - np.array(record.bounds_s, np.float64) if record.bounds_s else arrivals
        if len(arrivals):
            self._add_tokens(record, arrivals - origin_s, earliest - origin_s, clock_bound_s)
        if record.outcome != OK:
            self._add_failure(record, origin_s, inside)
            return
        self.ok += 1
        if inside:
            self._add_latencies(record, origin_s)
            self._add_gaps(record, arrivals, earliest, origin_s)

    def _border(self, inside: bool) -> "Group":
        """Those that are perhaps inside, or perhaps outside."""
        name = "perhaps_inside" if inside else "perhaps_outside"
        if getattr(self, name) is None:
            setattr(self, name, Group())
        border: Group = getattr(self, name)
        return border

    def _add_stamps(self, record: RequestRecord, origin_s: float, inside: bool) -> None:
        ended_s = record.ended_s - origin_s
        since_s = ended_s - record.ended_bound_s
        if record.sent_s is not None:
            sent_s = record.sent_s - origin_s
            sent_by_s = min(sent_s + record.send_bound_s, ended_s)  # nothing ends before it is sent
            self.first_sent_s = min(self.first_sent_s, sent_s)
            self.first_sent_by_s = min(self.first_sent_by_s, sent_by_s)
            self.sent_s.append(sent_s)
            self.sent_by_s.append(sent_by_s)
            self.ended_s.append(ended_s)
            self.ended_since_s.append(since_s)
        if not inside:
            self.outside_window += 1
            return
        if record.outcome != CANCELLED:  # when we lost patience is not when the server was done
            self.last_ended_in_window_s = max(self.last_ended_in_window_s, ended_s)
            self.last_ended_since_s = max(self.last_ended_since_s, since_s)
        self.lag.record_many(record.lags_s)
        self.contradictions += record.contradictions
        if record.sent_s is not None:
            self.lateness.record(record.sent_s - record.intended_s)
            intended_since_s = record.intended_s - origin_s - record.intended_bound_s
            self.lateness_high.record(sent_by_s - intended_since_s)

    def _add_failure(self, record: RequestRecord, origin_s: float, inside: bool) -> None:
        if inside:
            self.failed_in_window += 1
            began_s = record.intended_s if record.sent_s is None else record.sent_s
            self.failed_began_s.append(began_s - origin_s)
            self.failed_ended_s.append(record.ended_s - origin_s)
        message = (record.error or "")[:_EXAMPLE_LENGTH]
        _join_failures(self.failures, {record.outcome: Failure(1, record.ended_s - origin_s, message)})

    def _add_latencies(self, record: RequestRecord, origin_s: float) -> None:
        sent_s, first_s, last_s = record.sent_s, record.first_token_s, record.last_token_s
        if sent_s is None or first_s is None or last_s is None:
            raise ValueError(f"{record.id} is ok but lacks the time it was sent or a token")
        self.ttft_s.append(first_s - sent_s)
        self.e2el_s.append(last_s - sent_s)
        self.late_s.append(sent_s - record.intended_s)
        first_bound_s, last_bound_s = (record.bounds_s[0], record.bounds_s[-1]) if record.bounds_s else (0, 0)
        # Nothing arrives before its request was sent.
        self.first_bound_s.append(min(first_bound_s, first_s - sent_s))
        self.last_bound_s.append(min(last_bound_s, last_s - sent_s))
        self.send_bound_s.append(record.send_bound_s)
        self.intended_bound_s.append(record.intended_bound_s)
        tpot_s = record.tpot_s
        self.tpot_s.append(math.nan if tpot_s is None else tpot_s)
        self.ok_ended_s.append(record.ended_s - origin_s)
        self.output_tokens.append(UNKNOWN if record.output_tokens is None else record.output_tokens)
        later_tokens = record.later_tokens
        self.later_tokens.append(UNKNOWN if later_tokens is None else later_tokens)
        self.prompt_tokens.append(UNKNOWN if record.prompt_tokens is None else record.prompt_tokens)
        self.cached_tokens.append(UNKNOWN if record.cached_tokens is None else record.cached_tokens)
        self.without_usage += record.tokens_counted
        if (promised := record.planned_prompt_tokens) is not None and not record.tokens_counted:
            self.promised_lengths += 1
            self.kept_lengths += record.prompt_tokens == promised
        self.oddities.add(record)
        if record.connect_s is not None:
            self.connect_s.append(record.connect_s)
            self.connect_bound_s.append(record.connect_bound_s)

    def _add_gaps(
        self,
        record: RequestRecord,
        arrivals: NDArray[np.float64],
        earliest: NDArray[np.float64],
        origin_s: float,
    ) -> None:
        if len(arrivals) < 2:
            return
        if not record.has_gaps:
            if record.perhaps_read_late:
                self._add_unknown_gaps(record, arrivals, earliest)
            return
        self.streams += 1
        before, after = arrivals[:-1], arrivals[1:]
        bounds = arrivals - earliest
        self.itl.record_many(after - before)
        self.itl_low.record_many(earliest[1:] - before)
        self.itl_high.record_many(after - earliest[:-1])
        self.itl_bound.record_many(np.maximum(bounds[1:], bounds[:-1]))
        if record.event_tokens:
            self.itl_per_token.record_many(_gaps_per_token(arrivals, np.array(record.event_tokens)))
        if self.long_gaps:
            self._add_long_gaps(record, arrivals, origin_s)

    def _add_long_gaps(self, record: RequestRecord, arrivals: NDArray[np.float64], origin_s: float) -> None:
        assert record.sent_s is not None
        gaps = {"itl": np.diff(arrivals)}
        if record.event_tokens:
            gaps["itl_per_token"] = _gaps_per_token(arrivals, np.array(record.event_tokens))
        for limit, long in self.long_gaps.items():
            if limit.family in gaps:
                sent_s, ended_s = record.sent_s - origin_s, record.ended_s - origin_s
                long.add(sent_s, ended_s, gaps[limit.family], limit.seconds)

    def _add_unknown_gaps(
        self, record: RequestRecord, arrivals: NDArray[np.float64], earliest: NDArray[np.float64]
    ) -> None:
        self.itl_unknown.record_many(arrivals[1:] - earliest[:-1])
        if record.event_tokens:
            tokens = np.array(record.event_tokens)
            some = tokens > 0
            most = arrivals[some][1:] - earliest[some][:-1]
            self.itl_per_token_unknown.record_many(np.repeat(most, tokens[some][1:]))

    def _add_tokens(
        self,
        record: RequestRecord,
        arrivals: NDArray[np.float64],
        earliest: NDArray[np.float64],
        off_s: float,
    ) -> None:
        tokens = _tokens_of_events(record, len(arrivals))
        seconds = np.floor(arrivals)
        first = int(seconds.min())
        counts = np.bincount((seconds - first).astype(np.int64), tokens).tolist()
        _join_counts(self.tokens_by_second, {s: int(n) for s, n in enumerate(counts, first) if n})
        elsewhere = earliest - off_s < seconds
        if off_s:
            elsewhere |= arrivals + off_s >= seconds + 1
        for event in elsewhere.nonzero()[0].tolist():
            count, claimed = 1 if tokens is None else int(tokens[event]), int(seconds[event])
            _join_counts(self.tokens_perhaps_elsewhere, {claimed: count})
            there = {*range(math.floor(earliest[event] - off_s), math.floor(arrivals[event] + off_s) + 1)}
            _join_counts(self.tokens_perhaps_there, dict.fromkeys(there - {claimed}, count))

    def merge(self, other: "Group") -> None:
        """Add all that `other` has folded; `other` stays as it is."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in _SECONDS + _TOKENS:
            getattr(self, name).extend(getattr(other, name))
        for name in _HISTOGRAMS:
            getattr(self, name).merge(getattr(other, name))
        for limit, long in other.long_gaps.items():
            self.long_gaps.setdefault(limit, LongGaps()).merge(long)
        self.oddities.merge(other.oddities)
        _join_failures(self.failures, other.failures)
        for inside, border in ((True, other.perhaps_inside), (False, other.perhaps_outside)):
            if border is not None:
                self._border(inside).merge(border)
        self.merge_extent(other)
        for name in _BY_SECOND:
            _join_counts(getattr(self, name), getattr(other, name))

    def widest(self) -> "Group":
        """All that are measured inside, and all that are perhaps inside."""
        return _together(self, self.perhaps_inside)

    def at_borders(self) -> "Group":
        """All that perhaps are on the other side of a border."""
        return _together(self.perhaps_inside, self.perhaps_outside)

    def merge_extent(self, other: "Group") -> None:
        """Add when the requests of `other` were sent and ended, and nothing else of them."""
        self.first_sent_s = min(self.first_sent_s, other.first_sent_s)
        self.first_sent_by_s = min(self.first_sent_by_s, other.first_sent_by_s)
        self.last_ended_in_window_s = max(self.last_ended_in_window_s, other.last_ended_in_window_s)
        self.last_ended_since_s = max(self.last_ended_since_s, other.last_ended_since_s)

    def to_dict(self) -> dict[str, Any]:
        """Small, exact and fit for MessagePack; what is empty is left out."""
        data: dict[str, Any] = {name: getattr(self, name) for name in _COUNTERS}
        data |= {name: pack_array(c) for name in _SECONDS + _TOKENS if len(c := getattr(self, name))}
        data |= {name: h.to_dict() for name in _HISTOGRAMS if (h := getattr(self, name)).count}
        data["long_gaps"] = [[*limit, long.to_dict()] for limit, long in self.long_gaps.items()]
        data["oddities"] = asdict(self.oddities)
        data["failures"] = [[kind, f.count, f.at_s, f.example] for kind, f in self.failures.items()]
        data |= {
            name: [[second, count] for second, count in getattr(self, name).items()] for name in _BY_SECOND
        }
        data |= {name: at.to_dict() for name in _AT_BORDERS if (at := getattr(self, name)) is not None}
        if self.last_ended_in_window_s > -math.inf:
            data["last_ended_in_window_s"] = self.last_ended_in_window_s
            data["last_ended_since_s"] = self.last_ended_since_s
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The group that `to_dict` described."""
        group = cls()
        for name in _COUNTERS:
            setattr(group, name, data[name])
        for name in _SECONDS + _TOKENS:
            if name in data:
                setattr(group, name, unpack_array(getattr(group, name).typecode, data[name]))
        for name in _HISTOGRAMS:
            if name in data:
                setattr(group, name, Histogram.from_dict(data[name]))
        group.long_gaps = {Limit(*limit): LongGaps.from_dict(long) for *limit, long in data["long_gaps"]}
        group.oddities = Oddities(**data["oddities"])
        group.failures = {kind: Failure(*rest) for kind, *rest in data["failures"]}
        for name in _BY_SECOND:
            setattr(group, name, dict(data[name]))
        for name in _AT_BORDERS:
            if name in data:
                setattr(group, name, cls.from_dict(data[name]))
        group.first_sent_s = min(group.sent_s, default=math.inf)
        group.first_sent_by_s = min(group.sent_by_s, default=math.inf)
        group.last_ended_in_window_s = data.get("last_ended_in_window_s", -math.inf)
        group.last_ended_since_s = data.get("last_ended_since_s", -math.inf)
        return group


def _together(*groups: Group | None) -> Group:
    both = Group()
    for group in groups:
        if group is not None:
            both.merge(group)
    return both


def _join_counts(into: dict[int, int], other: Mapping[int, int]) -> None:
    for second, count in other.items():
        into[second] = into.get(second, 0) + count


def _join_failures(into: dict[str, Failure], other: Mapping[str, Failure]) -> None:
    for kind, failure in other.items():
        known = into.get(kind)
        into[kind] = known.plus(failure) if known else failure


def _gaps_per_token(arrivals: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """An event of k tokens after a gap g gives k gaps of g/k; an event of none leaves its gap to the next."""
    if not tokens.all():
        arrivals, tokens = arrivals[tokens > 0], tokens[tokens > 0]
    later = tokens[1:]
    return np.repeat((arrivals[1:] - arrivals[:-1]) / later, later)


def _tokens_of_events(record: RequestRecord, events: int) -> Sequence[int] | NDArray[np.int64] | None:
    """Output tokens of each event: as the server told, else spread evenly in whole ones; None for 1 each."""
    if record.event_tokens:
        return record.event_tokens
    if record.output_tokens is None or record.output_tokens == events:
        return None
    return np.diff(np.arange(events + 1) * record.output_tokens // events)
