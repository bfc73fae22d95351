"""What an experiment says while it goes on, and how long it believes the rest to take."""

import io

from tests.experiment.made_experiments import an_experiment
from vllm_locust.experiment.definition import Load
from vllm_locust.experiment.plan import Run, plan, runs_of
from vllm_locust.experiment.progress import Estimate, Progress, in_short, left_in_words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(out: io.StringIO) -> None:
    """A step of three seconds, told of at each tenth of a second."""
    clock = [0.0]
    progress = Progress(out, lambda: clock[0])
    progress.begin("server a")
    for _ in range(30):
        clock[0] += 0.1
        progress.tell("waiting")
    progress.end("ready")


def test_a_log_gets_whole_lines_only() -> None:
    out = io.StringIO()
    tell(out)
    assert out.getvalue() == "server a ... ready\n"


def test_a_terminal_gets_a_line_that_is_alive_and_overwritten() -> None:
    out = Terminal()
    tell(out)
    parts = out.getvalue().split("\r")
    assert parts[1:3] == ["server a ... waiting, 1 s", "server a ... waiting, 2 s"]
    assert parts[-1].rstrip() == "server a ... ready"
    assert len(parts[-1]) >= len("server a ... waiting, 2 s")


def test_the_estimate_is_of_what_took_how_long() -> None:
    loads = [Load("short", {}), Load("long", {}), Load("unknown", {})]
    runs: list[Run] = list(runs_of(plan(an_experiment(loads=loads))))
    estimate = Estimate()
    assert estimate.left_s(runs, 1) is None
    estimate.started(10.0)
    estimate.started(20.0)
    estimate.ran(runs[0], 4.0)
    estimate.ran(runs[0], 6.0)
    estimate.ran(runs[1], 50.0)
    # 5 and 50 as before, the third like the mean of the three known ones, and two starts of 15.
    assert estimate.left_s(runs, 2) == 5 + 50 + 20 + 30


def test_times_in_words() -> None:
    shown = [left_in_words(seconds) for seconds in (None, 42.0, 600.0, 7200.0)]
    assert shown == ["", "; about 40 s left", "; about 10 min left", "; about 2.0 h left"]


def test_a_run_in_a_line() -> None:
    summary = {"completed": 3, "request_throughput": 1.5, "mean_ttft_ms": 12.4}
    assert in_short("ok", None, 2.0, summary) == "2.0 s, 1.50 req/s, mean TTFT 12 ms"
    assert in_short("server_failed", "no\n memory", 2.0, None) == "2.0 s, SERVER FAILED: no memory"
    assert len(in_short("invalid", "x" * 500, 2.0, None)) < 270
