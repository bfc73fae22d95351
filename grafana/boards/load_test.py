"""Load test: what is asked, what comes back, how fast, and whether the client can be believed."""

from .board import Board, Row, choice, profile, runs, server, workload
from .panels import Panel, Query, Style, heat, lines, number
from .promql import (
    PROFILE,
    RUN,
    SERVER,
    gauge,
    last,
    quantile,
    rate,
    ratio,
    server_tokens,
    total,
    total_quantile,
)

_OK = f'{PROFILE}, outcome="ok"'
_FAILED = f'{PROFILE}, outcome!="ok"'


def board() -> Board:
    return Board(
        uid="vllm-locust-load-test",
        title="vLLM load test",
        description="A load test as it runs: load, latencies, throughput, failures, server and client.",
        variables=[
            runs(),
            *workload(),
            profile(),
            server(),
            # What lines are kept apart by; `le`, a bucket's limit, they are grouped by anyhow.
            choice(
                "split",
                "Lines",
                {"together": "le", "by profile": "profile", "by run": "run"},
                chosen="together",
            ),
        ],
        rows=[
            Row(4, _in_numbers()),
            Row(7, _latencies()),
            Row(7, _load_and_throughput()),
            Row(7, _what_may_be_wrong()),
        ],
    )


def _in_numbers() -> list[Panel]:
    return [
        number(
            "Can it be trusted?",
            "The worst verdict on TTFT, TPOT, ITL and E2EL, by how far each may be off, and on the load, by "
            "whether it was made as planned. The reasons stand in the summary and in the web UI.",
            "none",
            Query(f"max ({last('metric_validity', RUN)})"),
            words={0: ("valid", "green"), 1: ("degraded", "yellow"), 2: ("invalid", "red")},
            absent="no run",
            filled=True,
        ),
        number(
            "Users",
            "How many users there are now. The panel Load shows requests in flight, and the rate asked for.",
            "short",
            Query(gauge("users", RUN)),
        ),
        number(
            "Requests",
            "Successful requests per second now: they grow with the load as long as the server keeps up.",
            "reqps",
            Query(rate("requests_total", _OK)),
        ),
        number(
            "Output tokens/s",
            "Tokens of the answers that end, per second now: when they no longer grow with the load, more "
            "load brings nothing.",
            "short",
            Query(rate("received_tokens_total", PROFILE)),
        ),
        number(
            "TTFT, p99",
            "About 99 % of the requests of the runs shown had their first token sooner: percentiles here are "
            "as fine as buckets, those of the summary are exact.",
            "s",
            Query(total_quantile(0.99, "ttft_seconds", PROFILE)),
        ),
        number(
            "TPOT, p99",
            "About 99 % of the requests of the runs shown took less time per token after the first: as fine "
            "as buckets are.",
            "s",
            Query(total_quantile(0.99, "tpot_seconds", PROFILE)),
        ),
        number(
            "Good requests",
            "Share of the successful requests that met all limits of --goodput, in the runs shown that have "
            "it.",
            "percentunit",
            Query(_good_share()),
            steps=[(None, "red"), (0.9, "yellow"), (0.99, "green")],
            absent="no --goodput",
        ),
        number(
            "Failed or dropped",
            "Share of all requests of the runs shown that failed or were never sent; latencies are of the "
            "others.",
            "percentunit",
            Query(
                ratio(f"({total('requests_total', _FAILED)} or vector(0))", total("requests_total", PROFILE))
            ),
            steps=[(None, "green"), (0.001, "yellow"), (0.01, "red")],
        ),
    ]


def _good_share() -> str:
    """Runs without --goodput have no good requests, and are not in the whole either."""
    good, completed = (last(name, PROFILE) for name in ("goodput_requests_total", "e2e_seconds_count"))
    return ratio(f"sum ({good})", f"sum ({completed} and on (run, profile) {good})")


def _latencies() -> list[Panel]:
    return [
        _latency(
            "TTFT", "ttft", "Time to first token, waiting and prefill: what grows first when requests queue."
        ),
        _latency(
            "TPOT", "tpot", "Time per token after the first, a mean per request: it grows with the batch."
        ),
        _latency(
            "ITL",
            "itl",
            "Gaps between tokens: a p99 far above the p50 means stalls, by prefills or preemptions for "
            "instance, or tokens that travel together.",
        ),
        _latency("E2EL", "e2e", "Time to the last token: it also depends on how long answers are."),
    ]


def _latency(name: str, metric: str, look_for: str) -> Panel:
    percentiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    return lines(
        name,
        look_for,
        "s",
        *(
            Query(
                quantile(q, f"{metric}_seconds", PROFILE, by="$split"), f"{title} {{{{profile}}}}{{{{run}}}}"
            )
            for title, q in percentiles.items()
        ),
        # Only where one line is drawn for all: those of several profiles need a colour each.
        styles=[
            Style(r"/^p50\s*$/", color="green"),
            Style(r"/^p90\s*$/", color="yellow"),
            Style(r"/^p99\s*$/", color="red"),
        ],
    )


def _load_and_throughput() -> list[Panel]:
    return [
        heat(
            "TTFT, all requests",
            "How many requests had which time to first token: two bands may be two kinds of requests, "
            "or a cache that hits some.",
            "s",
            rate("ttft_seconds_bucket", PROFILE, by="le"),
        ),
        lines(
            "Load",
            "Users and requests in flight: requests in flight that only ever grow mean that the server "
            "cannot keep up with the rate asked for.",
            "short",
            Query(gauge("users", RUN), "users"),
            Query(gauge("inflight_requests", RUN), "in flight"),
            Query(gauge("request_rate_target", RUN), "rate asked for"),
            styles=[
                Style("/^users/", color="blue"),
                Style("/^in flight/", color="green"),
                Style("/^rate/", color="orange", dashed=True, right_axis_unit="reqps"),
            ],
        ),
        lines(
            "Requests per second",
            "Good ones that get fewer while successful ones get more: the load is past what the server "
            "serves well.",
            "reqps",
            Query(rate("requests_total", _OK), "successful"),
            Query(rate("goodput_requests_total", PROFILE), "good"),
            Query(gauge("request_rate_target", RUN), "asked for"),
            styles=[
                Style("/^successful/", color="blue"),
                Style("/^good/", color="green"),
                Style("/^asked/", color="orange", dashed=True),
            ],
        ),
        lines(
            "Tokens per second",
            "The client counts an answer's tokens when it ends, the server as it makes them: flat under a "
            "growing load means that more load brings nothing.",
            "short",
            Query(rate("received_tokens_total", PROFILE), "output, client"),
            Query(server_tokens("generation"), "output, server"),
            Query(server_tokens("prompt"), "prompts, server"),
            styles=[
                Style("/^output, client/", color="blue"),
                Style("/^output, server/", color="orange"),
                Style("/^prompts/", color="text", dashed=True, right_axis_unit="short"),
            ],
        ),
    ]


def _what_may_be_wrong() -> list[Panel]:
    return [
        lines(
            "Failed or dropped so far",
            "By kind, since the run began: each step is a moment to look at in the other panels.",
            "short",
            Query(gauge("requests_total", _FAILED, by="outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            "KV cache and preemptions",
            "Near 100 % a request may have to wait for memory, or is preempted, which throws work away: less "
            "load, shorter requests, fewer --max-num-seqs or more memory help. As seen now and then.",
            "percentunit",
            Query(gauge("server_kv_cache_usage_ratio", SERVER, by="server", fold="max"), "used, {{server}}"),
            Query(rate("server_preemptions_total", SERVER), "preemptions"),
            limits=[(None, "transparent"), (0.95, "red")],
            styles=[
                Style("/^used/", most=1),
                Style("/^preemptions/", color="red", bars=True, right_axis_unit="ops"),
            ],
        ),
        lines(
            "Requests in the server",
            "Requests that wait met a limit of the server. Which one, these do not tell: memory, "
            "--max-num-seqs, --max-num-batched-tokens, a LoRA slot, a grammar, or a pause.",
            "short",
            Query(gauge("server_requests_running", SERVER), "running"),
            Query(gauge("server_requests_waiting", SERVER), "waiting"),
            Query(gauge("inflight_requests", RUN), "in flight, client"),
            styles=[
                Style("/^running/", color="green"),
                Style("/^waiting/", color="orange"),
                Style("/^in flight/", color="text", dashed=True),
            ],
        ),
        lines(
            "Client: CPU and lag",
            "Above 80 % of a core the measurement is degraded, above 95 % invalid; lag is how late the "
            "client read what had arrived.",
            "percentunit",
            Query(gauge("client_cpu_ratio", RUN, by="process", fold="max"), "CPU, {{process}}"),
            Query(quantile(0.99, "lag_seconds", PROFILE), "lag, p99"),
            limits=[(None, "transparent"), (0.8, "yellow"), (0.95, "red")],
            styles=[Style("/^lag/", color="purple", right_axis_unit="s")],
        ),
    ]
