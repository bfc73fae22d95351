"""Calls of functions, answers that have a form, and pictures, asked of a real vLLM.

The model's weights are random: what it says is gibberish, but gibberish of the form that was asked for, and
often cut by `max_tokens`, since nothing tells it to come to an end.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.locust_command import assert_ended_well, assert_nothing_is_lost, counters, growth, run_locust
from tests.real.test_vllm_answers import events
from vllm_locust.client.chat import ChatClient, Origin, Reply, RequestOptions, Transport
from vllm_locust.client.target import Target
from vllm_locust.core.record import RequestRecord
from vllm_locust.load.bodies import request_body
from vllm_locust.workloads import catalogue
from vllm_locust.workloads.scenario import Context, PlannedRequest

USERS = ("--headless", "-u", "4", "-r", "4", "--num-prompts", "16")
RUN = {"ignore_eos": True}
"""What a run asks for, unless a request says otherwise."""


def planned(name: str, index: int = 0, **parameters: str) -> PlannedRequest:
    return catalogue.load(name, Context(parameters=parameters)).request(1, index)


class Sender:
    """A client, and what the server counted meanwhile."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.records: list[RequestRecord] = []
        self.transport = Transport(Target.parse(url), RequestOptions(model="tiny", body=RUN))
        self.client = ChatClient(self.transport, self.records.append)

    def send(self, request: PlannedRequest) -> Reply:
        path, body = request_body(request, "chat")
        return self.client.request(path, body, Origin())


@pytest.fixture
def sender(vllm_url: str) -> Iterator[Sender]:
    made = Sender(vllm_url)
    yield made
    made.client.close()
    made.transport.close()


@pytest.mark.parametrize(
    "scenario", [("tools",), ("tools", "--set", "choice=get_weather"), ("structured",)], ids=" ".join
)
def test_a_run_counts_the_tokens_that_vllm_counts(
    vllm_url: str, tmp_path: Path, scenario: tuple[str, ...]
) -> None:
    before = counters(vllm_url)
    run = run_locust(*USERS, "--host", vllm_url, "--scenario", *scenario, folder=tmp_path / "results")
    grown = growth(before, counters(vllm_url))

    assert_ended_well(run)
    assert_nothing_is_lost(run)
    assert [request["outcome"] for request in run.requests] == ["ok"] * 16
    assert not any(request["tokens_counted"] for request in run.requests)
    assert all(request["ttft_s"] > 0 for request in run.requests)
    assert run.summary["total_output_tokens"] == grown["vllm:generation_tokens_total"]
    assert run.summary["total_input_tokens"] == grown["vllm:prompt_tokens_total"]
    assert grown["vllm:request_success_total"] == 16


def test_a_choice_is_one_of_the_choices(sender: Sender) -> None:
    requests = [planned("structured", index, kind="choice") for index in range(8)]
    choices = requests[0].extra["structured_outputs"]["choice"]
    before = counters(sender.url)
    replies = [sender.send(request) for request in requests]
    assert all(reply.text in choices for reply in replies), [reply.text for reply in replies]
    assert [reply.record.outcome for reply in replies] == ["ok"] * 8
    assert {reply.record.finish_reason for reply in replies} == {"stop"}
    counted = growth(before, counters(sender.url))["vllm:generation_tokens_total"]
    assert sum(reply.record.output_tokens or 0 for reply in replies) == counted


def test_an_expression_is_matched(sender: Sender) -> None:
    request = planned("structured", kind="regex")
    reply = sender.send(request)
    assert reply.record.finish_reason == "stop"
    assert re.fullmatch(request.extra["structured_outputs"]["regex"], reply.text)


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_json_begins_as_json(sender: Sender, kind: str) -> None:
    reply = sender.send(planned("structured", kind=kind))
    assert reply.record.outcome == "ok"
    assert reply.text.lstrip().startswith("{")
    if reply.record.finish_reason == "stop":
        json.loads(reply.text)


@pytest.mark.parametrize("choice", ["required", "search_flights"])
def test_a_call_begins_with_its_name_and_has_no_text(sender: Sender, choice: str) -> None:
    request = planned("tools", choice=choice)
    reply = sender.send(request)
    assert (reply.text, reply.record.outcome) == ("", "ok")
    assert reply.record.arrivals_s == sorted(reply.record.arrivals_s)

    _, body = request_body(request, "chat")
    common = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}
    _, first, second, *_ = events(sender.url, "/v1/chat/completions", {**common, **body})
    ((named,), (piece,)) = (event["choices"][0]["delta"]["tool_calls"] for event in (first, second))
    assert named["type"] == "function"
    assert named["function"]["name"] in (
        ("get_weather", "search_flights") if choice == "required" else (choice,)
    )
    assert not named["function"].get("arguments")
    assert piece["function"]["arguments"]


def test_a_model_may_answer_in_words(sender: Sender) -> None:
    reply = sender.send(planned("tools", choice="auto"))
    assert reply.record.outcome == "ok"
    assert reply.text


def test_a_model_that_only_reads_refuses_pictures_and_the_run_says_why(vllm_url: str, tmp_path: Path) -> None:
    run = run_locust(*USERS, "--host", vllm_url, "--scenario", "vision", folder=tmp_path / "results")
    assert run.code == 1, run.text
    assert run.summary["failures"] == {"http_400": 16}
    assert {request["error"] for request in run.requests} == {"tiny is not a multimodal model"}
    assert all(request["ttft_s"] is None for request in run.requests)
    assert "tiny is not a multimodal model" in run.stdout + run.stderr
