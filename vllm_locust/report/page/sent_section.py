"""What was sent: how many requests of which lengths, in a table and two charts, and all of it as text."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from vllm_locust.report.page.charts import COLOURS, Chart, Charts, Trace, plain
from vllm_locust.report.page.html import Html, Part, join, number, percent, table, tag
from vllm_locust.report.sent import Sent, SentByProfile, Spread, describe
from vllm_locust.report.sent_text import render_sent
from vllm_locust.results.folder import Results

_HEADS = (
    "profile", "planned", "sent", "answered", "distinct prompts",
    "prompt p50", "prompt p99", "output p50", "output p99", "from the prefix cache",
)  # fmt: skip
_MOST_PROFILES = 8
_MOST_TICKS = 6


def sent_section(run: Results, charts: Charts) -> Html | None:
    """None when nothing was recorded."""
    sent = describe(run.requests)
    if not sent.total.planned:
        return None
    rows = [_row(one) for one in (*sent.profiles, *([sent.total] if len(sent.profiles) > 1 else ()))]
    hit_rate = ((run.summary or {}).get("server") or {}).get("prefix_cache_hit_rate")
    return join(
        [
            table(_HEADS, rows, "Lengths in tokens, as the server counted them"),
            tag("div", *(charts.place(chart) for chart in _lengths(sent)), class_="charts"),
            tag(
                "details",
                tag("summary", "All that is known, as text"),
                tag("pre", render_sent(sent, hit_rate)),
            ),
        ]
    )


def _row(one: Sent) -> list[Part]:
    return [
        one.profile or "all",
        number(one.planned),
        number(one.sent),
        number(one.answered),
        number(one.prompts.distinct if one.prompts else None),
        *_ends(one.prompt_tokens),
        *_ends(one.output_tokens),
        percent(one.cached.share if one.cached else None),
    ]


def _ends(spread: Spread | None) -> tuple[str, str]:
    return ("n/a", "n/a") if spread is None else (number(round(spread.p50)), number(round(spread.p99)))


def _lengths(sent: SentByProfile) -> Iterator[Chart]:
    shown: Sequence[Sent] = sent.profiles if len(sent.profiles) <= _MOST_PROFILES else [sent.total]
    for title, key, look_for in (
        (
            "Prompt lengths",
            "prompt_tokens",
            "Long prompts cost prefill: they make TTFT, and stall what others decode.",
        ),
        (
            "Output lengths",
            "output_tokens",
            "Long answers cost decoding: they hold their place in the KV cache.",
        ),
    ):
        traces: list[Trace] = []
        ticks: list[str] = []
        for place, one in enumerate(shown):
            spread: Spread | None = getattr(one, key)
            if spread is None or len(spread.histogram.counts) < 2:
                continue
            edges, counts = spread.histogram.edges, spread.histogram.counts
            bars = {"type": "bar", "name": plain(one.profile or "all"), "y": list(counts)}
            where = [f"{low}" if high - low <= 1 else f"{low} to {high - 1}" for low, high in pairwise(edges)]
            ticks = where[:: -(-len(where) // _MOST_TICKS)]
            traces.append(bars | {"x": where, "marker": {"color": f"--c{place % COLOURS}"}})
        if traces:
            yield Chart(
                title,
                look_for,
                traces,
                {"title": "tokens", "type": "category", "tickvals": ticks, "tickangle": 0},
                {"title": "requests"},
                layout={"barmode": "stack", "showlegend": True},
            )
