"""The lines of a log that tell why a server did not start; the logs are real ones, shortened."""

from pathlib import Path

import pytest

from vllm_locust.experiment.log import telling, telling_lines

# ruff: noqa: E501 (lines of logs)

PYDANTIC = """\
INFO 11-26 12:17:40 [utils.py:300] non-default args
Traceback (most recent call last):
  File "/opt/vllm/bin/vllm", line 8, in <module>
    sys.exit(main())
pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig
  Value error, max_num_batched_tokens (512) is smaller than max_model_len (4096). [type=value_error, input=A]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
ENGINE = """\
(EngineCore_DP0 pid=71) ERROR 11-26 07:23:22 [core.py:700] EngineCore failed to start.
(EngineCore_DP0 pid=71) ERROR 11-26 07:23:22 [core.py:700] Traceback (most recent call last):
(EngineCore_DP0 pid=71) ERROR 11-26 07:23:22 [core.py:700]   File "/opt/x.py", line 691, in run_engine_core
(EngineCore_DP0 pid=71) ERROR 11-26 07:23:22 [core.py:700] torch.OutOfMemoryError: CUDA out of memory.
(APIServer pid=70) Traceback (most recent call last):
(APIServer pid=70)   File "/opt/y.py", line 1, in main
(APIServer pid=70) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PYDANTIC, "max_num_batched_tokens (512) is smaller than max_model_len (4096)."),
        (ENGINE, "torch.OutOfMemoryError: CUDA out of memory."),
        ("usage: vllm serve\nvllm serve: error: unrecognized arguments: --chunky\n", None),
        ("ValueError: first\n\nDuring handling:\n\nKeyError: 'x'\nINFO: bye\n", "KeyError: 'x'"),
        ("\x1b[31mValueError: red\x1b[0m\n", "ValueError: red"),
        ("--max-num-seqs 0: must be at least 1.\n\n", "--max-num-seqs 0: must be at least 1."),
        ("ErrorBudget: 5\n", "ErrorBudget: 5"),
        ("", ""),
    ],
)
def test_telling(text: str, told: str | None) -> None:
    assert telling(text) == (told if told is not None else text.splitlines()[-1])


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: long ago\n" + "INFO\n" * 50_000 + "ValueError: now\n")
    assert telling_lines(log) == "ValueError: now"
    assert telling_lines(tmp_path / "none") == ""
