"""One answer on its way to a client: which bytes leave for each token."""

import time
from typing import Any

import orjson

from vllm_locust.simulator import framing, render
from vllm_locust.simulator.config import ServerConfig
from vllm_locust.simulator.engine import Request
from vllm_locust.simulator.protocol import Generation
from vllm_locust.simulator.text import ANSWER_PIECES
from vllm_locust.simulator.wire import Connection, HttpRequest


class Answer:
    """Ties an engine request to a connection.

    While `plain` is true every token is its own chunk and differs from the last only in its text; the server
    then renders it from `heads` and `tail` without a call.
    """

    __slots__ = (
        "_base_id",
        "_config",
        "_created",
        "_function",
        "_generation",
        "_num_sent",
        "_renderer",
        "connection",
        "cursor",
        "delayed_chunks",
        "heads",
        "plain",
        "quiet_since_s",
        "received_ns",
        "request",
        "sent_ns",
        "tail",
    )

    def __init__(
        self,
        connection: Connection,
        http: HttpRequest,
        generation: Generation,
        base_id: str,
        config: ServerConfig,
    ) -> None:
        self.connection = connection
        self.received_ns = http.received_ns
        self.sent_ns: list[int] | None = None
        self.delayed_chunks = 0
        self.quiet_since_s = 0.0
        self.plain = False
        self.cursor = generation.answer_start
        prefix = "chatcmpl-" if generation.chat else "cmpl-"
        self.request = Request(
            prefix + base_id,
            generation.prompt_ids,
            generation.output_ids,
            generation.finish_reason,
            generation.cache_salt,
        )
        self._base_id = base_id
        self._config = config
        self._created = int(time.time())
        self._generation = generation
        self._function = generation.call.name if generation.call else None
        self._num_sent = 0
        self._renderer = render.StreamRenderer(
            chat=generation.chat,
            answer_id=self.request.id,
            model=config.model,
            created=self._created,
            prompt_tokens=len(generation.prompt_ids),
            function=self._function,
        )
        self.heads = self._renderer.heads
        self.tail = self._renderer.tail

    @property
    def streamed(self) -> bool:
        """Whether the client asked for a stream."""
        return self._generation.stream

    def next_chunk(self) -> bytes | None:
        """What to send after the newest token; None when it waits for more tokens."""
        request = self.request
        if not self.streamed:
            return framing.response(200, self._body()) if request.outcome else None
        num_new = 1 if self.plain else request.num_output - self._num_sent
        if request.outcome is None and self._num_sent and num_new < self._config.stream_interval:
            return None
        running_usage = self._generation.continuous_usage
        opening = b"" if self._num_sent else self._renderer.role(running_usage=running_usage)
        chunk = self._renderer.tokens(
            self._take(num_new).replace(b'"', rb"\""),
            request.num_output,
            self._reason() if request.outcome else None,
            running_usage=running_usage,
            with_fingerprint=request.outcome is not None and not self._generation.include_usage,
        )
        self._num_sent = request.num_output
        # The first two tokens of a call are no words: its name, and what opens the arguments.
        words = self._function is None or self._num_sent > 1
        self.plain = words and self._config.stream_interval == 1 and not running_usage
        return opening + chunk + (self._closing() if request.outcome else b"")

    def _body(self) -> bytes:
        request = self.request
        counts = render.usage(len(request.prompt_ids), request.num_output)
        details = self._prompt_details()
        counts["prompt_tokens_details"] = details and {**details, "multimodal_tokens": None}
        return orjson.dumps(
            render.whole_answer(
                chat=self._generation.chat,
                answer_id=request.id,
                model=self._config.model,
                created=self._created,
                content=self._take(request.num_output).decode(),
                reason=self._reason(),
                counts=counts,
                function=self._function,
            )
        )

    def log_entry(self) -> dict[str, Any]:
        """The line of the send log."""
        return {
            "request_id": self._base_id,
            "id": self.request.id,
            "received_ns": self.received_ns,
            "sent_ns": self.sent_ns or [],
            "prompt_tokens": len(self.request.prompt_ids),
            "cached_tokens": self.request.num_cached,
            "output_tokens": self.request.num_output,
            "finish_reason": self.request.outcome,
            "delayed_chunks": self.delayed_chunks,
        }

    def _reason(self) -> str:
        """Why the answer ended, as vLLM says it: a call is a reason, if the model chose the function."""
        call, reason = self._generation.call, self.request.finish_reason
        return "tool_calls" if call and not call.named and reason == "stop" else reason

    def _take(self, count: int) -> bytes:
        """The text of the next tokens: words, or the arguments of a call, whose first token is its name."""
        size = len(ANSWER_PIECES)
        pieces = [ANSWER_PIECES[(self.cursor + offset) % size] for offset in range(count)]
        self.cursor = (self.cursor + count) % size
        if self._function is not None:
            last = self.request.num_output
            special = {1: b"", 2: b'{"text":"'}
            if self.request.outcome == "stop":
                special[last] = b'"}'
            pieces = [special.get(at, piece) for at, piece in enumerate(pieces, last - count + 1)]
        return b"".join(pieces)

    def _closing(self) -> bytes:
        if not self._generation.include_usage:
            return render.DONE
        return self._renderer.final_usage(self.request.num_output, self._prompt_details()) + render.DONE

    def _prompt_details(self) -> dict[str, int] | None:
        if not self._config.enable_prompt_tokens_details:
            return None
        limits = self._config.limits
        cached = self.request.num_cached
        whole_blocks = len(self.request.prompt_ids) // limits.block_size * limits.block_size
        created = whole_blocks - cached if limits.enable_prefix_caching else 0
        return {"cached_tokens": cached, "created_cache_tokens": created}
