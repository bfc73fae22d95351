"""The command `vllm-locust`: one subcommand for each thing one does beside a Locust run.

Rule: importing this module costs nothing; a subcommand imports what it needs, and never Locust or gevent.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from vllm_locust import __version__
from vllm_locust.errors import UsageError


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
    _add_simulate(commands)
    _add_exporter(commands)
    _add_report(commands)
    _add_options(commands)
    return parser


def _add_simulate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from vllm_locust.simulator import options

    parser = commands.add_parser(
        "simulate",
        help="serve a simulated vLLM: real scheduler, real wire format, no GPU",
        description=options.DESCRIPTION,
        epilog=options.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_arguments(parser)
    parser.set_defaults(run=_simulate)


def _simulate(args: argparse.Namespace) -> int:
    from vllm_locust.simulator import options

    return options.run(args)


def _add_exporter(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from vllm_locust.observe import standalone

    parser = commands.add_parser(
        "exporter",
        help="show a vLLM server's metrics to Prometheus without a test",
        description=standalone.DESCRIPTION,
        epilog=standalone.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    standalone.add_arguments(parser)
    parser.set_defaults(run=_exporter)


def _exporter(args: argparse.Namespace) -> int:
    from vllm_locust.observe import standalone

    return standalone.run(args)


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from vllm_locust.report import command

    parser = commands.add_parser(
        "report",
        help="show what runs measured and what they really sent, from their results folders",
        description=command.DESCRIPTION,
        epilog=command.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    from vllm_locust.report import command

    return command.run(args)


def _add_options(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "options",
        help="explain the options and scenarios that `locust -f ...` understands with this suite",
        description="Print the options that the suite adds to Locust, and the scenarios there are. "
        "Locust's own --help cannot: it is printed before any locustfile is read.",
    )
    parser.set_defaults(run=_options)


def _options(_: argparse.Namespace) -> int:
    from vllm_locust.load.options import add_options
    from vllm_locust.workloads import catalogue

    parser = argparse.ArgumentParser(usage="locust -f locustfiles/chat.py [options]", add_help=False)
    add_options(parser)
    print(parser.format_help())
    print("scenarios:")
    for name, question in catalogue.names().items():
        print(f"  {name:<12} {question}")
        if parameters := catalogue.parameters(name):
            print(f"  {'':<12} --set " + ", ".join(f"{key}={value}" for key, value in parameters.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
