"""Secrets stay out of `run.json`."""

import pytest

from vllm_locust.load.manifest import redact


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["locust", "-u", "3"], ["locust", "-u", "3"]),
        (["--api-key", "k", "-u", "3"], ["--api-key", "***", "-u", "3"]),
        (["--api-key=k"], ["--api-key=***"]),
        (["--api", "k"], ["--api", "***"]),
        (["--header", "A=b", "--header=C=d"], ["--header", "***", "--header=***"]),
        (["--host", "http://me:word@there/x"], ["--host", "http://***@there/x"]),
        (["--server-metrics-url=http://me:p/w@there/m"], ["--server-metrics-url=http://***@there/m"]),
        (["--server-metrics-url", "https://a/m?token=t"], ["--server-metrics-url", "https://a/m?***"]),
    ],
)
def test_redacted_command_lines(given: list[str], shown: list[str]) -> None:
    assert redact(given) == shown
