"""The suite's command line options, as Locust's parser and the web UI's start form have them.

What they mean is in `settings`. Where `vllm bench serve` has the option, its name and meaning are used.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from vllm_locust.load.settings import (
    ADAPTER_ORDERS,
    API_KEY_VARIABLE,
    DEFAULT_SCENARIO,
    ENDPOINT_TYPES,
    LEVEL_UNITS,
    ROUTINGS,
)
from vllm_locust.observe.addresses import DEFAULT_PORT
from vllm_locust.workloads import catalogue

DEFAULT_STOP_TIMEOUT = "60"

_Add = Callable[..., None]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the suite's options to Locust's parser, under one heading and on the web UI's start form."""
    parser.set_defaults(stop_timeout=DEFAULT_STOP_TIMEOUT)
    if any(argument.startswith("--processes") for argument in sys.argv):
        # The master's workers are on this machine: nobody else has to reach it.
        parser.set_defaults(master_bind_host="127.0.0.1")
    group = parser.add_argument_group(
        "vLLM options",
        "How language models are asked, and what is made of the answers. Names follow `vllm bench serve`.",
    )

    def add(*names: str, secret: bool = False, in_web_ui: bool = True, **how: Any) -> None:
        action: Any = group.add_argument(*names, **how)
        action.include_in_web_ui = in_web_ui
        action.is_secret = secret
        action.is_required = action.is_multiple = False

    _add_workload(add)
    _add_load(add)
    _add_requests(add)
    _add_results(add)


def _add_workload(add: _Add) -> None:
    """What is asked."""
    add(
        "--scenario",
        metavar="NAME|FILE.py",
        help=f"What is asked: {', '.join(catalogue.names())}; one member of a scenario (tiny.sl), a weighted "
        f"mix (ss:3,ll:1) or a file of your own. Default: the locustfile's own, else {DEFAULT_SCENARIO}",
    )
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        help="A parameter of the scenario, such as n=40; may be repeated. In a mix: SCENARIO.NAME=VALUE. "
        "`vllm-locust options` lists them",
    )
    add(
        "--dataset-path",
        metavar="FILE",
        help="Data set or trace for scenarios that read one, such as sharegpt, prompts, imdb and replay; "
        "hf:ORG/NAME/FILE fetches one from the Hugging Face hub",
    )
    add(
        "--seed",
        metavar="N",
        help="Which requests a scenario makes: same seed, same requests. Default: a new one for each run, "
        "noted in run.json, so that no prompt of an earlier run waits in the server's prefix cache",
    )
    add(
        "--num-prompts",
        metavar="N",
        help="Stop after N requests (N per profile when a scenario runs several one after another; "
        "conversations count as one each)",
    )
    add(
        "--input-len",
        metavar="LENGTHS",
        help="Exact prompt lengths in tokens, a number or a distribution, for scenarios of synthetic text",
    )
    add(
        "--max-tokens",
        metavar="LENGTHS",
        help="Output tokens to ask for, instead of the scenario's own: a number, or a distribution such as "
        "512~0.2 (within 20 %%), 100-200, normal:512:64, lognormal:512:0.8:100-2000 or file:lengths.csv",
    )
    add(
        "--tokenizer",
        metavar="PATH",
        help="tokenizer.json, or a folder with one, to count tokens with when the server has no /tokenize",
    )
    add(
        "--vary",
        metavar="SHARE:JSON",
        action="append",
        in_web_ui=False,  # whose fields a comma takes apart
        help='A share of the requests gets further fields: 20%%:{"temperature": 1.2, "priority": 5}; '
        "max_tokens may be a distribution; may be repeated",
    )
    add(
        "--lora-modules",
        metavar="NAME[:WEIGHT]",
        action="extend",
        nargs="+",
        help="LoRA adapters of the server to ask, instead of --model, drawn by weight",
    )
    add(
        "--lora-assignment",
        choices=ADAPTER_ORDERS,
        default="random",
        help="Whether adapters are drawn or come one after the other. Default: random",
    )
    add(
        "--prefix-cache",
        metavar="cold|warm",
        help="What the server's prefix cache holds when the run, or a step of it, begins. cold: nothing of "
        "earlier ones (/reset_prefix_cache, or a salt where the server has none); warm: the prefixes that "
        "the scenario's requests share. Default: what it holds",
    )


def _add_load(add: _Add) -> None:
    """How much of it."""
    add(
        "--request-rate",
        metavar="RATE",
        help="Open loop: send so many requests a second, whether answers come or not. A number, inf (all "
        "--num-prompts at once), or stages: 5:30s,5-50:60s,50 holds 5 for 30 s, ramps up to 50 in 60 s "
        "(5^50:60s exponentially) and holds that. Scaled by the share of the -u users that are there. "
        "Default: closed loop, each user waits for the answer",
    )
    add(
        "--burstiness",
        metavar="B",
        help="Gaps between requests in an open loop are gamma distributed with this shape: 1 is Poisson, "
        "less is burstier, more is steadier, inf is a metronome. Default: 1",
    )
    add(
        "--max-concurrency",
        metavar="N",
        help="At most N requests in flight in an open loop; those due meanwhile wait, and are sent late",
    )
    add(
        "--arrivals",
        metavar="FILE",
        help="Open loop: send when a recorded trace did. A time per line, or CSV/JSONL with a column "
        "timestamp; FILE:s, FILE:ms (or us, ns) where the file does not tell the unit; with --request-rate R "
        "it is stretched to R requests a second on average",
    )
    add(
        "--ladder",
        metavar="LEVELS",
        help="One step for each level, such as 1,2,4,8,16,32 (or 4,32,4, a burst), each with a summary of "
        "its own",
    )
    add(
        "--levels",
        choices=LEVEL_UNITS,
        default="users",
        help="What levels of a ladder or of a capacity search are: users of a closed loop, or requests per "
        "second of an open one. Default: users",
    )
    add(
        "--step-time",
        metavar="TIME",
        help="Length of a step of a ladder, and the longest that a probe of a capacity search may take. "
        "Default: 30s",
    )
    add(
        "--step-warmup",
        metavar="TIME",
        help="Leave this time at the start of each step, and its draining, out of the step's results. "
        "Default: a sixth of --step-time",
    )
    add(
        "--step-overlap",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Let the last requests of a step finish while the next one warms up, instead of waiting for "
        "them. Default: wait",
    )


def _add_requests(add: _Add) -> None:
    """How it is asked."""
    add("--model", metavar="NAME", help="Model to ask. Default: the first one the server lists")
    add(
        "--endpoint-type",
        choices=ENDPOINT_TYPES,
        default="chat",
        help="chat (/v1/chat/completions) or completions (/v1/completions). Default: chat",
    )
    add(
        "--endpoint",
        metavar="PATH",
        help="The path to ask behind --host, for servers that have another one than --endpoint-type says; "
        "tasks of one's own: for client.complete where it ends with /completions, for client.chat with "
        "/chat/completions, else for both",
    )
    add(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Ask the server for exactly max_tokens tokens. Turn off for servers that refuse the field. "
        "Default: on",
    )
    add("--temperature", metavar="T", help="Sampling temperature. Default: the server's")
    add("--extra-body", metavar="JSON", help='More fields for every request, for example {"top_p": 0.9}')
    add(
        "--continuous-usage-stats",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Ask for usage with every chunk, to tell how many tokens each carries. Costs the server time",
    )
    add(
        "--request-timeout",
        metavar="TIME",
        default="600",
        help="Longest wait for a whole answer. Default: 600",
    )
    add(
        "--routing",
        choices=ROUTINGS,
        default="sticky",
        help="With several hosts (--host http://a:8000,http://b:8000): each user and conversation stays at "
        "one, or each request goes to the next. Default: sticky",
    )
    add(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Do not check TLS certificates",
    )
    add(
        "--api-key",
        metavar="KEY",
        secret=True,
        help=f"Bearer token. Better in the environment, as {API_KEY_VARIABLE}: others can see command lines",
    )
    add(
        "--header",
        metavar="NAME=VALUE",
        action="append",
        in_web_ui=False,
        help="Header for every request; may be repeated. Its value is never written to results",
    )


def _add_results(add: _Add) -> None:
    """What is made of it."""
    add(
        "--warmup",
        metavar="TIME",
        default="0",
        help="Leave this time (10s, 2m) at the start, and the draining at the end, out of the results. "
        "Default: 0",
    )
    add(
        "--results-dir", metavar="DIR", help="Write run.json, requests.jsonl, summary.json and a report there"
    )
    add(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        in_web_ui=False,
        help="Make report.html and plots of the results in --results-dir, when all is measured. Default: on",
    )
    add(
        "--slo",
        metavar="EXPR",
        action="append",
        help='Gate such as "p99_ttft_ms<500" or "failed==0", any key of summary.json; may be repeated. '
        "Exit code 3 when one is missed, 4 when the sample cannot tell",
    )
    add(
        "--junit-xml",
        metavar="FILE",
        in_web_ui=False,
        help="Write the gates as JUnit XML, a case for each --slo and one for the measurement's validity",
    )
    add(
        "--goodput",
        metavar="KEY:MS",
        nargs="+",
        help="Limits that make a request a good one, in ms: ttft:500 tpot:50 e2el:5000",
    )
    add(
        "--profiler",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="Run the server's profiler exactly while it is measured, which makes it slower; vLLM has one "
        "with --profiler-config. Default: off",
    )
    add(
        "--server-metrics-url",
        metavar="URL",
        action="append",
        in_web_ui=False,  # may hold a password
        help="Where the server tells its metrics (vLLM, or a dcgm-exporter for its GPUs); may be repeated; "
        "off for none. Default: /metrics of --host",
    )
    add("--server-log", metavar="FILE", help="vLLM's log, for servers whose /metrics cannot be reached")
    add(
        "--server-metrics-interval",
        metavar="TIME",
        default="1",
        help="How often the server's metrics are fetched. Default: 1",
    )
    add(
        "--exporter-port",
        metavar="[HOST:]PORT",
        default=str(DEFAULT_PORT),
        in_web_ui=False,
        help="Prometheus finds client and server metrics at /metrics on this port, of this machine only "
        f"unless a host such as 0.0.0.0 is given; 0 for a free port, off for none. Default: {DEFAULT_PORT}",
    )
