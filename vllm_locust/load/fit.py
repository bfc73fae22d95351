"""Whether the model takes what a scenario asks of it: a look at the first requests, before the run."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vllm_locust.load.settings import Settings
from vllm_locust.workloads.scenario import PlannedRequest, Scenario, requests_of
from vllm_locust.workloads.sharegpt import estimated_tokens

logger = logging.getLogger(__name__)

_LOOKED_AT = 200
_ESTIMATED = "By an estimate from their characters, which can be far off, "


def too_long(settings: Settings, model: str, longest: int, scenario: Scenario) -> Iterator[str]:
    """A sentence for each phase none of whose requests the model takes; where it takes some, it is logged."""
    for phase in scenario.phases:
        planned = list(_first_requests(settings, phase))
        lengths = [_tokens(request) for request in planned]
        beyond = [length for length in lengths if length > longest]
        if not beyond:
            continue
        # An answer that is too long by itself needs no count of the prompt.
        sure = all(one.prompt_tokens is not None or one.max_tokens >= longest for one in planned)
        too_much = (
            f"more than the {longest} tokens that {model} takes, prompt and answer together: "
            f"{'' if sure else 'about '}{max(beyond)}"
        )
        if sure and len(beyond) == len(planned):
            yield f"All requests of {phase.name} are {too_much}. Ask for less: --input-len, --max-tokens"
        else:
            logger.warning(
                "%s%d of the first %d requests of %s are %s at most. The server %s.",
                *("" if sure else _ESTIMATED, len(beyond), len(planned), phase.name, too_much),
                "will refuse them" if sure else "refuses those that are so by its own count",
            )


def _first_requests(settings: Settings, phase: Scenario) -> Iterator[PlannedRequest]:
    bounds = (_LOOKED_AT, settings.num_prompts, requests_of(phase))
    for index in range(min(bound for bound in bounds if bound is not None)):
        try:
            yield phase.request(settings.seed, index)
        except Exception:  # it is dropped when its turn comes, and the run says so
            continue


def _tokens(request: PlannedRequest) -> int:
    """Of prompt and answer; estimated where the scenario promises no length."""
    prompt = request.prompt_tokens
    if prompt is None and request.messages is not None:
        prompt = sum(estimated_tokens(text) for message in request.messages for text in _texts(message))
    if prompt is None:
        text = request.prompt
        prompt = estimated_tokens(text) if isinstance(text, str) else len(text)
    return prompt + request.max_tokens


def _texts(message: Mapping[str, Any]) -> Sequence[str]:
    content = message.get("content") or ()
    if isinstance(content, str):
        return (content,)
    return [part["text"] for part in content if isinstance(part.get("text"), str)]
