"""The report at the end of a run: made in a process of its own, and never the run's problem."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import psutil
import pytest

from tests.locust_command import HEADLESS, Simulator, assert_ended_well, run_locust
from vllm_locust.load import reporting
from vllm_locust.load.reporting import Reporting

WRITES = "import pathlib, sys; (pathlib.Path(sys.argv[-1]) / 'report.html').write_text('x')"


@contextmanager
def report_by(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Reporting]:
    """A report that this program makes in place of the command; its last argument is the folder."""
    program = folder / "program"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    running = Reporting(folder)
    try:
        yield running
    finally:
        running.skip()
        assert running._process is None or not psutil.pid_exists(running._process.pid)


def test_the_page_is_told_of_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with report_by(WRITES, monkeypatch, tmp_path) as running:
        assert running.wait() == str(tmp_path / "report.html")


def test_what_goes_wrong_costs_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import sys; print('much to say'); sys.exit('first\\nno room on the disk')"
    with report_by(code, monkeypatch, tmp_path) as running:
        assert running.wait() is None
    assert f"There is no report of {tmp_path}: no room on the disk." in caplog.text


def test_one_that_cannot_even_begin_does_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    assert Reporting(tmp_path).wait() is None
    assert "No such file" in caplog.text


def test_one_that_takes_too_long_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(reporting, "_TELL_AFTER_S", 0.05)
    monkeypatch.setattr(reporting, "_LIMIT_S", 0.2)
    with report_by("import time; time.sleep(600)", monkeypatch, tmp_path) as running:
        assert running.wait() is None
    first, second = (record.message for record in caplog.records)
    assert first.startswith("Writing the report of")
    assert "it was not ready after" in second


def test_ctrl_c_skips_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main = gevent.getcurrent()
    with report_by("import time; time.sleep(600)", monkeypatch, tmp_path) as running:
        pressing = gevent.spawn_later(0.1, lambda: main.throw(KeyboardInterrupt))
        assert running.wait() is None
        pressing.kill()
    assert "it was skipped" in caplog.text


def test_a_run_makes_a_report_of_its_results(server: Simulator, tmp_path: Path) -> None:
    options = (*HEADLESS, "--host", server.url, "--scenario", "ss", "--num-prompts", "8", "--report")
    outcome = run_locust(*options, folder=tmp_path / "results")
    assert_ended_well(outcome)
    page = tmp_path / "results" / "report.html"
    assert page.exists()
    assert f"Report: {page}" in outcome.stdout.splitlines()
    assert "There is no report" not in outcome.stderr
