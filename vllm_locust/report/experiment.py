"""The report of an experiment: table and findings, printed, and as files for people and for programs.

Rule: what did not start, or was not measured to its end, is reported like what was: it is a result.
"""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from vllm_locust.errors import UsageError
from vllm_locust.report.experiment_table import WIDTH, render
from vllm_locust.report.findings import Finding, find
from vllm_locust.report.words import counted, listed
from vllm_locust.results.experiment import ExperimentResults
from vllm_locust.results.folder import Results

TABLE, PAGE, MARKDOWN, PLOTS = "table.csv", "report.html", "report.md", "plots"


def report(experiment: ExperimentResults, output: Path | None = None) -> None:
    """Print the table and the findings, and write the files, into `output` or the experiment's folder.

    UsageError when a file cannot be written.
    """
    made = sum(run.outcome is not None for run in experiment.runs)
    print(f"{_heading(experiment)}\n{made} of {counted(len(experiment.runs), 'run')} were made.\n")
    print(render(experiment))
    for finding in findings_of(experiment):
        text = f"{finding.name}: {finding.verdict}. {finding.sentence}"
        print(fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False))
    _write(experiment, output or experiment.folder)


def findings_of(experiment: ExperimentResults) -> list[Finding]:
    """What the experiment's conclusions say, and a note for whatever has no numbers to conclude from."""
    found = find(experiment.conclusions, experiment.rows()) if experiment.conclusions else []
    return [*found, *_without_numbers(experiment)]


def as_markdown(experiment: ExperimentResults) -> str:
    """The report in Markdown, for a pull request."""
    from vllm_locust.report.markdown import markdown

    runs, _ = _measured(experiment)
    return markdown(runs, experiment.rows(), findings_of(experiment), _heading(experiment))


def _heading(experiment: ExperimentResults) -> str:
    return f"{experiment.name}: {experiment.question}" if experiment.question else experiment.name


def _measured(experiment: ExperimentResults) -> tuple[list[Results], list[str]]:
    """The results folders that there are, and the names of their runs."""
    pairs = [(run.results, run.planned.key) for run in experiment.runs if run.results is not None]
    return [results for results, _ in pairs], [key for _, key in pairs]


_NAMES = {
    "server_failed": "without a server",
    "refused": "refused before it began",
    "crashed": "ended before its time",
}
"""Outcomes that leave nothing to conclude from."""


def _without_numbers(experiment: ExperimentResults) -> Iterator[Finding]:
    """A note for each reason for which runs have no numbers."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in experiment.runs:
        if run.outcome in _NAMES:
            configurations = reasons.setdefault((run.outcome, run.why or "it is not known why"), [])
            if run.planned.configuration not in configurations:
                configurations.append(run.planned.configuration)
    for (outcome, why), configurations in reasons.items():
        sentence = f"{listed(configurations)}: {' '.join(why.split())}"
        yield Finding(_NAMES[outcome], "note", f"{sentence.rstrip('.')}.")


def _write(experiment: ExperimentResults, folder: Path) -> None:
    from vllm_locust.report.page import write_page
    from vllm_locust.report.plots import write_plots
    from vllm_locust.report.table_csv import table_csv

    rows = experiment.rows()
    runs, labels = _measured(experiment)
    texts = {TABLE: table_csv(rows), MARKDOWN: as_markdown(experiment)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    title = _heading(experiment)
    write_page(folder / PAGE, runs, labels=labels, title=title, findings=findings_of(experiment), table=rows)
    plots = write_plots(folder / PLOTS, rows)
    others = f", and {counted(len(plots), 'plot')} in {folder / PLOTS}" if plots else ""
    print(f"\nThe page: {folder / PAGE} ({MARKDOWN}, {TABLE}{others})", flush=True)
