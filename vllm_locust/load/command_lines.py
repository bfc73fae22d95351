"""Whether Locust would take command lines: checked without a server, before anything is started.

    python -m vllm_locust.load.command_lines LOCUSTFILE < command-lines.json

reads a JSON list of command lines, each a list of words, and writes a list of lists: what is wrong with each.
It says what a run would say, but for what only a server can tell.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import NoReturn

from locust.argument_parser import get_parser
from locust.util.load_locustfile import load_locustfile

from vllm_locust.errors import NobodyCounts, UsageError
from vllm_locust.load import wiring  # noqa: F401  (joins the suite's options to Locust's)
from vllm_locust.load.own_tasks import asks_for_scenario
from vllm_locust.load.settings import Settings, read_settings, scenario_of
from vllm_locust.load.shapes import kind_of
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context


class _Refused(Exception):
    """argparse has found a mistake."""


def problems_of(locustfile: str, lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """A sentence for each mistake of each line."""
    try:
        users, shapes = load_locustfile(locustfile)
    except Exception as error:
        return [[f"{locustfile} cannot be loaded, {type(error).__name__}: {error}."]] * len(lines)
    parser = get_parser()

    def refuse(message: str) -> NoReturn:
        raise _Refused(message)

    parser.error = refuse  # type: ignore[method-assign]
    shape = kind_of(shapes[0] if shapes else None)
    scenario, own_tasks = scenario_of(users.values()), not asks_for_scenario(users.values())

    def read(options: argparse.Namespace) -> tuple[Settings, Sequence[str]]:
        return read_settings(options, shape, scenario, own_tasks=own_tasks)

    return [list(_problems(parser, line, read)) for line in lines]


def _problems(
    parser: argparse.ArgumentParser,
    line: Sequence[str],
    read: Callable[[argparse.Namespace], tuple[Settings, Sequence[str]]],
) -> Iterator[str]:
    try:
        options, unknown = parser.parse_known_args(list(line))
    except _Refused as error:
        yield f"{error}."
        return
    for word in unknown:
        if word.startswith("--"):
            yield f"There is no option {word}{_hint(word, parser)}."
    settings, problems = read(options)
    yield from problems
    yield from _scenario_problems(settings)


def _hint(word: str, parser: argparse.ArgumentParser) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    close = get_close_matches(word.partition("=")[0], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _scenario_problems(settings: Settings) -> Iterator[str]:
    """What does not depend on the server's tokenizer."""

    def nobody(_: str) -> NoReturn:
        raise NobodyCounts

    context = Context(
        dataset_path=settings.dataset_path,
        input_len=settings.input_len,
        max_tokens=settings.max_tokens,
        count_tokens=nobody,
        encode=nobody,
        endpoint_type=settings.endpoint_type,
        parameters=settings.parameters,
    )
    if settings.scenario is None:
        return
    try:
        catalogue.load(settings.scenario, context)
    except NobodyCounts:
        return
    except UsageError as error:
        yield from error.problems


def main() -> None:
    """Read and write."""
    lines = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # a locustfile may print
        found = problems_of(sys.argv[1], lines)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
