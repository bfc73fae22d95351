"""Client vs server: the same latencies from both sides, the gap, and what the server is busy with."""

from .board import Board, Row, profile, runs, server, workload
from .panels import Panel, Query, Style, lines
from .promql import PROFILE, SERVER, gauge, mean, quantile, rate, ratio, server_tokens

_AT_THE_END = (
    "The server counts it when it happens, the client when the answer ends: they part while the load changes."
)
_SIDES = [
    Style("/client$/", color="blue"),
    Style("/server$/", color="orange"),
]


def board() -> Board:
    return Board(
        uid="vllm-locust-client-vs-server",
        title="vLLM client vs server",
        description="What the client measured beside what vLLM says of itself.",
        variables=[runs(), *workload(), profile(), server()],
        rows=[
            Row(8, _both_sides()),
            Row(8, _between_and_inside()),
            Row(8, _machine()),
        ],
    )


def _both_sides() -> list[Panel]:
    return [
        _latency(
            "TTFT", "ttft", f"The client's mean lies a few milliseconds above the server's. {_AT_THE_END}"
        ),
        _latency("TPOT", "tpot", "The two means lie on each other."),
        _latency("ITL", "itl", f"The two means lie on each other. {_AT_THE_END}"),
        _latency("E2EL", "e2e", "The client's mean lies a few milliseconds above the server's."),
    ]


def _latency(name: str, metric: str, look_for: str) -> Panel:
    ours, theirs = f"{metric}_seconds", f"server_{metric}_seconds"
    return lines(
        name,
        f"{look_for} A p99 is only as fine as its side's buckets: compare means.",
        "s",
        Query(mean(ours, PROFILE), "mean, client"),
        Query(mean(theirs, SERVER), "mean, server"),
        Query(quantile(0.99, ours, PROFILE), "p99, client"),
        Query(quantile(0.99, theirs, SERVER), "p99, server"),
        styles=[*_SIDES, Style("/^p99/", dashed=True)],
    )


def _between_and_inside() -> list[Panel]:
    return [
        lines(
            "Gap of the means, client − server",
            "What network, proxies, HTTP and client add: small, and the same under any load. It swings "
            "where a step begins, since the client counts only requests in the window.",
            "s",
            _gap("E2EL", "e2e"),
            _gap("TPOT", "tpot"),
            styles=[Style("/^E2EL/", color="purple"), Style("/^TPOT/", color="green")],
        ),
        lines(
            "Where the time goes, server",
            "Means per request. Much queue: requests wait in the server. Much prefill: long prompts, a "
            "prefix cache that does not hit, or steps shared with many others.",
            "s",
            Query(mean("server_queue_seconds", SERVER), "queue"),
            Query(mean("server_prefill_seconds", SERVER), "prefill"),
            Query(mean("server_decode_seconds", SERVER), "decode"),
            stacked=True,
            styles=[
                Style("/^queue/", color="red"),
                Style("/^prefill/", color="yellow"),
                Style("/^decode/", color="green"),
            ],
        ),
        lines(
            "Tokens per second",
            "A server that makes more than the client receives has other clients, or requests that failed "
            "here; one that makes less is not the only one. Prompts of the client are those of requests in "
            "the window: none while a step warms up.",
            "short",
            Query(rate("received_tokens_total", PROFILE), "output, client"),
            Query(server_tokens("generation"), "output, server"),
            Query(rate("prompt_tokens_total", PROFILE), "prompts, client"),
            Query(server_tokens("prompt"), "prompts, server"),
            styles=[*_SIDES, Style("/^prompts/", dashed=True, right_axis_unit="short")],
        ),
        lines(
            "Prefix cache, hit rate",
            "Share of the prompt tokens that were in the cache: it flatters TTFT, unless users repeat "
            "themselves as this load does.",
            "percentunit",
            Query(_hit_rate(), "hit rate"),
            most=1,
        ),
    ]


def _gap(name: str, metric: str) -> Query:
    return Query(f"{mean(f'{metric}_seconds', PROFILE)} - {mean(f'server_{metric}_seconds', SERVER)}", name)


def _hit_rate() -> str:
    hits, queries = (rate(f"server_prefix_cache_{what}_total", SERVER) for what in ("hits", "queries"))
    return f"{ratio(hits, queries)} or {gauge('server_prefix_cache_hit_ratio', SERVER, fold='avg')}"


def _machine() -> list[Panel]:
    gpu, legend = "server, gpu", "{{server}} GPU {{gpu}}"
    return [
        lines(
            "GPU utilisation",
            "Share of the time in which the GPU did anything: 100 % does not mean that it is full.",
            "percentunit",
            Query(gauge("server_gpu_utilization_ratio", SERVER, by=gpu, fold="max"), legend),
            most=1,
        ),
        lines(
            "GPU memory",
            "The server takes its share when it starts, KV cache included: the line is flat.",
            "percentunit",
            Query(
                ratio(
                    gauge("server_gpu_memory_used_bytes", SERVER, by=gpu),
                    gauge("server_gpu_memory_total_bytes", SERVER, by=gpu),
                ),
                legend,
            ),
            most=1,
        ),
        lines(
            "Server up",
            "1 while the server tells its metrics: a hole may be a restart, or a server too busy to answer.",
            "none",
            Query(gauge("server_up", SERVER, by="server", fold="min"), "{{server}}"),
            most=1,
        ),
        lines(
            "Time to fetch the server's metrics",
            "Grows when the server's API process is busy, which then delays tokens as well.",
            "s",
            Query(gauge("server_scrape_seconds", SERVER, by="server", fold="max"), "{{server}}"),
        ),
    ]
