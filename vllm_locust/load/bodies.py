"""Planned requests as they are sent: the endpoint, and the body with its prompt turned into bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_locust.client.chat import CHAT_PATH, COMPLETIONS_PATH, RenderedPrompt, render_prompt
from vllm_locust.workloads.scenario import PlannedRequest


@dataclass(frozen=True, slots=True)
class ReadyRequest:
    """A request of the plan that only has to be sent."""

    planned: PlannedRequest
    index: int
    """In the plan of the run; `planned.index` is the one in its scenario."""
    path: str
    body: Mapping[str, Any]
    prompt: RenderedPrompt

    @property
    def size(self) -> int:
        """About how many bytes it takes: the prompt as it was made, and as it is sent."""
        return 3 * self.prompt.size


def make_ready(planned: PlannedRequest, index: int, endpoint_type: str) -> ReadyRequest:
    """`index` is that of the plan of the run."""
    path, body = request_body(planned, endpoint_type)
    return ReadyRequest(planned, index, path, body, render_prompt(body))


def broken_request(name: str, index: int) -> ReadyRequest:
    """What stands for one that could not be made, in the record that says so."""
    planned = PlannedRequest(index, name, name, prompt="", max_tokens=0)
    return ReadyRequest(planned, index, "", {}, RenderedPrompt({}, None, 0))


def path_of(endpoint_type: str) -> str:
    """The path of the API that answers requests of this type."""
    return COMPLETIONS_PATH if endpoint_type == "completions" else CHAT_PATH


def request_body(planned: PlannedRequest, endpoint_type: str) -> tuple[str, dict[str, Any]]:
    """Path and body, without what all requests of a run have in common."""
    body: dict[str, Any] = {"max_tokens": planned.max_tokens, **planned.extra}
    path = path_of(endpoint_type)
    if path == COMPLETIONS_PATH:
        return path, {"prompt": planned.prompt, **body}
    messages = planned.messages or [{"role": "user", "content": planned.prompt}]
    return path, {"messages": messages, **body}
