"""`vllm-locust compare`: whether one set of runs is better or worse than another."""

import argparse
from pathlib import Path

from vllm_locust.errors import UsageError

DESCRIPTION = """\
Say for each metric how much NEW differs from BASE, with an interval, and whether that is real. Each is a
folder that --results-dir has filled, a folder of several such (runs of the same), or a configuration of an
experiment (OUT/runs/NAME); BASE may be a baseline file too. Four runs of each are what a verdict on two
configurations needs; of one run each only the two runs are compared.

Exit code: 0 no regression was shown, 3 a regression beyond the tolerance, 4 no verdict (too few runs, a
change that may be a drift, a metric without a value, an invalid run; with --strict also a metric that stays
unclear; the last line says which), 2 wrong usage.
"""

EXAMPLES = """\
examples:
  vllm-locust compare results/main results/branch
  vllm-locust compare out/runs/off out/runs/on --tolerance 2%
  vllm-locust compare results/a results/b --metric p99_ttft_ms --metric output_throughput
  vllm-locust compare --write-baseline baseline.json results/main
  vllm-locust compare baseline.json results/branch --markdown --junit-xml compare.xml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", metavar="BASE NEW", nargs="+", type=Path, help="What to compare.")
    parser.add_argument(
        "--tolerance",
        metavar="PERCENT",
        default="5%",
        help="How much worse a metric may get, as in 5%% (the default). "
        "Of error_rate at most 1 percentage point.",
    )
    parser.add_argument("--metric", metavar="KEY", action="append", help="A key of summary.json; repeatable.")
    parser.add_argument("--strict", action="store_true", help="Exit with 4 when a metric stays unclear.")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="Print all as one JSON document.")
    shape.add_argument("--markdown", action="store_true", help="Print Markdown, for a pull request.")
    parser.add_argument(
        "--junit-xml", metavar="FILE", type=Path, help="Write a test case for each metric, too."
    )
    parser.add_argument(
        "--write-baseline",
        metavar="FILE",
        type=Path,
        help="Compare nothing: write what the runs of one folder measured into FILE, to be checked in.",
    )


def run(args: argparse.Namespace) -> int:
    """Print a comparison, or write a baseline; UsageError for what cannot be read."""
    if args.write_baseline is not None:
        return _write(args)
    if len(args.paths) != 2:
        raise UsageError(f"compare takes BASE and NEW: {len(args.paths)} were given")
    from vllm_locust.compare.result import compare_folders

    base, new = args.paths
    found = compare_folders(
        base, new, tolerance=_tolerance(args.tolerance), metrics=args.metric, strict=args.strict
    )
    if args.junit_xml is not None:
        try:
            args.junit_xml.write_bytes(found.junit())
        except OSError as error:
            raise UsageError(f"--junit-xml {args.junit_xml} cannot be written: {error.strerror}") from None
    if args.json:
        import orjson

        print(orjson.dumps(found.to_dict(), option=orjson.OPT_INDENT_2).decode())
    else:
        print(found.markdown() if args.markdown else found.text(), end="")
    return found.exit_code


def _write(args: argparse.Namespace) -> int:
    from vllm_locust.compare.baseline import trusted, write_baseline
    from vllm_locust.compare.evidence import FEWEST_RUNS
    from vllm_locust.compare.metrics import DEFAULT, parse
    from vllm_locust.compare.units import read_side

    if len(args.paths) != 1:
        raise UsageError(f"--write-baseline takes one folder: {len(args.paths)} were given")
    side = read_side(args.paths[0])
    if not side.cells:
        raise UsageError(f"{args.paths[0]} holds no run that has ended")
    parse(args.metric)
    side = trusted(side)
    write_baseline(args.write_baseline, side, (*DEFAULT, *(args.metric or ())))
    for problem in side.problems:
        print(problem)
    fewest = min(map(len, side.cells.values()))
    print(f"{args.write_baseline}: {sum(map(len, side.cells.values()))} runs, {len(side.cells)} kind(s).")
    if fewest < FEWEST_RUNS:
        print(
            f"A comparison with a baseline needs {FEWEST_RUNS} runs on each side; "
            f"of one kind there are {fewest}."
        )
    return 0


def _tolerance(text: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not text.strip().endswith("%") or not 0 <= percent < 100:
        raise UsageError(f"--tolerance {text!r} must be a percentage from 0% to below 100%, as in 5%")
    return percent / 100
