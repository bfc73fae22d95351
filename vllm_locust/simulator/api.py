"""The endpoints: one whole HTTP request in, a response or a new answer out."""

import time
import traceback
from collections.abc import Callable
from uuid import uuid4

import orjson

from vllm_locust.simulator import exposition, protocol, render, text
from vllm_locust.simulator.answer import Answer
from vllm_locust.simulator.config import ServerConfig
from vllm_locust.simulator.engine import Engine
from vllm_locust.simulator.framing import response, stream_head
from vllm_locust.simulator.profiler import Profiler
from vllm_locust.simulator.protocol import ApiError
from vllm_locust.simulator.wire import Connection, HttpRequest

_BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)

_Handler = Callable[[Connection, HttpRequest], None]


def respond(connection: Connection, data: bytes) -> None:
    """Send a complete response."""
    connection.send(data)
    connection.end_answer()


class Api:
    """Routes requests; answers that take engine steps are handed to `begin`."""

    def __init__(self, config: ServerConfig, engine: Engine, begin: Callable[[Answer], None]) -> None:
        self._config = config
        self._engine = engine
        self._begin = begin
        self._created = int(time.time())
        self._metrics = exposition.Exposition(engine, config.model)
        self._routes: dict[str, dict[str, _Handler]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completion},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/health": {"GET": self._empty},
            "/ping": {"GET": self._empty, "POST": self._empty},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._expose},
        }
        if config.dev_mode:
            self._routes["/reset_prefix_cache"] = {"POST": self._reset_prefix_cache}
        if config.profiler is not None:
            profiler = Profiler(config.profiler, engine.stats)
            self._routes["/start_profile"] = {"POST": _done_by(profiler.start)}
            self._routes["/stop_profile"] = {"POST": _done_by(profiler.stop)}

    def handle(self, connection: Connection, http: HttpRequest) -> None:
        """Answer one request."""
        methods = self._routes.get(http.path)
        if not self._authorized(http):
            _send_json(connection, {"error": "Unauthorized"}, 401)
        elif methods is None:
            _send_json(connection, {"detail": "Not Found"}, 404)
        elif http.method not in methods:
            allowed = f"allow: {', '.join(methods)}\r\n"
            respond(connection, response(405, b'{"detail":"Method Not Allowed"}', extra=allowed))
        else:
            try:
                methods[http.method](connection, http)
            except ApiError as error:
                _send_json(connection, error.error, error.status)
            except Exception:
                # One odd request must not end the server for all others.
                traceback.print_exc()
                oops = ApiError(500, "Internal server error", "InternalServerError")
                _send_json(connection, oops.error, oops.status)

    def _authorized(self, http: HttpRequest) -> bool:
        key = self._config.api_key
        guarded = key is not None and http.path.startswith("/v1")
        return not guarded or http.headers.get("authorization") == f"Bearer {key}"

    def _chat(self, connection: Connection, http: HttpRequest) -> None:
        self._generate(connection, http, chat=True)

    def _completion(self, connection: Connection, http: HttpRequest) -> None:
        self._generate(connection, http, chat=False)

    def _generate(self, connection: Connection, http: HttpRequest, *, chat: bool) -> None:
        generation = protocol.parse_generation(_body(http), self._config, chat=chat)
        if self._is_full():
            self._engine.stats.admission_rejections += 1
            self._reject(connection, streamed_chat=chat and generation.stream)
            return
        base_id = http.headers.get("x-request-id") or generation.request_id or uuid4().hex[:16]
        if generation.stream:
            connection.send(stream_head())
        self._begin(Answer(connection, http, generation, base_id, self._config))

    def _is_full(self) -> bool:
        limit = self._config.max_num_queued_reqs
        return limit is not None and self._in_flight() >= limit

    def _in_flight(self) -> int:
        return self._engine.num_running + self._engine.num_waiting

    def _reject(self, connection: Connection, *, streamed_chat: bool) -> None:
        error = ApiError(503, _BUSY, "Service Unavailable")
        if not streamed_chat:
            raise error
        # A streamed chat has its 200 by the time vLLM's queue refuses it; a text completion has not.
        respond(connection, stream_head() + render.error_event(error.error))

    def _models(self, connection: Connection, _: HttpRequest) -> None:
        context_len = self._config.limits.context_len
        _send_json(connection, render.model_list(self._config.model, context_len, self._created))

    def _tokenize(self, connection: Connection, http: HttpRequest) -> None:
        body = _body(http)
        protocol.check_model(body, self._config.model)
        chat = "messages" in body
        if not chat and not isinstance(body.get("prompt"), str):
            raise protocol.invalid_field("missing", "body.prompt", "Field required", body)
        ids = protocol.prompt_ids(body, self._config, chat=chat) if chat or body["prompt"] else []
        strings = None
        if body.get("return_token_strs"):
            strings = [text.decode([token]) for token in ids]
        _send_json(
            connection,
            {
                "count": len(ids),
                "max_model_len": self._config.limits.context_len,
                "tokens": ids,
                "token_strs": strings,
            },
        )

    def _detokenize(self, connection: Connection, http: HttpRequest) -> None:
        body = _body(http)
        tokens = body.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise protocol.invalid_field("missing", "body.tokens", "Field required", body)
        _send_json(connection, {"prompt": text.decode(tokens)})

    def _empty(self, connection: Connection, _: HttpRequest) -> None:
        respond(connection, response(200))

    def _version(self, connection: Connection, _: HttpRequest) -> None:
        _send_json(connection, {"version": render.VERSION})

    def _load(self, connection: Connection, _: HttpRequest) -> None:
        _send_json(connection, {"server_load": self._in_flight()})

    def _reset_prefix_cache(self, connection: Connection, _: HttpRequest) -> None:
        _send_json(connection, {"success": self._engine.reset_prefix_cache()})

    def _expose(self, connection: Connection, _: HttpRequest) -> None:
        respond(connection, response(200, self._metrics.render(), exposition.CONTENT_TYPE))


def _done_by(action: Callable[[], None]) -> _Handler:
    """The handler of a request that says nothing and gets nothing, but that it is done."""

    def handle(connection: Connection, _: HttpRequest) -> None:
        action()
        respond(connection, response(200))

    return handle


def _body(http: HttpRequest) -> protocol.Body:
    return protocol.parse_json(http.body, http.headers.get("content-type", ""))


def _send_json(connection: Connection, value: object, status: int = 200) -> None:
    respond(connection, response(status, orjson.dumps(value)))
