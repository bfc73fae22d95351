"""Of the scenario `imdb`: how many reviews were asked about, and whether both packings had the same ones."""

from collections.abc import Iterator, Sequence

from vllm_locust.workloads.imdb import Classification
from vllm_locust.workloads.scenario import PlannedRequest, Scenario


def is_classification(phase: Scenario) -> bool:
    """Whether its prompts are made of reviews."""
    return isinstance(getattr(phase, "scenario", phase), Classification)


def reviews_of(planned: Sequence[PlannedRequest]) -> list[str]:
    """The reviews in these prompts, in order, as they were sent; copies included.

    A prompt has a heading in its first line, then a review a line, and behind an empty line the instruction.
    """
    return [review for request in planned for review in _reviews_in(request)]


def same_reviews(one: Sequence[PlannedRequest], other: Sequence[PlannedRequest]) -> bool:
    """Whether both ask about the same reviews in the same order, copies of a prompt aside."""
    return reviews_of(list(_without_copies(one))) == reviews_of(list(_without_copies(other)))


def _reviews_in(request: PlannedRequest) -> Sequence[str]:
    assert isinstance(request.prompt, str)
    lines = request.prompt.split("\n")
    return lines[1 : lines.index("", 1)]


def _without_copies(planned: Sequence[PlannedRequest]) -> Iterator[PlannedRequest]:
    """Copies of a prompt come in a row."""
    before = None
    for request in planned:
        if request.prompt != before:
            yield request
        before = request.prompt
