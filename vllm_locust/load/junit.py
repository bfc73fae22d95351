"""The gates of a run as JUnit XML, which continuous integration shows as tests.

Rule: what could not be told is an error, and no failure.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vllm_locust.load.verdict import EXIT_NOT_CONCLUSIVE, EXIT_SLO_MISSED, Verdict, exit_code, why_worthless
from vllm_locust.report.junit import Case, junit_xml

logger = logging.getLogger(__name__)

_SUITE = "vllm-locust"
_Outcome = Literal["passed", "failed", "error"]
_OF_JUDGEMENT: Mapping[str, _Outcome] = {"met": "passed", "missed": "failed", "undetermined": "error"}
_OF_CODE: Mapping[int | None, _Outcome] = {EXIT_SLO_MISSED: "failed", EXIT_NOT_CONCLUSIVE: "error"}


def write_verdict(file: Path, verdict: Verdict, problem: str | None = None) -> None:
    """What became of a run; `problem` is why it did not go on to its end, if it did not."""
    cases = list(_cases(verdict))
    if problem is not None:
        cases.append(Case("the run goes on to its end", "error", problem))
    _write(file, cases)


def write_refusal(file: Path, problems: Sequence[str]) -> None:
    """Why a run did not begin."""
    _write(file, [Case("the run begins", "error", " ".join(problems))])


def _cases(verdict: Verdict) -> Iterator[Case]:
    """Each objective, the validity, and the failures where no objective says how many are acceptable.

    Objectives decide by themselves: then a bad measurement of something else is told, and is no error.
    """
    summary, judgements, client = verdict.summary, verdict.judgements, verdict.summary["client"]
    for judgement in judgements:
        yield Case(str(judgement.slo), _OF_JUDGEMENT[judgement.outcome], judgement.sentence)
    outcome: _Outcome = "passed" if why_worthless(verdict) is None else "error"
    yield Case("the measurement is valid", outcome, ". ".join([client["verdict"], *client["reasons"]]))
    if "capacity" in summary:
        yield _capacity(verdict, summary["capacity"])
        return
    if not any(judgement.slo.about_failures for judgement in judgements):
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary["failures"].items())
        yield Case("no request failed", "failed" if kinds else "passed", kinds)
    if (dropped := summary["requests"]["dropped"]) and not any(one.slo.about_drops for one in judgements):
        yield Case("no request was dropped", "failed", f"{dropped} were never sent")


def _capacity(verdict: Verdict, capacity: Mapping[str, Any]) -> Case:
    outcome = _OF_CODE.get(exit_code(verdict, user_errors=False), "passed")
    doubt = "" if capacity["undecided"] is None else f", but {capacity['undecided']}"
    return Case("a level meets the objectives", outcome, f"{capacity['level']} {capacity['unit']}{doubt}")


def _write(file: Path, cases: Sequence[Case]) -> None:
    try:
        file.write_bytes(junit_xml(_SUITE, cases))
    except OSError as error:
        logger.error("--junit-xml %s could not be written: %s.", file, error.strerror or error)
