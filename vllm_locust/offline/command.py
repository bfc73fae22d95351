"""`vllm-locust offline`: throughput of vLLM's offline engine over the same scenarios."""

import argparse
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vllm_locust.errors import UsageError

if TYPE_CHECKING:
    from vllm_locust.offline.run import Settings
    from vllm_locust.workloads.lengths import Lengths

DESCRIPTION = """\
Measure the throughput of vLLM's offline engine (vllm.LLM) over the scenarios of the online tests: all
requests at once, no server and no network between. Request i is the one that an online run of the same
scenario and seed sends. Runs where vLLM is installed; needs neither Locust nor gevent.
"""

EXAMPLES = """\
examples:
  vllm-locust offline --model models/Llama-3-8B --scenario sharegpt --num-prompts 1000
  vllm-locust offline --model M --scenario imdb --set n=40 --set reviews=4000       packed, then single
  vllm-locust offline --model M --scenario imdb.packed --set reviews=4000 --sweep n=400,40,20,4,1
  vllm-locust offline --model M --scenario imdb --set reviews=40 --set copies=100   the prefix cache at work
  vllm-locust offline --model M --scenario ll -- --max-num-seqs 64                  behind --: vLLM's options
"""

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of an online run have their names and meanings."""
    parser.add_argument("--model", required=True, help="A folder, or a name that vLLM can load.")
    parser.add_argument("--scenario", default="sharegpt", help="As `locust -f ...` takes it (sharegpt).")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="A parameter of the scenario."
    )
    parser.add_argument(
        "--sweep",
        metavar="NAME=A,B,C",
        help="Try these values of a parameter, one run each on the same engine, and print them in one table.",
    )
    parser.add_argument(
        "--num-prompts",
        metavar="N",
        help="Requests of each phase (all of a scenario that has an end, else 100).",
    )
    parser.add_argument("--input-len", metavar="LENGTHS", help="Exact lengths of prompts, in tokens.")
    parser.add_argument("--max-tokens", metavar="LENGTHS", help="Tokens of output to ask for.")
    parser.add_argument("--dataset-path", metavar="PATH", type=Path, help="The scenario's data set.")
    parser.add_argument("--seed", help="Which requests a scenario makes (a new one for each run).")
    parser.add_argument(
        "--endpoint-type",
        choices=("chat", "completions"),
        default="chat",
        help="Whether prompts stand in the chat template.",
    )
    parser.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Answer with just as many tokens as asked for.",
    )
    parser.add_argument(
        "--prefix-cache",
        choices=("cold", "warm"),
        default="cold",
        help="What it holds when a phase begins: nothing, or what the scenario's requests share.",
    )
    parser.add_argument(
        "--num-warmups", metavar="N", default="8", help="Requests before the first measured one (8)."
    )
    parser.add_argument("--results-dir", metavar="DIR", type=Path, help="A new folder for the results.")
    parser.add_argument(
        "engine_arguments",
        metavar="-- ENGINE ARGUMENTS",
        nargs="*",
        help="vLLM's own, behind --, such as: -- --max-num-seqs 64",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 when requests failed. UsageError with all that is wrong with the options."""
    try:
        from vllm_locust.offline import results
        from vllm_locust.offline.engine import start_engine
        from vllm_locust.offline.run import run_offline
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this Python lacks the package {error.name}: pip install 'vllm-locust[vllm]'"
        ) from None

    settings = read_settings(args)
    folders = (one.results_dir for _, one in settings.runs())
    results.make_folders(folder for folder in folders if folder is not None)
    engine = start_engine(settings.model, settings.engine_arguments)
    return 0 if run_offline(settings, engine) else 1


def read_settings(args: argparse.Namespace) -> "Settings":
    """Check and convert the options. UsageError with a sentence for each that is wrong."""
    from vllm_locust.offline.run import Settings

    problems: list[str] = []

    def take(name: str, read: Callable[[str], T], default: T) -> T:
        value = getattr(args, name)
        try:
            return default if value is None else read(value)
        except UsageError as error:
            problems.extend(error.problems)
        except ValueError as error:
            problems.append(f"--{name.replace('_', '-')} {value!r} {error}")
        return default

    parameters = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not (equals and name):
            problems.append(f"--set {text!r} is not of the form NAME=VALUE")
        parameters[name] = value
    settings = Settings(
        model=args.model,
        scenario=args.scenario,
        seed=take("seed", _whole(0), secrets.randbelow(1_000_000)),
        parameters=parameters,
        num_prompts=None if args.num_prompts is None else take("num_prompts", _whole(1), 1),
        input_len=take("input_len", _lengths, None),
        max_tokens=take("max_tokens", _lengths, None),
        dataset_path=args.dataset_path,
        endpoint_type=args.endpoint_type,
        ignore_eos=args.ignore_eos,
        prefix_cache=args.prefix_cache,
        num_warmups=take("num_warmups", _whole(0), 0),
        results_dir=args.results_dir,
        sweep=take("sweep", _sweep, None),
        engine_arguments=args.engine_arguments,
    )
    if settings.sweep is not None and settings.sweep[0] in parameters:
        problems.append(f"--set and --sweep both set {settings.sweep[0]}: leave one of them out")
    if problems:
        raise UsageError(*problems)
    return settings


def _lengths(text: str) -> "Lengths | None":
    from vllm_locust.workloads.lengths import Lengths

    return Lengths.parse(text)


def _whole(at_least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= at_least):
            raise ValueError(f"is not a whole number of at least {at_least}")
        return int(text)

    return read


def _sweep(text: str) -> tuple[str, list[str]] | None:
    name, equals, values = text.partition("=")
    known = [value.strip() for value in values.split(",")]
    if not (name and equals and all(known) and len(set(known)) == len(known)):
        raise ValueError("is not of the form NAME=A,B,C with different values")
    return name, known
