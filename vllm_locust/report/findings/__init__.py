"""What the numbers of an experiment say, in sentences: pure functions of rows, each by its name.

    for finding in find("profiles", rows):
        print(f"{finding.name}: {finding.verdict}. {finding.sentence}")

Rule: each sentence quotes the numbers that it rests on, and claims no more than they say. Which numbers
count, and when two of them differ, is `report.evidence`'s. Runs whose client could not measure are told of
last.
"""

from collections.abc import Callable, Mapping, Sequence

from vllm_locust.errors import UsageError
from vllm_locust.report.evidence import trusted, whole, work_word
from vllm_locust.report.findings.ab import ab
from vllm_locust.report.findings.best import best
from vllm_locust.report.findings.finding import Finding
from vllm_locust.report.findings.max_num_seqs import max_num_seqs
from vllm_locust.report.findings.packing import packing
from vllm_locust.report.findings.profiles import profiles
from vllm_locust.report.findings.token_budget import token_budget
from vllm_locust.report.words import listed
from vllm_locust.results.rows import Row

__all__ = ["FINDINGS", "Finding", "find"]

FINDINGS: Mapping[str, Callable[[Sequence[Row]], list[Finding]]] = {
    "profiles": profiles,
    "token_budget": token_budget,
    "max_num_seqs": max_num_seqs,
    "packing": packing,
    "ab": ab,
    "best": best,
}
"""What an experiment may ask for as its `conclusions`."""


def find(name: str, rows: Sequence[Row]) -> list[Finding]:
    """The findings called `name`, and which runs had no say; UsageError when nothing is called so."""
    if name not in FINDINGS:
        raise UsageError(f"there are no conclusions {name!r}: allowed are {', '.join(FINDINGS)}")
    return [*FINDINGS[name](rows), *_left_out(rows)]


def _left_out(rows: Sequence[Row]) -> list[Finding]:
    heard = {id(row) for row in trusted(rows)}
    runs = [f"{row.run} ({work_word(row)})" for row in whole(rows) if id(row) not in heard]
    why = f"The client could not measure well enough to say anything of {listed(runs)}."
    return [Finding("left out", "note", why)] if runs else []
