"""What client and server say of the same requests, side by side, and in words where they differ.

Rule: a sentence only where something is worth saying, and of causes all those that the evidence at hand does
not exclude. A gap that may be the client's own, by its error bounds or its verdict, is blamed on nobody else.
Means of a server that works for others too are not held against the client's, nor are those of another number
of requests. The numbers stand beside each other in any case.

Client and server do not measure the same stretch: vLLM's histograms begin when its API server takes a request
in and end when it has the token in hand, so that the network, what stands in between, and an API server that
comes late to its sockets are only in the client's. Some ms are usual: a real vLLM on two cores had 169 ms of
TTFT where its client had 191, and 342 ms of E2EL where that had 365.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from vllm_locust.core.server_window import ServerWindow

_FAMILIES = {"ttft": "ttft", "itl": "itl", "e2el": "e2e"}
"""Latencies of a summary, and the server's histograms of the same."""

_FEWEST = 5
"""Requests on both sides, under which a gap of means says little."""

_GAP_MS, _GAP_SHARE = 5.0, 0.1
"""Both have to be exceeded: by this much can means differ without a reason to look for."""
_SAME_SHARE = 0.05
"""By how much the counts behind two means may differ: of more, the means are of different requests."""
_CONNECTING_SHARE = 0.5
_BUNCHED_FACTOR = 1.5
_QUEUED_SHARE = 0.5

_COUNT_SLACK, _COUNT_SHARE = 3, 0.05
_SLACK_S = 1.0
"""The server is asked once a second: what ends meanwhile at a window's borders is on either side of them."""
_COVERED_SHARE = 0.8


def is_partial(server: ServerWindow, client: Mapping[str, Any], silent: Sequence[str] = ()) -> bool:
    """Whether others than the server that was asked answered a part of this client's requests.

    Its requests and tokens are too few for them, which nothing that is known explains. Others who use it too
    make them more, so that the numbers may be partial where this is False. `silent` are sources that were to
    be asked, and gave nothing in the end.
    """
    return _missing(server, client, silent) == "elsewhere"


def reconcile(
    server: ServerWindow, client: Mapping[str, Any], *, valid: Collection[str], silent: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare a server's window with the summary of the same window (see `core.summary`), fit for JSON.

    `..._between_ms` are the borders of the server's bucket that holds the percentile, the upper one None for
    its last bucket. None is not known, and all that the server told where it `is_partial`. `valid` are the
    latencies that the client could measure well.
    """
    shown = server.of_a_part() if is_partial(server, client, silent) else server
    result = _both_sides(shown, client)
    result["sentences"] = list(_sentences(result, server, client, valid, silent))
    return result


def _both_sides(server: ServerWindow, client: Mapping[str, Any]) -> dict[str, Any]:
    blocks = {family: _family(server, client, family) for family in _FAMILIES}
    queue = server.histograms.get("queue")
    return {
        **blocks,
        "queue": {
            "server_mean_ms": server.mean_ms("queue"),
            "server_count": None if queue is None else queue.count,
            "server_p99_between_ms": _between(server, "queue", 0.99),
        },
        "tokens": {
            "prompt": {
                "client": client.get("total_input_tokens"),
                "server": server.count("prompt_tokens"),
            },
            "generation": {
                "client": client.get("total_output_tokens"),
                "server": server.count("generation_tokens"),
            },
        },
        "requests": {"client": client.get("completed"), "server": server.count("requests_finished")},
    }


def _family(server: ServerWindow, client: Mapping[str, Any], family: str) -> dict[str, Any]:
    name = _FAMILIES[family]
    theirs, ours = server.mean_ms(name), client.get(f"mean_{family}_ms")
    state = server.histograms.get(name)
    return {
        "client_mean_ms": ours,
        "server_mean_ms": theirs,
        "gap_ms": None if ours is None or theirs is None else ours - theirs,
        # A summary does not count gaps between tokens.
        "client_count": None if family == "itl" else client.get("completed"),
        "server_count": None if state is None else state.count,
        "server_p50_between_ms": _between(server, name, 0.5),
        "server_p99_between_ms": _between(server, name, 0.99),
    }


def _between(server: ServerWindow, name: str, quantile: float) -> list[float | None] | None:
    state = server.histograms.get(name)
    borders = None if state is None else state.bucket_of(quantile)
    return None if borders is None else [None if b is None else b * 1000 for b in borders]


# -- sentences --------------------------------------------------------------------------------------------


def _sentences(
    result: Mapping[str, Any],
    server: ServerWindow,
    client: Mapping[str, Any],
    valid: Collection[str],
    silent: Sequence[str],
) -> Iterator[str]:
    if server.several_servers:
        yield (
            "Several servers take turns behind the address of the metrics, so that its numbers are nobody's "
            "and are left out: name each of them with --server-metrics-url, which may be repeated."
        )
        return
    if server.restarts:
        yield (
            f"The server's counters began anew {_times(server.restarts)}: it was restarted, or another one "
            "answers now behind the address of its metrics."
        )
    if server.first_look_late_s:
        yield (
            f"The server was first looked at {server.first_look_late_s:.2f} s after the load began: what "
            "it did before is not known, so that its counts and means are left out."
        )
    others = _requests_of_others(result["requests"], client)
    if _enough(result, client) and not others:
        yield from _on_gaps(result, client, valid)
    yield from _on_the_queue(result)
    if others:
        theirs = result["requests"]["server"]
        sources = {source for source, _, _ in server.engines}
        twice = ", or one server asked under two of the addresses given" if len(sources) > 1 else ""
        yield (
            f"The server finished {theirs:.0f} requests, {100 * others / theirs:.0f} % of them at least "
            "beyond this client's: somebody else's, asked for twice by a gateway, or choices of one request "
            f"(n), each of which vLLM counts{twice}. Its means are of all of them."
        )
    yield from _on_missing_requests(server, client, silent)


def _enough(result: Mapping[str, Any], client: Mapping[str, Any]) -> bool:
    counts = (client.get("completed"), result["ttft"]["server_count"] or result["e2el"]["server_count"])
    return all(count is not None and count >= _FEWEST for count in counts)


def _on_gaps(result: Mapping[str, Any], client: Mapping[str, Any], valid: Collection[str]) -> Iterator[str]:
    yield from _on_different_requests(result)
    ttft, itl, e2el = blocks = _of_the_same_requests(result, client)
    sure_ttft, sure_itl, sure_e2el = _surely(blocks, client)
    if {"ttft", "itl"} <= set(valid) and _is_held_back(sure_ttft, sure_itl):
        yield (
            f"The first token came {ttft['gap_ms']:.1f} ms late by the server's clock, and the others faster "
            f"than it made them ({_both(itl)} between tokens): on their way tokens were held back and then "
            "sent together, as by vLLM's API server when it lacks CPU time, or by a gateway that buffers."
        )
        return
    if _is_late(ttft):
        vouched = "ttft" in valid and _is_late(sure_ttft)
        yield f"Mean TTFT is {_more(ttft)}. {_reasons(ttft, client, vouched)}"
    told_ms = max(ttft["gap_ms"] or 0.0, 0.0)
    if _is_late(e2el, beyond_ms=told_ms):
        vouched = "e2el" in valid and _is_late(sure_e2el, beyond_ms=told_ms)
        yield f"Mean E2EL is {_more(e2el)}. {_reasons(e2el, client, vouched)}"
    elif _agrees(e2el) and "itl" in valid and _is_bunched(sure_itl):
        yield f"Mean ITL is {_both(itl)} though E2EL agrees: {_BUNCHED}"
    early = [name for name, block in (("TTFT", sure_ttft), ("E2EL", sure_e2el)) if _is_early(block)]
    if early:
        yield (
            f"Mean {' and '.join(early)} of the client {'is' if len(early) == 1 else 'are'} below the "
            "server's: the server's histograms hold requests that this client does not count (others', those "
            "that failed here, or those of another time than its window), or its parser of tool calls kept "
            "the last tokens to itself."
        )


def _on_different_requests(result: Mapping[str, Any]) -> Iterator[str]:
    for name, block in (("TTFT", result["ttft"]), ("E2EL", result["e2el"])):
        if not _is_of_the_same(block) and (_is_late(block) or _is_early(block)):
            yield (
                f"Mean {name} is {_both(block)}, but of different requests: of {block['client_count']} here, "
                f"of {block['server_count']} there."
            )


def _of_the_same_requests(result: Mapping[str, Any], client: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """TTFT, ITL and E2EL, without the gap where it is one between different requests.

    Nobody counts the client's gaps between tokens: they are of the requests of the others, but for answers
    of which they are not known.
    """
    same = {family: _is_of_the_same(result[family]) for family in ("ttft", "e2el")}
    same["itl"] = all(same.values()) and _has_gaps_of_most(client["answers"])
    return [result[family] if same[family] else {**result[family], "gap_ms": None} for family in _FAMILIES]


def _has_gaps_of_most(answers: Mapping[str, Any]) -> bool:
    several = answers["of_several_tokens"]
    return _are_as_many(several - answers["itl_unknown"], several)


def _surely(blocks: Sequence[Mapping[str, Any]], client: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The same if the client is off, within its error bounds, by what brings it nearest to the server."""
    for family, block in zip(_FAMILIES, blocks, strict=True):
        low_ms, high_ms = client["error_bounds"][f"mean_{family}_ms"]
        if block["gap_ms"] is None or low_ms is None or high_ms is None:
            yield {**block, "gap_ms": None}
            continue
        theirs = block["server_mean_ms"]
        ours = min(max(theirs, low_ms), high_ms)
        yield {**block, "client_mean_ms": ours, "gap_ms": ours - theirs}


def _is_of_the_same(block: Mapping[str, Any]) -> bool:
    """Whether the two means can be of the same requests, but for a few at the borders of the window."""
    return _are_as_many(block["client_count"], block["server_count"])


def _are_as_many(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= _SAME_SHARE * max(one, other)


def _is_late(block: Mapping[str, Any], beyond_ms: float = 0.0, least_ms: float = _GAP_MS) -> bool:
    """Whether the client's mean is more than can be usual above the server's, and above `beyond_ms`."""
    if block["gap_ms"] is None:
        return False
    gap_ms = block["gap_ms"] - beyond_ms
    return bool(gap_ms > least_ms and gap_ms > _GAP_SHARE * block["client_mean_ms"])


def _is_early(block: Mapping[str, Any], least_ms: float = _GAP_MS) -> bool:
    gap_ms = block["gap_ms"]
    return gap_ms is not None and -gap_ms > least_ms and -gap_ms > _GAP_SHARE * block["server_mean_ms"]


def _agrees(block: Mapping[str, Any]) -> bool:
    return block["gap_ms"] is not None and not _is_late(block) and not _is_early(block)


def _is_bunched(itl: Mapping[str, Any]) -> bool:
    return _is_late(itl, least_ms=0.5) and itl["client_mean_ms"] > _BUNCHED_FACTOR * itl["server_mean_ms"]


def _is_held_back(ttft: Mapping[str, Any], itl: Mapping[str, Any]) -> bool:
    """What the first token came late the others made up for."""
    return _is_late(ttft) and _is_early(itl, least_ms=0.5)


def _reasons(block: Mapping[str, Any], client: Mapping[str, Any], vouched: bool) -> str:
    """Where a gap can come from, of which the client knows or not that it is not its own."""
    if not vouched:
        return "This client could not measure it well (see its verdict), so that the gap may be its own."
    connecting_ms = client.get("mean_connect_ms")
    connecting = (
        f"in opening connections ({connecting_ms:.1f} ms for a request that needed one), "
        if connecting_ms is not None and connecting_ms >= _CONNECTING_SHARE * block["gap_ms"]
        else ""
    )
    return (
        f"The client vouches for its own figures: the time passes {connecting}in the network, in a gateway "
        "in between, in vLLM's API server when it has more to do than its CPU can, or in its parser of tool "
        "calls, which sends nothing before a function's name is complete."
    )


def _on_the_queue(result: Mapping[str, Any]) -> Iterator[str]:
    queue, ttft = result["queue"], result["ttft"]
    waiting_ms, first_ms = queue["server_mean_ms"], ttft["server_mean_ms"]
    counts = (queue["server_count"], ttft["server_count"])
    if waiting_ms is None or first_ms is None or min(counts) < _FEWEST or not _are_as_many(*counts):
        return
    if waiting_ms > _GAP_MS and waiting_ms > _QUEUED_SHARE * first_ms:
        yield (
            f"Of {first_ms:.0f} ms to the first token, by the server's own account, requests spent "
            f"{waiting_ms:.0f} ms waiting in its queue."
        )


def _requests_of_others(requests: Mapping[str, Any], client: Mapping[str, Any]) -> float:
    """How many of those that the server finished cannot be this client's; 0 where that is not known."""
    ours, theirs = requests["client"], requests["server"]
    if ours is None or theirs is None:
        return 0.0
    known = client.get("requests") or {}
    # Whom we take for failed, or for outside of the window, the server may have finished all the same.
    failed = max(client.get("failed") or 0, known.get("failed") or 0)
    most = ours + failed + (known.get("outside_window") or 0)
    return max(theirs - most, 0.0) if theirs > most + _slack(ours, client.get("request_throughput")) else 0.0


def _slack(ours: float, per_s: float | None, slack_s: float = _SLACK_S) -> float:
    """By how much counts of both sides may differ without a reason to look for."""
    return max(_COUNT_SLACK, _COUNT_SHARE * ours, slack_s * (per_s or 0.0))


_Missing = Literal["restarted", "silent", "unseen", "without tokens", "uncounted", "elsewhere"]
"""Why the server may count fewer requests than this client; the last where nothing else explains it."""


def _missing(server: ServerWindow, client: Mapping[str, Any], silent: Sequence[str]) -> _Missing | None:
    """None where none are missing."""
    if not _too_few(server, "requests_finished", client, ("completed", "request_throughput")):
        return None
    if server.restarts:
        return "restarted"
    if silent:
        return "silent"
    if server.covered_s < _COVERED_SHARE * (client.get("duration") or 0.0):
        return "unseen"
    fewer = _too_few(server, "generation_tokens", client, ("total_output_tokens", "output_throughput"))
    return "without tokens" if fewer is None else "elsewhere" if fewer else "uncounted"


def _too_few(
    server: ServerWindow, counter: str, client: Mapping[str, Any], keys: tuple[str, str]
) -> bool | None:
    """Whether a counter is smaller than the client's count, by more than looks now and then can make it.

    What ends at the borders of each phase may be on either side. None where one of them is not known.
    """
    theirs, (ours, per_s) = server.count(counter), (client.get(key) for key in keys)
    if ours is None or theirs is None:
        return None
    phases = len(client.get("phases") or ()) or 1
    unsure_s = max(_SLACK_S, server.covered_s / max(server.samples, 1)) * phases
    return bool(theirs < ours - _slack(ours, per_s, unsure_s))


def _on_missing_requests(
    server: ServerWindow, client: Mapping[str, Any], silent: Sequence[str]
) -> Iterator[str]:
    why = _missing(server, client, silent)
    if why is None:
        return
    counted = (
        f"The server counted {server.count('requests_finished')} finished requests where this client had "
        f"{client['completed']}"
    )
    known_s, duration_s = server.covered_s, client.get("duration") or 0.0
    words: dict[_Missing, str] = {
        "restarted": ": what it did between the last look at it and its end is not known.",
        "silent": f": {' and '.join(silent)} gave no metrics in the end, and may have had the others.",
        "unseen": f": its metrics are known for {known_s:.0f} s of {duration_s:.0f} s only.",
        "without tokens": f": {_UNCOUNTED}, or {_ELSEWHERE}.",
        "uncounted": f", and no fewer tokens: {_UNCOUNTED}, or it works for somebody else, too, and "
        f"{_ELSEWHERE}.",
        "elsewhere": f", and fewer tokens, too: {_ELSEWHERE}. So its numbers are of a part of the load, and "
        "are left out.",
    }
    yield counted + words[why]


_BUNCHED = (
    "tokens travel several at a time, or some not at all, because of --stream-interval, of speculative "
    "decoding, of a parser of tool calls or reasoning that holds some back, of vLLM's API server, which "
    "merges what it has not sent yet when it lacks CPU time, or of a gateway that buffers."
)
_UNCOUNTED = "it ended some without counting them, as when they are aborted"
_ELSEWHERE = (
    "others answered them, servers behind the same address that are not asked for their metrics (name each "
    "with --server-metrics-url, which may be repeated), or a gateway from a cache of its own"
)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _both(block: Mapping[str, Any]) -> str:
    return f"{block['client_mean_ms']:.2f} ms here, {block['server_mean_ms']:.2f} ms there"


def _more(block: Mapping[str, Any]) -> str:
    percent = 100 * block["gap_ms"] / block["client_mean_ms"]
    return f"{block['gap_ms']:.1f} ms ({percent:.0f} %) more than the server's own"
