"""What is said of a run before anything is sent."""

from pathlib import Path

import pytest

from vllm_locust.errors import UsageError
from vllm_locust.load.convert import trace_file
from vllm_locust.load.prepare import describe_arrivals, prepare
from vllm_locust.load.settings import Settings
from vllm_locust.workloads.scenario import Arrivals


@pytest.mark.parametrize(
    ("arrivals", "told"),
    [
        (Arrivals([0.0, 0.5, 9.5]), "3 requests in 9.5 s, 0.2105 requests/s on average"),
        (
            Arrivals([2.0, 5.0, 3540.0], unit="ms"),
            "3 requests in 3538 s (0:58:58), 0.0005653 requests/s on average",
        ),
        (Arrivals([1.0, 1.0], unit="date-times"), "2 requests in 0 s"),
    ],
)
def test_what_a_trace_comes_to(arrivals: Arrivals, told: str) -> None:
    assert describe_arrivals(arrivals) == f"{told}; the trace has its times in {arrivals.unit}."


def test_the_unit_of_a_file_of_arrivals() -> None:
    given = ("a.csv", "a.csv:ms", "a.csv:s", "a:b.csv", "C:m")
    assert [(str(path), unit) for path, unit in map(trace_file, given)] == [
        ("a.csv", None),
        ("a.csv", "ms"),
        ("a.csv", "s"),
        ("a:b.csv", None),
        ("C:m", None),
    ]


def test_what_tasks_of_the_users_own_cannot_take_is_not_refused_a_second_time() -> None:
    """Nor mended by another option: these are refused as such when they are read."""
    settings = Settings(
        scenario=None, own_tasks=True, max_concurrency=3, dataset_path=Path("x.csv"), prefix_cache="warm"
    )
    with pytest.raises(UsageError) as refused:
        prepare(settings, "nowhere", ["they are for requests of a scenario only."])
    of_options, of_host = refused.value.problems
    assert of_options == "they are for requests of a scenario only."
    assert "nowhere" in of_host
