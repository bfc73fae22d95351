"""Client and server held against each other, the KV cache, and how honest the client was."""

from collections.abc import Sequence

from vllm_locust.report.kv import KvUse, describe_kv
from vllm_locust.report.page.html import Html, Part, facts, join, listing, number, percent, table, tag
from vllm_locust.report.page.lead import FAMILIES
from vllm_locust.report.page.words import at_most
from vllm_locust.results.folder import Results


def reconciliation(run: Results) -> Html:
    """What both sides say of the same window."""
    server = (run.summary or {}).get("server") or {}
    sides = server.get("reconciliation")
    if not sides:
        return tag(
            "p", "The server said nothing that could be held against the client's side.", class_="soft"
        )
    rows = [
        (name, *(number(side.get(key)) for key in ("client_mean_ms", "server_mean_ms", "gap_ms")))
        for name, side in ((name, sides.get(key) or {}) for key, name in FAMILIES.items())
        if side
    ]
    counts = [
        (what, number(pair.get("client")), number(pair.get("server")))
        for what, pair in (
            ("requests", sides.get("requests") or {}),
            ("prompt tokens", (sides.get("tokens") or {}).get("prompt") or {}),
            ("output tokens", (sides.get("tokens") or {}).get("generation") or {}),
        )
    ]
    tables = tag(
        "div",
        table(
            ["mean, ms", "client", "server", "client - server"], rows, "Latencies in one and the same window"
        ),
        table(["counted", "client", "server"], counts, "Requests that began or ended in it differ a little"),
        class_="pair",
    )
    known = {
        "waited in the queue, mean": "mean_queue_ms",
        "prefill took, mean": "mean_prefill_ms",
        "decoding took, mean": "mean_decode_ms",
    }
    inside = [
        (name, f"{number(server[key])} ms") for name, key in known.items() if server.get(key) is not None
    ]
    counted = [("preemptions", number(server.get("preemptions")))]
    hits = server.get("prefix_cache_hit_rate")
    if hits is not None:
        counted.append(("prefix cache hit rate", percent(hits)))
    return join([tables, facts([*inside, *counted]), listing(sides.get("sentences") or ())])


def kv_cache(run: Results) -> Html | None:
    """What fits beside what was in use; None where no engine told its size."""
    use = describe_kv(run)
    return None if use is None else join([tag("p", use.sentence), _engines(use), _fits(use)])


def _engines(use: KvUse) -> Html:
    rows: list[Sequence[Part]] = [
        (
            f"engine {one.engine}",
            number(one.num_gpu_blocks),
            number(one.block_size),
            number(one.tokens),
            _tokens(one.tokens_at_peak, one.usage_peak),
            _tokens(one.tokens_in_the_mean, one.usage_mean),
        )
        for one in use.engines
    ]
    heads = ["", "blocks", "tokens a block", "tokens that fit", "in use, peak at least", "in use, mean"]
    return table(
        heads, rows, "Capacity by what the server tells, beside what was measured; one block is vLLM's own"
    )


def _tokens(tokens: int | None, share: float | None) -> Part:
    return None if tokens is None else join([number(tokens), tag("span", percent(share), class_="ci")])


def _fits(use: KvUse) -> Html | None:
    if use.requests_fit is None:
        return None
    return facts(
        [
            ("requests of these lengths that fit at once, sharing nothing", number(use.requests_fit, 1)),
            ("that ran at once, peak at least", number(use.running_peak)),
            ("that waited, peak at least", number(use.waiting_peak)),
        ]
    )


def honesty(run: Results) -> Html | None:
    """How late the client sent and read, its CPU, and the bounds that follow; None where it is not known."""
    client = (run.summary or {}).get("client")
    if not client:
        return None
    off_ms = client.get("clock_bound_ms")
    rows: list[Sequence[Part]] = [
        ("a TTFT is too large, in the mean", at_most(client.get("ttft_bound_mean_ms"))),
        ("error of a TTFT, p99", at_most(client.get("ttft_bound_p99_ms"))),
        ("error of an ITL, p99", at_most(client.get("itl_bound_p99_ms"))),
        ("read later than it arrived, p99", _ms(client.get("lag_p99_ms"))),
        ("sent later than planned, p99", _ms(client.get("send_lateness_p99_ms"))),
        ("... and by so much at most", _ms(client.get("send_lateness_p99_high_ms"))),
        *((("clocks of the processes are off by", at_most(off_ms)),) if off_ms else ()),
        *((f"CPU of {name}", f"{percent(share)} of a core") for name, share in _cpu(client)),
        ("requests dropped, never sent", number(client.get("dropped"))),
        ("arrival times taken by", "the kernel" if client.get("stamps") == "kernel" else "read()"),
    ]
    return tag("div", table(["the client", "value"], rows), class_="snug")


def _cpu(client: dict[str, dict[str, float]]) -> Sequence[tuple[str, float]]:
    return list((client.get("cpu_shares") or {}).items())


def _ms(value: float | None) -> Part:
    return None if value is None else f"{number(float(value))} ms"
