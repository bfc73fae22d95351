"""What one chunk of a streamed answer carries; its end and its errors are for `trouble` to tell.

Rule: servers speak dialects of one format, so what counts is what a chunk carries and not the field it is in.
Every text of a delta was generated, however deep it stands, but labels: what tells who speaks, of which kind
and in which state something is, and what was looked up for the answer. The last word of a field's name says
whether it holds one. Numbers count, place and score things. A chunk that opens an answer names the role and
has no text.

All functions take JSON that is parsed already; where that is not what it must be, they raise a TypeError.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from vllm_locust.core.trouble import LOOKED_UP, words_of

EMPTY, OUTPUT, THOUGHT = 1, 2, 4
"""What a choice carries, as flags: an empty text, a text that shows, and that it is named after a thought."""

# The last words of the names of fields that hold a label.
_LABELS = frozenset(
    {
        *("role", "id", "ids", "object", "type", "kind", "format", "encoding", "language", "version"),
        *("status", "state", "reason", "at", "timestamp", "index", "channel", "recipient", "author"),
        *("model", "provider", "tier", "fingerprint", "signature", "obfuscation", "metadata"),
        *LOOKED_UP,
    }
)
# Fields that nobody need look at twice, since no server tells of trouble there.
_are_usual_of_a_chunk = frozenset(
    {
        *("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier"),
        *("prompt_token_ids", "prompt_text"),
    }
).issuperset
_are_usual_of_a_choice = frozenset(
    {
        *("index", "delta", "text", "logprobs", "finish_reason", "stop_reason", "matched_stop", "token_ids"),
        *("prompt_token_ids", "prompt_logprobs"),
    }
).issuperset
_are_usual_of_a_delta = frozenset(
    ("role", "content", "reasoning", "reasoning_content", "tool_calls", "refusal", "function_call")
).issuperset
_THOUGHT_WORDS = re.compile("reason|think|thought")
_KEEP_ALIVES = frozenset({"ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"})


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
    if not _are_usual_of_a_chunk(chunk) or not (choices or chunk.get("usage")):
        return False
    for choice in choices:
        if not _are_usual_of_a_choice(choice) or choice.get("stop_reason"):
            return False
        if not _are_usual_of_a_delta(choice.get("delta") or ()):
            return False
    return True


def is_unknown(chunk: Mapping[str, Any]) -> bool:
    """Whether a chunk is neither a part of an answer nor a sign of life: who can tell what it says?"""
    known = "choices" in chunk or "usage" in chunk
    return not known and not any(is_keep_alive(value) for value in (chunk.get("type"), chunk.get("event")))


def is_keep_alive(name: Any) -> bool:
    """Whether events of this name or type only say that the server is there."""
    return isinstance(name, str) and name.lower() in _KEEP_ALIVES


def _text_of_parts(parts: Any) -> str:
    """The text among typed parts of content, or in the only one; thinking is not part of it."""
    if not isinstance(parts, (dict, list)):
        raise TypeError(f"{parts!r} is no text")
    one_by_one = [parts] if isinstance(parts, dict) else parts
    texts = (part if isinstance(part, str) else part.get("text") for part in one_by_one)
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
    if not _LABELS.isdisjoint(words_of(field)[-1:]):
        return None
    return THOUGHT if _THOUGHT_WORDS.search(field.lower()) else 0
