"""The requests of a phase as the engine takes them: token ids, and what is asked of each answer.

Rule: request i is the one that an online run of the same scenario, seed and endpoint sends as request i, chat
template included. What only a server can do is refused before anything is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from vllm_locust.errors import UsageError
from vllm_locust.offline.engine import Engine
from vllm_locust.workloads.scenario import PlannedRequest, Scenario, requests_of

# Fields of a request's body that are also SamplingParams'.
_SAMPLING = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "stop",
        "min_tokens",
        "ignore_eos",
    }
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One phase; the sequences are alike in length."""

    phase: int
    name: str
    first_index: int
    """Of its first request, in the plan of the run."""
    planned: Sequence[PlannedRequest]
    prompts: Sequence[Sequence[int]]
    sampling: Sequence[Mapping[str, Any]]
    """Fields of SamplingParams."""

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


def plan(scenario: Scenario, seed: int, most: int | None, usual: int) -> Sequence[PlannedRequest]:
    """The first `most` requests of a phase; without it all there are, or `usual` where there is no end."""
    bound = requests_of(scenario)
    count = usual if bound is None else bound
    if most is not None:
        count = most if bound is None else min(most, bound)
    return [scenario.request(seed, index) for index in range(count)]


def make_batch(
    phase: int,
    name: str,
    first_index: int,
    requests: Sequence[PlannedRequest],
    engine: Engine,
    *,
    ignore_eos: bool,
    chat: bool,
) -> Batch:
    """Turn requests into token ids. UsageError for what needs a server, or is longer than the model takes."""
    _check_offline(name, requests)
    prompts = [_token_ids(request, engine, chat) for request in requests]
    sampling = [
        {"ignore_eos": ignore_eos, **request.extra, "max_tokens": request.max_tokens} for request in requests
    ]
    _check_lengths(name, prompts, requests, engine.max_model_len)
    return Batch(phase, name, first_index, requests, prompts, sampling)


def prompt_hash(request: PlannedRequest, chat: bool) -> str:
    """16 hexadecimal digits, those of an online run (`client.chat.render_prompt`)."""
    content = _messages(request) if chat else request.prompt
    return blake2b(orjson.dumps(content), digest_size=8).hexdigest()


def _messages(request: PlannedRequest) -> Sequence[Mapping[str, Any]]:
    return request.messages or [{"role": "user", "content": request.prompt}]


def _token_ids(request: PlannedRequest, engine: Engine, chat: bool) -> Sequence[int]:
    if chat:
        return engine.encode_chat(_messages(request))
    return engine.encode_prompt(request.prompt) if isinstance(request.prompt, str) else request.prompt


def _check_offline(name: str, requests: Sequence[PlannedRequest]) -> None:
    unknown = sorted({field for request in requests for field in request.extra} - _SAMPLING)
    if unknown:
        raise UsageError(f"scenario {name} sets {', '.join(unknown)}, which only a server knows: ask one")
    if any(request.then is not None for request in requests):
        raise UsageError(f"scenario {name} asks on when it has been answered: that needs a server")
    contents = (message["content"] for request in requests for message in request.messages or ())
    if not all(isinstance(content, str) for content in contents):
        raise UsageError(f"scenario {name} sends more than text: that needs a server")


def _check_lengths(
    name: str, prompts: Sequence[Sequence[int]], requests: Sequence[PlannedRequest], longest: int
) -> None:
    lengths = [len(prompt) + request.max_tokens for prompt, request in zip(prompts, requests, strict=True)]
    beyond = [length for length in lengths if length > longest]
    if beyond:
        raise UsageError(
            f"{len(beyond)} of {len(lengths)} requests of {name} are longer than the {longest} tokens that "
            f"the engine takes, prompt and answer together: up to {max(beyond)}. Ask for less (--input-len, "
            "--max-tokens, --set), or give the engine more (-- --max-model-len)"
        )
