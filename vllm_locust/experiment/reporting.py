"""What an experiment leaves for people at its end: the report, and of two configurations their comparison."""

from pathlib import Path

from vllm_locust.compare.result import compare_folders
from vllm_locust.errors import UsageError
from vllm_locust.report.experiment import report
from vllm_locust.results.experiment import MEASURED, ExperimentResults

COMPARISON = "comparison.md"


def conclude(results: ExperimentResults) -> None:
    """Print the report and write its files; with two configurations, compare the second with the first."""
    print()
    report(results)
    measured = dict.fromkeys(
        run.planned.configuration for run in results.runs if run.outcome in MEASURED and run.results
    )
    if len(measured) == 2 == len({run.planned.configuration for run in results.runs}):
        _compare(results.folder, *measured)


def _compare(folder: Path, base: str, new: str) -> None:
    try:
        compared = compare_folders(folder / "runs" / base, folder / "runs" / new)
    except UsageError as error:
        print(f"\n{base} and {new} cannot be compared: {error}")
        return
    print(f"\n{compared.text()}", end="")
    (folder / COMPARISON).write_text(compared.markdown(), encoding="utf-8")
