"""Whether an answer ended as it should, and what tells of an error.

Rule: there are as many ways to tell of an error as servers, so names tell. A field named after an error tells
of one wherever it stands, and a state of the name of a bad end in a chunk, a choice or a delta; not where the
field is among what was generated, asked for, counted, looked up or tried before, and not where it says that
all is well, of which there is one definition. Words for a human alone are only a suspicion.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from vllm_locust.core.urls import shortened

_SEPARATORS = str.maketrans("", "", " \t\r\n_-.!,")


def plain(text: str) -> str:
    """In small letters, without what others spell with a dash, a blank or a dot."""
    return text.lower().translate(_SEPARATORS)


_WHOLE_ANSWERS = frozenset(
    {
        # OpenAI's, which vLLM, SGLang, llama.cpp, Ollama and most gateways send
        *("stop", "length", "toolcalls", "functioncall", "contentfilter"),
        "repetition",  # vLLM, where it is told to end answers that go in circles
        *("eostoken", "stopsequence"),  # TGI
        *("endturn", "maxtokens", "tooluse", "pauseturn", "refusal"),  # gateways to Anthropic
        *("modellength", "modelcontextwindowexceeded", "sensitive"),  # Mistral, Zhipu
        *("complete", "completed", "toolcall", "eos"),  # Cohere and others
        *("contentfiltered", "guardrailintervened", "finish", "stopcriteriamet"),  # Bedrock
        *("recitation", "safety", "blocklist", "prohibitedcontent", "spii"),  # Gemini
        *("endid", "stopwords", "stopword", "endoftext", "maximumtokens"),  # TensorRT-LLM, Aleph Alpha
        *("maxlength", "maxnewtokens", "maxoutputtokens", "tokenlimit", "normal"),  # older engines
    }
)
"""The finish reasons, as `plain` leaves them, of an answer that the server ended as it should.

A list of good ones: an answer that ended for a reason nobody has heard of ("abort", "error",
"insufficient_system_resource", whatever comes next) is not to pass for a whole one.
"""

# Some servers fill in the finish reason of every chunk; this is how they say that there is none yet.
_NOT_YET = frozenset(
    {
        *("", "null", "none", "false", "undefined", "unspecified", "notfinished", "unfinished"),
        *("inprogress", "running", "pending", "queued", "generating", "processing"),
    }
)
# Words in the names of fields and events, "internalServerException" or "error_msg", that tell of trouble.
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ERROR_STEMS = ("error", "exception", "errno", "errmsg", "errcode")
_ERROR_ENDS = ("error", "errors", "exception")
_TROUBLE = frozenset({"err", "fault", "failure", "failures", "traceback", "stacktrace"})
# Where "error" only says what something else is about: "error_budget" by its last word, "x_retry_error".
_MEASURES = frozenset(
    {"budget", "count", "rate", "probability", "threshold", "margin", "policy", "handling", "handler"}
)
_BEFORE = frozenset({"retry", "attempt", "fallback", "previous"})
_BAD_ENDS = frozenset(
    {
        *("abort", "aborted", "cancel", "cancelled", "canceled", "cancellation", "interrupted", "killed"),
        *("fail", "failed", "fatal", "crash", "crashed", "panic", "timeout", "timed", "timedout"),
        *("overloaded", "unavailable", "disconnect", "disconnected"),
    }
)
# In "is_aborted" and "timed_out" they add nothing.
_IS = frozenset({"is", "was", "has", "been", "out"})
# How servers say that nothing is wrong, where others would say what is.
_FINE = frozenset(
    {
        *("", "0", "00", "200", "false", "none", "null", "ok", "noerror", "noerrors"),
        *("success", "successful", "succeeded", "成功"),
    }
)
_MESSAGE_FIELDS = ("message", "detail", "error_message", "error_msg", "msg", "status_msg", "faultstring")
_WORDS = (*_MESSAGE_FIELDS, "reason", "title")
_STATUS_FIELDS = ("status", "status_code", "statuscode")
_FIRST_FAILED_STATUS = 400
_MAX_ERROR_CHARS = 500

LOOKED_UP = frozenset(
    {
        *("context", "citation", "citations", "annotation", "annotations", "results", "sources"),
        *("references", "documents", "queries"),
    }
)
"""The last words of the names of fields that hold what was found for an answer."""

# An error among these is not the answer's: what was generated, asked for or counted, and what was before it.
_ELSEWHERE = LOOKED_UP | {
    *("text", "content", "logprobs", "probabilities", "tokens", "ids"),
    *("prompt", "request", "input", "inputs", "messages", "tools"),
    *("parameters", "settings", "schema", "format"),
    *("usage", "timings", "metrics", "stats"),
    *("attempt", "attempts", "retry", "retries", "fallback", "fallbacks", "history"),
    *("warning", "warnings", "metadata"),
}
# What fields are by their names, where they are worth a look.
_ERROR, _STATE, _STOP_REASON, _STATUS, _CODE, _SUCCESS, _BAD_END, _SPOKEN, _OF_ANSWER, _INSIDE = range(1, 11)
_KINDS = {
    **dict.fromkeys(("delta", "message"), _SPOKEN),
    **dict.fromkeys(("object", "type", "event", "state"), _STATE),
    **dict.fromkeys(("status", "statuscode"), _STATUS),
    **dict.fromkeys(("success", "ok"), _SUCCESS),
    **dict.fromkeys(("choices", "header"), _OF_ANSWER),
    **{"stopreason": _STOP_REASON, "code": _CODE},
}
_REASONS = ("finishreason", "stopreason", "donereason")


def finish_reason(choice: Mapping[str, Any]) -> str | None:
    """Why the choice has ended; None while it has not. SGLang's own way is an object that has the type."""
    reason = choice.get("finish_reason")
    if isinstance(reason, dict):
        reason = reason.get("type", reason)
    return None if not reason or bare_reason(str(reason)) in _NOT_YET else str(reason)


@lru_cache(256)
def bare_reason(reason: str) -> str:
    """A finish reason without what only its spelling adds: "FINISH_REASON_STOP", "FinishReason.STOP"."""
    return plain(reason).removeprefix("finishreason")


def is_whole(reason: str) -> bool:
    """Whether an answer with this finish reason ended as it should; Google's says more behind a colon."""
    kind, _, more = reason.partition(":")
    return bare_reason(kind) in _WHOLE_ANSWERS and not names_bad_end(more)


def bad_end(choice: Mapping[str, Any], reason: str) -> str:
    """What a choice tells that did not end as it should."""
    words = _words_in(choice["finish_reason"]) if isinstance(choice["finish_reason"], dict) else None
    return words or f'the server ended the answer with the finish reason "{reason}"'


def error_in(chunk: Any) -> str | None:
    """The error that a chunk tells of, in whatever field; None for none. Google wraps one in a list."""
    if isinstance(chunk, list):
        return next(filter(None, map(error_in, chunk)), None)
    if not isinstance(chunk, dict):
        return None
    telling = list(_telling(chunk))
    errors = (part for kind, value, part in telling if kind == _ERROR and not is_fine(value))
    states = (part for kind, value, part in telling if _is_bad(kind, value, part))
    part = next(errors, None) or next(states, None)
    return None if part is None else error_message(part)


def lone_message(chunk: Any) -> str | None:
    """The words for a human of a chunk without an answer, where nothing says that they are good ones.

    They tell of a failure where nothing better follows: others tell so how far they are.
    """
    if not isinstance(chunk, dict) or chunk.get("choices") or chunk.get("usage"):
        return None
    fields = {field.lower() for field in chunk}
    is_lone = fields.isdisjoint(("type", "code", "success", *_STATUS_FIELDS))
    return error_message(chunk) if is_lone and _says(chunk, _MESSAGE_FIELDS) else None


def names_error(name: str) -> bool:
    """Whether a name has the word "error" in it, or one that means the same."""
    return any(map(_is_error_word, words_of(name)))


@lru_cache(256)
def names_bad_end(name: str) -> bool:
    """Whether an event or a state of this name is an error or another end than the right one.

    "response.incomplete" is one; a lone "incomplete" may be the state of what goes on.
    """
    words = words_of(name)
    return names_error(name) or not _BAD_ENDS.isdisjoint(words) or words[1:] == ["incomplete"]


def words_of(name: str) -> list[str]:
    """The words that a name is made of, in small letters."""
    return [word.lower() for word in _WORD.findall(name)]


def is_fine(value: Any) -> bool:
    """Whether there is no more in it than nothing, zeros and success."""
    if isinstance(value, dict):
        return all(map(is_fine, value.values()))
    if isinstance(value, list):
        return all(map(is_fine, value))
    return plain(str(value)) in _FINE


def error_message(body: Any) -> str:
    """The human part of an error body as vLLM and its kin send it, else the body itself, shortened."""
    told = (
        body
        if isinstance(body, str)
        else _words_in(body) or json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    )
    # Halves of characters, which JSON may have, cannot be written.
    return shortened(told, _MAX_ERROR_CHARS).encode("utf-8", "replace").decode()


def _telling(
    part: Mapping[str, Any], is_answer: bool = True, is_generated: bool = False
) -> Iterator[tuple[int, Any, Mapping[str, Any]]]:
    """The fields of a chunk that may tell of an error: their kinds, their values, and what they are part of.

    States are those of the answer in the chunk itself, its header and status, its choices and their deltas,
    whose inner parts were generated.
    """
    for field, value in part.items():
        kind = _kind(field)
        if kind is None or value is None:
            continue
        if isinstance(value, (dict, list)) and kind != _ERROR:
            is_of_answer = is_answer and kind != _INSIDE
            for inner in value if isinstance(value, list) else (value,):
                if isinstance(inner, dict) and not is_generated:
                    yield from _telling(inner, is_of_answer, kind == _SPOKEN)
        elif is_answer or kind == _ERROR or (kind == _STATUS and not isinstance(value, str)):
            yield kind, value, part


def _is_bad(kind: int, value: Any, part: Mapping[str, Any]) -> bool:
    """Whether a field of this kind says that something went wrong."""
    if kind in (_STATE, _STATUS) and isinstance(value, str):
        return names_bad_end(value) or (kind == _STATUS and _is_failed_status(value))
    if kind == _STATUS:
        return _is_failed_status(value)
    if kind == _STOP_REASON:  # with a finish reason beside it, it is what the user asked to stop at
        return isinstance(value, str) and names_bad_end(value) and finish_reason(part) is None
    if kind == _CODE:
        return not is_fine(value) and plain(str(value)) not in _NOT_YET and _says(part, _WORDS)
    return (kind == _SUCCESS and _is(value, "false")) or (kind == _BAD_END and _is(value, "true"))


def _is(value: Any, truth: str) -> bool:
    """Whether it is this truth, perhaps in quotes."""
    return str(value).lower() == truth


@lru_cache(1024)
def _kind(field: str) -> int | None:
    """What a field is by its name; None where it is nothing to look at."""
    words, name = words_of(field), plain(field)
    if any(map(_is_error_word, words)):
        is_about = words[0] == "on" or words[-1] in _MEASURES or not _BEFORE.isdisjoint(words)
        return None if is_about else _ERROR
    if "filter" in words or (words and words[-1] in _ELSEWHERE):
        return None
    if not _BAD_ENDS.isdisjoint(words) and (_BAD_ENDS | _IS).issuperset(words):
        return _BAD_END
    return _STATE if name.endswith(_REASONS) and name != "stopreason" else _KINDS.get(name, _INSIDE)


def _is_error_word(word: str) -> bool:
    is_one = word.startswith(_ERROR_STEMS) or word.endswith(_ERROR_ENDS) or word in _TROUBLE
    return is_one and word != "terror"


def _says(part: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether one of these fields has words for a human that are more than "all is well"."""
    told = (_words_in(value) for field, value in part.items() if field.lower() in names)
    return any(words is not None and not is_fine(words) for words in told)


def _is_failed_status(status: Any) -> bool:
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    return isinstance(status, int) and status >= _FIRST_FAILED_STATUS


def _words_in(body: Any) -> str | None:
    """The words for a human in an error: in what is named after it, else beside that, else further inside."""
    if isinstance(body, str):
        return body or None
    if isinstance(body, list):
        return next(filter(None, map(_words_in, body)), None)
    if not isinstance(body, dict):
        return None
    fields = {field.lower(): value for field, value in body.items()}
    error = fields.pop("error", None)
    texts = [fields.pop(field) for field in _WORDS if isinstance(fields.get(field), (str, list))]
    inner = [value for field, value in fields.items() if names_error(field) or isinstance(value, dict)]
    return next(filter(None, map(_words_in, (error, *texts, *inner))), None)
