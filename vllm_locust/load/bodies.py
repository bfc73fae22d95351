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
    path: str
    body: Mapping[str, Any]
    prompt: RenderedPrompt

    @property
    def size(self) -> int:
        """Bytes of its prompt, which is nearly all of it."""
        return self.prompt.size


def make_ready(planned: PlannedRequest, endpoint_type: str) -> ReadyRequest:
    path, body = request_body(planned, endpoint_type)
    return ReadyRequest(planned, path, body, render_prompt(body))


def request_body(planned: PlannedRequest, endpoint_type: str) -> tuple[str, dict[str, Any]]:
    """Path and body, without what all requests of a run have in common."""
    body: dict[str, Any] = {"max_tokens": planned.max_tokens, **planned.extra}
    if endpoint_type == "completions":
        return COMPLETIONS_PATH, {"prompt": planned.prompt, **body}
    messages = planned.messages or [{"role": "user", "content": planned.prompt}]
    return CHAT_PATH, {"messages": messages, **body}
