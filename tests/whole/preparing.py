"""What runs of chat.py would refuse, without starting any: all in one process.

    python -m tests.whole.preparing URL < command-lines.json

reads and writes what `vllm_locust.load.command_lines` does, but asks the server at URL too.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from locust.argument_parser import get_parser
from locust.util.load_locustfile import load_locustfile

from vllm_locust.errors import UsageError
from vllm_locust.load import wiring  # noqa: F401  (joins the suite's options to Locust's)
from vllm_locust.load.prepare import prepare
from vllm_locust.load.settings import read_settings, scenario_of

CHAT = Path(__file__).parents[2] / "locustfiles" / "chat.py"


def problems_of(url: str, options: Namespace, scenario: str | None) -> Sequence[str]:
    settings, problems = read_settings(options, None, scenario, own_tasks=False)
    try:
        prepare(settings, options.host or url, problems)
    except UsageError as error:
        return error.problems
    return ()


def main() -> None:
    users, _ = load_locustfile(str(CHAT))
    parser, scenario = get_parser(), scenario_of(users.values())
    lines = json.load(sys.stdin)
    json.dump(
        [list(problems_of(sys.argv[1], parser.parse_args(line), scenario)) for line in lines], sys.stdout
    )


if __name__ == "__main__":
    main()
