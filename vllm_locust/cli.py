"""The command `vllm-locust`: one subcommand for each thing one does beside a Locust run.

Rule: importing this module costs nothing; a subcommand imports what it needs, and never Locust or gevent.
The module of a subcommand has a `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `run(args)`, whose
result is the exit code.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vllm_locust import __version__
from vllm_locust.errors import UsageError

COMMANDS = {
    "simulate": ("simulator.options", "serve a simulated vLLM: real scheduler, real wire format, no GPU"),
    "report": ("report.command", "show what runs measured and what they really sent: text, page, plots"),
    "compare": ("compare.command", "say whether one set of runs is better or worse than another"),
    "experiment": ("experiment.command", "run a matrix of servers, workloads and loads, unattended"),
    "offline": ("offline.command", "measure vLLM's offline engine over the same scenarios"),
    "kv-cache": ("kv_cache.command", "how many tokens and requests fit into a GPU's memory"),
    "exporter": ("observe.standalone", "show a vLLM server's metrics to Prometheus without a test"),
    "options": (
        "options",
        "explain the options and scenarios that `locust -f ...` understands with this suite",
    ),
}
"""The module in this package, and what it is for in a line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the result is the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm-locust", description="Load tests for vLLM: the tools beside Locust."
    )
    parser.add_argument("--version", action="version", version=f"vllm-locust {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module_name, help_) in COMMANDS.items():
        module = import_module(f"vllm_locust.{module_name}")
        command = commands.add_parser(
            name,
            help=help_,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
