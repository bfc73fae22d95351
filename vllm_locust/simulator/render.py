"""Answers as vLLM writes them: bodies, and the chunks of a stream with all but the text rendered ahead.

Rule: field order and spelling are vLLM's, so that a client cannot tell the difference; the version and the
fingerprint say honestly that this is a simulator.
"""

import json
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import orjson

from vllm_locust import __version__
from vllm_locust.simulator import text
from vllm_locust.simulator.framing import LAST_FRAME, frame

VERSION = f"0.32.0+simulator.{__version__}"
DONE = frame(b"data: [DONE]\n\n") + LAST_FRAME
KEEP_ALIVE = frame(b": keep-alive\n\n")

_PIECE_SIZES = range(max(map(len, text.ANSWER_PIECES)) + 1)


def fingerprint(model: str) -> str:
    """`system_fingerprint`: stable for a version and a model."""
    return f"vllm-{VERSION}-{crc32(model.encode()):08x}"


def error_event(error: Mapping[str, Any]) -> bytes:
    """The event that ends a stream which had already been answered with 200."""
    # vLLM writes this one event with the standard library's encoder, hence its spaces.
    return frame(b"data: %b\n\n" % json.dumps(error).encode()) + DONE


def tool_call_id(answer_id: str) -> str:
    """The id of the call that an answer is."""
    return f"chatcmpl-tool-{crc32(answer_id.encode()):016x}"


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The three counts every usage object begins with."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


class StreamRenderer:
    """The chunks of one streamed answer; texts come as bytes that need no escaping in JSON.

    An answer that calls a function names it in its first token; all further ones are pieces of the arguments.
    """

    def __init__(
        self,
        *,
        chat: bool,
        answer_id: str,
        model: str,
        created: int,
        prompt_tokens: int,
        function: str | None = None,
    ) -> None:
        self._chat = chat
        self._model = model
        self._prompt_tokens = prompt_tokens
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
        }
        self._envelope = b"data: %b," % orjson.dumps(head)[:-1]
        self._name = b""
        if function is not None:
            calls = b'"choices":[{"index":0,"delta":{"content":null,"tool_calls":[{'
            opening = b'"id":"%b","type":"function","index":0,"function":{"name":%b'
            named = opening % (tool_call_id(answer_id).encode(), orjson.dumps(function)[:-1])
            self._name = self._envelope + calls + named
            self._before = self._envelope + calls + b'"index":0,"function":{"arguments":"'
            self._after = b'"}}]},"logprobs":null,"finish_reason":%b,"token_ids":null}]'
        elif chat:
            self._before = self._envelope + b'"choices":[{"index":0,"delta":{"content":"'
            self._after = b'"},"logprobs":null,"finish_reason":%b,"token_ids":null}]'
        else:
            self._before = self._envelope + b'"choices":[{"index":0,"text":"'
            self._after = (
                b'","logprobs":null,"finish_reason":%b,"stop_reason":null,'
                b'"prompt_token_ids":null,"token_ids":null}]'
            )
        middle = self._after % b"null" + b"}\n\n"
        size = len(self._before) + len(middle)
        self.heads = [b"%x\r\n%b" % (size + length, self._before) for length in _PIECE_SIZES]
        """The beginning of a plain chunk by the length of its text: `heads[len(piece)] + piece + tail`."""
        self.tail = middle + b"\r\n"

    def role(self, *, running_usage: bool) -> bytes:
        """The chunk that opens a chat answer, nothing for a text completion."""
        if not self._chat:
            return b""
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}}
        choice |= dict.fromkeys(("logprobs", "finish_reason"))
        counts = self._running_usage(0) if running_usage else b""
        rest = counts + b',"prompt_token_ids":null,"prompt_text":null}\n\n'
        return frame(self._envelope + b'"choices":' + orjson.dumps([choice]) + rest)

    def tokens(self, piece: bytes, completion_tokens: int, reason: str | None, **options: bool) -> bytes:
        """A chunk of one or more tokens; `running_usage` and `with_fingerprint` are its options.

        An empty piece in an answer that calls a function is the token that names it.
        """
        if reason is None:
            after = self._after % b"null"
        elif self._chat:
            after = self._after % (b'"%b","stop_reason":null' % reason.encode())
        else:
            after = self._after % (b'"%b"' % reason.encode())
        counts = self._running_usage(completion_tokens) if options.get("running_usage") else b""
        mark = self._fingerprint() if options.get("with_fingerprint") else b""
        before = self._before if piece else self._name or self._before
        return frame(before + piece + after + counts + mark + b"}\n\n")

    def final_usage(self, completion_tokens: int, details: Mapping[str, int] | None) -> bytes:
        """The chunk without choices that carries the usage of the whole answer."""
        counts = usage(self._prompt_tokens, completion_tokens)
        if details is not None:
            counts["prompt_tokens_details"] = details
        body = b'"choices":[],"usage":' + orjson.dumps(counts)
        return frame(self._envelope + body + self._fingerprint() + b"}\n\n")

    def _running_usage(self, completion_tokens: int) -> bytes:
        counts = usage(self._prompt_tokens, completion_tokens)
        if self._chat:
            counts["completion_tokens_details"] = None
        return b',"usage":' + orjson.dumps(counts)

    def _fingerprint(self) -> bytes:
        return b',"system_fingerprint":"%b"' % fingerprint(self._model).encode()


def whole_answer(
    *,
    chat: bool,
    answer_id: str,
    model: str,
    created: int,
    content: str,
    reason: str,
    counts: Mapping[str, Any],
    function: str | None = None,
) -> dict[str, Any]:
    """The body of an answer that is not streamed; `content` are the arguments where it calls a function."""
    if chat:
        message: dict[str, Any] = {"role": "assistant", "content": None if function is not None else content}
        message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        if function is not None:
            call = {"name": function, "arguments": content}
            message["tool_calls"] = [{"id": tool_call_id(answer_id), "type": "function", "function": call}]
        message["reasoning"] = None
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        choice |= dict.fromkeys(("stop_reason", "token_ids", "routed_experts"))
        extra = ["prompt_logprobs", "prompt_token_ids", "prompt_text"]
    else:
        choice = {"index": 0, "text": content, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        choice |= dict.fromkeys(("token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts"))
        extra = []
    return {
        "id": answer_id,
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "service_tier": None,
        "system_fingerprint": fingerprint(model),
        "usage": {**counts, "completion_tokens_details": None},
        **dict.fromkeys((*extra, "kv_transfer_params", "ec_transfer_params", "metrics")),
    }


def model_list(model: str, max_model_len: int, created: int) -> dict[str, Any]:
    """The body of /v1/models."""
    permission = {
        "id": f"modelperm-{crc32(model.encode()):016x}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    card = {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": model,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [permission],
    }
    return {"object": "list", "data": [card]}
