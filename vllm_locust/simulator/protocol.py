"""Requests as vLLM's OpenAI-compatible server reads them: a body becomes a `Generation` or an `ApiError`.

Checks come in the server's order: JSON, required fields, types, model, prompt length, sampling parameters.
Fields that change neither lengths nor timing (temperature, top_p, stop, logprobs, ...) are accepted and have
no effect, nor have those that give an answer a form (response_format, structured_outputs): it is words, as
ever. A model that may call a function but need not (`"tool_choice": "auto"`) answers in words too. Several
answers or prompts per request are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

from vllm_locust.simulator import text
from vllm_locust.simulator.config import ServerConfig

Body = Mapping[str, Any]
DEFAULT_COMPLETION_TOKENS = 16


class ApiError(Exception):
    """An answer other than 200, with vLLM's error body."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The function that an answer has to call."""

    name: str
    named: bool
    """By the request, not chosen by the model."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A valid request for an answer."""

    chat: bool
    prompt_ids: list[int]
    output_ids: list[int]
    answer_start: int
    finish_reason: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    request_id: str | None
    call: ToolCall | None
    cache_salt: int = 0
    """Requests with different ones share no prefix."""


def parse_json(body: bytes, content_type: str) -> Body:
    """The JSON object of a request."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid("Unsupported Media Type: Only 'application/json' is allowed", None)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _parse_leniently(body)
    if not isinstance(value, dict):
        raise invalid_field("model_attributes_type", "body", "Input should be a valid dictionary", value)
    return value


def _parse_leniently(body: bytes) -> Any:
    """The standard parser's value (it takes NaN), or its account of what is wrong and where."""
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        detail = (
            f"{{'type': 'json_invalid', 'loc': 'body.{error.pos}', 'msg': 'JSON decode error', "
            f"'input': '<dict of 0 items>', 'ctx': {{'error': '{error.msg}'}}}}"
        )
        raise invalid(detail, f"body.{error.pos}") from error


def invalid(detail: str, param: str | None) -> ApiError:
    """What a body that fails validation is answered."""
    return ApiError(400, f"1 validation error:\n  {detail}", "Bad Request", param)


def invalid_field(kind: str, location: str, message: str, value: object) -> ApiError:
    """The same for one field of the body."""
    shown = f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else value
    return invalid(
        f"{{'type': '{kind}', 'loc': '{location}', 'msg': '{message}', 'input': {shown!r}}}", location
    )


def bad_request(message: str, param: str | None = None, value: object = None) -> ApiError:
    """What a request that is well-formed but cannot be served is answered."""
    if value is not None:
        message += f" (parameter={param}, value={value})"
    elif param is not None:
        message += f" (parameter={param})"
    return ApiError(400, message, "BadRequestError", param)


_INTEGERS = ("max_tokens", "max_completion_tokens", "min_tokens", "seed", "n")
_BOOLEANS = ("stream", "ignore_eos")


def _check_types(body: Body) -> None:
    for name in _INTEGERS:
        if not isinstance(body.get(name, 0), int | None):
            raise invalid_field("int_type", f"body.{name}", "Input should be a valid integer", body[name])
    for name in _BOOLEANS:
        if not isinstance(body.get(name, False), bool | None):
            raise invalid_field("bool_type", f"body.{name}", "Input should be a valid boolean", body[name])
    if not isinstance(body.get("temperature", 0.0), int | float | None):
        raise invalid_field(
            "float_type", "body.temperature", "Input should be a valid number", body["temperature"]
        )
    options = body.get("stream_options")
    if not isinstance(options, dict | None):
        raise invalid_field("dict_type", "body.stream_options", "Input should be a valid dictionary", options)
    if options and not body.get("stream"):
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")


def check_model(body: Body, model: str) -> None:
    """Refuse a model that is not served; a request need not name one."""
    name = body.get("model")
    if name is not None and name != model:
        message = f"The model `{name}` does not exist. Valid aliases: {model}."
        raise ApiError(404, message, "NotFoundError", "model")


def prompt_ids(body: Body, config: ServerConfig, *, chat: bool) -> list[int]:
    """Token ids of `messages`, with `tools` before them, or of `prompt`."""
    if chat:
        return _chat_ids(body, config)
    prompt = body.get("prompt")
    if not prompt:
        raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise bad_request(
                "The simulator takes one prompt per request.", "prompt", f"{len(prompt)} prompts"
            )
        prompt = prompt[0]
    if isinstance(prompt, str):
        return text.encode(prompt)
    if not isinstance(prompt, list) or not all(isinstance(token, int) for token in prompt):
        raise invalid_field("prompt_type", "body.prompt", "Input should be a text or token ids", prompt)
    outside = next((token for token in prompt if not 0 <= token < text.VOCAB_SIZE), None)
    if outside is not None:
        raise bad_request(f"Token id {outside} is out of vocabulary")
    return prompt


def _chat_ids(body: Body, config: ServerConfig) -> list[int]:
    messages = body["messages"]
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise invalid_field("list_type", "body.messages", "Input should be a valid list", messages)
    turns: list[tuple[str, list[int]]] = []
    if body.get("tools") and body.get("tool_choice") != "none":
        turns.append(("tools", text.encode(json.dumps(body["tools"], ensure_ascii=False))))
    images: list[str] = []
    for turn in messages:
        turns.append((str(turn.get("role")), _content_ids(turn, config, images)))
    limit = config.images_per_prompt or 0
    if len(images) > limit:
        raise bad_request(
            f"At most {limit} image(s) may be provided in one prompt. "
            "Set `--limit-mm-per-prompt` to increase this limit.",
            "image",
        )
    return text.encode_chat(turns)


def _content_ids(turn: Body, config: ServerConfig, images: list[str]) -> list[int]:
    """Token ids of a message; the URLs of its images are added to `images`."""
    content = turn.get("content") or ""
    if isinstance(content, str):
        return text.encode(content)
    if not isinstance(content, list):
        raise invalid_field(
            "content_type", "body.messages", "Input should be a text or a list of parts", content
        )
    ids: list[int] = []
    for part in (part if isinstance(part, dict) else {} for part in content):
        if isinstance(part.get("text"), str):
            ids += text.encode(part["text"])
        elif config.images_per_prompt is None:
            raise bad_request(f"{config.model} is not a multimodal model")
        elif part.get("type") == "image_url":
            images.append(_image_url(part))
            ids += text.encode_image(images[-1])
        else:
            raise bad_request(f"Unknown part type: {part.get('type')}")
    return ids


def _image_url(part: Body) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise invalid_field("missing", "body.messages", "Field required: image_url.url", part)
    return url


def parse_generation(body: Body, config: ServerConfig, *, chat: bool) -> Generation:
    """A chat or text completion request, checked and tokenized, with the answer it will get."""
    if chat and "messages" not in body:
        raise invalid_field("missing", "body.messages", "Field required", body)
    _check_types(body)
    functions = _callable_functions(body) if chat else []
    check_model(body, config.model)
    ids = prompt_ids(body, config, chat=chat)
    max_tokens = _max_tokens(body, len(ids), config.limits.context_len, chat=chat)
    min_tokens = _check_sampling(body, max_tokens)
    seed = body.get("seed") or 0
    length, reason = max_tokens, "length"
    if not body.get("ignore_eos"):
        natural = max(text.natural_length(ids, seed), min_tokens)
        if natural <= max_tokens:
            length, reason = natural, "stop"
    start = text.answer_start(ids, seed)
    options = body.get("stream_options") or {}
    return Generation(
        chat=chat,
        prompt_ids=ids,
        output_ids=text.answer_ids(start, length),
        answer_start=start,
        finish_reason=reason,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        request_id=None if body.get("request_id") is None else str(body["request_id"]),
        call=_call(functions, body["tool_choice"], start) if functions else None,
        cache_salt=crc32(str(salt).encode()) if (salt := body.get("cache_salt")) is not None else 0,
    )


def _callable_functions(body: Body) -> list[str]:
    """Names of the functions one of which has to be called; none where the answer is free."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools == []:
        raise bad_request(
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if choice in (None, "none"):
        return []
    if tools is None:
        raise bad_request("When using `tool_choice`, `tools` must be set.", "tool_choice")
    try:
        names = [str(tool["function"]["name"]) for tool in tools]
    except (TypeError, KeyError):
        raise invalid_field("missing", "body.tools", "Field required: function.name", tools) from None
    if choice == "auto":
        return []
    if choice == "required":
        return names
    if not isinstance(choice, dict):
        raise bad_request(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or '
            '"required" are supported.',
            "tool_choice",
        )
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names:
        raise bad_request(
            "The tool specified in `tool_choice` does not match any of the specified `tools`", "tool_choice"
        )
    return [str(name)]


def _call(functions: Sequence[str], choice: object, start: int) -> ToolCall:
    """The call of a function that depends on the prompt as the words of an answer do."""
    return ToolCall(functions[start % len(functions)], named=choice != "required")


def _max_tokens(body: Body, num_prompt: int, context_len: int, *, chat: bool) -> int:
    """The output budget of a request, when it and its prompt fit in the context."""
    asked = body.get("max_tokens")
    if chat and body.get("max_completion_tokens") is not None:
        asked = body["max_completion_tokens"]
    if asked is None and not chat:
        asked = DEFAULT_COMPLETION_TOKENS
    if asked is not None and asked > context_len:
        raise bad_request(
            f"max_tokens={asked} cannot be greater than max_model_len={context_len}. "
            "Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    wanted = 0 if asked is None else max(asked, 0)
    if num_prompt + max(wanted, 1) > context_len:
        raise _too_long(num_prompt, wanted, context_len)
    if asked is None:
        return context_len - num_prompt
    if asked < 1:
        raise bad_request(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    return int(asked)


def _too_long(num_prompt: int, wanted: int, context_len: int) -> ApiError:
    """Like vLLM, name the first prompt length that is too long, not the prompt's own."""
    head = f"This model's maximum context length is {context_len} tokens. However, "
    if num_prompt >= context_len:
        least = context_len + 1
        rest = (
            f"your prompt contains at least {least} input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt."
        )
    else:
        least = context_len - wanted + 1
        rest = (
            f"you requested {wanted} output tokens and your prompt contains at least {least} input tokens, "
            f"for a total of at least {context_len + 1} tokens. Please reduce the length of the input prompt "
            "or the number of requested output tokens."
        )
    return bad_request(head + rest, "input_tokens", least)


def _check_sampling(body: Body, max_tokens: int) -> int:
    temperature = body.get("temperature")
    if temperature is not None and temperature < 0:
        raise bad_request(
            f"temperature must be non-negative, got {float(temperature)}.", "temperature", float(temperature)
        )
    min_tokens = int(body.get("min_tokens") or 0)
    if min_tokens > max_tokens:
        raise bad_request(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        )
    if (body.get("n") or 1) != 1:
        raise bad_request("The simulator gives one answer per request.", "n", body["n"])
    return min_tokens
