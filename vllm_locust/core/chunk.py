"""What one chunk of a streamed answer says: output, an end, an error.

Rule: servers speak dialects of one format, so what counts is what a chunk carries and not the field it is in.
All functions take JSON that is parsed already; where that is not what it must be, they raise a TypeError.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson

EMPTY, OUTPUT = 1, 2
"""What a choice carries, as flags: something generated that shows nothing, or something that shows."""

WHOLE_ANSWERS = frozenset(
    {
        # OpenAI's, which vLLM, SGLang, llama.cpp, Ollama and most gateways send
        *("stop", "length", "tool_calls", "function_call", "content_filter"),
        "repetition",  # vLLM, where it is told to end answers that go in circles
        *("eos_token", "stop_sequence"),  # TGI
        *("end_turn", "max_tokens", "tool_use", "pause_turn", "refusal"),  # gateways to Anthropic
        *("model_length", "model_context_window_exceeded", "sensitive"),  # Mistral, Zhipu
        *("complete", "eos"),  # Cohere and others
    }
)
"""The finish reasons, in small letters, of an answer that the server ended as it should.

A list of good ones: an answer that ended for a reason nobody has heard of ("abort", "error",
"insufficient_system_resource", whatever comes next) is not to pass for a whole one.
"""

# Some servers fill in the finish reason of every chunk; this is how they say that there is none yet.
_NOT_YET = ("", "null")
# Of a delta: who speaks, what things are called, and nothing that was generated.
_LABELS = frozenset({"role", "id", "type", "name", "object"})
_ERROR_FIELDS = ("error", "errors", "error_message", "error_msg", "error_code")
_MESSAGE_FIELDS = ("message", "detail", "error_message", "error_msg", "msg")
_NOTHING = (None, None, None, None)
_MAX_ERROR_CHARS = 500
_SHOWN_CHARS = 80


def parse_leniently(data: bytes) -> Any:
    """What JSON makes of an event that a strict parser refuses; ValueError shows what was met instead.

    Read is what Python's own `json` writes: NaN among logprobs, and halves of characters, which detokenising
    token by token leaves.
    """
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except ValueError:
        raise ValueError(f"an event is no JSON: {beginning(data)}") from None


def finish_reason(choice: Mapping[str, Any]) -> str | None:
    """Why the choice has ended; None while it has not."""
    reason = choice.get("finish_reason")
    return None if reason is None or reason in _NOT_YET else str(reason)


def carried(choice: Mapping[str, Any], text_parts: list[str]) -> int:
    """What a choice carries, `OUTPUT`, `EMPTY` or 0 for nothing; its text goes to `text_parts`.

    Anything in a delta but its labels is output if it says something. Empty content, or a tool call that says
    nothing yet, is a token that does not show (half a character) unless the chunk names the role: then it
    opens the answer.
    """
    delta = choice.get("delta")
    text = choice.get("text") if delta is None else delta.get("content")
    if text:
        text_parts.append(text if isinstance(text, str) else _text_of_parts(text))
        return OUTPUT
    if delta is None:
        return 0 if text is None else EMPTY
    for field, value in delta.items():
        if value and field not in _LABELS and _says_something(value):
            return OUTPUT
    tried = (text, delta.get("reasoning"), delta.get("reasoning_content"), delta.get("tool_calls") or None)
    return EMPTY if not delta.get("role") and tried != _NOTHING else 0


def error_in(chunk: Mapping[str, Any]) -> str | None:
    """The error that a chunk tells of, in whatever field; None for none. A null or empty one is none."""
    if chunk.get("error"):
        return error_message(chunk)
    for choice in chunk.get("choices") or ():
        if choice.get("error"):
            return error_message(choice)
    if chunk.get("choices") or chunk.get("usage"):
        return None
    named = any(chunk.get(field) for field in _ERROR_FIELDS)
    typed = "error" in (chunk.get("object"), chunk.get("type"))
    coded = bool(chunk.get("code")) and any(chunk.get(field) for field in _MESSAGE_FIELDS)
    return error_message(chunk) if named or typed or coded else None


def error_message(body: Any) -> str:
    """The human part of an error body as vLLM and its kin send it, else the body itself, shortened."""
    inner = body.get("error") or body if isinstance(body, dict) else body
    for part in (inner, body):
        if isinstance(part, str):
            return part[:_MAX_ERROR_CHARS]
        if isinstance(part, dict):
            for field in _MESSAGE_FIELDS:
                if isinstance(message := part.get(field), str):
                    return message[:_MAX_ERROR_CHARS]
    return orjson.dumps(body).decode()[:_MAX_ERROR_CHARS]


def told_error(data: bytes) -> str:
    """The human part of an error that is JSON or plain text."""
    try:
        return error_message(orjson.loads(data))
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "replace")[:_MAX_ERROR_CHARS]


def beginning(data: bytes) -> str:
    """The first characters of what was met, in quotes, on one line."""
    text = data[: 4 * _SHOWN_CHARS].decode("utf-8", "replace")
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")


def _text_of_parts(parts: Any) -> str:
    """The text among typed parts of content; thinking is not part of it."""
    if not isinstance(parts, list):
        raise TypeError(f"{parts!r} is no text")
    texts = (part if isinstance(part, str) else part.get("text") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _says_something(value: Any) -> bool:
    """Whether there is a text in it somewhere; numbers count, place and name things."""
    if isinstance(value, str):
        return value != ""
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    return isinstance(value, list) and any(map(_says_something, value))
