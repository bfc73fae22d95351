"""Secrets stay out of `run.json`; what leads a summary."""

from datetime import UTC, datetime

import pytest

from vllm_locust.client.ask import ServerModel
from vllm_locust.client.target import Target
from vllm_locust.load.manifest import describe_run, identity_of, redact
from vllm_locust.load.prepare import Prepared
from vllm_locust.load.settings import Settings
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context


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
        (["--host=http://me:a b,c@there,http://b"], ["--host=http://***@there,http://b"]),
        (["--endpoint", "/v3/chat?key=7"], ["--endpoint", "/v3/chat?***"]),
        (["--endpoint=/v3/chat?key=7"], ["--endpoint=/v3/chat?***"]),
    ],
)
def test_redacted_command_lines(given: list[str], shown: list[str]) -> None:
    assert redact(given) == shown


def test_options_are_told_without_them() -> None:
    settings = Settings(
        endpoint="/v3/chat?key=7",
        extra_body={"images": [{"url": "http://me:word@there/x?key=7"}], "n": 2},
        server_metrics_urls=["http://me:word@there/m?key=7"],
        headers={"X-Token": "word"},
    )
    model, targets = ServerModel("m", None, None), [Target.parse("http://me:word@there?key=7")]
    prepared = Prepared(settings, targets, model, catalogue.load("tiny", Context()))
    options = describe_run(prepared, "run", datetime.now(UTC))["options"]
    assert (options["endpoint"], options["headers"]) == ("/v3/chat?***", ["X-Token"])
    assert options["server_metrics_urls"] == ["http://***@there/m?***"]
    assert options["extra_body"] == {"images": [{"url": "http://***@there/x?***"}], "n": 2}


@pytest.mark.parametrize(
    ("datasets", "salted"),
    [
        ([], None),
        ([{"path": "trace.jsonl"}], None),
        ([{"salted": True}], True),
        ([{"salted": True}, {"path": "trace.jsonl"}, {"salted": False}], False),
    ],
)
def test_whether_prompts_differ_from_run_to_run(
    datasets: list[dict[str, object]], salted: bool | None
) -> None:
    options = dict.fromkeys(("endpoint_type", "num_prompts", "request_rate", "burstiness", "max_concurrency"))
    manifest = {"options": options, "datasets": datasets}
    manifest |= dict.fromkeys(("start_time", "run", "model", "host", "scenario"))
    assert identity_of(manifest)["salted"] is salted
