"""The server's profiler runs while a phase's window is open, and never longer than the run."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import gevent
import pytest

from tests.locust_command import (
    HEADLESS,
    Outcome,
    Simulator,
    assert_ended_well,
    assert_nothing_is_lost,
    run_locust,
    simulator,
    started,
    wait_until,
)
from tests.turns import LIMIT_S, until
from vllm_locust.client.target import Target
from vllm_locust.errors import UsageError
from vllm_locust.load import profiler as module
from vllm_locust.load.phases import Phase
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.profiler import START, STOP, Profiler
from vllm_locust.load.settings import Settings

Answer = Callable[[], tuple[int, str]]
PLAIN, WARMED = Phase(0, 0, "a"), Phase(1, 0, "a", warmup_s=0.1)


def fine(after_s: float = 0.0) -> Answer:
    def answer() -> tuple[int, str]:
        gevent.sleep(after_s)
        return 200, ""

    return answer


def refusal(status: int, message: str = "no") -> Answer:
    return lambda: (status, message)


def silence() -> tuple[int, str]:
    raise UsageError("it does not answer")


class Stage:
    """Profilers of some hosts that answer as they are told to, and what they were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hosts: int = 1) -> None:
        self.answers: dict[str, Answer] = {START: fine(), STOP: fine()}
        self.asked: list[tuple[str, int]] = []
        """The paths and the ports."""
        self.asked_s: list[float] = []
        monkeypatch.setattr(module, "switch_profiler", self._answer)
        targets = [Target.parse(f"http://localhost:{8000 + number}", None) for number in range(hosts)]
        self.profiler = Profiler(
            Prepared(Settings(), targets, cast(Any, None), cast(Any, None)), perf_counter()
        )
        self._began_s = perf_counter()

    def _answer(self, target: Target, headers: Any, path: str, timeout_s: float) -> tuple[int, str]:
        self.asked.append((path, target.port))
        self.asked_s.append(perf_counter() - self._began_s)
        return self.answers[path]()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def begin(self, phase: Phase) -> None:
        self.profiler.phase_begins(phase)
        self.profiler.phase_began(phase, perf_counter() - self._began_s, None)

    @property
    def problems(self) -> Sequence[str | None]:
        return [session["problem"] for session in self.profiler.sessions]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_without_a_warm_up_it_runs_from_before_the_load_until_all_is_answered(stage: Stage) -> None:
    stage.answers[START] = fine(after_s=0.05)
    stage.profiler.phase_begins(PLAIN)
    (session,) = stage.profiler.sessions
    assert session["started_s"] >= 0.05, "confirmed before anything is sent"
    stage.profiler.phase_began(PLAIN, 0.05, None)
    stage.profiler.phase_ended(PLAIN)
    assert stage.paths == [START], "what is in flight still counts"
    stage.profiler.phase_drained(PLAIN)
    stage.profiler.finish()
    assert stage.paths == [START, STOP]


def test_a_warm_up_and_draining_are_left_out(stage: Stage) -> None:
    stage.begin(WARMED)
    assert stage.asked == []
    until(lambda: stage.paths == [START])
    assert stage.asked_s[0] >= 0.1
    stage.profiler.phase_ended(WARMED)
    assert stage.paths == [START, STOP]
    stage.profiler.phase_drained(WARMED)
    stage.profiler.finish()
    assert stage.paths == [START, STOP]
    (session,) = stage.profiler.sessions
    assert session["phase"] == 1
    assert session["started_s"] < session["stopped_s"]


def test_what_ends_in_its_warm_up_is_never_profiled(stage: Stage) -> None:
    stage.begin(WARMED)
    stage.profiler.phase_ended(WARMED)
    gevent.sleep(0.15)
    stage.profiler.finish()
    assert (stage.asked, stage.profiler.sessions) == ([], [])


def test_every_phase_on_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, hosts=2)
    for number in range(2):
        phase = Phase(number, 0, "a")
        stage.begin(phase)
        stage.profiler.phase_drained(phase)
    stage.profiler.finish()
    assert stage.asked == [(path, port) for path in (START, STOP) for port in (8000, 8001)] * 2
    assert sorted((s["phase"], s["host"]) for s in stage.profiler.sessions) == [
        (phase, f"http://localhost:{port}") for phase in (0, 1) for port in (8000, 8001)
    ]


def test_a_stop_waits_for_the_answer_to_the_start(stage: Stage) -> None:
    stage.answers[START] = fine(after_s=0.1)
    beginning = gevent.spawn(stage.profiler.phase_begins, PLAIN)
    until(lambda: stage.paths == [START])
    beginning.kill()  # as the conductor is, when the run is stopped
    stage.profiler.finish()
    assert stage.paths == [START, STOP]
    assert stage.asked_s[1] >= 0.1


def test_the_next_phase_waits_until_the_profile_is_written(stage: Stage) -> None:
    stage.answers[STOP] = fine(after_s=0.1)
    stage.begin(WARMED)
    until(lambda: stage.paths == [START])
    began_s = perf_counter()
    stage.profiler.phase_ended(WARMED)
    assert perf_counter() - began_s >= 0.1


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_one_is_asked_once_and_the_run_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    stage.answers[START] = refusal(status)
    for _ in range(3):
        stage.begin(PLAIN)
        stage.profiler.phase_drained(PLAIN)
    stage.profiler.finish()
    assert stage.paths == [START]
    assert stage.problems == [f"there is none ({START} answers {status}; vLLM needs --profiler-config)"]
    assert caplog.text.count("there is none") == 1


def test_one_that_refuses_to_start_is_not_ours_to_stop(stage: Stage) -> None:
    stage.answers[START] = refusal(409, "A profiling session is already active.")
    stage.begin(PLAIN)
    stage.profiler.finish()
    assert stage.paths == [START]
    assert stage.problems == [
        "it did not start: /start_profile answered 409: A profiling session is already active."
    ]


def test_one_that_does_not_say_whether_it_runs_is_stopped(stage: Stage) -> None:
    stage.answers[START] = silence
    stage.begin(PLAIN)
    stage.profiler.finish()
    assert stage.paths == [START, STOP]
    assert stage.problems == ["it may run or not: /start_profile was not answered: it does not answer."]


@pytest.mark.parametrize("stop", [refusal(500), silence], ids=["500", "silence"])
def test_one_that_is_not_stopped_is_told_of(
    stage: Stage, caplog: pytest.LogCaptureFixture, stop: Answer
) -> None:
    stage.answers[STOP] = stop
    stage.begin(PLAIN)
    stage.profiler.finish()
    (problem,) = stage.problems
    assert problem is not None
    assert problem.startswith("it may still run: /stop_profile")
    assert problem.removesuffix(".") in caplog.text


@contextmanager
def ctrl_c(after_s: float) -> Iterator[None]:
    """As it reaches the main greenlet."""
    main = gevent.getcurrent()
    pressing = gevent.spawn_later(after_s, lambda: main.throw(KeyboardInterrupt))
    try:
        yield
    finally:
        pressing.kill()


def test_ctrl_c_ends_the_waiting_for_the_profile(stage: Stage) -> None:
    stage.answers[STOP] = fine(after_s=10 * LIMIT_S)
    stage.begin(PLAIN)
    with ctrl_c(0.05):
        stage.profiler.finish()
    assert stage.paths == [START, STOP], "it was told once"
    assert stage.problems == ["it was told to stop, and nobody waited until it had"]


def test_ctrl_c_stops_even_what_has_not_started_yet(stage: Stage) -> None:
    stage.answers[START] = fine(after_s=10 * LIMIT_S)
    gevent.spawn(stage.profiler.phase_begins, PLAIN)
    until(lambda: stage.paths == [START])
    with ctrl_c(0.05):
        stage.profiler.finish()
    assert stage.paths == [START, STOP]


# -- whole runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def profiled(tmp_path: Path) -> Iterator[Simulator]:
    """A server that leaves its traces in `tmp_path / "traces"`."""
    config = json.dumps({"profiler": "torch", "torch_profiler_dir": str(tmp_path / "traces")})
    with simulator(tmp_path, "--profiler-config", config) as running:
        yield running


def traces(folder: Path) -> list[dict[str, int]]:
    """What the engine did while it was profiled, in the order of time."""
    files = sorted((folder / "traces").iterdir())
    return [json.loads(file.read_text())["traceEvents"][0]["args"] for file in files]


def session_of(outcome: Outcome) -> dict[str, Any]:
    (session,) = outcome.summary["profiler"]
    assert session["problem"] is None
    return cast("dict[str, Any]", session)


def test_the_profile_holds_every_request_of_a_run_without_a_warm_up(
    profiled: Simulator, tmp_path: Path
) -> None:
    options = (*HEADLESS, "--host", profiled.url, "--scenario", "ss", "--num-prompts", "20", "--profiler")
    outcome = run_locust(*options, folder=tmp_path / "results")
    assert_ended_well(outcome)
    (done,) = traces(tmp_path)
    summary, session = outcome.summary, session_of(outcome)
    assert done == {
        "prompt_tokens": summary["total_input_tokens"],
        "generation_tokens": summary["total_output_tokens"],
        "finished": 20,
    }
    assert session["started_s"] <= summary["start_s"]
    assert session["stopped_s"] >= summary["end_s"]
    assert "these numbers are not those of a run without it" in outcome.stdout


def test_the_profile_of_each_step_is_its_window(profiled: Simulator, tmp_path: Path) -> None:
    options = ("--ladder", "1,4", "--step-time", "1.5s", "--step-warmup", "0.5s", "--scenario", "ss")
    outcome = run_locust("--headless", "--host", profiled.url, *options, "--profiler", folder=tmp_path / "r")
    assert_nothing_is_lost(outcome)
    profiles, phases = outcome.summary["profiler"], outcome.summary["phases"]
    assert [profile["phase"] for profile in profiles] == [0, 1]
    for done, profile, phase in zip(traces(tmp_path), profiles, phases, strict=True):
        assert phase["start_s"] - 0.01 <= profile["started_s"] < phase["end_s"], "when the warm-up is over"
        assert profile["stopped_s"] >= phase["end_s"] - 0.15
        assert done["finished"] >= 1


def test_an_interrupted_run_does_not_leave_the_profiler_running(profiled: Simulator, tmp_path: Path) -> None:
    options = ("--host", profiled.url, "--scenario", "ss", "--max-tokens", "100", "--profiler")
    with started(*HEADLESS, *options, folder=tmp_path / "results") as run:
        wait_until(lambda: profiled.in_flight() == 4, "four requests in flight")
        run.process.send_signal(signal.SIGINT)
        outcome = run.wait()
    assert_nothing_is_lost(outcome)
    (done,) = traces(tmp_path)
    assert done["finished"] == outcome.summary["completed"]
    session_of(outcome)
