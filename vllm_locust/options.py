"""`vllm-locust options`: the options that the suite adds to Locust, and the scenarios there are."""

import argparse

DESCRIPTION = """\
Print the options that the suite adds to Locust, and the scenarios there are with their parameters.
Locust's own --help cannot: it is printed before any locustfile is read.
"""

EXAMPLES = """\
example:
  vllm-locust options | less
"""


def add_arguments(_: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_: argparse.Namespace) -> int:
    """Print them all."""
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
