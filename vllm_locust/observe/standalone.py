"""`vllm-locust exporter`: the server's metrics for Prometheus, without a test."""

import argparse
import signal
import sys
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, TypeVar

from vllm_locust.core.urls import as_given
from vllm_locust.errors import UsageError
from vllm_locust.observe.addresses import (
    DEFAULT_PORT,
    parse_bind,
    parse_interval,
    parse_metrics_url,
)

DESCRIPTION = """\
Show a vLLM server's metrics to Prometheus under the names that they have beside a test's, so that the same
dashboards serve for watching a server and for testing it. Old and new versions of vLLM, several engines and
several servers, GPUs through a dcgm-exporter, and servers of which there is nothing but a log.
"""

EXAMPLES = """\
examples:
  vllm-locust exporter                                                  a server on this machine's port 8000
  vllm-locust exporter --server-metrics-url http://a:8000 --server-metrics-url http://b:8000
  vllm-locust exporter --server-metrics-url http://a:8000 --server-metrics-url http://a:9400    and its GPUs
  vllm-locust exporter --server-log vllm.log --exporter-port 0.0.0.0:9646
"""

T = TypeVar("T")

_DEFAULT_URL = "http://localhost:8000/metrics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--server-metrics-url",
        metavar="URL",
        action="append",
        help=f"Where a server tells its metrics; may be repeated (default: {_DEFAULT_URL}).",
    )
    parser.add_argument("--server-log", metavar="FILE", help="vLLM's log, to follow as it grows.")
    parser.add_argument(
        "--server-metrics-interval",
        metavar="TIME",
        default="1",
        help="How often the servers are asked, such as 5s (default: %(default)s).",
    )
    parser.add_argument(
        "--exporter-port",
        metavar="[HOST:]PORT",
        default=str(DEFAULT_PORT),
        help="Where Prometheus finds them, on this machine only unless a host such as 0.0.0.0 is given; "
        "0 for a free port (default: %(default)s).",
    )
    parser.add_argument("--insecure", action="store_true", help="Do not check TLS certificates.")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    from vllm_locust.observe.observer import Observer

    over = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    if args.server_metrics_url and args.server_log:
        raise UsageError("--server-log and --server-metrics-url exclude each other: both tell of the same.")
    urls = args.server_metrics_url or ([] if args.server_log else [_DEFAULT_URL])
    sources = [
        {
            "url": _converted("--server-metrics-url", url, parse_metrics_url),
            "headers": {},
            "insecure": args.insecure,
        }
        for url in urls
    ]
    interval_s = _converted("--server-metrics-interval", args.server_metrics_interval, parse_interval)
    bind = _converted("--exporter-port", args.exporter_port, parse_bind)
    logs = [] if args.server_log is None else [args.server_log]
    observer = Observer(_print_what_is_told)
    try:
        url = observer.listen(bind)
        observer.watch(sources, logs, gpu=True, interval_s=interval_s)
        print(f"vllm-locust exporter ready on {url}", flush=True)
        over.wait()
    finally:
        observer.close()
    return 0


def _converted(option: str, text: str, convert: Callable[[str], T]) -> T:
    try:
        return convert(text)
    except ValueError as error:
        raise UsageError(f"{option} {as_given(text)} {error}.") from None


def _print_what_is_told(message: Mapping[str, Any]) -> None:
    if message["say"] == "tell":
        print(message["sentence"], file=sys.stderr, flush=True)
