"""The command line: its options, vLLM's behind --, and what is said when vLLM is not there."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.offline.fake_vllm import modules
from vllm_locust.errors import UsageError
from vllm_locust.offline import command, results
from vllm_locust.offline.engine import NOT_INSTALLED, start_engine


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["--model", "M", *arguments])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError) as error:
        command.run(parsed("--scenario", "ss"))
    assert error.value.problems == [f"{NOT_INSTALLED}."]


@pytest.mark.usefixtures("vllm")
def test_what_is_behind_the_dashes_goes_to_vllm() -> None:
    engine = start_engine("M", parsed("--scenario", "ss", "--", "--max-num-seqs", "64").engine_arguments)
    llm: Any = engine._llm
    assert llm.started_with == ("M", 64)
    assert engine.version == "0.10.0"


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (
            "M",
            ["--max-num-seqs", "many"],
            "engine arguments (behind --): argument --max-num-seqs: invalid int value",
        ),
        ("M", ["--bogus"], "engine arguments (behind --): unrecognized arguments: --bogus"),
        ("missing", [], "vLLM cannot start missing: missing is no model"),
    ],
)
def test_what_vllm_does_not_take(model: str, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        start_engine(model, arguments)
    assert sentence in str(error.value)


@pytest.mark.usefixtures("vllm")
def test_a_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    options = ("--scenario", "ss", "--num-prompts", "4", "--seed", "1", "--results-dir", str(folder))
    assert command.run(parsed(*options)) == 0
    assert "ss: 4 requests" in capsys.readouterr().out
    with pytest.raises(UsageError, match="holds another run: choose a new folder"):
        command.run(parsed(*options))


def test_a_folder_that_cannot_be_made_is_said_before_the_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"--results-dir .*file/r cannot be made: Not a directory"):
        command.run(parsed("--results-dir", str(tmp_path / "file" / "r")))


def test_all_that_is_wrong_with_the_options_is_said() -> None:
    with pytest.raises(UsageError) as error:
        command.read_settings(
            parsed(
                "--num-prompts", "0", "--seed", "x", "--max-tokens", "-3", "--set", "n", "--sweep", "n=4,4",
                "--num-warmups", "1.5",
            )
        )  # fmt: skip
    assert [problem.split()[0] for problem in sorted(error.value.problems)] == sorted(
        ["--num-prompts", "--seed", "--max-tokens", "--set", "--sweep", "--num-warmups"]
    )


def test_a_parameter_is_set_or_swept() -> None:
    with pytest.raises(UsageError, match="--set and --sweep both set n"):
        command.read_settings(parsed("--set", "n=4", "--sweep", "n=1,2"))


def test_secrets_are_not_written() -> None:
    shown = results.command_line(
        ["offline", "--hf-token", "secret", "--hf_token=secret", "--max-num-seqs", "4"]
    )
    assert shown == ["offline", "--hf-token", "***", "--hf-token=***", "--max-num-seqs", "4"]
