"""Records for tests: one by hand, or random ones from hypothesis."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from vllm_locust.core.record import CANCELLED, CONNECT, DROPPED, OK, TIMEOUT, TRUNCATED, RequestRecord

OUTCOMES = (OK, OK, OK, CONNECT, TIMEOUT, "http_503", TRUNCATED, CANCELLED, DROPPED)


def an_ok(
    sent_s: float = 0.0,
    ended_s: float | None = None,
    tokens: int | None = None,
    arrivals_s: Sequence[float] | None = None,
    **fields: Any,
) -> RequestRecord:
    """A request with a token at each of `arrivals_s`, by default one halfway and one at the end."""
    if arrivals_s is None:
        end_s = sent_s + 1.0 if ended_s is None else ended_s
        arrivals_s = [(sent_s + end_s) / 2, end_s]
    defaults = {"profile": "p", "outcome": OK, "intended_s": sent_s, "prompt_tokens": 7}
    return RequestRecord(
        index=0,
        scenario="s",
        sent_s=sent_s,
        first_token_s=arrivals_s[0],
        last_token_s=arrivals_s[-1],
        ended_s=arrivals_s[-1] if ended_s is None else ended_s,
        output_tokens=len(arrivals_s) if tokens is None else tokens,
        arrivals_s=arrivals_s,
        **(defaults | fields),
    )


def an_error(ended_s: float, outcome: str = "http_503", error: str = "overloaded", **fields) -> RequestRecord:
    defaults = {"profile": "p", "intended_s": ended_s - 0.5, "sent_s": ended_s - 0.5}
    return RequestRecord(0, "s", outcome=outcome, ended_s=ended_s, error=error, **(defaults | fields))


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    """Any outcome in the first minute of a run, tokens told per event or not, usage or not."""
    outcome = draw(st.sampled_from(OUTCOMES))
    intended_s = draw(st.floats(0, 30))
    sent_s = intended_s + draw(st.sampled_from([0.0, 0.001, 2.5]))
    common = {
        "profile": draw(st.sampled_from(["a", "b"])),
        "phase": draw(st.integers(0, 1)),
        "outcome": outcome,
        "intended_s": intended_s,
        "error": None if outcome == OK else draw(st.sampled_from(["x", "y"])),
    }
    if outcome == DROPPED or (outcome == CONNECT and draw(st.booleans())):
        return RequestRecord(0, "s", ended_s=sent_s, **common)
    gaps = draw(st.lists(st.floats(1e-5, 2.0), min_size=1 if outcome == OK else 0, max_size=6))
    arrivals = [sent_s + sum(gaps[: i + 1]) for i in range(len(gaps))]
    told = draw(st.booleans())
    event_tokens = [draw(st.integers(0, 3)) for _ in gaps] if told else []
    return RequestRecord(
        0,
        "s",
        sent_s=sent_s,
        first_token_s=arrivals[0] if arrivals else None,
        last_token_s=arrivals[-1] if arrivals else None,
        ended_s=sent_s + sum(gaps) + draw(st.floats(1e-3, 0.5)),
        connect_s=draw(st.sampled_from([None, 0.002])),
        prompt_tokens=draw(st.integers(1, 100)),
        output_tokens=sum(event_tokens) if told else len(gaps) + draw(st.integers(0, 4)),
        cached_tokens=draw(st.sampled_from([None, 16])),
        tokens_counted=draw(st.booleans()),
        arrivals_s=arrivals,
        event_tokens=event_tokens,
        bounds_s=[draw(st.sampled_from([0.0, 0.0007])) for _ in gaps],
        lags_s=[1e-4 for _ in gaps],
        contradictions=draw(st.integers(0, 2)),
        **common,
    )
