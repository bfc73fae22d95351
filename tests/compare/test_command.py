"""`vllm-locust compare` as it is typed."""

import argparse
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from tests.compare.made_runs import write_run, write_runs
from vllm_locust.compare import command
from vllm_locust.errors import UsageError


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    return write_runs(tmp_path / "a", 4), write_runs(tmp_path / "b", 4, seed=50, factor=1.3)


def test_text(sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*sides) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == "metric base new change 95 % interval verdict".split()
    assert lines[4].split()[:3] == ["error_rate", "0.00", "%"]
    assert any(line.startswith("p50_e2el_ms") and line.endswith("regression") for line in lines)
    assert "The unit is the run: 4 against 4." in lines
    assert "Regression beyond 5 %: " in "\n".join(lines)
    assert max(map(len, lines)) <= 110


def test_markdown(sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*sides, "--markdown") == 3
    out = capsys.readouterr().out
    assert out.startswith("**Regression beyond 5 %: ")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {7}
    assert "**regression**" in out


def test_json(sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*sides, "--json", "--tolerance", "50%", "--metric", "p50_e2el_ms") == 0
    document = orjson.loads(capsys.readouterr().out)
    (cell,) = document["cells"]
    (metric,) = cell["metrics"]
    assert (document["exit_code"], document["tolerance"], cell["unit"]) == (0, 0.5, "run")
    assert metric["low"] < metric["change"] < metric["high"]
    assert metric["verdict"] == "same"


def test_junit(sides: tuple[Path, Path], tmp_path: Path) -> None:
    run(*sides, "--junit-xml", tmp_path / "x.xml")
    suite = ElementTree.parse(tmp_path / "x.xml").getroot()[0]
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases["p50_e2el_ms"] == ["failure"]
    assert cases["error_rate"] == ["system-out"]


def test_a_baseline_says_what_the_runs_say(
    sides: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = sides
    file = tmp_path / "baseline.json"
    assert run("--write-baseline", file, base) == 0
    capsys.readouterr()
    assert run(file, new, "--json") == run(base, new, "--json") == 3
    one, two = capsys.readouterr().out.replace(str(file), str(base)).split("\n}\n")[:2]
    assert one == two
    assert file.stat().st_size < 10_000


def test_a_baseline_of_one_run_is_too_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "baseline.json"
    run("--write-baseline", file, write_run(tmp_path / "a"))
    assert "needs 4 runs on each side" in capsys.readouterr().out
    assert run(file, write_run(tmp_path / "b", seed=3)) == 4


def test_an_invalid_run_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, client = tmp_path / "baseline.json", {"verdict": "invalid", "reasons": ["it was late"]}
    base = write_runs(tmp_path / "a", 4)
    write_run(base / "slow", seed=9, factor=3.0, client=client)
    assert run("--write-baseline", file, base) == 0
    told = capsys.readouterr().out
    assert "a/slow is invalid and left out: it was late." in told
    assert ": 4 runs" in told
    assert b"slow" not in file.read_bytes()
    with pytest.raises(UsageError, match="has no valid run"):
        run("--write-baseline", tmp_path / "no.json", base / "slow")
    assert not (tmp_path / "no.json").exists()


def test_a_run_without_an_answer_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, base = tmp_path / "baseline.json", write_runs(tmp_path / "a", 4)
    write_run(base / "dead", seed=9, completed=0, failed=240, error_rate=1.0)
    assert run("--write-baseline", file, base) == 0
    told = capsys.readouterr().out
    assert "a/dead is left out: no request of it was answered." in told
    assert ": 4 runs" in told
    assert b"dead" not in file.read_bytes()
    with pytest.raises(UsageError, match="has no valid run with an answer"):
        run("--write-baseline", tmp_path / "no.json", base / "dead")
    assert not (tmp_path / "no.json").exists()


@pytest.mark.parametrize("tolerance", ["5", "-1%", "100%", "nan%", "much"])
def test_a_tolerance_is_a_percentage(sides: tuple[Path, Path], tolerance: str) -> None:
    with pytest.raises(UsageError, match="must be a percentage"):
        run(*sides, f"--tolerance={tolerance}")


def test_two_sides_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 were given"):
        run(tmp_path)
    with pytest.raises(UsageError, match="2 were given"):
        run("--write-baseline", tmp_path / "x", tmp_path, tmp_path)


def test_a_file_that_cannot_be_written_is_told(sides: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--junit-xml"):
        run(*sides, "--junit-xml", tmp_path / "no" / "x.xml")
    with pytest.raises(UsageError, match="--write-baseline"):
        run("--write-baseline", tmp_path / "no" / "x.json", sides[0])
