"""What was really sent: lengths, repetitions, cached shares, conversations, arrivals, from what was recorded.

Rule: a request counts as sent unless it was dropped, whatever became of it. Token counts are the server's own
(`usage`), so they are known of answered requests only; each number says of how many it is, and what nobody
knows is None, never 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_locust.core.record import DROPPED, OK
from vllm_locust.results.requests import HASH, UNKNOWN, Requests

BINS = 32
"""Of a histogram of lengths, at most."""

_LAST_TURN = 5
"""This one and those after it are one line."""
_WITHOUT = "unknown"


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]` values v with `edges[i]` <= v < `edges[i + 1]`; whole edges, spaced evenly in log."""

    edges: Sequence[int]
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Spread:
    """How lengths in tokens are spread: over `n` requests, percentiles as numpy's linear ones."""

    n: int
    min: int
    p10: float
    p50: float
    mean: float
    p90: float
    p99: float
    max: int
    total: int
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Prompts:
    """How many prompts were different: over the `n` requests whose prompt was recorded."""

    n: int
    distinct: int
    repeated: int
    """Requests whose prompt an earlier one had."""
    most_frequent: int
    """Requests that had the most frequent prompt."""


@dataclass(frozen=True, slots=True)
class Promised:
    """Prompt lengths against the plan: over the `n` answered requests for which it promised an exact one."""

    n: int
    exact: int
    worst: int
    """The largest difference, prompt tokens - promised ones."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Lengths of answers against what was asked for (`max_tokens`): over the `n` where both are known."""

    n: int
    as_asked: int
    shorter: int
    longer: int
    finish_reasons: Mapping[str, int]
    """Of all answers."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Prompt tokens that came from the server's prefix cache, as the answers tell."""

    n: int
    """Answers that told."""
    untold: int
    """Answers that told their prompt tokens, and not how many of them were cached."""
    hits: int
    """Answers with at least one cached token."""
    cached_tokens: int
    prompt_tokens: int
    """Of those that told."""
    share: float | None
    """cached_tokens / prompt_tokens."""
    least_share: float | None
    """The same if those that did not tell had none: servers there are that leave a 0 out."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The requests that were one turn of theirs: `1`, ..., `5+`, and `2+` for all but the first."""

    turn: str
    requests: int
    mean_ttft_ms: float | None
    mean_prompt_tokens: float | None
    cached_share: float | None


@dataclass(frozen=True, slots=True)
class Conversations:
    """Conversations of one scenario of which something was sent; one that was cut short counts as it was.

    Not of a profile: the turns of a conversation may be profiles of their own.
    """

    scenario: str
    count: int
    mean_turns: float
    max_turns: int
    turns: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests were to be sent, dropped ones too, and how late the sent ones were."""

    rate: float | None
    """Requests per second: (count - 1) / (last - first intended start)."""
    mean_late_ms: float | None
    p50_late_ms: float | None
    p99_late_ms: float | None
    max_late_ms: float | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent of one profile, or of all (`profile` is None)."""

    profile: str | None
    planned: int
    """Requests that were recorded: `sent` and `dropped`."""
    dropped: int
    sent: int
    answered: int
    failures: Mapping[str, int]
    """Sent requests that failed, by outcome."""
    prompts: Prompts | None
    prompt_tokens: Spread | None
    output_tokens: Spread | None
    without_usage: int
    """Answers whose lengths the server did not tell."""
    promised: Promised | None
    answers: Answers
    cached: Cached | None
    models: Mapping[str, int]
    targets: Mapping[str, int]
    arrivals: Arrivals


@dataclass(frozen=True, slots=True)
class SentByProfile:
    """Each profile in the order in which they came, and all together; conversations, if there are any."""

    profiles: Sequence[Sent]
    total: Sent
    conversations: Sequence[Conversations]


def describe(requests: Requests) -> SentByProfile:
    """What the recorded `requests` say of what was sent. Histograms of all profiles have the same edges."""
    answered = requests.take(requests.is_word("outcome", OK))
    edges = {
        name: _edges(values[values != UNKNOWN])
        for name, values in (
            ("prompt_tokens", _prompt_tokens(answered)),
            ("output_tokens", _output_tokens(answered)),
        )
    }
    total = _describe(None, requests, edges)
    parts = requests.by_word("profile")
    return SentByProfile(
        profiles=[_describe(profile or _WITHOUT, part, edges) for profile, part in parts],
        total=total,
        conversations=_conversations(requests),
    )


def _describe(profile: str | None, requests: Requests, edges: Mapping[str, NDArray[np.int64]]) -> Sent:
    dropped = requests.is_word("outcome", DROPPED)
    sent = requests.take(~dropped)
    answered = sent.take(sent.is_word("outcome", OK))
    return Sent(
        profile=profile,
        planned=len(requests),
        dropped=int(dropped.sum()),
        sent=len(sent),
        answered=len(answered),
        failures={outcome: n for outcome, n in _named(sent, "outcome").items() if outcome != OK},
        prompts=_prompts(sent[HASH][sent[HASH] != 0]),
        prompt_tokens=_spread(_prompt_tokens(answered), edges["prompt_tokens"]),
        output_tokens=_spread(_output_tokens(answered), edges["output_tokens"]),
        without_usage=int((_output_tokens(answered) == UNKNOWN).sum()),
        promised=_promised(answered),
        answers=_answers(answered),
        cached=_cached(answered),
        models=_named(sent, "model"),
        targets=_named(sent, "target"),
        arrivals=_arrivals(requests, sent),
    )


def _named(requests: Requests, name: str, without: str | None = None) -> dict[str, int]:
    """Counts by word; of requests without one under the word `without`, or not at all."""
    named = ((word or without, count) for word, count in requests.count_words(name).items())
    return {word: count for word, count in named if word}


def _prompt_tokens(answered: Requests) -> NDArray[np.int64]:
    """As the server counted them: without usage, what stands there is what was planned."""
    return np.where(answered["tokens_counted"] == 1, UNKNOWN, answered["prompt_tokens"])


def _output_tokens(answered: Requests) -> NDArray[np.int64]:
    """As the server told them: the events that were counted in their place are not tokens for certain."""
    return np.where(answered["tokens_counted"] == 1, UNKNOWN, answered["output_tokens"])


def _edges(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers that cut these into at most `BINS`, evenly in log; each bin is at least 1 wide."""
    if not len(values):
        return np.zeros(0, np.int64)
    low, high = max(int(values.min()), 1), max(int(values.max()), 1)
    edges = np.rint(np.geomspace(low, high + 1, min(BINS, high - low + 1) + 1)).astype(np.int64)
    return np.unique(edges)


def _spread(tokens: NDArray[np.int64], edges: NDArray[np.int64]) -> Spread | None:
    known = tokens[tokens != UNKNOWN]
    if not len(known):
        return None
    p10, p50, p90, p99 = (float(value) for value in np.percentile(known, (10, 50, 90, 99)))
    counts, _ = np.histogram(np.maximum(known, 1), edges)
    return Spread(
        n=len(known),
        min=int(known.min()),
        p10=p10,
        p50=p50,
        mean=float(known.mean()),
        p90=p90,
        p99=p99,
        max=int(known.max()),
        total=int(known.sum()),
        histogram=Histogram(edges.tolist(), counts.tolist()),
    )


def _prompts(hashes: NDArray[np.uint64]) -> Prompts | None:
    if not len(hashes):
        return None
    counts = np.unique(hashes, return_counts=True)[1]
    return Prompts(len(hashes), len(counts), len(hashes) - len(counts), int(counts.max()))


def _promised(answered: Requests) -> Promised | None:
    tokens, promised = _prompt_tokens(answered), answered["planned_prompt_tokens"]
    known = (tokens != UNKNOWN) & (promised != UNKNOWN)
    if not known.any():
        return None
    off = (tokens - promised)[known]
    return Promised(len(off), int((off == 0).sum()), int(off[np.abs(off).argmax()]))


def _answers(answered: Requests) -> Answers:
    tokens, asked = _output_tokens(answered), answered["max_tokens"]
    off = (tokens - asked)[(tokens != UNKNOWN) & (asked != UNKNOWN)]
    return Answers(
        n=len(off),
        as_asked=int((off == 0).sum()),
        shorter=int((off < 0).sum()),
        longer=int((off > 0).sum()),
        finish_reasons=_named(answered, "finish_reason", without=_WITHOUT),
    )


def _cached(answered: Requests) -> Cached | None:
    """None where not one answer tells."""
    tokens, cached = _prompt_tokens(answered), answered["cached_tokens"]
    known = tokens != UNKNOWN
    told = known & (cached != UNKNOWN)
    if not told.any():
        return None
    of_tokens, of_all = int(tokens[told].sum()), int(tokens[known].sum())
    hit_tokens = int(cached[told].sum())
    return Cached(
        n=int(told.sum()),
        untold=int((known & ~told).sum()),
        hits=int((cached[told] > 0).sum()),
        cached_tokens=hit_tokens,
        prompt_tokens=of_tokens,
        share=hit_tokens / of_tokens if of_tokens else None,
        least_share=hit_tokens / of_all if of_all else None,
    )


def _conversations(requests: Requests) -> list[Conversations]:
    sent = ~requests.is_word("outcome", DROPPED)
    talk = requests.take(sent & (requests["session"] != UNKNOWN) & (requests["turn"] != UNKNOWN))
    return [_conversations_of(scenario or _WITHOUT, part) for scenario, part in talk.by_word("scenario")]


def _conversations_of(scenario: str, talk: Requests) -> Conversations:
    turns_of = np.unique(talk["session"], return_counts=True)[1]
    turn = talk["turn"]
    selections = {str(number): turn == number for number in range(1, _LAST_TURN)}
    selections |= {f"{_LAST_TURN}+": turn >= _LAST_TURN, "2+": turn >= 2}
    return Conversations(
        scenario=scenario,
        count=len(turns_of),
        mean_turns=float(turns_of.mean()),
        max_turns=int(turns_of.max()),
        turns=[_turn(name, talk.take(rows)) for name, rows in selections.items() if rows.any()],
    )


def _turn(name: str, requests: Requests) -> Turn:
    answered = requests.take(requests.is_word("outcome", OK))
    tokens = _prompt_tokens(answered)
    cached = _cached(answered)
    mean_ttft_s = _mean(answered["ttft_s"][~np.isnan(answered["ttft_s"])])
    return Turn(
        turn=name,
        requests=len(requests),
        mean_ttft_ms=None if mean_ttft_s is None else mean_ttft_s * 1000,
        mean_prompt_tokens=_mean(tokens[tokens != UNKNOWN]),
        cached_share=None if cached is None else cached.share,
    )


def _arrivals(requests: Requests, sent: Requests) -> Arrivals:
    intended_s = requests["intended_s"][~np.isnan(requests["intended_s"])]
    span_s = float(np.ptp(intended_s)) if len(intended_s) else 0.0
    late_ms = (sent["sent_s"] - sent["intended_s"]) * 1000
    late_ms = late_ms[~np.isnan(late_ms)]
    p50, p99 = (float(value) for value in np.percentile(late_ms, (50, 99))) if len(late_ms) else (None, None)
    return Arrivals(
        rate=(len(intended_s) - 1) / span_s if span_s else None,
        mean_late_ms=_mean(late_ms),
        p50_late_ms=p50,
        p99_late_ms=p99,
        max_late_ms=float(late_ms.max()) if len(late_ms) else None,
    )


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
