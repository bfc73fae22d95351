"""`vllm-locust report`: what runs measured and really sent, from the folders they left: text, page, plots."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_locust.errors import UsageError

if TYPE_CHECKING:
    from vllm_locust.report.sent import SentByProfile
    from vllm_locust.results.folder import Results
    from vllm_locust.results.rows import Row

DESCRIPTION = """\
Show runs from the folders that --results-dir has filled: the result block once more, and what was really
sent: how many prompts were different, how long prompts and answers were and were to be, how much of them the
prefix cache had, conversations turn by turn, arrivals. Of a run that was killed, what it had written.
Beside it write report.html, one page with tables and charts that needs no network, and plots/*.png: into the
folder of the run, or of several runs into ./report. A folder of an experiment makes one page of all its runs.
"""

EXAMPLES = """\
examples:
  vllm-locust report results/ll-64                        and results/ll-64/report.html
  vllm-locust report results/a results/b                  side by side, in report/report.html
  vllm-locust report results/a results/b --output beside
  vllm-locust report results/ll-64 --markdown >> "$GITHUB_STEP_SUMMARY"
  vllm-locust report results/ll-64 --json | jq '.[0].sent.total.prompts'
  vllm-locust report my-experiment
"""

PAGE = "report.html"
PLOTS = "plots"
_SEVERAL = Path("report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="A folder that --results-dir has filled."
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"Where to write {PAGE} and {PLOTS}/ (default: the folder of the run, of several ./{_SEVERAL}).",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--json", action="store_true", help="Print the same numbers as one JSON document, a list of runs."
    )
    instead.add_argument("--markdown", action="store_true", help="Print Markdown, as for a pull request.")
    instead.add_argument("--csv", action="store_true", help="Print a table, a row per phase and profile.")


def run(args: argparse.Namespace) -> int:
    """Print a report of each folder; UsageError, before anything is printed, for those that hold no run."""
    from vllm_locust.results.experiment import holds_experiment
    from vllm_locust.results.folder import check, read_results

    experiments = [folder for folder in args.folders if holds_experiment(folder)]
    if experiments and len(args.folders) > 1:
        raise UsageError(f"{experiments[0]} holds an experiment: give it alone")
    if args.output is not None and (args.json or args.markdown or args.csv):
        raise UsageError("--output is for the page and the plots, --json, --markdown and --csv print only")
    if experiments:
        return _experiment(args, experiments[0])
    check(args.folders)
    runs = [read_results(folder) for folder in args.folders]
    if args.json:
        _print_json(runs)
    elif args.markdown or args.csv:
        _print_table(args, runs, _rows(runs))
    else:
        _print_text(runs)
        output = args.output or (args.folders[0] if len(runs) == 1 else _SEVERAL)
        _write(output, runs, _rows(runs))
    return 0


def _print_text(runs: Sequence["Results"]) -> None:
    from vllm_locust.report.cache_hits import difference
    from vllm_locust.report.identity import report_text
    from vllm_locust.report.page.write import unlike
    from vllm_locust.report.sent import describe

    for number, results in enumerate(runs):
        text = report_text(results, describe(results.requests))
        print("\n\n" * bool(number) + text, end="", flush=True)
    labels = unlike([run.folder for run in runs])
    cached = difference([run.summary or {} for run in runs], labels)
    if cached is not None:
        print(f"\n{cached}", flush=True)


def _print_json(runs: Sequence["Results"]) -> None:
    import orjson

    from vllm_locust.report.sent import describe

    documents = [_document(results, describe(results.requests)) for results in runs]
    print(orjson.dumps(documents, option=orjson.OPT_INDENT_2).decode())


def _document(results: "Results", sent: "SentByProfile") -> dict[str, Any]:
    from vllm_locust.report.identity import identity

    return {
        "folder": str(results.folder),
        **identity(results),
        "problems": results.problems,
        "run": results.run,
        "summary": results.summary,
        "sent": sent,
    }


def _rows(runs: Sequence["Results"]) -> list["Row"]:
    """Of all runs, under the names by which the page knows them; a broken summary has none."""
    from vllm_locust.report.page.many import rows_of_runs
    from vllm_locust.report.page.write import unlike

    return rows_of_runs(runs, unlike([run.folder for run in runs]))


def _write(output: Path, runs: Sequence["Results"], rows: Sequence["Row"], **more: Any) -> None:
    """The page and the plots, and the line that says where they are."""
    from vllm_locust.report.page import write_page
    from vllm_locust.report.plots import write_plots

    write_page(output / PAGE, runs, **more)
    plots = write_plots(output / PLOTS, rows)
    others = f", and {len(plots)} plots in {output / PLOTS}" if plots else ""
    print(f"\nThe page: {output / PAGE}{others}", flush=True)


def _print_table(args: argparse.Namespace, runs: Sequence["Results"], rows: Sequence["Row"]) -> None:
    if args.markdown:
        from vllm_locust.report.markdown import markdown

        print(markdown(runs, rows), end="")
    else:
        from vllm_locust.report.table_csv import table_csv

        print(table_csv(rows), end="")


def _experiment(args: argparse.Namespace, folder: Path) -> int:
    from vllm_locust.report.experiment import as_markdown, report
    from vllm_locust.results.experiment import read_experiment

    experiment = read_experiment(folder)
    if args.json:
        _print_json([run.results for run in experiment.runs if run.results is not None])
    elif args.markdown:
        print(as_markdown(experiment), end="")
    elif args.csv:
        _print_table(args, [], experiment.rows())
    else:
        report(experiment, args.output)
    return 0
