"""What one chunk of a streamed answer says: output, an end, an error.

Rule: servers speak dialects of one format, so what counts is what a chunk carries and not the field it is in.
Every text of a delta was generated, however deep it stands, but labels: what tells who speaks, of which kind
and in which state something is, and what was looked up for the answer. The last word of a field's name says
whether it holds one. Numbers count, place and score things. A chunk that opens an answer names the role and
has no text.

All functions take JSON that is parsed already; where that is not what it must be, they raise a TypeError.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from vllm_locust.core.urls import shortened

EMPTY, OUTPUT, THOUGHT = 1, 2, 4
"""What a choice carries, as flags: an empty text, a text that shows, and that it is named after a thought."""

_WHOLE_ANSWERS = frozenset(
    {
        # OpenAI's, which vLLM, SGLang, llama.cpp, Ollama and most gateways send
        *("stop", "length", "tool_calls", "function_call", "content_filter"),
        "repetition",  # vLLM, where it is told to end answers that go in circles
        *("eos_token", "stop_sequence"),  # TGI
        *("end_turn", "max_tokens", "tool_use", "pause_turn", "refusal"),  # gateways to Anthropic
        *("model_length", "model_context_window_exceeded", "sensitive"),  # Mistral, Zhipu
        *("complete", "tool_call", "eos"),  # Cohere and others
        *("content_filtered", "guardrail_intervened"),  # Bedrock
        *("max_length", "max_new_tokens", "token_limit", "normal", "safety"),  # older engines, Gemini
    }
)
"""The finish reasons, in small letters, of an answer that the server ended as it should.

A list of good ones: an answer that ended for a reason nobody has heard of ("abort", "error",
"insufficient_system_resource", whatever comes next) is not to pass for a whole one.
"""

# Some servers fill in the finish reason of every chunk; this is how they say that there is none yet.
_NOT_YET = frozenset({"", "null", "none", "not_finished", "false"})
# The last words of the names of fields that hold a label.
_LABELS = frozenset(
    {
        *("role", "id", "ids", "object", "type", "kind", "format", "encoding", "language", "version"),
        *("status", "state", "reason", "at", "timestamp", "index", "channel", "recipient", "author"),
        *("model", "provider", "tier", "fingerprint", "signature", "obfuscation"),
        *("context", "citation", "citations", "annotation", "annotations", "results", "sources"),
    }
)
# Of chunks, choices and deltas that nobody need look at twice, since no server tells of trouble there.
_are_usual = frozenset(
    {
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"),
        *("index", "delta", "text", "logprobs", "finish_reason", "stop_reason", "matched_stop", "token_ids"),
        *("role", "content", "reasoning", "reasoning_content", "tool_calls", "refusal", "function_call"),
        *("prompt_token_ids", "prompt_text", "prompt_logprobs"),
    }
).issuperset
# Words in the names of fields and events, "internalServerException" or "error_msg", that tell of trouble.
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ERROR_WORDS = ("error", "exception")
_THOUGHT_WORDS = re.compile("reason|think|thought")
_TROUBLE = frozenset({"err", "fault"})
_BAD_ENDS = frozenset({"abort", "aborted", "cancelled", "canceled", "fail", "failed", "failure", "timeout"})
# How servers say that nothing is wrong, where others would say what is.
_FINE = frozenset({"", "0", "200", "false", "none", "null", "ok", "success"})
_MESSAGE_FIELDS = ("message", "detail", "error_message", "error_msg", "msg", "status_msg", "faultstring")
_CAUSE_FIELDS = ("reason", "title")
_STATUS_FIELDS = ("status", "status_code", "statuscode")
_KEEP_ALIVES = frozenset({"ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"})
_FIRST_FAILED_STATUS = 400
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
    return None if not reason or str(reason).strip().lower() in _NOT_YET else str(reason)


def is_whole(reason: str) -> bool:
    """Whether an answer with this finish reason ended as it should; Google's says more behind a colon."""
    return reason.lower().partition(":")[0].strip() in _WHOLE_ANSWERS


def carried(choice: Mapping[str, Any], text_parts: list[str]) -> int:
    """What a choice carries, `OUTPUT`, `EMPTY` or 0 for nothing; its text goes to `text_parts`.

    An empty text is a token that does not show (half a character) unless the chunk opens the answer.
    """
    delta = choice.get("delta")
    if delta is None:
        delta = choice.get("message")  # a gateway that does not stream sends all in one event
    text = delta.get("content") if delta else choice.get("text")
    if text:
        if isinstance(text, str):
            text_parts.append(text)
            return OUTPUT
        text_parts.append(_text_of_parts(text))
    if not delta:
        return 0 if text is None else EMPTY
    # The name of a delta is the speaker's; that of a function was generated.
    said = _said({**delta, "name": None} if "name" in delta else delta)
    return 0 if said == EMPTY and delta.get("role") is not None else said


def is_usual(chunk: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a chunk with `choices`, or with usage, has no field that could tell of an error.

    Asked for every token.
    """
    if not _are_usual(chunk) or not (choices or chunk.get("usage")):
        return False
    for choice in choices:
        if not _are_usual(choice) or not _are_usual(choice.get("delta") or ()):
            return False
    return True


def error_in(chunk: Mapping[str, Any]) -> str | None:
    """The error that a chunk tells of, in whatever field; None for none.

    Beside an answer it takes a field that is named after an error, or a status that is none of success; a
    message, which only a chunk without an answer can be, is an error by itself. One that is null, empty or
    says that all is well is none.
    """
    choices = chunk.get("choices") or ()
    deltas = (choice.get("delta") or {} for choice in choices)
    # Groq has fields of its own, an error among them, in one named "x_groq".
    extensions = (value for field, value in chunk.items() if field.startswith("x_") and value)
    for part in (chunk, *choices, *deltas, *filter(_is_object, extensions)):
        if any(names_error(field) and _is_trouble(value) for field, value in part.items()):
            return error_message(part)
    fields = {field.lower(): value for field, value in chunk.items()}
    is_lone = not choices and not chunk.get("usage")
    return error_message(chunk) if _is_failure(fields) or (is_lone and _is_message(fields)) else None


def is_unknown(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk is neither a part of an answer nor a sign of life: who can tell what it says?"""
    known = "choices" in chunk or "usage" in chunk
    return not known and not any(is_keep_alive(value) for value in (chunk.get("type"), chunk.get("event")))


def is_keep_alive(name: Any) -> bool:
    """Whether events of this name or type only say that the server is there."""
    return isinstance(name, str) and name.lower() in _KEEP_ALIVES


@lru_cache(256)
def names_error(name: str) -> bool:
    """Whether a name has the word "error" in it, or one that means the same."""
    words = map(str.lower, _WORD.findall(name))
    return any(word.startswith(_ERROR_WORDS) or word in _TROUBLE for word in words)


@lru_cache(256)
def names_bad_end(name: str) -> bool:
    """Whether what has this name, an event or a status, is an error or another end than the right one."""
    return names_error(name) or not _BAD_ENDS.isdisjoint(map(str.lower, _WORD.findall(name)))


def error_message(body: Any) -> str:
    """The human part of an error body as vLLM and its kin send it, else the body itself, shortened."""
    return shortened(_message_in(body) or orjson.dumps(body).decode(), _MAX_ERROR_CHARS)


def told_error(data: bytes) -> str:
    """The human part of an error that is JSON or plain text."""
    try:
        return error_message(orjson.loads(data))
    except orjson.JSONDecodeError:
        return shortened(data.decode("utf-8", "replace"), _MAX_ERROR_CHARS)


def beginning(data: bytes) -> str:
    """The first characters of what was met, in quotes, on one line."""
    most_bytes = 4 * (_SHOWN_CHARS + 1)
    return repr(shortened(data[:most_bytes].decode("utf-8", "replace"), _SHOWN_CHARS))


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_failure(fields: Mapping[str, Any]) -> bool:
    """Whether a status says so: one in words, a number, or a code that has a message with it."""
    kinds = (fields.get("object"), fields.get("type"), fields.get("status"))
    if any(isinstance(kind, str) and names_bad_end(kind) for kind in kinds) or fields.get("success") is False:
        return True
    inner = [value for value in fields.values() if isinstance(value, dict)]
    if any(_is_failed_status(part.get(field)) for part in (fields, *inner) for field in _STATUS_FIELDS):
        return True
    said = any(_is_trouble(fields.get(field)) for field in (*_MESSAGE_FIELDS, *_CAUSE_FIELDS))
    return said and _is_trouble(fields.get("code"))


def _is_message(fields: Mapping[str, Any]) -> bool:
    """Whether it is words for a human, and nothing says that they are good ones."""
    said = any(isinstance(fields.get(field), str) and _is_trouble(fields[field]) for field in _MESSAGE_FIELDS)
    states = [fields[field] for field in ("type", "code", "success", *_STATUS_FIELDS) if field in fields]
    return said and not states


def _is_failed_status(status: Any) -> bool:
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    return isinstance(status, int) and status >= _FIRST_FAILED_STATUS


def _is_trouble(value: Any) -> bool:
    """Whether there is more in it than nothing, zeros and success."""
    if isinstance(value, dict):
        return any(map(_is_trouble, value.values()))
    if isinstance(value, list):
        return any(map(_is_trouble, value))
    return str(value).strip().lower() not in _FINE


def _message_in(body: Any) -> str | None:
    """The words for a human in an error: in what is named after it, else beside that, else further inside."""
    if isinstance(body, str):
        return body or None
    if isinstance(body, list):
        return next(filter(None, map(_message_in, body)), None)
    if not isinstance(body, dict):
        return None
    fields = {field.lower(): value for field, value in body.items()}
    inner = [value for field, value in body.items() if names_error(field) or isinstance(value, dict)]
    texts = (fields.get(field) for field in (*_MESSAGE_FIELDS, *_CAUSE_FIELDS))
    told = [_message_in(fields.get("error")), *(text for text in texts if isinstance(text, str))]
    return next(filter(None, told), None) or next(filter(None, map(_message_in, inner)), None)


def _text_of_parts(parts: Any) -> str:
    """The text among typed parts of content; thinking is not part of it."""
    if not isinstance(parts, list):
        raise TypeError(f"{parts!r} is no text")
    texts = (part if isinstance(part, str) else part.get("text") for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _said(value: Any) -> int:
    """What texts there are in it, as flags."""
    if isinstance(value, str):
        return OUTPUT if value else EMPTY
    said = 0
    if isinstance(value, dict):
        for field, inner in value.items():
            if inner is not None and (meaning := _meaning(field)) is not None:
                found = _said(inner)
                said |= found | meaning if found & OUTPUT else found
    elif isinstance(value, list):
        for inner in value:
            said |= _said(inner)
    return said


@lru_cache(256)
def _meaning(field: str) -> int | None:
    """None where a field of this name holds a label, else what a text in it is beside `OUTPUT`, as flags."""
    words = _WORD.findall(field)
    if words and words[-1].lower() in _LABELS:
        return None
    return THOUGHT if _THOUGHT_WORDS.search(field.lower()) else 0
