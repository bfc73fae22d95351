"""An experiment from start to end, on the simulator."""

from pathlib import Path

import pytest

from tests.experiment.made_experiments import a_file, journal
from vllm_locust.cli import main


def test_an_experiment_on_the_simulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    # 4: on a busy machine the client may be too slow.
    assert main(["experiment", a_file(tmp_path), "--output", str(out)]) in (0, 4)
    shown = capsys.readouterr().out
    assert [entry["key"] for entry in journal(out)] == ["max-num-seqs=1/ss-few/1", "max-num-seqs=4/ss-few/1"]
    assert "[2/2] max-num-seqs=4 ss few #1 ... " in shown
    assert "2 of 2 runs were made." in shown
    assert f"base {out}/runs/max-num-seqs=1\n" in shown
    for name in ("table.csv", "report.md", "report.html", "comparison.md"):
        assert (out / name).is_file()
